"""Tiled's GraphQL interface, made when it is first asked for: it takes 0.3 s of CPU, and none of Tiled's clients uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

MODULE = "tiled.graph.router"
"""Tiled's own. It must be deferred while `tiled.server.app` is imported."""
PATH = "/api/graphql"


def register() -> None:
    """Have the Tiled application that is built next make it on demand."""
    from starlette.routing import Route
    from tiled.server import app

    def on_demand(get_database_settings: Callable[[], Any]) -> Any:
        """In place of `tiled.graph.router.create_router`."""
        router = app.APIRouter()
        router.routes.append(Route(PATH, _OnDemand(get_database_settings), include_in_schema=False))
        return router

    app.get_links_router = on_demand


class _OnDemand:
    """Puts the interface in its own place at the first request, which it passes on."""

    def __init__(self, get_database_settings: Callable[[], Any]) -> None:
        self._get_database_settings = get_database_settings
        self._making = asyncio.Lock()
        self._made: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = scope["app"]
        async with self._making:
            if self._made is None:
                module = await asyncio.to_thread(import_module, MODULE)
                router = module.create_router(self._get_database_settings)
                for begin in router.on_startup:
                    await begin()
                made = type(app)(openapi_url=None)
                made.include_router(router)
                made.dependency_overrides, made.state = app.dependency_overrides, app.state
                self._made = made
        await self._made(scope, receive, send)
