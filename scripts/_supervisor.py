"""The supervisor's mechanics: start parts as early as their dependencies answer, restart what dies, stop in reverse order.

Which parts there are, and how each is asked whether it is ready, stands in `_stack`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ._children import Child, Reaper, Service, StartError, back_off, spawn
from ._probes import NoAnswer

PROBE_INTERVAL_S = 0.03
"""Between two questions to a service that does not answer yet: at least this, else a fiftieth of how long that has lasted. Every
question takes from the CPU that the service starts with."""
LONGEST_PROBE_INTERVAL_S = 0.2
BEAT_S = 1.0
FROZEN_S = 5.0
"""A process that has not answered for so long is frozen (SIGSTOP, a native library that keeps the interpreter): it is killed.

Short enough that callers hear of it before the shortest sensible call deadline (10 s) and that it is back within 10 s; ten
times longer than any pause seen on a busy machine, and five questions in a row.
"""
RESTARTS_MAX = 5
RESTARTS_WINDOW_S = 600.0
"""A part that dies more often than this within the window is left down, and `status` says so."""


@dataclass(frozen=True)
class Part:
    """A process of the stack, or a step (no process) that others wait for."""

    name: str
    answers: Callable[[], None]
    """Raises `NoAnswer` until the part is ready, `StartError` where it never will be. Runs in a thread."""
    service: Service | None = None
    after: tuple[str, ...] = ()
    act: Callable[[], None] | None = None
    """Done once before the first question; done again when a part in `after` came back from a crash. Runs in a thread."""
    lost: Callable[[], str | None] | None = None
    """Asked every few seconds while it is up: why it is not any more, None where it is. For steps; processes are watched."""
    alive: Callable[[], None] | None = None
    """Asked every `BEAT_S` while it is up; raises `NoAnswer`. A process silent for `frozen_s` is killed and started again."""
    frozen_s: float = FROZEN_S
    settle: Callable[[], None] | None = None
    """Ends what moves: asked before any part is stopped. Runs in a thread, has its own deadlines, may raise `NoAnswer`."""
    orderly_stop: Callable[[], None] | None = None
    """Asked before this part gets SIGTERM. Likewise."""
    deadline_s: float = 60.0
    catalog: bool = False
    """Started when plans would run already."""


State = Literal["waiting", "starting", "running", "restarting", "failed", "stopped"]


@dataclass
class PartState:
    state: State = "waiting"
    seconds: float | None = None
    """From start to ready."""
    restarts: int = 0
    detail: str | None = None
    """Why it is not running."""
    died_at: list[float] = field(default_factory=list)


Listener = Callable[[str, dict[str, Any]], None]
"""Takes an event (``starting ready-part ready catalog died restarted failed stopping stopped error``) and its facts."""


class Supervisor:
    """Runs parts until told to stop. Everything happens in the main thread's event loop; questions are asked in threads.

    Parameters
    ----------
    parts
        In start order; they are stopped in reverse.
    listener
        Told of every event.
    reaper
        Ends the children should this process be killed.
    wait_catalog
        True: a catalog that can't start ends the whole stack; False: it is tried again like any part that died.
    """

    def __init__(
        self,
        parts: list[Part],
        listener: Listener,
        reaper: Reaper | None = None,
        wait_catalog: bool = True,
        look_every_s: float = 2.0,
    ) -> None:
        self.parts = parts
        self.states = {part.name: PartState() for part in parts}
        self.children: dict[str, Child] = {}
        self.phase: Literal["starting", "catalog", "running", "stopping", "stopped"] = "starting"
        self._listen_to = listener
        self.changed: Callable[[], None] = lambda: None
        """Called after every change of a process or a state, and every ``look_every_s``."""
        self._reaper = reaper
        self._wait_catalog = wait_catalog
        self._look_every_s = look_every_s
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._up: dict[str, asyncio.Event] = {part.name: asyncio.Event() for part in parts}
        self._early_death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Future[None]] = set()

    def _listener(self, event: str, facts: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a listener whose terminal has gone
            self._listen_to(event, facts)

    # ------------------------------------------------------------------ from outside

    def stop(self) -> None:
        """Ask for an orderly stop; asked twice, the running plan is not waited for."""
        (self._hurry if self._stop_asked.is_set() else self._stop_asked).set()

    async def run(self) -> int:
        """Start, stay, stop. Returns the exit code: 0 where it started and was asked to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        code = 0
        try:
            await self._until_stop_asked(self._start())
            if not self._stop_asked.is_set():
                await self._until_stop_asked(self._stay())
        except StartError as error:
            self._listener("error", {"message": str(error)})
            code = 1
        finally:
            await self._stop_all()
            self._early_death.cancel()
        return code

    async def _until_stop_asked(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._stop_asked.wait())
        await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    # ------------------------------------------------------------------ start

    async def _start(self) -> None:
        started = time.monotonic()
        await self._bring_up([part for part in self.parts if not part.catalog])
        self.phase = "catalog"
        self.changed()
        self._listener("ready", {"seconds": time.monotonic() - started})
        catalog = [part for part in self.parts if part.catalog]
        if self._wait_catalog:
            await self._bring_up(catalog)
        self.phase = "running"
        for part in [] if self._wait_catalog else catalog:
            self._keep(self._first_start(part))
        self.changed()
        if self._wait_catalog:
            self._listener("catalog", {"seconds": time.monotonic() - started})

    async def _bring_up(self, parts: list[Part]) -> None:
        """Start parts at once where they can; the first that fails cancels the others and its error is raised."""
        tasks = {asyncio.create_task(self._start_part(part)) for part in parts}
        pending = tasks
        try:
            while pending:
                waited_for = pending | {self._early_death}
                done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                pending = pending - done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_part(self, part: Part) -> None:
        for name in part.after:
            await self._up[name].wait()
        state = self.states[part.name]
        state.state, began = "starting", time.monotonic()
        self._listener("starting", {"part": part.name})
        if part.service is not None:
            await self._spawn(part)
        await self._ready(part)
        state.state, state.detail, state.seconds = "running", None, time.monotonic() - began
        self._up[part.name].set()
        self.changed()
        self._listener("part", {"part": part.name, "seconds": state.seconds})
        if part.service is not None:
            self._keep(self._watch(part))
            if part.alive is not None:
                self._keep(self._beat(self.children[part.name], part.alive, part.frozen_s))

    async def _first_start(self, part: Part) -> None:
        """Start a part that may fail at first: it is tried again like one that died."""
        try:
            await self._start_part(part)
        except StartError as error:
            await self._restart(part, str(error))
        if part.catalog and all(self._up[other.name].is_set() for other in self.parts if other.catalog):
            self._listener("catalog", {})

    async def _spawn(self, part: Part) -> Child:
        assert part.service is not None
        child = await spawn(part.service)
        self.children[part.name] = child
        if self._reaper is not None:
            self._reaper.watch(child.pid)
        self.changed()
        return child

    async def _ready(self, part: Part) -> None:
        """Wait until the part answers; its own process, and those it depends on, must stay alive meanwhile."""
        began = time.monotonic()
        acted = part.act is None
        while True:
            try:
                if part.act is not None and not acted:
                    await asyncio.to_thread(part.act)
                    acted = True
                await asyncio.to_thread(part.answers)
            except NoAnswer as error:
                answer = str(error)
            else:
                return
            for name in (part.name, *part.after):
                child = self.children.get(name)
                if child is not None and not child.running:
                    raise StartError(f"{name} did not start: {child.last_words()}")
            waited = time.monotonic() - began
            if waited > part.deadline_s:
                child = self.children.get(part.name)
                words = f"; its last words: {child.last_words()}" if child else ""
                raise StartError(f"{part.name} was not ready within {part.deadline_s:g} s: {answer}{words}")
            await asyncio.sleep(min(max(PROBE_INTERVAL_S, waited / 50), LONGEST_PROBE_INTERVAL_S))

    # ------------------------------------------------------------------ stay

    async def _stay(self) -> None:
        while True:
            await asyncio.sleep(self._look_every_s)
            self.changed()
            for part in self.parts:
                if part.lost is not None and self._up[part.name].is_set():
                    await self._look(part, part.lost)

    async def _look(self, part: Part, lost: Callable[[], str | None]) -> None:
        try:
            why = await asyncio.to_thread(lost)
        except NoAnswer:  # that's for the part which did not answer
            return
        if why is not None:
            self._listener("died", {"part": part.name, "message": why})
            self._up[part.name].clear()
            self._keep(self._restart(part, why))

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._listener("error", {"message": f"supervisor: {type(error).__name__}: {error}"})

    async def _watch(self, part: Part) -> None:
        """Until the process dies."""
        await self.children[part.name].process.wait()
        if self.phase in ("stopping", "stopped"):
            return
        words = self.children[part.name].last_words()
        self._listener("died", {"part": part.name, "message": words})
        if self.phase == "running":
            await self._restart(part, words)
        elif not self._early_death.done():
            self._early_death.set_exception(StartError(f"{part.name} died while the stack was starting: {words}"))

    async def _beat(self, child: Child, alive: Callable[[], None], frozen_s: float) -> None:
        """Until the process ends; kill it when it has been silent for too long."""
        answered = time.monotonic()
        while child.running:
            asked = time.monotonic()
            try:
                await asyncio.to_thread(alive)
                answered = time.monotonic()
                await asyncio.sleep(BEAT_S)
            except NoAnswer as error:
                silent_s = time.monotonic() - answered
                if silent_s > frozen_s and child.running:
                    why = f"has not answered for {silent_s:.0f} s (limit {frozen_s:g} s) and was killed"
                    child.kill(f"{child.name} {why}: {error}")
                    return
                await asyncio.sleep(0.1)
            if time.monotonic() - asked > BEAT_S + frozen_s:  # we were frozen ourselves: a suspended machine
                answered = time.monotonic()

    async def _restart(self, part: Part, why: str) -> None:
        """Start a part again, more and more patiently; give up after `RESTARTS_MAX` deaths within the window."""
        state = self.states[part.name]
        while True:
            self._up[part.name].clear()
            await self._bury(part.name)
            now = time.monotonic()
            state.died_at = [t for t in state.died_at if now - t < RESTARTS_WINDOW_S] + [now]
            if len(state.died_at) > RESTARTS_MAX:
                state.state, state.detail = "failed", f"died {len(state.died_at)} times, left down: {why}"
                self.changed()
                self._listener("failed", {"part": part.name, "message": state.detail})
                return
            state.state, state.detail = "restarting", why
            self.changed()
            await asyncio.sleep(back_off(len(state.died_at)))
            try:
                await self._start_part(part)
                for step in self.parts:
                    if step.act is not None and part.name in step.after:
                        await self._ready(step)
            except StartError as error:
                why = str(error)
                continue
            state.restarts += 1
            self.changed()
            self._listener("restarted", {"part": part.name, "restarts": state.restarts})
            return

    async def _bury(self, name: str) -> None:
        """End what a dead process left behind."""
        child = self.children.pop(name, None)
        if child is not None:
            await child.stop()
            if self._reaper is not None:
                self._reaper.forget(child.pid)

    # ------------------------------------------------------------------ stop

    async def _stop_all(self) -> None:
        self.phase = "stopping"
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for part in reversed(self.parts):
            if part.settle is not None and self._up[part.name].is_set() and self.children[part.name].running:
                await self._ask(part.name, part.settle)
        for part in reversed(self.parts):
            child = self.children.get(part.name)
            if child is not None:
                self._listener("stopping", {"part": part.name})
                if part.orderly_stop is not None and self._up[part.name].is_set() and child.running:
                    await self._ask(part.name, part.orderly_stop)
                await self._bury(part.name)
                self.changed()
            self.states[part.name].state = "stopped"
        self.phase = "stopped"
        self._listener("stopped", {})

    async def _ask(self, name: str, question: Callable[[], None]) -> None:
        """Until it is done, refused, or somebody is in a hurry."""
        work = asyncio.ensure_future(asyncio.to_thread(question))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({work, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if work.done() and (error := work.exception()) is not None:
            if not isinstance(error, NoAnswer):
                raise error
            self._listener("stopping", {"part": name, "message": str(error)})
