"""One question to the queue server, with a deadline.

A socket of its own for each question: bluesky-httpserver's client holds a lock for two seconds when the queue server is
silent, and its status may be 0.4 s old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import zmq
import zmq.asyncio

from ..config import Scope
from ..layout import Layout


class QueueUnreachable(Exception):
    """The queue server did not answer in time; whether it acted is unknown."""


def control_address(scope: Scope, layout: Layout) -> str:
    """Address of the queue server's control socket."""
    return scope.services.zmq.control or f"ipc://{layout.control_socket}"


def info_address(scope: Scope, layout: Layout) -> str:
    """Address where the queue server publishes console output and status."""
    return scope.services.zmq.info or f"ipc://{layout.info_socket}"


async def ask(
    address: str, method: str, params: Mapping[str, Any] | None = None, deadline_s: float = 2.0
) -> dict[str, Any]:
    """Send one request in queueserver's format and return the reply.

    Raises
    ------
    QueueUnreachable
        Where no reply came within ``deadline_s``.
    """
    socket = zmq.asyncio.Context.instance().socket(zmq.REQ)
    try:
        socket.linger = 0
        socket.connect(address)
        async with asyncio.timeout(deadline_s):
            await socket.send_json({"method": method, "params": dict(params or {})})
            reply = await socket.recv_json()
    except TimeoutError:
        raise QueueUnreachable(
            f"the queue server at {address} did not answer {method} within {deadline_s:g} s"
        ) from None
    finally:
        socket.close()
    if not isinstance(reply, dict):
        raise QueueUnreachable(f"the queue server at {address} answered {method} with something else than an object")
    return reply
