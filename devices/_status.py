"""Statuses for work that blocks: it runs in a thread of its own, so that the RunEngine's loop never waits for hardware."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from ophyd.status import Status
from ophyd.utils import InvalidState

from ..hardware import HardwareError

log = logging.getLogger("queuescope.devices")


class WorkStatus(Status):
    """A status whose text is the error it failed with: the RunEngine writes that text into the stop document's reason."""

    def __str__(self) -> str:
        error = self.exception() if self.done else None
        return super().__str__() if error is None else f"{type(error).__name__}: {error}"


class _Thread:
    """A thread that is used again: a new one for each move costs more than the move, most of all on a busy machine."""

    idle: list[_Thread] = []  # noqa: RUF012 (shared on purpose)

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], str]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    @classmethod
    def start(cls, work: Callable[[], None], name: str) -> None:
        """Do it in an idle thread, or in a new one: work never waits for other work."""
        try:
            thread = cls.idle.pop()
        except IndexError:
            thread = cls()
        thread._work.put((work, name))

    def _run(self) -> None:
        while True:
            work, threading.current_thread().name = self._work.get()
            try:
                work()
            except Exception:
                log.exception("work in a thread failed")
            del work  # what it holds may go while the thread waits
            self.idle.append(self)


def in_thread(work: Callable[[], Any], obj: Any, status: Status | None = None) -> Status:
    """Start ``work`` and return the status that ends with it: this one, or a new one.

    Parameters
    ----------
    work
        Called once, in a daemon thread of its own meanwhile. What it raises becomes the status's exception, unchanged.
    obj
        The device that the status belongs to, for messages.
    """
    status = WorkStatus(obj=obj) if status is None else status

    def run() -> None:
        try:
            work()
        except Exception as error:
            _end(status, error)
        else:
            _end(status, None)

    _Thread.start(run, f"{getattr(obj, 'name', obj)}")
    return status


_turns: WeakKeyDictionary[Any, threading.Event] = WeakKeyDictionary()
_taking_turns = threading.Lock()


def in_turn(work: Callable[[], Any], obj: Any, status: Status | None = None) -> Status:
    """`in_thread`, once everything has ended that this device was asked for in turn before. A plan that is stopped puts things
    back while what it had asked for may still be under way, and must come last.
    """
    over = threading.Event()
    with _taking_turns:
        before, _turns[obj] = _turns.get(obj), over

    def run() -> None:
        if before is not None:
            before.wait()
        try:
            work()
        finally:
            over.set()

    return in_thread(run, obj, status)


class Pauses:
    """Whether work was stopped because the RunEngine pauses: it then calls ``stop(success=True)``, and does the work again when
    it goes on. A failure would reach the plan in between, and end it.
    """

    def __init__(self) -> None:
        self._seen = 0
        self.busy: Status | None = None
        """What was begun last."""

    def stops(self, success: bool) -> bool:
        """Whether ``stop(success=…)`` is to stop anything: in a pause only what was begun here and hasn't ended. A stage that
        something else moves meanwhile (a volume) is left to that.
        """
        self._seen += success
        return not success or (self.busy is not None and not self.busy.done)

    def allow(self, work: Callable[[], Any]) -> Callable[[], None]:
        """The same work, whose failure after such a stop is none."""
        seen = self._seen

        def run() -> None:
            try:
                work()
            except HardwareError:
                if self._seen == seen:
                    raise

        return run


def _end(status: Status, error: Exception | None) -> None:
    with contextlib.suppress(InvalidState):  # its timeout came first
        if error is None:
            status.set_finished()
        else:
            status.set_exception(error)


def finished(obj: Any) -> Status:
    """A status that has ended well."""
    status = Status(obj=obj)
    status.set_finished()
    return status


class Exposes:
    """A device whose frames one `Status` each stands for. A pause is dark: it comes when the frame in hand has been taken."""

    _exposing: Status | None = None
    """The frame in hand, or the one before it."""

    async def pause(self) -> None:
        """Called by the RunEngine when it pauses: the frame in hand has ended when this is done, and its light with it."""
        if self._exposing is not None:
            await asyncio.to_thread(self._exposing.exception)  # what went wrong is told to who waits for the frame

    def resume(self) -> None:
        """Called by the RunEngine before it goes on, where there is a `pause`."""
