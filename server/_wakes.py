"""Waiting for news of an operation without asking again and again: whoever writes to the ledger rings (`ledger.bell`), and who
runs a plan says how far it is (`ledger.hints`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECHECK_S = 5.0
"""A ring that was lost costs its waiter no more than this."""
MOST_HINTS = 100
"""That wait for a client that is slow."""

ANY = ""
"""Stands for every operation."""


class News:
    """Something may have changed since it was last looked at."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._hints: deque[dict[str, Any]] = deque(maxlen=MOST_HINTS)

    def hints(self) -> list[dict[str, Any]]:
        """Events that stand in no ledger, since the last time; the newest where there were many."""
        found = list(self._hints)
        self._hints.clear()
        return found

    async def wait(self, at_most_s: float) -> None:
        """Until somebody rings, or it is time to look all the same."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(at_most_s, RECHECK_S)):
                await self._event.wait()
        self._event.clear()

    def ring(self, hint: dict[str, Any] | None = None) -> None:
        if hint is not None:
            self._hints.append(hint)
        self._event.set()


class Wakes(asyncio.DatagramProtocol):
    """Listens on the bell's socket, for this process's event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: dict[str, set[News]] = {}
        self._open: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def listening(self, key: str) -> Iterator[News]:
        """News of this operation: enter first, then look at the ledger, then wait."""
        if self._open is None:
            self._open = asyncio.create_task(self._listen())
        news = News()
        self._waiting.setdefault(key, set()).add(news)
        try:
            yield news
        finally:
            self._waiting[key].discard(news)
            if not self._waiting[key]:
                del self._waiting[key]

    async def _listen(self) -> None:
        if not hasattr(socket, "AF_UNIX"):
            return
        self._path.unlink(missing_ok=True)  # of a process that was killed
        ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            ears.setblocking(False)
            ears.bind(str(self._path))
            self._path.chmod(0o600)
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=ears)
        except OSError:
            ears.close()  # then everybody looks every `RECHECK_S`
            return
        for key in list(self._waiting):  # what rang before this listened
            self._ring(key)

    def datagram_received(self, data: bytes, addr: object) -> None:
        key, _, told = data.decode(errors="replace").partition("\n")
        with contextlib.suppress(ValueError):  # cut off: the next one isn't
            self._ring(key, json.loads(told) if told else None)

    def _ring(self, key: str, hint: dict[str, Any] | None = None) -> None:
        for news in (*self._waiting.get(key, ()), *self._waiting.get(ANY, ())):
            news.ring(hint)
