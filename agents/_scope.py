"""A microscope as an agent's script has it: run plans by name, each once; decide, read, and take the same branch again."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import random
import time
from collections.abc import Awaitable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from ._bar import Bar
from ._durable import Namespace
from ._errors import KeyFileError, StepError
from ._job import AsyncJob, Body
from ._keys import one_off_key, read_seed, step_key
from ._link import PATIENCE_S, Link
from ._operation import Operation
from ._record import Record
from ._servers import ROLE, find

UNNAMED = ""
"""Namespace of steps outside any ``durable`` block."""


class AsyncScope:
    """One microscope, for a script with an event loop. `Scope` is the same without one.

    A step that has a name (``step=``), and every step inside ``with scope.durable(name)``, has the same key whenever the script
    runs: what was done is replayed, what runs is followed, the rest is run. Any other step is run once, under a key of its own.
    """

    def __init__(self, link: Link, keyfile: str | os.PathLike[str] | None = None) -> None:
        self._link = link
        self._seed = None if keyfile is None else read_seed(keyfile)
        self._record = None if keyfile is None else Record(keyfile)
        self._namespace: ContextVar[Namespace | None] = ContextVar("namespace", default=None)
        self._open: list[Namespace] = []

    @classmethod
    async def connect(
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
        """Open a microscope.

        Parameters
        ----------
        name
            One that was paired on this machine (`queuescope pair`). Left out: the one of the data directory.
        keyfile
            Made with `queuescope keygen`: the seed of the keys of a durable script.
        url, key
            A server that isn't paired, and the key of a role. Who it is counts from this connection on.
        data
            The data directory of one on this machine (default: ``$QUEUESCOPE_DATA``, else ``queuescope-data``).
        role
            Whose key is read there.
        patience_s
            How long it may be away, at the start and later, before that is an error.

        Raises
        ------
        NotPairedError, KeyFileError, ServerLostError, OtherServerError, RefusedError
        """
        link = Link(find(name, url, key, data, role), patience_s)
        try:
            scope = cls(link, keyfile)
            await link.meet()
        except BaseException:
            await link.close()
            raise
        return scope

    @property
    def name(self) -> str:
        return self._link.server.name

    @property
    def server_id(self) -> str | None:
        return self._link.server.server_id

    async def close(self) -> None:
        """Follow nothing any more. Jobs that had not ended end as cancelled here; their operations go on."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Operations -----------------------------------------------------------------------------------------------------

    def submit(self, plan: str, **asked: Any) -> Coroutine[Any, Any, AsyncJob]:
        """Submit a plan; the job follows it. Takes what `job` takes.

        Raises
        ------
        RefusedError
            In the server's words, at once: an unknown plan, parameters outside the limits, a key that stands for something else.
        """
        return self._submitted(self.job(plan, **asked))  # its key is decided now, not when it is awaited

    def run(self, plan: str, *, progress: bool | None = None, **asked: Any) -> Coroutine[Any, Any, Operation]:
        """Submit a plan, follow it to its end and return the operation. Takes what `job` takes.

        ``progress``: show a bar; left out, in a terminal and in a notebook. Cancelling this waiting leaves the operation running.

        Raises
        ------
        OperationFailedError, OperationCancelledError
            Where it didn't succeed, also where that is replayed.
        RefusedError, ServerLostError, OtherServerError
        """
        return self._run(self.job(plan, **asked), plan, progress)

    def job(
        self,
        plan: str,
        *,
        step: str | None = None,
        key: str | None = None,
        sample_id: str | None = None,
        session_id: str | None = None,
        note: str | None = None,
        restore: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> AsyncJob:
        """A job that isn't submitted yet: `AsyncJob.submit` does that, `AsyncJob.cancel` works before, meanwhile and after.

        Parameters
        ----------
        step
            The step's name: its key is the same whenever the script runs. Left out in a ``durable`` block it is counted.
        key
            The key itself, instead.
        sample_id, session_id, note
            Go with the operation.
        restore
            Where the microscope isn't as the step before left it: move it back first, instead of refusing (`state_drift`).
        kwargs, parameters
            The plan's parameters; in ``kwargs`` those whose names are taken here.
        """
        if key is not None and step is not None:
            raise TypeError("give either key= or step=")
        space = self._space()
        key = key or self._key(step) or one_off_key(plan)
        body = Body(plan, {**(kwargs or {}), **parameters}, sample_id, session_id, note, restore)
        return AsyncJob(self._link, key, body, space)

    def key(self, step: str | None = None) -> str:
        """The key of a step, for a plan that goes another way: ``meta={"op_key": scope.key("stack-1")}`` with
        bluesky-queueserver-api.
        """
        key = self._key(step)
        if key is None:
            raise TypeError("outside a durable block a step needs a name: scope.key('stack-1')")
        return key

    def _key(self, step: str | None) -> str | None:
        space = self._space()
        if space is not None:
            return space.key(step)
        return None if step is None else step_key(self._need_seed(f"step {step!r}"), UNNAMED, step)

    async def attach(self, key: str) -> AsyncJob:
        """Follow what was submitted before, by whomever.

        Raises
        ------
        RefusedError
            ``unknown_operation`` where nobody has submitted it.
        """
        return await self._submitted(AsyncJob(self._link, key, None))

    async def _submitted(self, job: AsyncJob) -> AsyncJob:
        await job.submit()
        return job

    async def _run(self, job: AsyncJob, plan: str, progress: bool | None) -> Operation:
        await self._submitted(job)
        try:
            with Bar(plan, progress) as bar:
                async for event in job.events():
                    bar.take(event)
            return await job.result()
        except asyncio.CancelledError:
            await job.detach()
            raise

    # Decisions ------------------------------------------------------------------------------------------------------

    async def question(self, job: AsyncJob | str, number: int) -> dict[str, Any]:
        """What a running plan asks: ``{question, facts, answers, default, deadline, …}``."""
        told, _ = await self._link.ask("GET", _decision(job, number))
        return dict(told)

    def decide(self, job: AsyncJob | str, number: int, answer: Any) -> Coroutine[Any, Any, dict[str, Any]]:
        """Answer what a running plan asks between two rounds.

        Parameters
        ----------
        number
            As the ``decision`` event and the operation's `hold` name it.
        answer
            JSON, or a function that makes it. In a durable script the first one is recorded and given again.

        Raises
        ------
        RefusedError
            ``unknown_decision answer_refused decided_already decision_closed``.
        """
        return self._decided(_decision(job, number), self._recorded("decide", f"{_key_of(job)} {number}", answer))

    async def _decided(self, path: str, answer: Awaitable[Any]) -> dict[str, Any]:
        told, _ = await self._link.ask("POST", path, {"answer": await answer})
        return dict(told)

    # What a script reads --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def durable(self, name: str) -> Iterator[Namespace]:
        """The steps inside have the same keys whenever the script runs; so has what `random`, `now`, `read` and `recorded` give.

        Raises
        ------
        KeyFileError
            Where the scope was opened without a key file.
        """
        outer = self._namespace.get()
        full = name if outer is None else f"{outer.name}/{name}"
        space = Namespace(full, self._need_seed(f"durable({name!r})"))
        token = self._namespace.set(space)
        self._open.append(space)
        try:
            yield space
        finally:
            self._open.remove(space)
            self._namespace.reset(token)

    def _space(self) -> Namespace | None:
        """The namespace that this call stands in. A thread has the one that is open, where it opened none itself."""
        space = self._namespace.get()
        if space is not None or not self._open or _in_a_loop():
            return space
        if len({one.owner for one in self._open}) > 1:
            names = ", ".join(repr(one.name) for one in self._open)
            raise StepError(f"this thread opened no durable block, and several are open: {names}")
        return self._open[-1]

    def random(self, step: str | None = None) -> Awaitable[float]:
        """A number in [0, 1), the same one when the script runs again."""
        return self._recorded("random", step, random.random)

    def now(self, step: str | None = None) -> Awaitable[float]:
        """The time, seconds since the epoch; when the script runs again, the time of the first run."""
        return self._recorded("now", step, time.time)

    def read(self, path: str = "/api/scope", step: str | None = None) -> Awaitable[Any]:
        """What the server answers to a GET: the microscope as it is, a run; when the script runs again, what it was then."""

        async def ask() -> Any:
            told, _ = await self._link.ask("GET", path)
            return told

        return self._recorded("read", step, ask)

    def recorded(self, step: str | None, value: Any) -> Awaitable[Any]:
        """Anything else that a script decides by: a model's answer, a file's content. JSON, or a function that makes it (also
        async), which isn't called when the script runs again.
        """
        return self._recorded("recorded", step, value)

    def _recorded(self, kind: str, step: str | None, value: Any) -> Awaitable[Any]:
        space = self._space()
        if space is None:
            return _called(value)
        return self._replayed(space.name, space.step(kind, step), value)

    async def _replayed(self, namespace: str, step: str, value: Any) -> Any:
        assert self._record is not None
        where = (self.server_id or self.name, namespace, step)
        found = await asyncio.to_thread(self._record.read, *where)
        if found is not None:
            return found[0]
        return await asyncio.to_thread(self._record.write, *where, await _called(value))

    def _need_seed(self, what: str) -> bytes:
        if self._seed is None:
            raise KeyFileError(
                f"{what} needs a key file: Scope.connect(…, keyfile='exec.key'), see `queuescope keygen`"
            )
        return self._seed


async def _called(value: Any) -> Any:
    """The value itself, or what a function gives, plain or async."""
    if callable(value):
        value = value()
    return await value if inspect.isawaitable(value) else value


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _key_of(job: AsyncJob | str) -> str:
    return job if isinstance(job, str) else job.key


def _decision(job: AsyncJob | str, number: int) -> str:
    return f"/api/ops/{quote(_key_of(job), safe='')}/decisions/{number}"
