"""Blocking calls that may hang, asked from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Probe(Generic[T]):
    """One blocking question, asked in a thread of its own, one at a time.

    A call that hangs costs its askers their answer and keeps this one thread; nothing queues up behind it: whoever asks while
    a call is under way gets that call's answer. The thread is a daemon: it never holds up the end of the process.
    """

    def __init__(self, call: Callable[[], T], name: str) -> None:
        self._call = call
        self._asked: SimpleQueue[Future[T]] = SimpleQueue()
        self._running: Future[T] | None = None
        self._thread = threading.Thread(target=self._answer, name=name, daemon=True)

    async def ask(self, deadline_s: float) -> T:
        """The call's result.

        Raises
        ------
        TimeoutError
            Where it did not come within ``deadline_s``.
        """
        if self._running is None:
            self._thread.start()
        if self._running is None or self._running.done():
            self._running = Future()
            self._asked.put(self._running)
        async with asyncio.timeout(deadline_s):
            return await asyncio.shield(asyncio.wrap_future(self._running))

    def _answer(self) -> None:
        while True:
            future = self._asked.get()
            try:
                future.set_result(self._call())
            except Exception as error:  # handed to whoever asks
                future.set_exception(error)


async def in_thread_of_its_own(work: Callable[[], T]) -> T:
    """Blocking work that must wait for no pool."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="urgent", daemon=True).start()
    return await asyncio.wrap_future(done)
