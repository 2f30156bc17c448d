"""`focus_sweep` and `head_focus_descent`: find where a stage has the image sharp, by taking frames and measuring them.

The frames are recorded like any others and measured by the hardware process, which has them; the plan sees numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self, get_args

from bluesky import plan_stubs as bps
from pydantic import Field, create_model, model_validator

from ..config import Scope
from ..devices import CameraPlan, Finding, FrameMeter
from ..hardware import FocusMetric
from ._acquisition import Acquisition, channels_of, frame_settings, go_to, one_run
from ._ending import ending
from ._focus_fit import Peak, check_r2, check_structure, fit_peak
from ._imaging import common_fields, example_channel, imaging_estimate
from ._movement import device_of
from ._parameters import Parameters, choice, number
from ._reading import observe, value
from ._stack import centred_steps, stack_slices
from ._template import Estimate, PlanBody, PlanContext, Template

METRICS = get_args(FocusMetric)
MOST_POSITIONS = 1000
MEASURE_S = 0.04
"""Measuring one frame, beside taking it."""


@dataclass
class Curve:
    """What was measured along an axis, in the order taken."""

    positions: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    structure: list[float] = field(default_factory=list)

    @property
    def structure_at_best(self) -> float:
        """Of the sharpest frame; 0 before the first."""
        return max(zip(self.sharpness, self.structure, strict=True), default=(0.0, 0.0))[1]


class Measured(Acquisition):
    """Frames of one camera, one channel, each measured. A subclass moves between them, and puts back what it moved."""

    def __init__(self, parameters: Any, context: PlanContext, camera: str | None = None) -> None:
        super().__init__(parameters, context)
        self.camera = parameters.camera if camera is None else camera
        self.cameras = (self.camera,)
        self.meter: FrameMeter = context.devices[self.camera].meter(getattr(parameters, "metric", METRICS[0]))
        self.devices = [self.meter]
        self.found: dict[str, Any] = {}
        """Beside the frames, what the plan returns."""
        self._findings: dict[str, Finding] = {}

    @property
    def frames(self) -> dict[str, int]:
        return {self.meter.name: self.meter.get_index()}

    def result(self) -> dict[str, Any]:
        return {**super().result(), **self.found}

    def once(self) -> PlanBody:
        yield from go_to(self.context, self.parameters.position)
        yield from self._take()
        return True

    def prepare(self, meter: FrameMeter, frames: int | None) -> PlanBody:
        """Bring the channel in place, and say how many frames come (None: nobody knows)."""
        (channel,) = channels_of(self.parameters)
        yield from self.select(channel)
        plan = CameraPlan(
            settings=frame_settings(channel, self.context.scope),
            frames=frames,
            channel=None if channel is None else channel.name,
            format=self.parameters.format,
        )
        yield from bps.prepare(meter, plan, wait=True)

    def objective(self) -> PlanBody:
        """Name of the objective in place; None where the scope has no turret, or one that it doesn't name."""
        turret = next(iter(self.context.scope.of_kind("objective")), None)
        if turret is None or self.context.dry:
            yield from bps.null()
            return None
        label = yield from value(self.context.devices[turret])
        return next((name for name, one in self.context.scope.objectives.items() if one.label == label), None)

    def at(
        self, targets: Mapping[Any, Any], *beside: Any, meter: FrameMeter | None = None, stream: str = "primary"
    ) -> PlanBody:
        """Move there, take a frame, measure it: an event, with what else stands ``beside``. Returns its readings by name."""
        meter = self.meter if meter is None else meter
        yield from bps.checkpoint()
        if targets:
            yield from bps.mv(*(part for pair in targets.items() for part in pair))
        yield from bps.trigger(meter, wait=True)
        found = yield from observe(meter, *targets, *beside, stream=stream)
        yield from bps.checkpoint()
        return found

    def along(self, axis: Any, targets: list[float], curve: Curve, *beside: Any) -> PlanBody:
        """A frame at each target of a scalar axis, added to ``curve``."""
        for target in targets:
            found = yield from self.at({axis: target}, *beside)
            curve.positions.append(float(found[axis.name]))
            curve.sharpness.append(float(found[f"{self.meter.name}_sharpness"]))
            curve.structure.append(float(found[f"{self.meter.name}_structure"]))

    def tell(self, name: str, values: Mapping[str, Any], units: Mapping[str, str]) -> PlanBody:
        """An event with what was found, in the stream ``name``."""
        finding = self._findings.setdefault(name, Finding(name, units))
        finding.found(values)
        yield from observe(finding, stream=name)

    def peak(self, curve: Curve, axis: Any, units: str, min_r2: float, name: str = "fit") -> PlanBody:
        """The curve's peak, told in an event also where its R² is refused.

        Raises
        ------
        FitError
            For an empty field, a flat curve, a peak at the edge, a bad fit.
        """
        if self.context.dry:  # all frames are alike
            middle = (min(curve.positions) + max(curve.positions)) / 2
            return Peak(middle, 1.0, 1.0, 0.0, 1.0)
        check_structure(curve.structure_at_best, self.camera)
        peak = fit_peak(curve.positions, curve.sharpness, axis.name, units)
        values = {**asdict(peak), "accepted": peak.r2 >= min_r2}
        yield from self.tell(name, values, {"centre": units, "width": units})
        check_r2(peak.r2, min_r2, f"the focus curve over {axis.name}")
        return peak


