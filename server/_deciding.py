"""What running plans ask, and what is answered: decisions over REST, as functions."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from anyio import to_thread
from pydantic import ConfigDict, JsonValue

from ..described import Described
from ..ledger import Decision, Decisions, Ledger, OperationError, WrongAnswerError
from ._problems import Problem

MAX_ANSWER = 64 * 1024
"""Bytes of an answer."""


class _Part(Described):
    model_config = ConfigDict(extra="forbid")


class Answer(_Part):
    answer: JsonValue
    """What `answers` of the decision allows."""


class DecisionView(_Part):
    """What a plan asks between two rounds. Times are seconds since the epoch."""

    key: str
    attempt: int
    round: int
    """1, 2 … in the order in which this attempt asked."""
    state: Literal["open", "answered", "used", "withdrawn"]
    """`answered`: the plan hasn't gone on yet. `withdrawn`: it ended without an answer."""
    question: str
    facts: dict[str, Any]
    """What helps to decide: run, round, places."""
    answers: dict[str, Any]
    """JSON Schema of the answers that are allowed."""
    default: Any
    """What counts where nobody answers before the deadline."""
    asked_at: float
    deadline: float
    answer: Any
    """What counts; null while it is open."""
    by: str | None
    """Whose answer that is: a role, or `default`."""
    answered_at: float | None
    closed_at: float | None
    """When the plan went on."""


@cache
def decisions_of(path: Path) -> Decisions:
    """Those in this ledger, to be read."""
    return Decisions(Ledger(path))


def view_of(decision: Decision) -> DecisionView:
    return DecisionView(
        key=decision.key,
        attempt=decision.attempt,
        round=decision.round,
        state=decision.state,
        question=decision.question.words,
        facts=dict(decision.question.facts),
        answers=dict(decision.question.answers),
        default=decision.question.default,
        asked_at=decision.asked_at,
        deadline=decision.deadline,
        answer=decision.answer,
        by=decision.by,
        answered_at=decision.answered_at,
        closed_at=decision.closed_at,
    )


async def read_decision(decisions: Decisions, key: str, round_: int) -> DecisionView:
    """
    Raises
    ------
    Problem
        ``unknown_decision``.
    """
    decision = await to_thread.run_sync(decisions.read, key, round_)
    if decision is None:
        raise _unknown(key, round_)
    return view_of(decision)


async def answer_decision(
    decisions: Decisions, key: str, round_: int, answer: Any, by: str
) -> tuple[DecisionView, bool]:
    """Record an answer; the same one again changes nothing. True where it was there before.

    Raises
    ------
    Problem
        ``too_large unknown_decision answer_refused decided_already decision_closed``. The plan goes on asking, or has gone on.
    """
    size = len(json.dumps(answer))
    if size > MAX_ANSWER:
        raise Problem("too_large", f"the answer has {size} bytes, more than {MAX_ANSWER}")
    try:
        found = await to_thread.run_sync(partial(decisions.answer, key, round_, answer, by))
    except WrongAnswerError as error:
        errors = [asdict(part) for part in error.parts]
        raise Problem("answer_refused", f"decision {round_} of {key}: {error}", errors=errors) from None
    except OperationError as error:
        raise Problem(error.code, str(error)) from None
    if found is None:
        raise _unknown(key, round_)
    decision, new = found
    return view_of(decision), not new


def _unknown(key: str, round_: int) -> Problem:
    return Problem(
        "unknown_decision",
        f"operation {key} has not asked for a decision {round_}: GET /api/ops/{key} says what it asks",
    )
