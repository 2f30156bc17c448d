"""One operation that a client follows: submitted once, one stream of events, one end (R2)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from ._durable import Namespace
from ._errors import (
    OperationCancelledError,
    OperationFailedError,
    OtherServerError,
    RefusedError,
    ServerLostError,
)
from ._link import Feed, Link
from ._operation import Event, Failure, Operation, Progress, State

KEPT_PROGRESS = 100
"""Progress events that a late reader of the stream still sees; every other event is kept."""


@dataclass(frozen=True)
class Body:
    """What an operation asks for."""

    plan: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    sample_id: str | None = None
    session_id: str | None = None
    note: str | None = None
    restore: bool = False

    def told(self, after: str | None) -> dict[str, Any]:
        """As the server wants it. ``after``: the script's step before, as which the microscope must still be."""
        always = {"plan": self.plan, "kwargs": dict(self.kwargs)}
        some = {
            "sample_id": self.sample_id,
            "session_id": self.session_id,
            "note": self.note,
            "restore": self.restore or None,
            "after": after,
        }
        return always | {name: value for name, value in some.items() if value is not None}


class AsyncJob:
    """Made by `AsyncScope`. It ends once: when the server says so, or when the server is lost for good, or with its client.

    The end of this job is not the end of the operation: one whose client is gone goes on, and is found again by its key.
    """

    def __init__(self, link: Link, key: str, body: Body | None, space: Namespace | None = None) -> None:
        """``body``: None follows what was submitted before. ``space``: where it is a step."""
        self.key = key
        self._link, self._body, self._space = link, body, space
        self._now: Operation | None = None
        self._attempt = 1
        self._log: dict[int, Event] = {}
        self._next = 0
        self._progress: deque[int] = deque()
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._bug: BaseException | None = None
        self._cancel_asked = False
        self._task: asyncio.Task[None] | None = None
        """What is under way for it: its submission, then following it."""
        link.jobs.add(self)

    def __repr__(self) -> str:
        return f"<job {self.key} {self.state}>"

    @property
    def operation(self) -> Operation | None:
        """As far as it is known; None before the server has it."""
        return self._now

    @property
    def state(self) -> State | None:
        return None if self._now is None else self._now.state

    @property
    def run_uids(self) -> tuple[str, ...]:
        return () if self._now is None else self._now.run_uids

    @property
    def ended(self) -> bool:
        return self._over.is_set()

    # Its life -------------------------------------------------------------------------------------------------------

    async def submit(self) -> None:
        """Subscribe, then submit, then follow. Returns when the server has it.

        Raises
        ------
        RefusedError
            In the server's words; nothing was queued.
        ServerLostError, OtherServerError
        """
        if self._cancel_asked:
            self._end_here("cancelled", "cancelled", "cancelled before it was submitted: nothing was sent")
        elif self._task is None:
            self._task = asyncio.create_task(self._start(), name=f"submit {self.key}")
            await self._task

    async def _start(self) -> None:
        async with contextlib.nullcontext() if self._space is None else self._space.turn:
            await self._enter()
        if self._cancel_asked and not self.ended:  # while it was not registered yet, nobody could be told
            await self._tell_cancel()

    async def _enter(self) -> None:
        feed = self._link.feed(self.key)
        try:
            await feed.open()
            view, replayed = await self._register()
        except BaseException as error:
            await feed.close()
            self._release()
            cancelled = self._cancel_asked or isinstance(error, asyncio.CancelledError)
            code = error.code if isinstance(error, RefusedError) else "client_closed" if cancelled else "session_lost"
            self._end_here("cancelled" if cancelled else "failed", code, str(error) or "the client was closed")
            raise
        self._now = Operation.of(view, replayed)
        self._attempt = self._now.attempt
        if self._now.ended:
            await feed.close()
            self._take(_end_of(self._now))
            self._over.set()
            return
        self._task = asyncio.create_task(self._follow(feed), name=f"follow {self.key}")

    async def _register(self) -> tuple[Mapping[str, Any], bool]:
        if self._body is None:
            view, _ = await self._link.ask("GET", self._path())
            return view, True
        asked = self._body.told(None if self._space is None else self._space.last)
        view, headers = await self._link.ask("POST", "/api/ops", asked, {"Idempotency-Key": self.key})
        if self._space is not None:
            self._space.last = self.key
        return view, headers.get("Idempotency-Replayed") == "true"

    def _release(self) -> None:
        """The script may ask for this step again."""
        if self._space is not None:
            self._space.release(self.key)

    async def cancel(self) -> None:
        """Cancel the operation, whenever this is called; cancelling wins over every other end. Returns when the server knows."""
        if self.ended or self._cancel_asked:
            return
        self._cancel_asked = True
        if self._now is not None:
            await self._tell_cancel()

    async def _tell_cancel(self) -> None:
        try:
            await self._link.ask("POST", self._path("cancel"))
        except ServerLostError as error:
            await self.detach()
            self._end_here("cancelled", "session_lost", f"the server could not be told, and may go on with it: {error}")

    async def detach(self) -> None:
        """Follow it no longer. The operation goes on; this job ends as cancelled where it hadn't ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end_here("cancelled", "client_closed", "this client follows it no longer; the operation itself goes on")

    async def _follow(self, feed: Feed) -> None:
        """Until the server says how it ended, or can't be found any more."""
        try:
            while True:
                event = await feed.next()
                if event.attempt != self._attempt:
                    continue
                if event.terminal:
                    self._now = await self._ended(event)
                    self._take(event)
                    return
                self._take(event)
        except (ServerLostError, OtherServerError, RefusedError) as error:
            self._release()
            state: State = "cancelled" if self._cancel_asked else "failed"
            self._end_here(state, "session_lost", f"the operation may go on, see `queuescope show {self.key}`: {error}")
        except asyncio.CancelledError:
            self._end_here("cancelled", "client_closed", "this client was closed; the operation itself goes on")
            raise
        except Exception as error:
            self._bug = error
        finally:
            await feed.close()
            self._over.set()
            self._tell()

    async def _ended(self, event: Event) -> Operation:
        """The whole operation, result included; what the event says of it where that can't be had."""
        told = self._changed(event)
        try:
            view, _ = await self._link.ask("GET", self._path())
        except (ServerLostError, RefusedError):
            return told
        return Operation.of(view, told.replayed) if view["attempt"] == self._attempt else told

    def _take(self, event: Event) -> None:
        """One event more in the stream."""
        if not event.terminal:
            self._now = self._changed(event)
        self._log[self._next] = event
        if event.type == "progress":
            self._progress.append(self._next)
            if len(self._progress) > KEPT_PROGRESS:
                del self._log[self._progress.popleft()]
        self._next += 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _changed(self, event: Event) -> Operation:
        now, data = self._now, event.data
        assert now is not None
        if event.type == "progress":
            return replace(now, progress=Progress(data["done"], data["total"]))
        if event.type != "state":
            return now
        runs = tuple(data.get("run_uids") or now.run_uids)
        if (uid := data.get("run_uid")) and uid not in runs:
            runs = (*runs, uid)
        error = data.get("error")
        return replace(
            now,
            state=data.get("state", now.state),
            run_uids=runs,
            error=Failure(error["code"], error["detail"]) if error else now.error,
            started_at=data.get("started_at", now.started_at),
            item_uid=data.get("item_uid", now.item_uid),
            finished_at=event.time if event.terminal else now.finished_at,
        )

    def _end_here(self, state: State, code: str, detail: str) -> None:
        """An end that the server hasn't told. Runs that are known stay known."""
        if self.ended:
            return
        body = self._body or Body("")
        before = self._now or Operation(self.key, self._attempt, "accepted", body.plan, body.kwargs)
        self._now = replace(before, state=state, error=Failure(code, detail), finished_at=time.time())
        self._take(_end_of(self._now))
        self._over.set()

    # What a script asks of it -----------------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[Event]:
        """State, progress, output and decisions, in one stream from the beginning, in order; the last one is its end.

        As many readers as there are each see all of it; one that leaves has nothing to clean up.
        """
        at = 0
        while True:
            news = self._news
            while at < self._next:
                at += 1
                if at - 1 in self._log:
                    yield self._log[at - 1]
            if self.ended:
                break
            await news.wait()
        if self._bug is not None:
            raise self._bug

    async def wait(self) -> Operation:
        """Until it has ended, however it ended."""
        await self._over.wait()
        if self._bug is not None:
            raise self._bug
        assert self._now is not None
        return self._now

    async def result(self) -> Operation:
        """Until it has succeeded.

        Raises
        ------
        OperationFailedError, OperationCancelledError
            Where it ended otherwise.
        """
        operation = await self.wait()
        if operation.state == "cancelled":
            raise OperationCancelledError(operation)
        if operation.state != "succeeded":
            raise OperationFailedError(operation)
        return operation

    async def retry(self) -> AsyncJob:
        """One more attempt of what ended without success: a job of its own, with the same key."""
        attempt = self._attempt + 1
        await self._link.ask("POST", self._path("retry"), {"attempt": attempt})
        again = AsyncJob(self._link, self.key, None)
        await again.submit()
        return again

    def _path(self, *more: str) -> str:
        return "/".join(("/api/ops", quote(self.key, safe=""), *more))


def _end_of(operation: Operation) -> Event:
    """The terminal event of an operation whose own one was not seen."""
    error = operation.error
    return Event(
        type="state",
        data={
            "state": operation.state,
            "run_uids": list(operation.run_uids),
            "error": error and {"code": error.code, "detail": error.detail},
        },
        key=operation.key,
        attempt=operation.attempt,
        time=operation.finished_at or time.time(),
    )
