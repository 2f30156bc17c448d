"""One-use tickets: how a browser, which can't send a header with a WebSocket, opens one without a key in a URL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

T = TypeVar("T")

LIFE_S = 30.0
"""How long a ticket waits for its use."""
MOST = 1000
"""Tickets that are out at once; the oldest goes."""


class Tickets(Generic[T]):
    """Of this process; they end with it."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._out: dict[str, tuple[T, float]] = {}

    def issue(self, holder: T) -> tuple[str, float]:
        """A ticket, and when it ends (seconds since the epoch)."""
        now = self._now()
        self._out = {name: held for name, held in self._out.items() if held[1] > now}
        while len(self._out) >= MOST:
            del self._out[next(iter(self._out))]
        ticket, until = secrets.token_hex(32), now + LIFE_S
        self._out[ticket] = (holder, until)
        return ticket, until

    def redeem(self, ticket: str) -> T | None:
        """Whose it is; None where it was used, has ended or never was."""
        holder, until = self._out.pop(ticket, (None, 0.0))
        return holder if until > self._now() else None


@lru_cache(1)
def tickets() -> Tickets[str]:
    """Of this process: they stand for a role."""
    return Tickets()
