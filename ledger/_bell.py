"""A hint that an operation changed, or how far it is: one datagram to whoever waits. Losing it costs latency, never truth
(decisions 0058, 0077).
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..layout import Layout

Ring = Callable[[str | None], None]
"""Called with an operation's key after something of it was written."""

Hints = Callable[[str, int, str, dict[str, Any]], None]
"""Called with key, attempt, type and data of an event that nobody keeps."""


def bell_socket(layout: Layout) -> Path:
    """Where the HTTP process listens."""
    return layout.sockets / "bell.sock"


def bell(layout: Layout) -> Ring:
    """Rings for everybody who waits on this data directory; never blocks, never fails."""
    send = _to(layout)
    return lambda key: send((key or "").encode())


def hints(layout: Layout) -> Hints:
    """Tells whoever follows an operation now; never blocks, never fails. A datagram: the key, and the event as JSON below it."""
    send = _to(layout)

    def hint(key: str, attempt: int, kind: str, data: dict[str, Any]) -> None:
        event = {"key": key, "attempt": attempt, "type": kind, "time": time.time(), "data": data}
        send(f"{key}\n{json.dumps(event)}".encode())

    return hint


def _to(layout: Layout) -> Callable[[bytes], None]:
    address = str(bell_socket(layout))

    def send(datagram: bytes) -> None:
        if not hasattr(socket, "AF_UNIX"):  # Windows, where no queue server runs
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(datagram, address)

    return send
