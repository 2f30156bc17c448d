"""DESIGN's role table, route by route, asked of the running server (issue 2, item 9)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from queuescope.hardware import LatchFile

NEED_HARDWARE = (
    "/api/ready",
    "/api/scope",
    "/api/scope/rearm",
    "/api/scope/arm",
    "/api/scope/release",
    "/api/scope/reclaim",
    "/api/samples",
    "/api/samples/{id}",
)
ROLES = ("observer", "agent", "operator", "admin")
ALL = set(ROLES)
NOT_OBSERVER = {"agent", "operator", "admin"}
PEOPLE = {"operator", "admin"}
ADMIN = {"admin"}
NOBODY: set[str] = set()

# Who may call what, written down apart from the server's own table. A route that upstream adds fails a test until it
# stands here and there.
EXPECTED: dict[str, set[str]] = {
    "GET /api/ready": ALL,
    "HEAD /api/ready": ALL,
    "GET /api/server": ALL,
    "GET /api/ops": ALL,
    "HEAD /api/ops": ALL,
    "POST /api/ops": NOT_OBSERVER,
    "POST /api/ops/check": NOT_OBSERVER,
    "GET /api/ops/{key}": ALL,
    "HEAD /api/ops/{key}": ALL,
    "WS /api/ops/ws": ALL,
    "POST /api/tickets": ALL,
    "POST /api/ops/{key}/cancel": NOT_OBSERVER,
    "POST /api/ops/{key}/retry": NOT_OBSERVER,
    "GET /api/ops/{key}/decisions/{round}": ALL,
    "HEAD /api/ops/{key}/decisions/{round}": ALL,
    "POST /api/ops/{key}/decisions/{round}": NOT_OBSERVER,
    "GET /api/runs/{uid}": ALL,
    "HEAD /api/runs/{uid}": ALL,
    "GET /api/runs/{uid}/image.png": ALL,
    "HEAD /api/runs/{uid}/image.png": ALL,
    "POST /api/runs/register": ADMIN,
    "GET /api/scope/live.png": ALL,
    "HEAD /api/scope/live.png": ALL,
    "GET /api/scope": ALL,
    "HEAD /api/scope": ALL,
    "POST /api/scope/halt": ALL,
    "POST /api/scope/rearm": PEOPLE,
    "POST /api/scope/arm": PEOPLE,
    "POST /api/scope/control": PEOPLE,
    "POST /api/scope/release": PEOPLE,
    "POST /api/scope/reclaim": PEOPLE,
    "POST /api/scope/confirm_reference": PEOPLE,
    "GET /api/scope/approvals": ALL,
    "HEAD /api/scope/approvals": ALL,
    "POST /api/scope/approvals/{item_uid}": PEOPLE,
    "GET /api/samples": ALL,
    "HEAD /api/samples": ALL,
    "POST /api/samples": PEOPLE,
    "GET /api/samples/{id}": ALL,
    "HEAD /api/samples/{id}": ALL,
    "GET /api/": ALL,
    "GET /api/ping": ALL,
    "GET /api/status": ALL,
    "GET /api/config/get": ALL,
    "GET /api/queue/get": ALL,
    "GET /api/queue/item/get": ALL,
    "GET /api/history/get": ALL,
    "POST /api/re/runs": ALL,
    "GET /api/re/runs/active": ALL,
    "GET /api/re/runs/open": ALL,
    "GET /api/re/runs/closed": ALL,
    "GET /api/plans/allowed": ALL,
    "GET /api/plans/existing": ALL,
    "GET /api/devices/allowed": ALL,
    "GET /api/devices/existing": ALL,
    "GET /api/permissions/get": ALL,
    "GET /api/task/status": ALL,
    "GET /api/task/result": ALL,
    "GET /api/lock/info": ALL,
    "GET /api/console_output": ALL,
    "GET /api/console_output/uid": ALL,
    "GET /api/console_output_update": ALL,
    "GET /api/stream_console_output": NOBODY,
    "WS /api/console_output/ws": ALL,
    "WS /api/status/ws": ALL,
    "WS /api/info/ws": ALL,
    "POST /api/queue/item/add": NOT_OBSERVER,
    "POST /api/queue/item/add/batch": NOT_OBSERVER,
    "POST /api/queue/item/update": NOT_OBSERVER,
    "POST /api/queue/item/remove": NOT_OBSERVER,
    "POST /api/queue/item/remove/batch": NOT_OBSERVER,
    "POST /api/queue/item/move": PEOPLE,
    "POST /api/queue/item/move/batch": PEOPLE,
    "POST /api/queue/item/execute": PEOPLE,
    "POST /api/queue/clear": PEOPLE,
    "POST /api/queue/upload/spreadsheet": NOBODY,
    "POST /api/queue/autostart": PEOPLE,
    "POST /api/queue/mode/set": PEOPLE,
    "POST /api/queue/start": PEOPLE,
    "POST /api/queue/stop": PEOPLE,
    "POST /api/queue/stop/cancel": PEOPLE,
    "POST /api/re/pause": PEOPLE,
    "POST /api/re/resume": PEOPLE,
    "POST /api/re/stop": PEOPLE,
    "POST /api/re/abort": PEOPLE,
    "POST /api/re/halt": PEOPLE,
    "POST /api/environment/open": PEOPLE,
    "POST /api/environment/close": PEOPLE,
    "POST /api/environment/update": PEOPLE,
    "POST /api/environment/destroy": ADMIN,
    "POST /api/lock": PEOPLE,
    "POST /api/unlock": PEOPLE,
    "POST /api/function/execute": ADMIN,
    "POST /api/script/upload": ADMIN,
    "POST /api/permissions/reload": ADMIN,
    "POST /api/permissions/set": ADMIN,
    "POST /api/history/clear": ADMIN,
    "POST /api/kernel/interrupt": ADMIN,
    "POST /api/manager/stop": ADMIN,
    "POST /api/test/manager/kill": ADMIN,
    "GET /api/test/server/sleep": ADMIN,
    "GET /api/auth/whoami": ALL,
    "GET /api/auth/scopes": ALL,
    "GET /api/auth/apikey": ALL,
    "POST /api/auth/logout": ALL,
    "POST /api/auth/apikey": ADMIN,
    "DELETE /api/auth/apikey": ADMIN,
    "GET /api/auth/principal": ADMIN,
    "GET /api/auth/principal/{uuid}": ADMIN,
    "POST /api/auth/principal/{uuid}/apikey": ADMIN,
    "POST /api/auth/session/refresh": NOBODY,
    "DELETE /api/auth/session/revoke/{session_id}": NOBODY,
    "POST /api/auth/provider/queuescope/token": NOBODY,
    "GET /openapi.json": ALL,
    "HEAD /openapi.json": ALL,
    "GET /docs": ALL,
    "HEAD /docs": ALL,
    "GET /docs/oauth2-redirect": ALL,
    "HEAD /docs/oauth2-redirect": ALL,
    "GET /redoc": ALL,
    "HEAD /redoc": ALL,
}

LIST_ROUTES = """
import json, sys
from fastapi.routing import iter_route_contexts
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.server.__main__ import application
from queuescope.server._access import ACCESS
app = application(load_scope("demo-dispim"), Layout(sys.argv[1]))._app
served = []
for route in iter_route_contexts(app.routes):
    methods = route.methods or (["WS"] if "WebSocket" in type(route.original_route).__name__ else ["?"])
    served += [f"{method} {route.path}" for method in methods]
