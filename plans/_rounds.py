"""`time_lapse`: the same again and again, each round at its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from bluesky import plan_stubs as bps
from pydantic import create_model

from ..config import Scope
from ..devices import GATHER_S
from ._acquisition import run_of
from ._doing import do_field
from ._ending import ending
from ._messages import checkpoint, collect, declare
from ._parameters import Parameters, choice, count, number
from ._space import wait_for_space
from ._template import Estimate, PlanBody, PlanContext, Template

LATE_S = 0.1
"""A round that begins later than this after its time counts as late."""
STREAM = "rounds"
LOOK_S = 1.0
"""Longest sleep in one message: what a pause repeats of it."""


class RoundRecord:
    """What became of each round: a device whose events the stream ``rounds`` collects.

    Collected in pages, since an event by itself costs the RunEngine half a millisecond.
    """

    name = STREAM
    parent = None
    hints: ClassVar[dict[str, Any]] = {"fields": []}

    def __init__(self) -> None:
        self.late = self.skipped = 0
        self._untold: list[tuple[float, dict[str, Any]]] = []
        self._told_at = 0.0
        self._declared = False

    def tell(self, number: int, due_s: float, began_s: float, outcome: str) -> None:
        """``due_s`` and ``began_s`` count from the first round's beginning."""
        late = began_s - due_s > LATE_S
        self.late += late
        self.skipped += outcome == "skipped"
        values = {
            "round": number,
            "due_s": round(due_s, 4),
            "began_s": round(began_s, 4),
            "late": late,
            "outcome": outcome,
        }
        self._untold.append((time.time(), values))

    def told(self, at_once: bool = True) -> PlanBody:
        """An event for each round that has none yet; not ``at_once``: at most every `GATHER_S`."""
        if not self._untold or not (at_once or time.monotonic() - self._told_at >= GATHER_S):
            return
        yield from checkpoint()
        if not self._declared:
            yield from declare(self, STREAM)
            self._declared = True
        yield from collect(self, STREAM)
        self._told_at = time.monotonic()

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        told, self._untold = self._untold, []
        if told:
            times = [at for at, _ in told]
            data = {key: [values[key] for _, values in told] for key in told[0][1]}
            yield {"data": data, "timestamps": dict.fromkeys(data, times)}

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        kinds = {"round": "integer", "due_s": "number", "began_s": "number", "late": "boolean", "outcome": "string"}
        return {
            key: {"source": "plan:time_lapse", "dtype": kind, "shape": []}
            | ({"units": "s"} if key.endswith("_s") else {})
            for key, kind in kinds.items()
        }

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}


def in_time(
    once: Callable[[], PlanBody],
    record: RoundRecord,
    *,
    rounds: int,
    interval_s: float,
    on_late: str,
    before: Callable[[], PlanBody] = bps.null,
    between: Callable[[int, float], PlanBody] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PlanBody:
    """Rounds by the clock: the n-th is due n × ``interval_s`` after the first, whatever the others took.

    Parameters
    ----------
    once
        One round; returns whether frames were taken.
    before
        What may have to be waited for before each round.
    between
        Before every round but the first, with its number and the seconds until it is due; returns the interval from now on, or
        None: no more rounds. Another interval counts from when the last round was due, and what that makes late begins at once.
    on_late
        A round whose time has passed is left out (``skip``) or begins at once (``run``): the schedule stays.
    """

    def all_of_them() -> PlanBody:
        first: float | None = None
        anchor, since, apart_s = 0.0, 0, interval_s
        for number_ in range(rounds):
            if between is not None and number_:
                wanted = yield from between(number_, anchor + (number_ - since) * apart_s - clock())
                if wanted is None:
                    return
                if wanted != apart_s:
                    due = anchor + (number_ - 1 - since) * apart_s
                    anchor, since, apart_s = max(due, clock() - wanted), number_ - 1, wanted
            yield from before()
            now = clock()
            if first is None:
                first = anchor = now
            due = anchor + (number_ - since) * apart_s
            if on_late == "skip" and now - due > LATE_S:
                record.tell(number_, due - first, now - first, "skipped")
            else:
                while (rest := due - clock()) > 0:
                    yield from bps.checkpoint()
                    yield from bps.sleep(min(rest, LOOK_S))
                began = clock()
                taken = yield from once()
                record.tell(number_, due - first, began - first, "taken" if taken else "no frames")
            yield from record.told(at_once=apart_s > 0)

    yield from ending(all_of_them(), record.told)


def all_rounds(one: Estimate, rounds: int, interval_s: float) -> Estimate:
    """Of so many rounds like one."""
    return Estimate(
        seconds=one.once_s + (rounds - 1) * max(interval_s, one.round_s) + one.round_s,
        frames={name: count * rounds for name, count in one.frames.items()},
        dose={light: dose * rounds for light, dose in one.dose.items()},
        once_s=one.once_s,
    )


def time_lapse(scope: Scope, made: Mapping[str, Template]) -> Template | None:
    """``made``: what may be done in each round, among others."""
    do = do_field(made)
    if do is None:
        return None
    model = create_model(
        "time_lapse",
        __base__=Parameters,
        do=(do.annotation, ...),
        interval_s=(number(0, 86_400, "s", "from the beginning of a round to that of the next; 0: back to back"), ...),
        rounds=(count(1, 100_000, "how many rounds"), ...),
        on_late=(
            choice(
                ["skip", "run"], "a round whose time has passed is left out, or begins at once; the others keep theirs"
            ),
            "skip",
        ),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Do the same in every round: the n-th begins n × interval_s after the first, never later because of the one before.

        Moves and lights what it does (its parameters say); between rounds no light is on. It waits where the disk has no room
        for the next round. All rounds' frames go into one dataset for each camera, channel and place; the stream rounds says when
        each was due, when it began, whether it was late or left out. A pause doesn't stop the clock. Returns the run UID, the
        frames written, and how many rounds were late and left out.
        """
        acquisition = do.acquire(parameters.do, context, rounds=parameters.rounds)
        acquisition.back_to_back = parameters.interval_s == 0
        frames = do.estimate(parameters.do, scope).frames
        record = RoundRecord()

        def rounds() -> PlanBody:
            yield from in_time(
                acquisition.once,
                record,
                rounds=parameters.rounds,
                interval_s=parameters.interval_s,
                on_late="run" if parameters.interval_s == 0 else parameters.on_late,
                before=lambda: wait_for_space(context, frames),
            )
            yield from acquisition.written()

        metadata = {"rounds": parameters.rounds, "interval_s": parameters.interval_s, "do": parameters.do.plan}
        result = yield from run_of(acquisition, rounds, **metadata)
        return {**result, "late": record.late, "skipped": record.skipped}

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return all_rounds(do.estimate(parameters.do, scope), parameters.rounds, parameters.interval_s)

    return Template("time_lapse", model, body, estimate, example={"do": do.example(), "interval_s": 1.0, "rounds": 2})
