"""Operations over REST, as functions: the routes only translate."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread

from ..ledger import (
    Approvals,
    Body,
    Decisions,
    Event,
    Events,
    Ledger,
    Operation,
    OperationError,
    Operations,
    State,
    bell,
    bell_socket,
)
from . import _checking
from ._context import Context
from ._control import agents_may
from ._deciding import DecisionView, answer_decision, read_decision
from ._dispatcher import Dispatcher
from ._drift import Drift
from ._items import KEY
from ._op_models import Check, OperationPage, OperationView, Submit
from ._op_views import view_of_ended, views
from ._problems import Problem
from ._rate import Rate
from ._wakes import ANY, RECHECK_S, Wakes

T = TypeVar("T")

MAX_BODY = 256 * 1024
"""Bytes of an operation's parameters."""
AT_ONCE = 200
"""Events read at once; a client that is slow holds back no more than these."""


class Operating:
    """The operations of one microscope, for one event loop."""

    def __init__(self, context: Context) -> None:
        ledger = Ledger(context.layout.ledger_db)
        self._context = context
        self._operations = Operations(ledger, bell(context.layout))
        self._approvals = Approvals(ledger)
        self._decisions = Decisions(ledger, bell(context.layout))
        self._events = Events(ledger)
        self._wakes = Wakes(bell_socket(context.layout))
        self.dispatcher = Dispatcher(context, self._operations, self._wakes)
        self._drift = Drift(context, self._operations)
        self._rate = Rate()

    async def submit(self, key: str | None, asked: Submit, role: str) -> tuple[OperationView, bool]:
        """Record an operation, then queue it; the same request again is the same operation. True where it was there before.

        Raises
        ------
        Problem
            ``key_missing key_invalid too_large rate_limited key_reused pruned in_progress person_in_control``, what `Drift`
            refuses, and what the queue server refuses.
        """
        key = _checked(key)
        self._rate.take(role)
        _refuse_large(asked)
        body = Body(asked.plan, asked.kwargs, (), asked.sample_id, asked.session_id)
        restore = None
        if await self._known(key) is None:
            if role == "agent":
                self._agents_may(asked.plan)
            restore = await self._drift.restoring(asked)
        operation, new = await _refusing(partial(self._operations.accept, key, body, asked.note, role, role, restore))
        self._drift.submitted(key, new)
        return await self._dispatched(operation), not new

    async def check(self, asked: Submit, role: str) -> Check:
        """What it would do; `Problem` where that can't be told."""
        self._rate.take(role)
        _refuse_large(asked)
        return await _checking.check(self._context, asked, role)

    async def read(self, key: str, wait_s: float) -> OperationView:
        """The operation; with ``wait_s`` as soon as it has ended, at the latest then as it is."""
        deadline = time.monotonic() + wait_s
        with self._wakes.listening(key) as news:
            while True:
                operation, ended = await to_thread.run_sync(self._look, key)
                if ended is not None:
                    return ended
                left = deadline - time.monotonic()
                if left <= 0:
                    return await self._view(operation)
                await news.wait(left)

    async def events(
        self, key: str | None, cursor: int | None, gone: asyncio.Future[None]
    ) -> AsyncIterator[dict[str, Any]]:
        """What happens to one operation, or to all, after a cursor (None: from now on), until ``gone``. In order, each once."""
        server_id = self._context.server_id()
        with self._wakes.listening(key or ANY) as news:
            here = await to_thread.run_sync(self._events.last) if cursor is None else cursor
            until = 0.0
            while not gone.done():
                hints = news.hints()  # first: what is in the ledger by then is older, or newer by its time
                found = await to_thread.run_sync(self._events.after, here, key, AT_ONCE)
                for event in _merged(found, [hint for hint in hints if hint["time"] > until]):
                    here, until = event.get("cursor", here), event["time"]
                    yield {"server_id": server_id, "cursor": here, **event}
                if not found:
                    waiting = asyncio.ensure_future(news.wait(RECHECK_S))
                    await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()

    async def page(self, after: int, limit: int, state: State | None) -> OperationPage:
        found = await to_thread.run_sync(self._operations.page, after, limit, state)
        return OperationPage(
            items=await views(self._context, self._approvals, self._decisions, found),
            next=found[-1].id if found else after,
        )

    async def cancel(self, key: str, role: str) -> OperationView:
        """Cancel it: what waits has ended when this returns, what runs is paused and aborted."""
        _refuse_others(await self._require(key), role)
        operation = await to_thread.run_sync(self._operations.ask_cancel, key, role)
        if operation is None:
            raise _unknown(key)
        if operation.state == "running":
            self.dispatcher.end(key)
        elif operation.state == "cancelled" and operation.started_at is None and operation.item_uid is not None:
            await self.dispatcher.take_out(operation.item_uid)
        return await self._view(operation)

    async def retry(self, key: str, attempt: int | None, role: str) -> OperationView:
        """One more attempt, which is queued like the first."""
        before = await self._require(key)
        _refuse_others(before, role)
        if role == "agent":
            self._agents_may(before.body.plan)
        made = await _refusing(partial(self._operations.retry, key, role, attempt))
        if made is None:
            raise _unknown(key)
        return await self._dispatched(made[0])

    async def decision(self, key: str, round_: int) -> DecisionView:
        """What a plan asks, or has asked."""
        await self._require(key)
        return await read_decision(self._decisions, key, round_)

    async def decide(self, key: str, round_: int, answer: Any, role: str) -> tuple[DecisionView, bool]:
        """Answer what a plan asks. True where the same answer was there before."""
        operation = await self._require(key)
        _refuse_others(operation, role)
        self._rate.take(role)
        if role == "agent":
            self._agents_may(operation.body.plan)
        return await answer_decision(self._decisions, key, round_, answer, role)

    def _agents_may(self, plan: str) -> None:
        agents_may(self._context.layout, "/api/queue/item/add", {"item": {"name": plan}})

    async def _known(self, key: str) -> Operation | None:
        return await to_thread.run_sync(self._operations.by_key, key)

    async def _require(self, key: str) -> Operation:
        return _there(await self._known(key), key)

    def _look(self, key: str) -> tuple[Operation, OperationView | None]:
        """For a thread: the operation, and what is said of it where it has ended."""
        operation = _there(self._operations.by_key(key), key)
        return operation, view_of_ended(self._context, self._approvals, operation) if operation.ended else None

    async def _dispatched(self, operation: Operation) -> OperationView:
        if operation.state != "accepted":
            return await self._view(operation)
        sent = await self.dispatcher.dispatch(operation)
        return await self._view(sent.operation, sent.status)

    async def _view(self, operation: Operation, status: dict[str, Any] | None = None) -> OperationView:
        (view,) = await views(self._context, self._approvals, self._decisions, [operation], status)
        return view