print(json.dumps({"served": served, "table": {f"{m} {p}": sorted(roles) for (m, p), roles in ACCESS.items()}}))
"""


@pytest.fixture(scope="module")
def routes(data_folder: Callable[[str], Path]) -> dict[str, Any]:
    """The routes of the application as `python -m queuescope.server` builds it, and the server's own table."""
    data = data_folder("routes")
    listed = subprocess.run([sys.executable, "-c", LIST_ROUTES, str(data)], capture_output=True, text=True, check=True)
    return json.loads(listed.stdout.splitlines()[-1])


def test_every_route_of_the_server_stands_in_the_table(routes: dict[str, Any]) -> None:
    assert sorted(routes["served"]) == sorted(EXPECTED)


def test_the_servers_own_table_says_the_same(routes: dict[str, Any]) -> None:
    assert {route: set(roles) for route, roles in routes["table"].items()} == EXPECTED


def test_the_interface_description_has_no_route_beyond_the_table(guarded: Any) -> None:
    described = guarded[0]["observer"].get("/openapi.json").json()["paths"]
    assert {f"{m.upper()} {path}" for path, methods in described.items() for m in methods} <= set(EXPECTED)


def _fill(path: str, uuid: str = "0" * 32) -> str:
    for name, value in (
        ("uid", "00000000-0000"),
        ("uuid", uuid),
        ("session_id", "1"),
        ("id", "worm"),
        ("item_uid", "1"),
        ("key", "nobodys-1"),
    ):
        path = path.replace(f"{{{name}}}", value)
    return path


def _call(client: httpx.Client, route: str) -> httpx.Response:
    method, path = route.split(" ")
    own = client.get("/api/auth/whoami").json()["uuid"] if "{uuid}" in path else ""
    return client.request(method, _fill(path, own), json={"time": 0} if "sleep" in path else {})


HTTP_ROUTES = [route for route in EXPECTED if not route.startswith("WS")]


def _asked(queue: Any, before: int, route: str = "") -> list[str]:
    """What the queue server was asked since; not what a halt before repeats until it is heard (`stop_queue`)."""
    repeated = () if route == "POST /api/queue/autostart" else ("queue_autostart",)
    return [method for method in queue.methods[before:] if method not in repeated]


