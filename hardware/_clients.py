"""Who is there: clients of the hardware process, and what happens when one that was driving vanishes.

A client is one `connect` of one process, however many connections it keeps. One that says goodbye leaves everything as it
is; one that vanishes (killed, crashed, or behind a cut link) after it had asked for more than readings is *gone*.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

LOOKING = (
    "info",
    "state",
    "safety",
    "positions",
    "labels",
    "label",
    "light",
    "focus_state",
    "value",
    "recording",
    "checksums",
    "frame_lines",
    "measure_frame",
    "frame_shift",
    "events",
    "dose",
)
READING = frozenset((*LOOKING, "halt", "stop", "lights_off"))
"""Calls that leave the microscope as it was, or quieter. Any other, also one added later, makes its client a driver."""

GRACE_S = 1.0
"""A client that gave up its last connection may come back with a new one meanwhile."""


LOOK_EVERY_S = 0.25


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
        self._recordings: dict[str, list[str]] = {}
        self._busy: dict[int, Any] = {}
        self._watched = False
        self._closed = threading.Event()

    def joined(self, connection: Any, client: str) -> None:
        """A connection (Pyro's; it has a ``sock``) of this client was let in."""
        with self._lock:
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, name="clients", daemon=True).start()
            self._client_of[id(connection)] = client

    def busy(self, connection: Any) -> None:
        """A call came over this connection: until it is `idle` again, nobody else notices that it broke."""
        with self._lock:
            self._busy[id(connection)] = connection

    def idle(self, connection: Any) -> None:
        """The call has ended."""
        with self._lock:
            self._busy.pop(id(connection), None)

    def asked(self, connection: Any, call: str) -> None:
        """What this connection's call is."""
        if call not in READING:
            client = self._client_of.get(id(connection))
            if client is not None and client not in self._drivers:
                with self._lock:
                    self._drivers.add(client)

    def opened(self, connection: Any, recording: str) -> bool:
        """This connection's client opened a recording; False where it has gone meanwhile, and nobody will close it."""
        with self._lock:
            client = self._client_of.get(id(connection))
            if client is None:
                return False
            self._recordings[client] = [*self._recordings.get(client, [])[-20:], recording]
            return True

    def recordings(self, client: str) -> list[str]:
        """The recordings that this client opened last; asked once, when it is gone."""
        with self._lock:
            return self._recordings.pop(client, [])

    def goodbye(self, connection: Any) -> None:
        """The client leaves in good order: what it leaves on is meant."""
        with self._lock:
            self._drivers.discard(self._client_of.get(id(connection), ""))

    def left(self, connection: Any) -> None:
        """A connection has ended, in whatever way."""
        with self._lock:
            client = self._client_of.pop(id(connection), None)
            if client is None or client not in self._drivers or client in self._client_of.values():
                return
        timer = threading.Timer(self._grace_s, self._look_again, (client,))
        timer.daemon = True
        timer.start()

    def _look_again(self, client: str) -> None:
        with self._lock:
            if self._closed.is_set() or client not in self._drivers or client in self._client_of.values():
                return
            self._drivers.discard(client)
        self._gone(client)

    def close(self) -> None:
        """Nobody is missed any more."""
        self._closed.set()

    def _watch(self) -> None:
        """While there are clients: which of those that wait for a reply have hung up?"""
        while not self._closed.wait(LOOK_EVERY_S):
            with self._lock:
                busy = [connection for number, connection in self._busy.items() if number in self._client_of]
                if not self._client_of:
                    self._watched = False
                    return
            for connection in hung_up(busy):
                self.left(connection)


def hung_up(connections: list[Any]) -> list[Any]:
    """Those whose peer has closed or is cut off. One that waits for a reply sends nothing: what there is to read is the end."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            try:
                selector.register(connection.sock, selectors.EVENT_READ, connection)
            except (ValueError, KeyError, OSError):  # it has been closed meanwhile
                continue
        if not selector.get_map():
            return []
        return [key.data for key, _ in selector.select(0) if _at_end(key.data.sock)]


def _at_end(sock: socket.socket) -> bool:
    if isinstance(sock, ssl.SSLSocket):
        return True
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
