"""In front of bluesky-httpserver: who asks, may they, and is the body fit for the queue.

The application behind stays as it is; what it leaves open is closed here: one route without a key, WebSockets that
``?scopes=`` opens to everybody, keys in URLs and cookies, an edit right that covers everybody's items, NaN.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import _access, _items
from ._probe import in_thread_of_its_own
from ._problems import MEDIA_TYPE, Problem

MAX_BODY = 8 * 1024 * 1024
"""Bytes. Plans are kilobytes; a large script is a few hundred."""

_SECRET = re.compile(r"[0-9a-f]{16,512}")

HALT = "/api/scope/halt"
EVENTS = "/api/ops/ws"
"""The one route that a ticket opens."""

IDENTITY = "queuescope-server"
"""Header of a request that is meant for one server and no other."""

CALLER = "queuescope.caller"
"""Where the `Caller` stands in the ASGI scope, for our routes."""


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    role: str
    narrowed: bool
    """True for a key that an admin made with fewer rights than its role has: bluesky-httpserver's own routes know which."""


CallerOf = Callable[[str], Caller | None]
QueueItems = Callable[[], Awaitable[Sequence[dict[str, Any]]]]
AgentsMay = Callable[[str, dict[str, Any]], dict[str, Any]]


class Guard:
    """ASGI middleware.

    Parameters
    ----------
    app
        bluesky-httpserver's application.
    caller_of
        Whose key this is (hexadecimal text), or None for a key that is not valid. Called in a thread.
    queue_items
        The items of the queue and the running one.
    require_key
        Refuse an agent's plan without ``meta.op_key``.
    at_start
        Goes on beside the first requests, once the event loop runs.
    known
        `caller_of` where that takes no time, else None: called without a thread.
    ours
        Serves the routes of `our_routes` in the application's place, without its middleware.
    role_of_ticket
        Whose one-use ticket this is; it is worthless afterwards.
    server_id
        Identity of this server; None where it has none.
    agents_may
        By route and body: refuses (with a `Problem`) what agents may not while a person has the microscope; returns what the
        body needs for the queue's lock.
    """

    def __init__(
        self,
        app: ASGIApp,
        caller_of: CallerOf,
        queue_items: QueueItems,
        require_key: bool,
        agents_may: AgentsMay = lambda route, payload: {},
        at_start: Callable[[], Awaitable[None]] | None = None,
        role_of_ticket: Callable[[str], str | None] = lambda ticket: None,
        server_id: Callable[[], str | None] = lambda: None,
        known: Callable[[str], Caller | None] = lambda key: None,
        ours: ASGIApp | None = None,
        our_routes: Collection[str] = (),
    ) -> None:
        self._server_id = server_id
        self._known = known
        self._ours = app if ours is None else ours
        self._our_routes = frozenset(our_routes)
        self._role_of_ticket = role_of_ticket
        self._at_start = at_start
        self._starting: asyncio.Future[None] | None = None
        self._agents_may = agents_may
        self._app = app
        self._caller_of = caller_of
        self._queue_items = queue_items
        self._require_key = require_key
        self._editing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if self._at_start is not None and self._starting is None:
                self._starting = asyncio.ensure_future(self._at_start())
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._authenticate(scope)
            self._refuse_strays(scope)
            route = _authorize(scope, caller.role)
            scope = _with_caller(scope, caller)
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
                return
            body = await _read(receive)
            payload = _items.parse_object(body)
            # What goes on is what was checked, whatever another JSON reader would make of these bytes.
            body = json.dumps(payload).encode() if body else body
            scope = _with_length(scope, len(body))
            if route.startswith("/api/queue/item/") and scope["method"] == "POST":
                async with self._editing:  # nobody changes an item's owner between the look and the change
                    if caller.role == "agent":
                        await self._narrow_agent(route, payload)
                        if added := self._agents_may(route, payload):
                            body = json.dumps(payload | added).encode()
                            scope = _with_length(scope, len(body))
                    await self._app(scope, _replay(body, receive), send)
            else:
                app = self._ours if route in self._our_routes else self._app
                await app(scope, _replay(body, receive), send)
        except Problem as problem:
            await _refuse(problem, scope, send)

    async def _authenticate(self, scope: Scope) -> Caller:
        if "api_key" in QueryParams(scope["query_string"]):
            raise Problem(
                "key_in_url",
                "a key in a URL ends up in logs and histories: send the header `Authorization: ApiKey KEY`, and have"
                " this key replaced if it was a real one",
            )
        caller = None
        if scope["type"] == "websocket" and scope["path"] == EVENTS:
            ticket = QueryParams(scope["query_string"]).get("ticket")
            if ticket is not None and (role := self._role_of_ticket(ticket)) is not None:
                return Caller(role, narrowed=False)
        scheme, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() == "apikey" and _SECRET.fullmatch(secret) and len(secret) % 2 == 0:
            caller = self._known(secret)
            if caller is not None:
                pass
            elif scope["path"] == HALT:  # waits for no thread of the pool
                caller = await in_thread_of_its_own(lambda: self._caller_of(secret))
            else:
                caller = await to_thread.run_sync(self._caller_of, secret)
        if caller is None:
            raise Problem(
                "unauthenticated",
                "send a valid key in the header `Authorization: ApiKey KEY` (the file keys/ROLE of the data directory)",
                {"WWW-Authenticate": "ApiKey"},
            )
        return caller

    def _refuse_strays(self, scope: Scope) -> None:
        """A request that another server was meant to get: this address was its once."""
        meant = Headers(scope=scope).get(IDENTITY)
        if meant is not None and meant != (here := self._server_id()):
            raise Problem("other_server", f"this request is meant for the server {meant[:80]!r}, this one is {here!r}")

    async def _narrow_agent(self, route: str, payload: dict[str, Any]) -> None:
        if check := _items.AGENT_CHECKS.get(route):
            check(payload, self._require_key)
        if touched := _items.AGENT_TOUCHES.get(route):
            _items.refuse_others(touched(payload), await self._queue_items(), "agent")


