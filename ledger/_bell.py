"""A hint that an operation changed: one datagram to whoever waits. Losing it costs latency, never truth (decision 0058)."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

from ..layout import Layout

Ring = Callable[[str | None], None]
"""Called with an operation's key after something of it was written."""


def bell_socket(layout: Layout) -> Path:
    """Where the HTTP process listens."""
    return layout.sockets / "bell.sock"


def bell(layout: Layout) -> Ring:
    """Rings for everybody who waits on this data directory; never blocks, never fails."""
    address = str(bell_socket(layout))

    def ring(key: str | None) -> None:
        if not hasattr(socket, "AF_UNIX"):  # Windows, where no queue server runs
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto((key or "").encode(), address)

    return ring