@pytest.mark.parametrize("route", HTTP_ROUTES)
def test_each_role_gets_its_routes_and_no_other(guarded: Any, route: str) -> None:
    """DESIGN, Roles: observer, agent, operator, admin. What is refused never reaches the queue server."""
    server, queue = guarded
    for role in ROLES:
        before = len(queue.methods)
        reply = _call(server[role], route)
        if role in EXPECTED[route]:
            assert reply.status_code < 500 or route.split(" ")[1] in NEED_HARDWARE, reply.text
            assert reply.status_code not in (401, 403) or _refused_for_its_items(role, route, reply), reply.text
        else:
            assert reply.status_code == 403
            assert _asked(queue, before, route) == []
            if not route.startswith("HEAD"):
                assert reply.headers["content-type"] == "application/problem+json"
                assert reply.json()["code"] == "forbidden"
    LatchFile.halt(server.layout).clear()  # one of the routes halts


def _refused_for_its_items(role: str, route: str, reply: httpx.Response) -> bool:
    """An agent's empty item is refused for what it is, not for the route."""
    return role == "agent" and "/queue/item/" in route and "belongs" not in reply.text


@pytest.mark.parametrize("route", HTTP_ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "ApiKey " + 64 * "0"},
        {"Authorization": "ApiKey not-hex"},
        {"Authorization": "Bearer x.y.z"},
    ],
    ids=["no key", "wrong key", "no key at all", "token"],
)
def test_without_a_valid_key_every_route_is_closed(guarded: Any, route: str, headers: dict[str, str]) -> None:
    server, queue = guarded
    before = len(queue.methods)
    method, path = route.split(" ")
    reply = server[""].request(method, _fill(path), headers=headers, json={})
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "ApiKey"
    if method != "HEAD":
        assert reply.json()["code"] == "unauthenticated"
    assert _asked(queue, before, route) == []


def _open(server: Any, path: str, key: str | None) -> int:
    """HTTP status of a WebSocket's opening; 101 where it opened."""
    headers = {"Authorization": f"ApiKey {key}"} if key else {}
    try:
        with connect(server.url.replace("http", "ws") + path, additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("route", [route for route in EXPECTED if route.startswith("WS")])
@pytest.mark.parametrize("query", ["", "?scopes=", "?scopes=x"])
def test_websockets_open_with_a_key_only(guarded: Any, route: str, query: str) -> None:
    """Upstream takes the scopes it requires from `?scopes=`: an empty one opens its WebSockets to everybody."""
    server, _ = guarded
    path = route.split(" ")[1] + query
    for role in ROLES:
        assert _open(server, path, server.layout.key(role)) == 101
    assert _open(server, path, None) == 401
    assert _open(server, path, 64 * "0") == 401


@pytest.mark.parametrize(
    "path", ["/", "/api/nothing", "/api/queue/clear/", "/api/queue/clear%0A", "/api//ready", "/api/runs/..%2f..%2fkeys"]
)
def test_paths_that_are_no_route_are_not_found(guarded: Any, path: str) -> None:
    server, queue = guarded
    before = len(queue.methods)
    assert server[""].get(path).status_code == 401
    for method in ("GET", "POST"):
        reply = server["admin"].request(method, path)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert _asked(queue, before) == []


def test_another_method_names_the_right_ones(guarded: Any) -> None:
    reply = guarded[0]["admin"].delete("/api/ready")
    assert (reply.status_code, reply.json()["code"]) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET, HEAD"
    assert guarded[0]["admin"].get("/api/status/ws").status_code == 405


def test_a_key_in_the_url_is_refused(guarded: Any) -> None:
    server, _ = guarded
    key = server.layout.key("admin")
    reply = server[""].get(f"/api/status?api_key={key}")
    assert (reply.status_code, reply.json()["code"]) == (400, "key_in_url")
    assert key not in reply.text
    assert _open(server, f"/api/status/ws?api_key={key}", key) == 400


def test_a_key_in_a_cookie_counts_for_nothing(guarded: Any) -> None:
    server, _ = guarded
    cookie = {"Cookie": f"bluesky_httpserver_api_key={server.layout.key('admin')}"}
    assert server[""].get("/api/status", headers=cookie).status_code == 401
    assert server["agent"].post("/api/queue/clear", headers=cookie, json={}).status_code == 403
    assert server["agent"].get("/api/auth/whoami", headers=cookie).json()["identities"][0]["id"] == "agent"


def test_a_key_that_is_not_ascii_is_refused(guarded: Any) -> None:
    server, _ = guarded
    for secret in ("ä", "ключ", "\x80" * 64):
        reply = server[""].get("/api/status", headers={b"Authorization": b"ApiKey " + secret.encode()})
        assert reply.status_code == 401


def test_whoami_tells_the_role(guarded: Any) -> None:
    for role in ROLES:
        assert [identity["id"] for identity in guarded[0][role].get("/api/auth/whoami").json()["identities"]] == [role]
