"""Who is there: clients of the hardware process, and what happens when one that was driving vanishes.

A client is one `connect` of one process, however many connections it keeps. One that says goodbye leaves everything as it
is; one that vanishes (killed, crashed, or behind a cut link) after it had asked for more than readings is *gone*.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

LOOKING = (
    "info",
    "state",
    "safety",
    "positions",
    "labels",
    "label",
    "light",
    "value",
    "recording",
    "checksums",
    "events",
)
READING = frozenset((*LOOKING, "halt", "stop", "lights_off"))
"""Calls that leave the microscope as it was, or quieter. Any other, also one added later, makes its client a driver."""

GRACE_S = 1.0
"""A client that gave up its last connection may come back with a new one meanwhile."""


class Clients:
    """Clients of one hardware process, by the connections they keep.

    Parameters
    ----------
    gone
        Called once, in a thread of its own, with the name of a driver that vanished.
    """

    def __init__(self, gone: Callable[[str], None], grace_s: float = GRACE_S) -> None:
        self._gone, self._grace_s = gone, grace_s
        self._lock = threading.Lock()
        self._client_of: dict[int, str] = {}
        self._drivers: set[str] = set()
        self._closed = False

    def joined(self, connection: object, client: str) -> None:
        """A connection of this client was let in."""
        with self._lock:
            self._client_of[id(connection)] = client

    def asked(self, connection: object, call: str) -> None:
        """This connection carries a call."""
        if call not in READING:
            client = self._client_of.get(id(connection))
            if client is not None and client not in self._drivers:
                with self._lock:
                    self._drivers.add(client)

    def goodbye(self, connection: object) -> None:
        """The client leaves in good order: what it leaves on is meant."""
        with self._lock:
            self._drivers.discard(self._client_of.get(id(connection), ""))

    def left(self, connection: object) -> None:
        """A connection has ended, in whatever way."""
        with self._lock:
            client = self._client_of.pop(id(connection), None)
            if client is None or client not in self._drivers or client in self._client_of.values() or self._closed:
                return
        timer = threading.Timer(self._grace_s, self._look_again, (client,))
        timer.daemon = True
        timer.start()

    def _look_again(self, client: str) -> None:
        with self._lock:
            if self._closed or client not in self._drivers or client in self._client_of.values():
                return
            self._drivers.discard(client)
        self._gone(client)

    def close(self) -> None:
        """Nobody is missed any more."""
        with self._lock:
            self._closed = True
