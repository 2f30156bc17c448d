"""The way to one server: requests that may be repeated, and an operation's events, over connections that may break."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode
from weakref import WeakSet

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ._errors import OtherServerError, RefusedError, ScopeError, ServerLostError
from ._operation import Event
from ._servers import IDENTITY, Server

if TYPE_CHECKING:
    from ._job import AsyncJob

PATIENCE_S = 60.0
"""How long a server may be away: it restarts in seconds, a worker that loads a real configuration takes longer."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
"""Between two tries."""
REPLY_S = 30.0
HEARTBEAT_S = 5.0
"""A connection on which nothing comes back for twice as long is lost."""
LARGEST_EVENT = 4 * 1024 * 1024
PASSES = frozenset((429, 502, 503, 504))
PASSING = frozenset(("in_progress", "busy"))
"""Refusals after which the same request may succeed (docs/reference/rest.md: `same_key`)."""


class Link:
    """One server, as one client sees it. Every request here may safely be sent twice."""

    def __init__(self, server: Server, patience_s: float = PATIENCE_S) -> None:
        self.server, self.patience_s = server, patience_s
        self.jobs: WeakSet[AsyncJob] = WeakSet()
        """What goes over it; it ends with it."""
        secure = (server.url or "").startswith("https:")
        self._http = httpx.AsyncClient(timeout=REPLY_S, trust_env=False, verify=server.tls if secure else False)

    async def meet(self) -> Mapping[str, Any]:
        """Ask the server who it is: ``{server_id, scope, version}``. From now on no other one is spoken to.

        Raises
        ------
        OtherServerError, ServerLostError, RefusedError
        """
        told, _ = await self.ask("GET", "/api/server")
        self.server = self.server.known_as(told)
        return dict(told)

    async def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[Any, httpx.Headers]:
        """The answer; asked again, for `patience_s`, while none comes or the server says that it may come later.

        Raises
        ------
        RefusedError, OtherServerError, ServerLostError
        """
        tries = _Tries(self.patience_s)
        while True:
            try:
                url, key = self.server.address()
                reply = await self._http.request(
                    method, url + path, json=body, headers={**self._headers(key), **(headers or {})}
                )
            except httpx.TransportError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise _another_certificate(self.server, error) from None
                await tries.pause(ServerLostError(f"{self.server.name} gave no answer: {_words(error)}"))
            except ServerLostError as error:
                await tries.pause(error)
            else:
                if reply.status_code < 400:
                    return reply.json(), reply.headers
                refused = _refusal(self.server, reply.status_code, reply.content)
                await tries.after(refused, reply.headers.get("Retry-After"))

    def feed(self, key: str) -> Feed:
        return Feed(self, key)

    async def connect(self, key: str, cursor: int) -> ClientConnection:
        """A WebSocket of an operation's events after a cursor; tried again for `patience_s`.

        Raises
        ------
        RefusedError, OtherServerError, ServerLostError
        """
        tries = _Tries(self.patience_s)
        while True:
            try:
                url, role_key = self.server.address()
                return await connect(
                    f"ws{url.removeprefix('http')}/api/ops/ws?{urlencode({'key': key, 'cursor': cursor})}",
                    additional_headers=self._headers(role_key),
                    ssl=self.server.tls if url.startswith("https") else None,
                    proxy=None,
                    compression=None,
                    max_size=LARGEST_EVENT,
                    open_timeout=REPLY_S,
                    close_timeout=1,
                    ping_interval=HEARTBEAT_S,
                    ping_timeout=HEARTBEAT_S,
                )
            except InvalidStatus as error:
                await tries.after(_refusal(self.server, error.response.status_code, bytes(error.response.body or b"")))
            except (OSError, InvalidHandshake, EOFError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise _another_certificate(self.server, error) from None
                words = error if isinstance(error, ServerLostError) else f"{self.server.name}: {_words(error)}"
                await tries.pause(ServerLostError(str(words)))

    def _headers(self, key: str) -> dict[str, str]:
        who = {IDENTITY: self.server.server_id} if self.server.server_id else {}
        return {"Authorization": f"ApiKey {key}", **who}

    async def close(self) -> None:
        for job in list(self.jobs):
            await job.detach()
        await self._http.aclose()


class Feed:
    """The events of one key from its beginning, in order, each once, over as many connections as it takes."""

    def __init__(self, link: Link, key: str) -> None:
        self._link, self._key = link, key
        self._cursor = 0
        self._socket: ClientConnection | None = None

    async def open(self) -> None:
        """Subscribed when this returns: nothing that happens from now on is missed."""
        if self._socket is None:
            self._socket = await self._link.connect(self._key, self._cursor)

    async def next(self) -> Event:
        """The next event of this key on this server; waits for it, however long that takes.

        Raises
        ------
        ServerLostError, OtherServerError, RefusedError
            Where the connection broke and can't be had again.
        """
        while True:
            await self.open()
            assert self._socket is not None
            try:
                told = json.loads(await self._socket.recv())
            except ConnectionClosed:
                await self.close()
                continue
            event = Event.of(told)
            if event.key != self._key or event.server_id != self._link.server.server_id:
                continue
            if event.type != "progress":  # that one only names the event before it
                if event.cursor is None or event.cursor <= self._cursor:
                    continue
                self._cursor = event.cursor
            return event

    async def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Tries:
    """How often something is tried again, and when that ends."""

    def __init__(self, patience_s: float) -> None:
        self._give_up, self._pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S

    async def after(self, refused: ScopeError, asked_s: str | None = None) -> None:
        """`pause` where what the server says may pass; raises it where it won't."""
        if not isinstance(refused, RefusedError) or not _may_pass(refused):
            raise refused from None
        await self.pause(refused, asked_s)

    async def pause(self, why: ScopeError, asked_s: str | None = None) -> None:
        """Wait a little longer each time; raises ``why`` where the time is over."""
        pause_s = max(self._pause_s, float(asked_s) if asked_s and asked_s.isdigit() else 0.0)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if time.monotonic() + pause_s > self._give_up:
            raise why
        await asyncio.sleep(pause_s)


def _refusal(server: Server, status: int, body: bytes) -> ScopeError:
    """A problem body, or what somebody in between says."""
    try:
        told = json.loads(body)
        code, detail = str(told["code"]), str(told["detail"])
    except (ValueError, KeyError, TypeError):
        return RefusedError(status, f"http_{status}", body[:500].decode(errors="replace") or "no reason given")
    if code == "other_server":
        return OtherServerError(
            f"{detail}: if that is right, `queuescope pair {server.name} … --again`; nothing was queued"
        )
    more = {name: value for name, value in told.items() if name not in ("type", "title", "status", "detail", "code")}
    return RefusedError(status, code, detail, more)


def _may_pass(refused: RefusedError) -> bool:
    return refused.status in PASSES or refused.code in PASSING


def _another_certificate(server: Server, error: Exception) -> OtherServerError:
    return OtherServerError(
        f"{server.name} shows another certificate than the one that was paired ({_words(error)}): if that is right,"
        f" `queuescope pair {server.name} … --again`"
    )


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
