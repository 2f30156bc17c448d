"""Routes of decisions. Importing this adds them to `router`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request, Response

from ._deciding import Answer, DecisionView
from ._guard import CALLER
from ._op_routes import Now, router
from ._routes import _problem

__all__ = ["router"]

Round = Annotated[int, Path(ge=1, le=10**9, description="As the operation's `hold` and the event name it.")]


@router.head("/ops/{key}/decisions/{round}", include_in_schema=False)
@router.get(
    "/ops/{key}/decisions/{round}",
    response_model=DecisionView,
    responses={404: _problem("`unknown_operation`, `unknown_decision`"), 410: _problem("`pruned`")},
)
async def get_decision(key: str, round: Round, now: Now) -> DecisionView:
    """What is asked, by when, with which default; afterwards what counted, and whose answer that was."""
    return await now.decision(key, round)


@router.post(
    "/ops/{key}/decisions/{round}",
    response_model=DecisionView,
    responses={
        200: {
            "description": "Recorded; the plan goes on with it.",
            "headers": {
                "Idempotency-Replayed": {
                    "description": "`true` where the same answer was there before.",
                    "schema": {"type": "string", "enum": ["true"]},
                }
            },
        },
        400: _problem("`invalid_body`"),
        404: _problem("`unknown_operation`, `unknown_decision`"),
        409: _problem("`decided_already`, `decision_closed`"),
        410: _problem("`pruned`"),
        413: _problem("`too_large`"),
        422: _problem("`not_finite`, and `answer_refused` with `errors`"),
        423: _problem("`person_in_control`"),
        429: _problem("`rate_limited`, with `Retry-After`"),
    },
)
async def post_decision(
    key: str, round: Round, request: Request, response: Response, now: Now, body: Answer
) -> DecisionView:
    """Answer what a plan asks; agents only their own operations. The first answer stays; the same one again changes nothing."""
    view, replayed = await now.decide(key, round, body.answer, request.scope[CALLER].role)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return view
