"""Routes for people: release and reclaim, samples, confirmed references, approvals. Importing this adds them to `router`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import ConfigDict, Field

from ..described import Described
from ..hardware import DoseState, HardwareInfo
from ._approving import Decision, Waiting, decide, waiting
from ._by_hand import by_hand, number_by_hand
from ._guard import CALLER
from ._handing_over import reclaim, release
from ._routes import _problem, router
from ._samples import OpenSample, Sample, put_sample, read_sample
from ._scope_routes import ContextNow

__all__ = ["router"]

Person = Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]
Reason = Annotated[str, Field(min_length=1, max_length=500)]


class _Asked(Described):
    model_config = ConfigDict(extra="forbid")


class Release(_Asked):
    reason: Reason = "Micro-Manager needs cameras and ports"
    by: Person | None = None
    """Who has it now, for everybody who is refused meanwhile; the role by default."""


class Reclaim(_Asked):
    by: Person | None = None
    resume_queue: bool = False
    """Let the queue start plans again."""


class HandedOver(_Asked):
    hardware: HardwareInfo
    """``stage`` says how it stands."""
    problems: list[str]
    """What could not be done with the queue."""


class ConfirmReference(_Asked):
    axis: Annotated[str, Field(max_length=70)]
    by: Person | None = None
    """Who has looked; the role by default."""


class Confirmed(_Asked):
    axis: str
    position: float
    """Where it stands, in its units."""


class Decide(_Asked):
    approve: bool
    reason: Annotated[str, Field(max_length=500)] = ""
    by: Person | None = None
    body: str | None = None
    """As `GET /api/scope/approvals` gave it: refused where the plan was edited meanwhile."""


def _who(request: Request, by: str | None) -> str:
    role = str(request.scope[CALLER].role)
    return role if by is None else f"{by} ({role})"


_HARDWARE: dict[int | str, dict[str, Any]] = {
    400: _problem("`invalid_body`"),
    404: _problem("`unknown_name`, `unknown_sample`"),
    409: _problem("`busy`, `released`, `restart_pending`, `halted`, `interlock_open`, `refused_by_hardware`"),
    422: _problem("`outside_limits`"),
    503: _problem("`hardware_unreachable`"),
}


@router.post("/scope/release", response_model=HandedOver, responses=_HARDWARE)
async def post_release(request: Request, context: ContextNow, body: Release | None = None) -> HandedOver:
    """Let the Micro-Manager GUI have cameras and ports: the queue stops, lights and emissions go off, devices are unloaded;
    nothing moves. Refused while a plan runs. It stays so, over restarts too, until somebody reclaims.
    """
    asked = body or Release()
    info, problems = await release(context, _who(request, asked.by), asked.reason)
    return HandedOver(hardware=info, problems=problems)


@router.post("/scope/reclaim", response_model=HandedOver, responses=_HARDWARE)
async def post_reclaim(request: Request, context: ContextNow, body: Reclaim | None = None) -> HandedOver:
    """Take the microscope back: lights first, then everything is loaded; nothing is moved. Axes with a reference must be
    confirmed, since somebody may have moved or zeroed them.
    """
    asked = body or Reclaim()
    info, problems = await reclaim(context, _who(request, asked.by), asked.resume_queue)
    return HandedOver(hardware=info, problems=problems)


@router.post("/scope/confirm_reference", response_model=Confirmed, responses=_HARDWARE)
async def post_confirm(request: Request, context: ContextNow, body: ConfirmReference) -> Confirmed:
    """Unlock an axis that lost its reference: somebody has looked, and it reads right."""
    by = _who(request, body.by)
    here = await number_by_hand(context, "confirm_reference", axis=body.axis, by=by)
    return Confirmed(axis=body.axis, position=here)


@router.post("/samples", response_model=Sample, responses=_HARDWARE)
async def post_sample(request: Request, context: ContextNow, body: OpenSample) -> Sample:
    """Open a sample, or close it: all light counts for the open one, and none is given beyond its budget. What it has had
    stays, over restarts too.
    """
    return await put_sample(context, body, request.scope[CALLER].role)


@router.head("/samples", include_in_schema=False)
@router.get("/samples", response_model=DoseState, responses=_HARDWARE)
async def get_open_sample(context: ContextNow) -> DoseState:
    """The dose of the sample that is open; without one, of light that was given without a sample."""
    return await by_hand(context, DoseState, "dose")


@router.head("/samples/{id}", include_in_schema=False)
@router.get("/samples/{id}", response_model=Sample, responses=_HARDWARE)
async def get_sample(id: str, context: ContextNow) -> Sample:
    """A sample: facts, dose by light and position, budget."""
    return await read_sample(context, id)


_QUEUE: dict[int | str, dict[str, Any]] = {503: _problem("`queue_unreachable`")}


@router.head("/scope/approvals", include_in_schema=False)
@router.get("/scope/approvals", response_model=list[Waiting], responses=_QUEUE)
async def get_approvals(context: ContextNow) -> list[Waiting]:
    """Queue items that don't start until a person approves them (scope.yml: agents.approval)."""
    return await waiting(context)


@router.post(
    "/scope/approvals/{item_uid}",
    response_model=Decision,
    responses={
        **_QUEUE,
        404: _problem("`nothing_to_approve`"),
        409: _problem("`body_changed`, `decided_already`"),
    },
)
async def post_approval(item_uid: str, request: Request, context: ContextNow, body: Decide) -> Decision:
    """Approve an item: it starts when it is its turn. Or refuse it: it ends as failed with the reason, and nothing moves."""
    by = _who(request, body.by)
    return await decide(context, item_uid, body.approve, body.reason or "no reason given", by, body.body)
