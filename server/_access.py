"""Who may call what: one line for each route of the running server, bluesky-httpserver's and ours.

A route that is not in this table is served to nobody, so that one added upstream is closed until somebody decides here
(a test compares the table with the routes of the running app). bluesky-httpserver's own scopes, which ``http.yml`` gives
each role, stand behind this table as a second lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..layout import ROLES

READERS = frozenset(ROLES)
EDITORS = READERS - {"observer"}
OPERATORS = EDITORS - {"agent"}
ADMINS = OPERATORS - {"operator"}
NOBODY: frozenset[str] = frozenset()

WEBSOCKET = "WS"
"""Stands in the table where a route is a WebSocket."""

_TABLE = {
    # queuescope
    "GET,HEAD /api/ready": READERS,
    "GET /api/server": READERS,
    "GET,HEAD /api/ops": READERS,
    "POST /api/ops": EDITORS,
    "POST /api/ops/check": EDITORS,
    "GET,HEAD /api/ops/{key}": READERS,
    "POST /api/ops/{key}/cancel": EDITORS,  # an agent only its own: `_operating`
    "POST /api/ops/{key}/retry": EDITORS,
    "GET,HEAD /api/ops/{key}/decisions/{round}": READERS,
    "POST /api/ops/{key}/decisions/{round}": EDITORS,
    "WS /api/ops/ws": READERS,
    "POST /api/tickets": READERS,
    "GET,HEAD /api/runs/{uid}": READERS,
    "GET,HEAD /api/runs/{uid}/image.png": READERS,
    "POST /api/runs/register": ADMINS,
    "GET,HEAD /api/scope": READERS,
    "GET,HEAD /api/scope/live.png": READERS,
    "POST /api/scope/halt": READERS,
    "POST /api/scope/rearm": OPERATORS,
    "POST /api/scope/arm": OPERATORS,
    "POST /api/scope/control": OPERATORS,
    "POST /api/scope/release": OPERATORS,
    "POST /api/scope/reclaim": OPERATORS,
    "POST /api/scope/confirm_reference": OPERATORS,
    "GET,HEAD /api/scope/approvals": READERS,
    "POST /api/scope/approvals/{item_uid}": OPERATORS,
    "GET,HEAD /api/samples": READERS,
    "POST /api/samples": OPERATORS,
    "GET,HEAD /api/samples/{id}": READERS,
    # state of the queue server
    "GET /api/": READERS,
    "GET /api/ping": READERS,
    "GET /api/status": READERS,
    "GET /api/config/get": READERS,
    "GET /api/queue/get": READERS,
    "GET /api/queue/item/get": READERS,
    "GET /api/history/get": READERS,
    "POST /api/re/runs": READERS,
    "GET /api/re/runs/active": READERS,
    "GET /api/re/runs/open": READERS,
    "GET /api/re/runs/closed": READERS,
    "GET /api/plans/allowed": READERS,
    "GET /api/plans/existing": READERS,  # upstream serves it without a key
    "GET /api/devices/allowed": READERS,
    "GET /api/devices/existing": READERS,
    "GET /api/permissions/get": READERS,
    "GET /api/task/status": READERS,
    "GET /api/task/result": READERS,
    "GET /api/lock/info": READERS,
    "GET /api/console_output": READERS,
    "GET /api/console_output/uid": READERS,
    "GET /api/console_output_update": READERS,
    # Each of its streams holds one of the server's threads until the next console line, even after the client is gone;
    # the WebSocket and console_output_update give the same lines.
    "GET /api/stream_console_output": NOBODY,
    "WS /api/console_output/ws": READERS,
    "WS /api/status/ws": READERS,
    "WS /api/info/ws": READERS,
    # items: what an agent may do here is narrowed further in `_items`
    "POST /api/queue/item/add": EDITORS,
    "POST /api/queue/item/add/batch": EDITORS,
    "POST /api/queue/item/update": EDITORS,
    "POST /api/queue/item/remove": EDITORS,
    "POST /api/queue/item/remove/batch": EDITORS,
    "POST /api/queue/item/move": OPERATORS,
    "POST /api/queue/item/move/batch": OPERATORS,
    "POST /api/queue/item/execute": OPERATORS,
    # Upstream evaluates the cells of a spreadsheet as Python, here in this process.
    "POST /api/queue/upload/spreadsheet": NOBODY,
    "POST /api/queue/clear": OPERATORS,
    # the queue, the running plan, the environment
    "POST /api/queue/autostart": OPERATORS,
    "POST /api/queue/mode/set": OPERATORS,
    "POST /api/queue/start": OPERATORS,
    "POST /api/queue/stop": OPERATORS,
    "POST /api/queue/stop/cancel": OPERATORS,
    "POST /api/re/pause": OPERATORS,
    "POST /api/re/resume": OPERATORS,
    "POST /api/re/stop": OPERATORS,
    "POST /api/re/abort": OPERATORS,
    "POST /api/re/halt": OPERATORS,
    "POST /api/environment/open": OPERATORS,
    "POST /api/environment/close": OPERATORS,
    "POST /api/environment/update": OPERATORS,
    "POST /api/lock": OPERATORS,
    "POST /api/unlock": OPERATORS,
    # code, permissions, the record, and what kills
    "POST /api/environment/destroy": ADMINS,
    "POST /api/function/execute": ADMINS,
    "POST /api/script/upload": ADMINS,
    "POST /api/permissions/reload": ADMINS,
    "POST /api/permissions/set": ADMINS,
    "POST /api/history/clear": ADMINS,
    "POST /api/kernel/interrupt": ADMINS,
    "POST /api/manager/stop": ADMINS,
    "POST /api/test/manager/kill": ADMINS,
    "GET /api/test/server/sleep": ADMINS,
    # keys; nobody logs in, so there are no sessions
    "GET /api/auth/whoami": READERS,
    "GET /api/auth/scopes": READERS,
    "GET /api/auth/apikey": READERS,
    "POST /api/auth/logout": READERS,
    "POST /api/auth/apikey": ADMINS,
    "DELETE /api/auth/apikey": ADMINS,
    "GET /api/auth/principal": ADMINS,
    "GET /api/auth/principal/{uuid}": ADMINS,
    "POST /api/auth/principal/{uuid}/apikey": ADMINS,
    "POST /api/auth/session/refresh": NOBODY,
    "DELETE /api/auth/session/revoke/{session_id}": NOBODY,
    "POST /api/auth/provider/queuescope/token": NOBODY,
    # the interface's description
    "GET,HEAD /openapi.json": READERS,
    "GET,HEAD /docs": READERS,
    "GET,HEAD /docs/oauth2-redirect": READERS,
    "GET,HEAD /redoc": READERS,
}


def _routes() -> Iterator[tuple[str, str, frozenset[str]]]:
    for line, roles in _TABLE.items():
        methods, path = line.split(" ")
        for method in methods.split(","):
            yield method, path, roles


ACCESS: Mapping[tuple[str, str], frozenset[str]] = {(method, path): roles for method, path, roles in _routes()}
"""Roles that may call a route, by (method, path); the method is `WEBSOCKET` for a WebSocket."""


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(
        "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"({\w+})", path))
    )


_FIXED = {path for _, path in ACCESS if "{" not in path}
_PATTERNS = {path: _pattern(path) for _, path in ACCESS if "{" in path}


def route_of(path: str) -> str | None:
    """The route that serves a request's path (already percent-decoded), or None."""
    if path in _FIXED:
        return path
    return next((route for route, pattern in _PATTERNS.items() if pattern.fullmatch(path)), None)


def methods_of(route: str) -> list[str]:
    """Methods of a route, for ``Allow``."""
    return sorted(method for method, path in ACCESS if path == route and method != WEBSOCKET)