def _merged(found: list[Event], hints: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The ledger's events in the ledger's order, the hints among them by time: how far it is comes before how it ended."""
    for event in found:
        while hints and hints[0]["time"] <= event.time:
            yield hints.pop(0)
        yield asdict(event)
    yield from hints


async def _refusing(call: Callable[[], T]) -> T:
    """In a thread, with the ledger's refusals as problems."""
    try:
        return await to_thread.run_sync(call)
    except OperationError as error:
        raise Problem(error.code, str(error)) from None


def _there(operation: Operation | None, key: str) -> Operation:
    if operation is None:
        raise _unknown(key)
    if operation.pruned_at is not None:
        raise Problem("pruned", f"operation {key} ended long ago, and its result is not kept: GET /api/ops lists it")
    return operation


def _refuse_large(asked: Submit) -> None:
    size = len(json.dumps(asked.kwargs))
    if size > MAX_BODY:
        raise Problem("too_large", f"kwargs have {size} bytes, more than {MAX_BODY}: put large data into a file")


def _checked(key: str | None) -> str:
    if key is None:
        raise Problem("key_missing", "the header Idempotency-Key is missing: give every operation a key of its own")
    if not KEY.fullmatch(key):
        raise Problem("key_invalid", f"Idempotency-Key {key[:140]!r} is not 8 to 128 characters of A-Z a-z 0-9 . _ : -")
    return key


def _refuse_others(operation: Operation, role: str) -> None:
    if role == "agent" and (operation.user, operation.user_group) != (role, role):
        whose = f"{operation.user!r} (group {operation.user_group!r})"
        raise Problem("forbidden", f"operation {operation.key} belongs to {whose}: an {role} changes only its own")


def _unknown(key: str) -> Problem:
    return Problem("unknown_operation", f"nobody has submitted an operation {key!r}")
