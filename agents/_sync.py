"""`Scope` and `Job`: the client without an event loop. They have one in a thread of their own, so they work in notebooks too."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ._durable import Namespace
from ._job import AsyncJob
from ._link import PATIENCE_S
from ._operation import Event, Operation, State
from ._scope import AsyncScope
from ._servers import ROLE

T = TypeVar("T")


class Job:
    """One operation that is followed: `AsyncJob`, waited for."""

    def __init__(self, job: AsyncJob, scope: Scope) -> None:
        self._job, self._scope, self._portal = job, scope, scope._portal

    def __repr__(self) -> str:
        return repr(self._job)

    key: str = property(lambda self: self._job.key)  # type: ignore[assignment]
    state: State | None = property(lambda self: self._job.state)  # type: ignore[assignment]
    run_uids: tuple[str, ...] = property(lambda self: self._job.run_uids)  # type: ignore[assignment]
    operation: Operation | None = property(lambda self: self._job.operation)  # type: ignore[assignment]
    ended: bool = property(lambda self: self._job.ended)  # type: ignore[assignment]

    def events(self) -> Iterator[Event]:
        """`AsyncJob.events`."""
        events = self._job.events()
        while (event := _wait(self._portal, _next, events)) is not None:
            yield event

    def wait(self) -> Operation:
        """`AsyncJob.wait`."""
        return _wait(self._portal, self._job.wait)

    def result(self) -> Operation:
        """`AsyncJob.result`."""
        return _wait(self._portal, self._job.result)

    def cancel(self) -> None:
        """`AsyncJob.cancel`."""
        _wait(self._portal, self._job.cancel)

    def submit(self) -> None:
        """`AsyncJob.submit`. Leaving here by Ctrl-C leaves it going on: `cancel` is told as soon as it is registered."""
        self._portal.start_task_soon(self._job.submit).result()

    def retry(self) -> Job:
        """`AsyncJob.retry`."""
        return Job(_wait(self._portal, self._job.retry), self._scope)


class Scope:
    """One microscope, for a script or a notebook: `AsyncScope`, waited for."""

    def __init__(self, scope: AsyncScope, portal: BlockingPortal, open_: contextlib.ExitStack) -> None:
        self._scope, self._portal = scope, portal
        # At the latest when Python ends: a loop's thread that is simply left would keep it from ending.
        self._close = weakref.finalize(self, _close, scope, portal, open_)

    @classmethod
    def connect(
        cls,
        name: str | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        *,
        url: str | None = None,
        key: str | None = None,
        data: str | os.PathLike[str] | None = None,
        role: str = ROLE,
        patience_s: float = PATIENCE_S,
    ) -> Self:
        """`AsyncScope.connect`."""
        with contextlib.ExitStack() as opening:
            portal = opening.enter_context(start_blocking_portal("asyncio", name="queuescope"))

            async def connected() -> AsyncScope:
                return await AsyncScope.connect(
                    name, keyfile, url=url, key=key, data=data, role=role, patience_s=patience_s
                )

            scope = _wait(portal, connected)
            return cls(scope, portal, opening.pop_all())

    name: str = property(lambda self: self._scope.name)  # type: ignore[assignment]
    server_id: str | None = property(lambda self: self._scope.server_id)  # type: ignore[assignment]

    def close(self) -> None:
        """`AsyncScope.close`."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, plan: str, *, progress: bool | None = None, **asked: Any) -> Operation:
        """`AsyncScope.run`. Ctrl-C here leaves the operation running: `Job.cancel` cancels it."""
        job = self._scope.job(plan, **asked)
        return _wait(self._portal, self._scope._run, job, plan, progress)

    def submit(self, plan: str, **asked: Any) -> Job:
        """`AsyncScope.submit`."""
        job = self._scope.job(plan, **asked)
        _wait(self._portal, self._scope._submitted, job)
        return Job(job, self)

    def job(self, plan: str, **asked: Any) -> Job:
        """`AsyncScope.job`: not submitted yet."""
        return Job(self._scope.job(plan, **asked), self)

    def attach(self, key: str) -> Job:
        """`AsyncScope.attach`."""
        return Job(_wait(self._portal, self._scope.attach, key), self)

    def key(self, step: str | None = None) -> str:
        """`AsyncScope.key`."""
        return self._scope.key(step)

    def durable(self, name: str) -> contextlib.AbstractContextManager[Namespace]:
        """`AsyncScope.durable`."""
        return self._scope.durable(name)

    def random(self, step: str | None = None) -> float:
        """`AsyncScope.random`."""
        return self._awaited(self._scope.random(step))

    def now(self, step: str | None = None) -> float:
        """`AsyncScope.now`."""
        return self._awaited(self._scope.now(step))

    def read(self, path: str = "/api/scope", step: str | None = None) -> Any:
        """`AsyncScope.read`."""
        return self._awaited(self._scope.read(path, step))

    def recorded(self, step: str | None, value: Any) -> Any:
        """`AsyncScope.recorded`."""
        return self._awaited(self._scope.recorded(step, value))

    def question(self, job: Job | str, number: int) -> dict[str, Any]:
        """`AsyncScope.question`."""
        return self._awaited(self._scope.question(_inner(job), number))

    def decide(self, job: Job | str, number: int, answer: Any) -> dict[str, Any]:
        """`AsyncScope.decide`."""
        return self._awaited(self._scope.decide(_inner(job), number, answer))

    def _awaited(self, waiting: Any) -> Any:
        async def awaited() -> Any:
            return await waiting

        return _wait(self._portal, awaited)


def _wait(portal: BlockingPortal, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a coroutine of the loop's thread comes to; leaving here, by Ctrl-C for one, ends it there."""
    future = portal.start_task_soon(call, *arguments)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _close(scope: AsyncScope, portal: BlockingPortal, open_: contextlib.ExitStack) -> None:
    with open_:
        _wait(portal, scope.close)


async def _next(events: Any) -> Event | None:
    return await anext(events, None)


def _inner(job: Job | str) -> AsyncJob | str:
    return job if isinstance(job, str) else job._job
