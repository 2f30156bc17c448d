"""Routes of operations. Importing this adds them to `router`."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Response

from ..ledger import State
from ._context import current
from ._guard import CALLER
from ._op_models import Again, Check, OperationPage, OperationView, Submit
from ._operating import Operating
from ._routes import _problem
from ._run_routes import router

__all__ = ["operating", "router"]

LONGEST_WAIT_S = 50


@lru_cache(1)
def operating() -> Operating:
    """The operations of this process's microscope."""
    return Operating(current())


async def _operating() -> Operating:
    return operating()


Now = Annotated[Operating, Depends(_operating)]

_KEYED: dict[int | str, dict[str, Any]] = {404: _problem("`unknown_operation`"), 410: _problem("`pruned`")}
_DISPATCHED: dict[int | str, dict[str, Any]] = {
    400: _problem("`key_missing`, `key_invalid`, `invalid_body`"),
    409: _problem("`state_drift` with `diff`, `busy`, `in_progress`, `no_room`, `queue_refused`, `wrong_attempt`"),
    410: _problem("`pruned`"),
    413: _problem("`too_large`"),
    422: _problem("`key_reused`, `not_finite`, `unknown_plan`, and `parameters_refused` with `errors`"),
    423: _problem("`person_in_control`"),
    429: _problem("`rate_limited`, with `Retry-After`"),
    503: _problem("`environment_closed`"),
}


@router.post(
    "/ops",
    status_code=201,
    response_model=OperationView,
    responses={
        201: {
            "description": "Recorded, and queued as soon as the queue server answers; or the operation that this key and body "
            "made before, as it is now.",
            "headers": {
                "Idempotency-Replayed": {
                    "description": "`true` where the operation was there before.",
                    "schema": {"type": "string", "enum": ["true"]},
                }
            },
        },
        **_DISPATCHED,
    },
)
async def post_operation(
    request: Request,
    response: Response,
    now: Now,
    body: Submit,
    idempotency_key: Annotated[str | None, Header(description="8 to 128 characters of `A-Z a-z 0-9 . _ : -`.")] = None,
) -> OperationView:
    """Run a plan once, however often this request is sent: on disk before anything else is done for it."""
    view, replayed = await now.submit(idempotency_key, body, request.scope[CALLER].role)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return view


@router.post(
    "/ops/check",
    response_model=Check,
    responses={
        400: _problem("`invalid_body`"),
        409: _problem("`released`"),
        413: _problem("`too_large`"),
        422: _problem("`not_finite`, `unknown_plan`"),
        429: _problem("`rate_limited`, with `Retry-After`"),
        503: _problem("`hardware_unreachable`, `checker_unreachable`"),
    },
)
async def post_check(request: Request, now: Now, body: Submit) -> Check:
    """Dry run of the same body: parameters, every move, light against the sample's budget, frames against the disk.

    It needs no key, and answers while a plan runs: then from where that has brought the axes.
    """
    return await now.check(body, request.scope[CALLER].role)


@router.head("/ops", include_in_schema=False)
@router.get("/ops", response_model=OperationPage, responses={400: _problem("`invalid_query`")})
async def get_operations(
    now: Now,
    after: Annotated[int, Query(ge=0, description="`next` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    state: Annotated[State | None, Query(description="Only those whose last attempt is in this state.")] = None,
) -> OperationPage:
    """Every operation, oldest first: the audit log. It is kept for ever; results for 90 days."""
    return await now.page(after, limit, state)


@router.head("/ops/{key}", include_in_schema=False)
@router.get("/ops/{key}", response_model=OperationView, responses={400: _problem("`invalid_query`"), **_KEYED})
async def get_operation(
    key: str,
    now: Now,
    wait: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_S, description="Seconds: answer as soon as it has ended, at the latest then."),
    ] = 0.0,
) -> OperationView:
    """An operation: state, why it waits, progress, runs, result. With `wait` nobody polls."""
    return await now.read(key, wait)


@router.post("/ops/{key}/cancel", response_model=OperationView, responses=_KEYED)
async def post_cancel(key: str, request: Request, now: Now) -> OperationView:
    """Cancel it; agents only their own. What waits has ended with this answer; what runs is paused and aborted, then halted if
    that does not end it, and is `cancelled` however it ends. What has ended stays as it is.
    """
    return await now.cancel(key, request.scope[CALLER].role)


@router.post(
    "/ops/{key}/retry",
    response_model=OperationView,
    responses={**_DISPATCHED, **_KEYED, 409: _problem("`not_retryable`, `in_progress`, `no_room`, `queue_refused`")},
)
async def post_retry(key: str, request: Request, now: Now, body: Again | None = None) -> OperationView:
    """One more attempt of an operation that ended without success: nothing runs again unless somebody asks for it."""
    return await now.retry(key, (body or Again()).attempt, request.scope[CALLER].role)