class Sweep(Measured):
    """All positions, then the fit."""

    def __init__(self, parameters: Any, context: PlanContext) -> None:
        super().__init__(parameters, context)
        self.moves = parameters.axis
        self.metadata = {"motors": [self.moves], "metric": parameters.metric}

    def _targets(self, before: float) -> list[float]:
        parameters = self.parameters
        centre = before if parameters.centre_um is None else parameters.centre_um
        return centred_steps(centre, stack_slices(parameters.range_um, parameters.step_um), parameters.step_um)

    def _measure(self, axis: Any, targets: list[float], curve: Curve) -> PlanBody:
        yield from self.prepare(self.meter, len(targets))
        yield from self.along(axis, targets, curve)

    def _take(self) -> PlanBody:
        axis = device_of(self.context, self.parameters.axis)
        before = yield from value(axis)
        targets = self._targets(before)
        for target in targets:
            axis.check_value(target)
        at_last, curve = {"um": before}, Curve()

        def sweep() -> PlanBody:
            yield from self._measure(axis, targets, curve)
            peak = yield from self.peak(curve, axis, "um", self.parameters.min_r2)
            if self.parameters.apply:
                at_last["um"] = peak.centre
            self.found = {
                "axis": self.parameters.axis,
                "before_um": before,
                "focus_um": peak.centre,
                "width_um": peak.width,
                "r2": peak.r2,
                "structure": curve.structure_at_best,
                "metric": self.parameters.metric,
                "applied": self.parameters.apply,
                "positions_um": curve.positions,
                "sharpness": curve.sharpness,
            }

        def leave() -> PlanBody:
            yield from bps.mv(axis, at_last["um"])

        yield from ending(sweep(), leave)


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
    common = {k: v for k, v in common_fields(scope, channels=1).items() if k not in ("focus", "on_focus_fail")}
    return {"camera": (choice(cameras, "the camera"), cameras[0]), **common}


def fit_fields(min_r2: float = 0.8) -> dict[str, Any]:
    return {
        "metric": (choice(METRICS, "how sharpness is measured"), "tenengrad"),
        "min_r2": (number(0, 1, "no unit", "a fit with a smaller R² is refused"), min_r2),
    }


def _swept(scope: Scope) -> tuple[list[str], dict[str, Any]]:
    stages = {name: scope.axes()[name] for name, stage in scope.of_kind("stage").items() if stage.units == "um"}
    return list(scope.of_kind("camera")), stages


def focus_sweep(scope: Scope) -> Template | None:
    cameras, stages = _swept(scope)
    if not cameras or not stages:
        return None
    _, _, z = scope.sample_axes()
    widest = max(axis.limits[1] - axis.limits[0] for axis in stages.values())
    lowest, highest = min(axis.limits[0] for axis in stages.values()), max(axis.limits[1] for axis in stages.values())

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            range_um, step_um = getattr(self, "range_um", 0.0), getattr(self, "step_um", 1.0)
            axis, centre = stages[getattr(self, "axis", "")], getattr(self, "centre_um", None)
            _check_positions(range_um, step_um, "range_um")
            low, high = axis.limits
            half = (stack_slices(range_um, step_um) - 1) * step_um / 2
            if (2 * half > high - low) if centre is None else (centre - half < low or centre + half > high):
                where = f"{range_um} um" if centre is None else f"[{centre - half}, {centre + half}] um"
                raise ValueError(
                    f"range_um: {axis.name} over {where} leaves [{low}, {high}] (scope.yml: {axis.source})"
                )
            return self

    model = create_model(
        "focus_sweep",
        __base__=Checked,
        range_um=(number(0, widest, "um", "first to last position"), 20.0),
        step_um=(number(0.01, max(widest, 0.01), "um", "distance of two positions"), 1.0),
        axis=(choice(list(stages), "the stage that focuses"), z if z in stages else next(iter(stages))),
        centre_um=(number(lowest, highest, "um", "middle of the sweep; null: where the axis is") | None, None),
        apply=(Annotated[bool, Field(description="stay at the focus found; false: go back to where it was")], False),
        **fit_fields(),
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
        return measured_estimate(
            parameters, scope, [parameters.camera], stack_slices(parameters.range_um, parameters.step_um)
        )

    example = {"range_um": 4.0, "step_um": 1.0, **example_channel(scope)}
    return Template("focus_sweep", model, body, estimate, example=example)


def head_focus_descent(scope: Scope) -> Template | None:
    cameras, stages = _swept(scope)
    if not cameras or not stages:
        return None
    widest = max(axis.limits[1] - axis.limits[0] for axis in stages.values())

    class Checked(Parameters):
        @model_validator(mode="after")
        def _feasible(self) -> Self:
            axis, descent = stages[getattr(self, "axis", "")], getattr(self, "descent_um", 0.0)
            _check_positions(abs(descent), getattr(self, "step_um", 1.0), "descent_um")
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
        slices = stack_slices(abs(parameters.descent_um), parameters.step_um)
        return measured_estimate(parameters, scope, [parameters.camera], slices)

    example = {"axis": next(iter(stages)), "descent_um": 4.0, "step_um": 1.0, **example_channel(scope)}
    return Template("head_focus_descent", model, body, estimate, example=example, people_only=True)


def measured_estimate(parameters: Any, scope: Scope, cameras: list[str], frames: int) -> Estimate:
    found = imaging_estimate(parameters, scope, cameras, frames)
    return Estimate(found.seconds + len(cameras) * frames * MEASURE_S, found.frames, found.dose)


def _check_positions(range_um: float, step_um: float, name: str) -> None:
    positions = stack_slices(range_um, step_um)
    if not 5 <= positions <= MOST_POSITIONS:
        raise ValueError(
            f"{name}: {range_um:g} um in steps of {step_um:g} um are {positions} positions, 5 to {MOST_POSITIONS} are possible"
        )
