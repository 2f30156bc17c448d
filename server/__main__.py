"""The HTTP process: ``python -m queuescope.server --scope NAME|PATH --data DIR``.

Writes bluesky-httpserver's configuration and the key database under ``DIR/services``, then serves
`bluesky_httpserver`'s application behind our guard. It waits for nobody: the queue server may come later, and come again.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..config import Scope, ScopeError
from ..layout import Layout, process_arguments
from ..lean import deferring, no_collection, without

if TYPE_CHECKING:
    from ._guard import Guard

CLOSE_S = 2
"""Seconds that open requests and WebSockets get at the end."""


def listen(scope: Scope) -> socket.socket:
    """The listening socket of ``services.http``. Taken before anything heavy is imported: a port in use shows at once.

    Raises
    ------
    OSError
        Where the address can't be taken; the text says what to do.
    """
    host, port = scope.services.http.host, scope.services.http.port
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere the option lets two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        what = (
            "is in use by another program" if error.errno == errno.EADDRINUSE else f"can't be taken ({error.strerror})"
        )
        raise OSError(
            f"port {port} on {host} {what}: stop what uses it, or choose another port"
            " (scope.yml: services.http.port, or QUEUESCOPE_SERVICES__HTTP__PORT; 0 takes any free one)"
        ) from None
    return listener


def application(scope: Scope, layout: Layout) -> Guard:
    """bluesky-httpserver's application behind our guard. Writes its configuration and the key database first."""
    with _WithoutPandas(), without("httpx._main"), deferring("mako.exceptions", "mako.template"):
        from bluesky_httpserver.app import build_app
        from bluesky_httpserver.config import construct_build_app_kwargs, parse_configs
        from bluesky_httpserver.settings import get_settings

    from fastapi import FastAPI
    from starlette.routing import Route

    from ._control import agents_may
    from ._event_routes import router
    from ._guard import Guard
    from ._keys import RoleKeys, database_path, database_uri, write_role_keys
    from ._queue import QueueUnreachable, ask, control_address
    from ._settings import http_settings, write_http_settings
    from ._tickets import tickets

    write_role_keys(layout)
    path = write_http_settings(layout, http_settings(scope, layout, database_uri(layout)))
    # What `bluesky_httpserver.server:app` does, without its last step: that logs every setting, keys among them.
    app = build_app(**construct_build_app_kwargs(parse_configs(path), source_filepath=str(path)))
    # Upstream's end waits for one poll of its monitors after another, 2 to 3 s. They hold nothing that the process's end
    # doesn't free, and the loop cancels them when it ends (decision 0041).
    app.router.on_shutdown.clear()
    keys = RoleKeys(app.dependency_overrides[get_settings]().database_settings, database_path(layout))
    ours = FastAPI(
        openapi_url=None
    )  # each of bluesky-httpserver's layers costs a request of ours more than its answer does
    ours.include_router(router)

    async def queue_items() -> list[dict[str, Any]]:
        from ._problems import Problem

        try:
            queue = await ask(control_address(scope, layout), "queue_get")
        except QueueUnreachable as error:
            raise Problem(
                "queue_unreachable", f"{error}: whose item it is can't be told, nothing was changed"
            ) from None
        return [*queue.get("items", ()), queue.get("running_item") or {}]

    async def resume() -> None:
        from ._op_routes import operating

        try:
            await operating().dispatcher.resume()
        except Exception:
            logging.getLogger("queuescope.server").exception(
                "what the server before this one left could not be resumed"
            )

    return Guard(
        app,
        keys.caller_of,
        queue_items,
        require_key=scope.agents.require_key,
        agents_may=partial(agents_may, layout),
        at_start=resume,
        role_of_ticket=lambda ticket: tickets().redeem(ticket),
        server_id=lambda: (layout.runtime() or {}).get("server_id"),
        known=keys.known,
        ours=ours,
        our_routes={route.path for route in router.routes if isinstance(route, Route)},
    )


class _WithoutPandas:
    """Keeps pandas out of the process (67 MB, 0.3 s).

    Only bluesky-httpserver's reader of spreadsheets uses it, whose route is closed (`_access`).
    """

    def __enter__(self) -> None:
        self._present = "pandas" in sys.modules
        sys.modules.setdefault("pandas", ModuleType("pandas"))

    def __exit__(self, *_: object) -> None:
        if not self._present:
            del sys.modules["pandas"]


def serve(app: Guard, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    config = uvicorn.Config(
        app,
        log_level="warning",  # at INFO uvicorn logs the URLs of WebSockets with their queries
        access_log=False,
        ws="websockets-sansio",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSE_S,
    )
    Server(config).run(sockets=[listener])


def _end(*_: object) -> None:
    sys.exit(0)


def main() -> int:
    signal.signal(signal.SIGTERM, _end)  # before uvicorn takes the signal, and after: it raises it again at its end
    for name in [name for name in os.environ if name.startswith("QSERVER_")]:
        del os.environ[name]  # a user's settings for other servers; this one's are in http.yml
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        scope, layout = process_arguments("The HTTP process: bluesky-httpserver with queuescope's routes and roles.")
        layout.create()
        listener = listen(scope)
        with no_collection():
            app = application(scope, layout)
    except (ScopeError, OSError) as error:
        print(f"queuescope.server: {error}", file=sys.stderr)
        return 1
    serve(app, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
