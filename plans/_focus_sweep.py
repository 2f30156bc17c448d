"""`focus_sweep` and `head_focus_descent`: find where a stage has the image sharp, by taking frames and measuring them.

``focus: sweep`` of the imaging templates does the same before their frames (`FocusSweep`).
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from bluesky import plan_stubs as bps
from pydantic import Field, create_model, model_validator

from ..config import Scope
from ..devices import CameraPlan, FrameMeter
from ._acquisition import Acquisition, one_run
from ._channels import channels_of, frame_settings
from ._costs import AT_POINTS, MEASURE_S, SHIFT_S, measured, move_s, step_s
from ._imaging import common_fields, example_channel, imaging_estimate
from ._measuring import Curve, Measuring
from ._movement import device_of
from ._parameters import Parameters, choice, number
from ._reading import value
from ._steps import centred_steps, stack_slices
from ._sweeping import METRICS, check_positions, check_range, fit_fields, focusing_stages, sweep_fields
from ._template import Estimate, PlanBody, PlanContext, Template


class Measured(Measuring, Acquisition):
    """Frames of one camera, one channel, each measured. A subclass moves between them, and puts back what it moved."""

    def __init__(self, parameters: Any, context: PlanContext, camera: str | None = None) -> None:
        Acquisition.__init__(self, parameters, context)
        self.camera = parameters.camera if camera is None else camera
        self.cameras = (self.camera,)
        metric = getattr(parameters, "metric", METRICS[0])
        Measuring.__init__(self, context, context.devices[self.camera].meter(metric))
        self.devices = [self.meter]
        self.found: dict[str, Any] = {}
        """Beside the frames, what the plan returns."""

    @property
    def taken(self) -> dict[str, int]:
        return {self.meter.name: self.meter.get_index()}

    def result(self) -> dict[str, Any]:
        return {**super().result(), **self.found}

    def prepare(self, meter: FrameMeter, frames: int | None) -> PlanBody:
        """Bring the channel in place, and say how many frames come (None: nobody knows)."""
        (channel,) = channels_of(self.parameters)
        name, settings = None if channel is None else channel.name, frame_settings(channel, self.context.scope)
        plan = CameraPlan(settings=settings, frames=frames, channel=name, format=self.parameters.format)
        yield from self.prepare_meter(meter, plan, name)

    def objective(self) -> PlanBody:
        """Name of the objective in place; None where the scope has no turret, or one that it doesn't name."""
        turret = next(iter(self.context.scope.of_kind("objective")), None)
        if turret is None or self.context.dry:
            yield from bps.null()
            return None
        label = yield from value(self.context.devices[turret])
        return next((name for name, one in self.context.scope.objectives.items() if one.label == label), None)


class Sweep(Measured):
    """All positions, then the fit."""

    def __init__(self, parameters: Any, context: PlanContext) -> None:
        super().__init__(parameters, context)
        self.metadata = {"motors": [parameters.axis], "metric": parameters.metric}

    def _targets(self, before: float) -> list[float]:
        parameters = self.parameters
        centre = before if parameters.centre_um is None else parameters.centre_um
        return centred_steps(centre, stack_slices(parameters.range_um, parameters.step_um), parameters.step_um)

    def _measure(self, axis: Any, targets: list[float], curve: Curve) -> PlanBody:
        yield from self.prepare(self.meter, len(targets))
        yield from self.along(axis, targets, curve)

    def _take(self) -> PlanBody:
        parameters, axis = self.parameters, device_of(self.context, self.parameters.axis)
        targets = self._targets((yield from value(axis)))
        for target in targets:
            axis.check_value(target)
        before, curve, peak = yield from self.focus(
            axis, lambda curve: self._measure(axis, targets, curve), parameters.min_r2, parameters.apply
        )
        self.found = {
            "axis": parameters.axis,
            "before_um": before,
            "focus_um": peak.centre,
            "width_um": peak.width,
            "r2": peak.r2,
            "structure": curve.structure_at_best,
            "metric": parameters.metric,
            "applied": parameters.apply,
            "positions_um": curve.positions,
            "sharpness": curve.sharpness,
        }


class Descent(Sweep):
    """One step after the other, until the image is past its sharpest; never further."""

    def _targets(self, before: float) -> list[float]:
        parameters = self.parameters
        step = parameters.step_um if parameters.descent_um > 0 else -parameters.step_um
        return [before + index * step for index in range(stack_slices(abs(parameters.descent_um), parameters.step_um))]

    def _measure(self, axis: Any, targets: list[float], curve: Curve) -> PlanBody:
        yield from self.prepare(self.meter, None)  # nobody knows after how many it is past the focus
        for target in targets:
            yield from self.along(axis, [target], curve)
            if _is_past(curve, self.parameters.fall_pct):
                return


def _is_past(curve: Curve, fall_pct: float) -> bool:
    """Sharpness rose, by more than noise does, and the last two frames lie below what it fell to."""
    y = curve.sharpness
    highest, lowest = max(y), min(y)
    if len(y) < 5 or highest < 1.2 * lowest:
        return False
    below = highest - fall_pct / 100 * (highest - min(y[: y.index(highest) + 1]))
    return y.index(highest) < len(y) - 2 and y[-1] <= below and y[-2] <= below


