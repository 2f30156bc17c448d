"""`edge_search`: where the sample ends along an axis, as whoever started it says of each frame."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Self

from bluesky import plan_stubs as bps
from pydantic import create_model, model_validator

from ..config import Scope
from ..ledger import BY_DEFAULT, Question
from ._acquisition import go_to, run_of
from ._channels import cameras_of
from ._costs import AT_POINTS, move_s
from ._decision import DecisionRecord, decide, tell
from ._ending import ending
from ._imaging import camera_choices, common_fields, example_channel, imaging_estimate, sweep_estimate
from ._movement import device_of
from ._parameters import Parameters, choice, count, number
from ._reading import value
from ._stepped import Stepped
from ._sweeping import sweep_of
from ._template import Estimate, PlanBody, PlanContext, Template

ANSWERS = ("inside", "outside", "stop")


class FrameAt(Stepped):
    """One frame a round, with the axis where it is sent."""

    target = 0.0

    def points(self) -> PlanBody:
        yield from ()
        return [{device_of(self.context, self.parameters.axis): self.target}]


class Search:
    """One search that runs."""

    def __init__(self, parameters: Any, context: PlanContext) -> None:
        here = parameters.model_copy(update={"position": None})  # it goes there once
        self.frames = FrameAt(here, context, rounds=most_frames(parameters))
        self.frames.metadata = {"motors": [parameters.axis.replace(".", "_")]}
        self._parameters, self._context = parameters, context
        self._record = DecisionRecord()
        self._steps: list[dict[str, Any]] = []
        self._bracket: tuple[float, float] | None = None
        self.ended = "max_steps"
        """Why: ``found``, ``stopped``, ``nobody answered``, or ``max_steps``."""
        self.run_uid = ""

    def steps(self, before: float) -> PlanBody:
        """Outward until an answer is another one than the first, then by halves between the two."""
        parameters, axis = self._parameters, device_of(self._context, self._parameters.axis)
        step_um = parameters.step_um if parameters.direction == "up" else -parameters.step_um
        targets = [before + index * step_um for index in range(parameters.max_steps + 1)]
        for target in targets:
            axis.check_value(target)
        if self._context.dry:  # nobody answers: all that may be moved is looked at
            for target in targets:
                yield from bps.mv(axis, target)
        first: str | None = None
        for last, target in zip([before, *targets], targets, strict=False):
            seen = yield from self._look(target)
            if seen is None:
                return
            first = first or seen
            if seen != first:
                self._bracket = (last, target)
                break
        while self._bracket is not None:
            same, other = self._bracket
            if abs(other - same) <= parameters.resolution_um:
                self.ended = "found"
                return
            middle = (same + other) / 2
            seen = yield from self._look(middle)
            if seen is None:
                return
            self._bracket = (middle, other) if seen == first else (same, middle)

    def result(self) -> dict[str, Any]:
        edge = None if self._bracket is None else sum(self._bracket) / 2
        half = None if self._bracket is None else abs(self._bracket[1] - self._bracket[0]) / 2
        return {
            "axis": self._parameters.axis,
            "ended": self.ended,
            "edge_um": edge,
            "uncertainty_um": half,
            "steps": self._steps,
        }

    def _look(self, target: float) -> PlanBody:
        """Take a frame there and ask what it shows; None: the search ends."""
        self.frames.target = target
        taken = yield from self.frames.once()
        question = Question("is the sample in this frame?", {"enum": list(ANSWERS)}, "stop", self._facts(target, taken))
        decided = yield from decide(self._context, question, self._parameters.decision_s)
        self._steps.append({"position_um": target, "answer": decided.answer, "by": decided.by})
        self._record.tell(decided, json.dumps(decided.answer), f"{self._parameters.axis} at {target:g} um")
        yield from tell(self._record)
        if decided.answer == "stop":
            self.ended = "nobody answered" if decided.by == BY_DEFAULT else "stopped"
            return None
        return decided.answer

    def _facts(self, target: float, taken: bool) -> Mapping[str, Any]:
        dataset = next(iter(self.frames.frames))
        index = self.frames.frames[dataset] - 1 if taken else None
        axis = self._parameters.axis
        return {"run_uid": self.run_uid, "dataset": dataset, "index": index, "axis": axis, "position_um": target}


def most_frames(parameters: Any) -> int:
    halves = max(0, math.ceil(math.log2(parameters.step_um / parameters.resolution_um)))
    return int(1 + parameters.max_steps + halves)


def edge_search(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
    axes = {name: axis for name, axis in scope.axes().items() if axis.units == "um"}
    if not cameras or not axes:
        return None
    widest = max(axis.limits[1] - axis.limits[0] for axis in axes.values())

    class Checked(Parameters):
        @model_validator(mode="after")
        def _bounded(self) -> Self:
            axis, step_um = axes[getattr(self, "axis", "")], getattr(self, "step_um", 1.0)
            low, high = axis.limits
            far = step_um * getattr(self, "max_steps", 1)
            if far > high - low:
                raise ValueError(
                    f"max_steps: {far:g} um is more than the whole range of {axis.name}, [{low}, {high}]"
                    f" (scope.yml: {axis.source}): fewer steps, or smaller ones"
                )
            if getattr(self, "resolution_um", 1.0) > step_um:
                raise ValueError(f"resolution_um: is more than a step, {step_um:g} um")
            if (sweep := sweep_of(self, scope)) is not None and sweep.axis == axis.name:
                raise ValueError(
                    f"focus: the sweep would move {axis.name}, along which the edge is searched: say another sweep.axis"
                )
            return self

    model = create_model(
        "edge_search",
        __base__=Checked,
        axis=(choice(list(axes), "the axis along which it goes"), ...),
        step_um=(number(0.01, widest, "um", "distance of two frames on the way out"), ...),
        direction=(choice(["up", "down"], "towards higher or lower positions"), "up"),
        max_steps=(count(1, 200, "most steps on the way out"), 20),
        resolution_um=(number(0.01, widest, "um", "the edge is known within so much when it ends"), 1.0),
        decision_s=(number(0.1, 3600, "s", "an answer is waited for at most so long; then it ends"), 60.0),
        camera=(choice(cameras, "the camera"), cameras[0]),
        **common_fields(scope, channels=1),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Find where the sample ends along an axis: a frame at each step, and whoever started it says what it shows.

        Moves the axis named step by step from where it is (or from the position), every target of the way out checked before the
        first, then by halves between the last two that were told apart; then back to where it was. Moves the stage that focuses
        and the channel's filter where given. The channel's light is on during its exposures; while it asks no light is on. An
        answer is inside, outside or stop; where nobody answers within decision_s it ends. Returns the run UID, the frames
        written, where the edge is and how exactly that is known (null where it wasn't found), why it ended, and each answer.
        """
        search = Search(parameters, context)

        def steps() -> PlanBody:
            yield from go_to(context, parameters.position)
            axis = device_of(context, parameters.axis)
            before = yield from value(axis)

            def back() -> PlanBody:
                yield from bps.mv(axis, before)

            yield from ending(search.steps(before), back)

        def opened(run_uid: str) -> None:
            search.run_uid = run_uid

        result = yield from run_of(search.frames, steps, opened=opened)
        return {**result, **search.result()}

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        frames, cameras = most_frames(parameters), cameras_of(scope, parameters.camera)
        beside = Estimate(seconds=frames * (parameters.decision_s + move_s(scope, parameters.axis)))
        taken = imaging_estimate(parameters, scope, cameras, frames, frames, AT_POINTS)
        return taken + beside + sweep_estimate(parameters, scope, cameras[0], frames)

    example = {
        **{"axis": next(iter(axes)), "step_um": 1.0, "max_steps": 2, "decision_s": 0.5},
        **example_channel(scope),
    }
    return Template("edge_search", model, body, estimate, example=example)
