"""What happens to operations, as it happens: a WebSocket with a cursor, and the tickets that open it."""

from __future__ import annotations

import asyncio
import contextlib
import re

from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from pydantic import ConfigDict

from ..described import Described
from ._decision_routes import router
from ._guard import CALLER
from ._op_routes import operating
from ._tickets import tickets

__all__ = ["events_router", "router"]

events_router = APIRouter(prefix="/api")
"""Beside `router`, whose dependencies are made for requests."""

UNREADABLE = 1007
"""Close code for a query that isn't one."""


class Ticket(Described):
    """Opens one WebSocket, once: `/api/ops/ws?ticket=…`."""

    model_config = ConfigDict(extra="forbid")

    ticket: str
    expires_at: float
    """Seconds since the epoch."""


@router.post("/tickets", status_code=201, response_model=Ticket)
async def post_ticket(request: Request) -> Ticket:
    """A ticket with this key's role, for one WebSocket within 30 s. A key in a URL ends up in logs."""
    ticket, until = tickets().issue(request.scope[CALLER].role)
    return Ticket(ticket=ticket, expires_at=until)


@events_router.websocket("/ops/ws")
async def follow_operations(websocket: WebSocket) -> None:
    """``?key=``: of one operation, submitted or not yet. ``?cursor=``: what came after that one, else what comes from now on."""
    key, cursor = websocket.query_params.get("key"), websocket.query_params.get("cursor")
    await websocket.accept()
    if cursor is not None and not re.fullmatch(r"\d{1,18}", cursor):
        await websocket.close(UNREADABLE, "cursor is a whole number")
        return
    gone = asyncio.create_task(_until_gone(websocket))
    try:
        async for event in operating().events(key or None, None if cursor is None else int(cursor), gone):
            await websocket.send_json(event)
    except WebSocketDisconnect:
        pass
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _until_gone(websocket: WebSocket) -> None:
    """What a client sends counts for nothing."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