def measured_fields(scope: Scope, cameras: list[str]) -> dict[str, Any]:
    """Parameters of every template that measures frames of one camera: the common ones without a focus, and the camera."""
    common = {k: v for k, v in common_fields(scope, channels=1).items() if k not in ("focus", "sweep", "on_focus_fail")}
    return {"camera": (choice(cameras, "the camera"), cameras[0]), **common}


def focus_sweep(scope: Scope) -> Template | None:
    cameras, stages = list(scope.of_kind("camera")), focusing_stages(scope)
    if not cameras or not stages:
        return None
    lowest, highest = min(axis.limits[0] for axis in stages.values()), max(axis.limits[1] for axis in stages.values())

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            check_range(self, stages, getattr(self, "centre_um", None))
            return self

    model = create_model(
        "focus_sweep",
        __base__=Checked,
        **sweep_fields(scope),
        centre_um=(number(lowest, highest, "um", "middle of the sweep; null: where the axis is") | None, None),
        apply=(Annotated[bool, Field(description="stay at the focus found; false: go back to where it was")], False),
        **measured_fields(scope, cameras),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Find the focus: move a stage through a range, measure a frame at each position, fit the peak of sharpness.

        Moves the axis named (and to the position where one is given, and the channel's filters); it goes back, or to the focus
        found with apply. A channel's light is on during its exposures. An empty field, a flat curve, a peak at the edge of the
        range and a fit below min_r2 are refused, with the axis where it was. Returns the run UID, the focus, the fit's R² and
        the curve; its run has them too (streams primary and fit).
        """
        return (yield from one_run(Sweep(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return swept_estimate(parameters, scope, parameters.range_um)

    example = {"range_um": 8.0, "step_um": 2.0, **example_channel(scope)}
    return Template("focus_sweep", model, body, estimate, example=example)


def head_focus_descent(scope: Scope) -> Template | None:
    cameras, stages = list(scope.of_kind("camera")), focusing_stages(scope)
    if not cameras or not stages:
        return None
    widest = max(axis.limits[1] - axis.limits[0] for axis in stages.values())

    class Checked(Parameters):
        @model_validator(mode="after")
        def _feasible(self) -> Self:
            axis, descent = stages[getattr(self, "axis", "")], getattr(self, "descent_um", 0.0)
            check_positions(abs(descent), getattr(self, "step_um", 1.0), "descent_um")
            low, high = axis.limits
            if abs(descent) > high - low:
                raise ValueError(
                    f"descent_um: {descent} um is more than the range of {axis.name}, [{low}, {high}] (scope.yml: {axis.source})"
                )
            return self

    model = create_model(
        "head_focus_descent",
        __base__=Checked,
        axis=(choice(list(stages), "the stage that brings the objectives to the sample"), ...),
        descent_um=(
            number(
                -widest, widest, "um", "how far it may go at most, from where it is; negative: towards smaller values"
            ),
            ...,
        ),
        step_um=(number(0.01, max(widest, 0.01), "um", "distance of two positions"), 5.0),
        fall_pct=(number(5, 95, "%", "stop when sharpness fell by this share of its rise"), 40.0),
        apply=(Annotated[bool, Field(description="stay at the focus found; false: go back to where it was")], True),
        **fit_fields(0.7),
        **measured_fields(scope, cameras),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Bring the objectives down to the sample step by step, and stop once the image is past its sharpest. For people only.

        Moves the axis named, one way and only as far as needed, then back to the focus (apply) or to where it began, as it does
        when it finds none. A channel's light is on during its exposures. Returns the run UID, the focus, the fit's R² and the
        curve.
        """
        return (yield from one_run(Descent(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return swept_estimate(parameters, scope, abs(parameters.descent_um))

    example = {"axis": next(iter(stages)), "descent_um": 8.0, "step_um": 2.0, **example_channel(scope)}
    return Template("head_focus_descent", model, body, estimate, example=example, people_only=True)


def swept_estimate(parameters: Any, scope: Scope, range_um: float) -> Estimate:
    """Of the whole range, and back."""
    slices, axis = stack_slices(range_um, parameters.step_um), parameters.axis
    moves_s = slices * step_s(scope, axis) + move_s(scope, axis)
    return measured_estimate(parameters, scope, [parameters.camera], slices, moves_s)


def measured_estimate(
    parameters: Any, scope: Scope, cameras: list[str], frames: int, moves_s: float = 0.0, shifts: int = 0
) -> Estimate:
    """``frames`` of each camera, all measured; ``shifts``: of two frames against each other."""
    sizes = [measured(parameters, scope, camera) for camera in cameras]
    beside_s = sum(sizes) * frames * MEASURE_S + moves_s + shifts * max(sizes) * SHIFT_S
    return imaging_estimate(parameters, scope, cameras, frames, way=AT_POINTS) + Estimate(seconds=beside_s)
