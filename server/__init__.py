"""The HTTP process: bluesky-httpserver with roles, a guard in front of it, and queuescope's own routes.

``python -m queuescope.server --scope NAME|PATH --data DIR`` runs it. bluesky-httpserver's configuration names the routes as
``queuescope.server.router``; they are imported when first asked for, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ..ledger import read_control

    router: APIRouter
    events_router: APIRouter

__all__ = ["events_router", "read_control", "router"]


def __getattr__(name: str) -> Any:
    if name in ("router", "events_router"):
        from . import _event_routes

        return getattr(_event_routes, name)
    if name == "read_control":
        from ..ledger import read_control

        return read_control
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
