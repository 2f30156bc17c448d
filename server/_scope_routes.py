"""Routes for people in charge: halt, rearm, arm, control. Importing this adds them to `router`.

Nothing here waits for a thread of the server's pool, for the queue server, or for another request.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from pydantic import ConfigDict, Field

from ..described import Described
from ..hardware import (
    HaltedError,
    HaltOutcome,
    Hardware,
    HardwareError,
    InterlockError,
    LatchFile,
    LimitError,
    NotAllowedError,
    ReleasedError,
    RestartPendingError,
    SafetyState,
    halt_hardware,
    urgent,
)
from ..ledger import Control
from ._context import Context, current
from ._control import LOCK_KEY, hand_over, stop_queue
from ._guard import CALLER
from ._handing_over import note_reclaimed
from ._microscope import from_worker
from ._probe import in_thread_of_its_own
from ._problems import Problem
from ._queue import QueueUnreachable, ask
from ._routes import _problem, router

__all__ = ["router"]

_background: set[asyncio.Task[None]] = set()


class _Asked(Described):
    model_config = ConfigDict(extra="forbid")


class Halt(_Asked):
    reason: Annotated[str, Field(max_length=500)] = "no reason given"


class Rearm(_Asked):
    resume_queue: bool = False
    """Let the queue start plans again."""


class Arm(_Asked):
    until: float | None
    """Seconds since the epoch, within the scope's ``safety.arm.hours``; null disarms."""


class TakeControl(_Asked):
    mode: Literal["agents", "person", "maintenance"]
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    by: Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")] | None = None
    """Who; the role by default."""


class ControlAnswer(_Asked):
    control: Control
    lock_key: str | None
    """Opens the queue's lock for whoever has taken over (queueserver's `lock_key` parameter); null where it is unlocked."""
    problems: list[str]
    """What could not be done with the queue. The guard refuses agents in any case."""


async def _context() -> Context:
    return current()  # `Depends(current)` would take a thread of the pool


ContextNow = Annotated[Context, Depends(_context)]


@router.post("/scope/halt", response_model=HaltOutcome)
async def post_halt(request: Request, context: ContextNow, body: Halt | None = None) -> HaltOutcome:
    """Stop every axis, close every gate, switch emissions off, and latch; then the queue is stopped. Every role may.

    It waits behind nothing: no plan, no queue server, no other request. `confirmed` says whether the hardware did it, `detail`
    what did not work. The latch holds in any case, until an operator rearms.
    """
    reason, by = (body or Halt()).reason, request.scope[CALLER].role
    try:
        outcome = await in_thread_of_its_own(lambda: halt_hardware(context.scope, context.layout, reason, by))
    except OSError as error:
        raise Problem(
            "hardware_unreachable", f"NOT HALTED: the hardware is silent and the latch can't be written: {error}"
        ) from None
    task = asyncio.create_task(stop_queue(context))
    _background.add(task)
    task.add_done_callback(_background.discard)
    return outcome


_REFUSED: dict[int | str, dict[str, Any]] = {
    409: _problem("`interlock_open`, `halted`, `not_armable`, `released`, `restart_pending`"),
    503: _problem("`hardware_unreachable`"),
}


@router.post("/scope/rearm", response_model=SafetyState, responses=_REFUSED)
async def post_rearm(request: Request, context: ContextNow, body: Rearm | None = None) -> SafetyState:
    """Clear the latches of halt and interlocks. The queue stays stopped unless `resume_queue`. Arms nothing."""
    by = request.scope[CALLER].role
    state = await _urgently(context, lambda hardware: hardware.rearm(by), "scope_rearm", by=by)
    LatchFile.halt(context.layout).clear()
    await note_reclaimed(context)
    if (body or Rearm()).resume_queue:
        try:
            await ask(context.control, "queue_autostart", {"enable": True})
        except QueueUnreachable as error:
            raise Problem("queue_unreachable", f"rearmed, but the queue stays stopped: {error}") from None
    return state


@router.post(
    "/scope/arm",
    response_model=SafetyState,
    responses={**_REFUSED, 422: _problem("`outside_limits`")},
)
async def post_arm(request: Request, context: ContextNow, body: Arm) -> SafetyState:
    """Permit light until then, where the scope asks for arming; null disarms."""
    by, until = request.scope[CALLER].role, body.until
    if until is not None and not math.isfinite(until):
        raise Problem("not_finite", f"until is {until}: send a finite number")
    return await _urgently(context, lambda hardware: hardware.arm(until, by), "scope_arm", until=until, by=by)


@router.post("/scope/control", response_model=ControlAnswer)
async def post_control(request: Request, context: ContextNow, body: TakeControl) -> ControlAnswer:
    """Take the microscope over, or hand it to the agents: see `docs/reference/rest.md`."""
    role = request.scope[CALLER].role
    by = role if body.by is None else f"{body.by} ({role})"
    control, problems = await hand_over(context, body.mode, body.reason, by)
    key = None if body.mode == "agents" else context.layout.key(LOCK_KEY)
    return ControlAnswer(control=control, lock_key=key, problems=problems)


_CODES = {
    InterlockError: "interlock_open",
    HaltedError: "halted",
    ReleasedError: "released",
    RestartPendingError: "restart_pending",
    NotAllowedError: "not_armable",
    LimitError: "outside_limits",
}


async def _urgently(
    context: Context, call: Callable[[Hardware], SafetyState], function: str, **kwargs: object
) -> SafetyState:
    def work() -> SafetyState:
        with urgent(context.scope, context.layout) as hardware:
            return call(hardware)

    try:
        if context.scope.micromanager.process == "own":
            return await in_thread_of_its_own(work)
        return SafetyState.model_validate(await from_worker(context, function, **kwargs))
    except HardwareError as error:
        raise Problem(_CODES.get(type(error), "hardware_unreachable"), str(error)) from None
    except QueueUnreachable as error:
        raise Problem("hardware_unreachable", str(error)) from None
