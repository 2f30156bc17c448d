"""`decide`: a plan asks its client between two rounds, and goes on with a safe default where nobody answers in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bluesky import Msg
from bluesky import plan_stubs as bps

from ..ledger import BY_DEFAULT, Question
from ._ending import ending
from ._messages import read_together
from ._reading import answer
from ._space import lights_off
from ._template import PlanBody, PlanContext

LOOK_AGAIN_S = 0.2
"""How soon an answer is seen."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One question of a plan; asked again after a pause it is the same."""

    question: Question = field(repr=False)
    wait_s: float


@dataclass(frozen=True)
class Decided:
    """What counts."""

    round: int | None
    """Of the decision in the ledger; None where nobody could be asked."""
    answer: Any
    by: str
    """A role, or ``default``."""
    at: float
    """Seconds since the epoch."""


class DecisionRecord:
    """What was decided: a device to be read into the stream ``decisions``."""

    name = "decisions"
    parent = None
    hints: ClassVar[dict[str, Any]] = {"fields": []}
    _KINDS: ClassVar[dict[str, str]] = {
        "decision": "integer",
        "by": "string",
        "at": "number",
        "answer": "string",
        "outcome": "string",
    }

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def tell(self, decided: Decided, answer: str, outcome: str) -> None:
        """``answer``: as JSON. ``outcome``: in words, what the plan made of it."""
        self._values = {
            "decision": 0 if decided.round is None else decided.round,
            "by": decided.by,
            "at": decided.at,
            "answer": answer,
            "outcome": outcome,
        }

    def read(self) -> dict[str, dict[str, Any]]:
        return {key: {"value": value, "timestamp": self._values["at"]} for key, value in self._values.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        return {
            key: {"source": "plan:decisions", "dtype": kind, "shape": []} | ({"units": "s"} if key == "at" else {})
            for key, kind in self._KINDS.items()
        }

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}


def decide(
    context: PlanContext, question: Question, wait_s: float, clock: Callable[[], float] = time.monotonic
) -> PlanBody:
    """Ask, and wait for an answer at most ``wait_s`` seconds, with every light's gate closed; returns a `Decided`.

    While it waits the operation has ``hold: decision``, and may be paused, stopped and aborted: the clock goes on meanwhile. A
    plan without an operation key can't be answered: it goes on with the default at once. Call it between rounds: outside
    `bps.create` … `bps.save`, with no volume under way.
    """
    if context.dry:
        return Decided(None, question.default, BY_DEFAULT, 0.0)
    until = clock() + wait_s
    yield from lights_off(context)
    asked = Asked(question, max(0.0, until - clock()))

    def waited() -> PlanBody:
        if (yield from answer(Msg("decision_open", None, asked))):
            while not (yield Msg("decision_look", None, asked)) and (left := until - clock()) > 0:
                yield from bps.checkpoint()
                yield from bps.sleep(min(LOOK_AGAIN_S, left))
        return (yield from answer(Msg("decision_use", None, asked)))

    def over() -> PlanBody:
        yield Msg("decision_over", None, asked)

    return (yield from ending(waited(), over))


def tell(record: DecisionRecord) -> PlanBody:
    """An event of what was decided."""
    yield from bps.checkpoint()
    yield from read_together(record, stream="decisions")