def _authorize(scope: Scope, role: str) -> str:
    """The route asked for, where this role may call it."""
    method = _access.WEBSOCKET if scope["type"] == "websocket" else scope["method"]
    route = _access.route_of(scope["path"])
    if route is None:
        raise Problem("not_found", f"{scope['path']} is not a route of this server: see /openapi.json")
    allowed = _access.ACCESS.get((method, route))
    if allowed is None:
        methods = ", ".join(_access.methods_of(route))
        raise Problem("method_not_allowed", f"{route} answers {methods or 'as a WebSocket only'}", {"Allow": methods})
    if role not in allowed:
        may = f"needs one of the roles {', '.join(sorted(allowed))}" if allowed else "is closed to every role"
        raise Problem("forbidden", f"{method} {route} {may}; this key's role is {role}")
    return route


def _with_caller(scope: Scope, caller: Caller) -> Scope:
    """The request without cookies (a key in one would count upstream) and with the caller.

    A WebSocket of upstream's loses its query too: upstream reads the scopes that it requires from ``?scopes=``, and none are
    required where that is empty.
    """
    headers = [(name, value) for name, value in scope["headers"] if name not in (b"cookie", b"authorization")]
    _, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
    if secret:  # a ticket has none
        headers.append((b"authorization", b"ApiKey " + secret.strip().encode()))  # upstream's WebSockets match the case
    query = b"" if scope["type"] == "websocket" and scope["path"] != EVENTS else scope["query_string"]
    return {**scope, "headers": headers, "query_string": query, CALLER: caller}


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Problem("invalid_body", "the connection ended before the body")
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if length > MAX_BODY:
            raise Problem("too_large", f"the body has more than {MAX_BODY} bytes")
        if not message.get("more_body", False):
            return b"".join(chunks)


def _with_length(scope: Scope, length: int) -> Scope:
    """The request with the length of the body that is passed on (it may have come in chunks)."""
    headers = [(n, v) for n, v in scope["headers"] if n not in (b"content-length", b"transfer-encoding")]
    if length:
        headers.append((b"content-length", str(length).encode()))
    return {**scope, "headers": headers}


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _refuse(problem: Problem, scope: Scope, send: Send) -> None:
    body = problem.body()
    headers = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    if scope["type"] == "http" and scope["method"] == "HEAD":
        body = b""
    await send({"type": f"{kind}.start", "status": problem.status, "headers": raw})
    await send({"type": f"{kind}.body", "body": body})
