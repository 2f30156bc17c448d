"""`calibrate_piezo_galvo` and `calibrate_stage_camera`: what belongs together, measured on the sample in view."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

import numpy as np
from bluesky import Msg
from bluesky import plan_stubs as bps
from pydantic import Field, create_model, model_validator

from ..config import Scope
from ._acquisition import one_run
from ._costs import move_s
from ._ending import ending
from ._focus_fit import FitError, Line, check_r2, check_structure, fit_line, fit_map
from ._focus_sweep import Curve, Measured, fit_fields, measured_estimate, measured_fields
from ._imaging import example_channel
from ._parameters import Parameters, choice, count, number
from ._reading import answer, value
from ._steps import centred_steps
from ._template import Estimate, PlanBody, PlanContext, Template
from ._volume import ViewParts, view_parts

LEAST_CORRELATION = 0.5
"""Two frames that agree less show different things, or nothing."""


def stored_field() -> Any:
    return (Annotated[bool, Field(description="keep it: from now on plans use it, in every process")], False)


class PiezoGalvo(Measured):
    """At each piezo position a sweep of the scanner; a line through the peaks."""

    stored: dict[str, str]

    def __init__(self, parameters: Any, context: PlanContext, parts: ViewParts) -> None:
        super().__init__(parameters, context, camera=parts[0])
        assert parts[2] is not None
        self._piezo_name, self._galvo_name = parts[1], parts[2]
        self.metadata = {"motors": [self._piezo_name, self._galvo_name], "metric": parameters.metric}

    def _take(self) -> PlanBody:
        parameters, context = self.parameters, self.context
        piezo, galvo = context.devices[self._piezo_name], context.devices[self._galvo_name].y
        before = {}
        for axis in (piezo, galvo):
            before[axis] = yield from value(axis)
        known = context.positions.calibrations.piezo_galvo(self._galvo_name)
        known = known or context.scope.of_kind("galvo")[self._galvo_name].calibration
        step = parameters.galvo_range_deg / (parameters.steps - 1)
        sweeps = {}
        for um in parameters.piezo_um:
            piezo.check_value(um)
            centre = before[galvo] if known is None else (um - known.offset_um) / known.slope_um_per_deg
            sweeps[um] = centred_steps(centre, parameters.steps, step)
            for end in (sweeps[um][0], sweeps[um][-1]):
                galvo.check_value(end)

        def measure() -> PlanBody:
            objective = yield from self.objective()
            yield from self.prepare(self.meter, parameters.steps * len(sweeps))
            angles, places, peaks = [], [], []
            for um, targets in sweeps.items():
                yield from bps.checkpoint()
                yield from bps.mv(piezo, um)
                here = yield from value(piezo)
                curve = Curve()
                yield from self.along(galvo, targets, curve, piezo)
                peak = yield from self.peak(curve, galvo, "deg", parameters.min_r2, name="peaks")
                angles.append(peak.centre)
                places.append(float(here))
                peaks.append({"piezo_um": float(here), "galvo_deg": peak.centre, "r2": peak.r2})
            line = Line(1.0, 0.0, 1.0) if context.dry else fit_line(angles, places, galvo.name)
            values = {"slope_um_per_deg": line.slope, "offset_um": line.offset, "r2": line.r2}
            units = {"slope_um_per_deg": "um/deg", "offset_um": "um"}
            yield from self.tell("fit", {**values, "accepted": line.r2 >= parameters.min_r2}, units)
            check_r2(line.r2, parameters.min_r2, f"the line of {self._piezo_name} against {galvo.name}")
            yield from bps.checkpoint()
            return {"view": parameters.view, **values, "objective": objective, "peaks": peaks}

        def whole() -> PlanBody:
            self.found = yield from measure()

        def back() -> PlanBody:
            for axis, where in before.items():
                yield from bps.mv(axis, where)

        yield from ending(whole(), back)
        self.stored = {"kind": "piezo_galvo", "of": self._galvo_name}


def calibrated(acquisition: Any) -> PlanBody:
    """Its run; what was found is stored once everything is back where it was and the run is closed, where that was asked for."""
    result = yield from one_run(acquisition)
    parameters, context = acquisition.parameters, acquisition.context
    stored = parameters.store and not context.dry
    if stored:
        found = {key: result[key] for key in acquisition.found}
        context.positions.calibrations.store(
            acquisition.stored["kind"], acquisition.stored["of"], found, result["run_uid"]
        )
    return {**result, "stored": stored}


def calibrate_piezo_galvo(scope: Scope) -> Template | None:
    views: dict[str, ViewParts] = {}
    for view in ("A", "B"):
        parts = view_parts(scope, view)
        if parts is not None and parts[2] is not None:
            views[view] = parts
    if not views:
        return None
    axes = scope.axes()
    piezos = [axes[piezo] for _, piezo, _ in views.values()]
    lowest, highest = min(p.limits[0] for p in piezos), max(p.limits[1] for p in piezos)
    widest = max(axes[f"{galvo}.y"].limits[1] - axes[f"{galvo}.y"].limits[0] for _, _, galvo in views.values())
    middle, span = (lowest + highest) / 2, min(20.0, (highest - lowest) / 4)

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            _, piezo, _ = views[getattr(self, "view", "")]
            (low, high), asked = axes[piezo].limits, list(getattr(self, "piezo_um", []))
            if len(set(asked)) < len(asked):
                raise ValueError(f"piezo_um: {asked} has a position twice")
            if asked and not low <= min(asked) <= max(asked) <= high:
                raise ValueError(
                    f"piezo_um: {piezo} {asked} um is outside [{low}, {high}] (scope.yml: {axes[piezo].source})"
                )
            return self

    fields = measured_fields(scope, [next(iter(views.values()))[0]])
    del fields["camera"]
    model = create_model(
        "calibrate_piezo_galvo",
        __base__=Checked,
        view=(choice(list(views), "the light-sheet view"), next(iter(views))),
        piezo_um=(
            Annotated[
                list[number(lowest, highest, "um", "a position of the piezo")],  # type: ignore[misc]
                Field(
                    min_length=2,
                    max_length=50,
                    description="positions of the piezo at which the sheet is searched [um]",
                ),
            ],
            [middle - span, middle, middle + span],
        ),
        galvo_range_deg=(
            number(
                0.001, widest, "deg", "how far the scanner is swept, around where the known calibration has the sheet"
            ),
            min(0.4, widest),
        ),
        steps=(count(5, 500, "angles of each sweep"), 21),
        store=stored_field(),
        **fit_fields(),
        **fields,
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Calibrate piezo against scanner: at each piezo position find the angle at which the sheet lies in the focus.

        Moves the piezo and the scanner of the view (and to the position where one is given, and the channel's filters), and puts
        both back. A channel's light is on during its exposures. An empty field, a sweep without a clear peak and a line below
        min_r2 are refused. Returns the run UID, slope and offset (piezo_um = slope_um_per_deg × galvo_deg + offset_um) with R²,
        and each peak; with store acquire_volume uses them from now on.
        """
        return (yield from calibrated(PiezoGalvo(parameters, context, views[parameters.view])))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        camera, piezo, _ = views[parameters.view]
        places = len(parameters.piezo_um)
        moves_s = (places + 1) * move_s(scope, piezo)
        return measured_estimate(parameters, scope, [camera], parameters.steps * places, moves_s)

    sweep = {"galvo_range_deg": min(0.2, widest), "steps": 5}
    example = {"piezo_um": [middle - span, middle + span], **sweep, **example_channel(scope)}
    return Template("calibrate_piezo_galvo", model, body, estimate, example=example)


class StageCamera(Measured):
    """The stage one step each way along x and y; how far the image moved, each time from the middle."""

    def __init__(self, parameters: Any, context: PlanContext) -> None:
        super().__init__(parameters, context)
        x, _, _ = context.scope.sample_axes()
        assert x is not None
        self._stage = context.devices[x.partition(".")[0]]
        self.metadata = {"motors": [self._stage.name]}

    def _take(self) -> PlanBody:
        parameters, stage, step = self.parameters, self._stage, self.parameters.step_um
        x, y = (yield from value(stage.x)), (yield from value(stage.y))
        moves = [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
        for dx, dy in moves:
            stage.check_value((x + dx, y + dy))

        def measure() -> PlanBody:
            objective = yield from self.objective()
            camera = self.context.devices[self.camera].geometry
            binning = (yield from answer(Msg("locate", camera)))["setpoint"].binning or 1
            yield from self.prepare(self.meter, 1 + len(moves))
            found = yield from self.at({stage: (x, y)})
            if not self.context.dry:
                check_structure(float(found[f"{self.meter.name}_structure"]), self.camera)
            begin = (float(found[stage.x.name]), float(found[stage.y.name]))
            first = self.meter.newest()
            asked, seen = [], []
            for dx, dy in moves:
                found = yield from self.at({stage: (x + dx, y + dy)})
                shift = self.meter.shift(self.meter.newest(), first)
                check_correlation(
                    shift.correlation, f"{self.camera} before and after a step of {step:g} um", "a smaller step"
                )
                asked.append((float(found[stage.x.name]) - begin[0], float(found[stage.y.name]) - begin[1]))
                seen.append((shift.x_px * binning, shift.y_px * binning))
            matrix, r2 = (np.eye(2), 1.0) if self.context.dry else fit_map(asked, seen)
            inverse = np.linalg.inv(matrix)
            values = {
                "um_per_px": [float(one) for one in inverse.ravel()],
                "pixel_um": float(math.sqrt(abs(np.linalg.det(inverse)))),
                "rotation_deg": float(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))),
                "mirrored": bool(np.linalg.det(matrix) < 0),
                "r2": r2,
            }
            units = {"um_per_px": "um/px", "pixel_um": "um", "rotation_deg": "deg"}
            yield from self.tell("fit", {**values, "accepted": r2 >= parameters.min_r2}, units)
            check_r2(r2, parameters.min_r2, "the image's shift against the stage's")
            yield from bps.checkpoint()
            self.found = {"camera": self.camera, "objective": objective, **values}
            self.stored = {"kind": "stage_camera", "of": f"{self.camera}/{objective or ''}"}

        def back() -> PlanBody:
            yield from bps.mv(stage, (x, y))

        yield from ending(measure(), back)


def calibrate_stage_camera(scope: Scope) -> Template | None:
    cameras, (x, y, _) = list(scope.of_kind("camera")), scope.sample_axes()
    if not cameras or x is None or y is None:
        return None
    axes = scope.axes()
    widest = min(axes[name].limits[1] - axes[name].limits[0] for name in (x, y)) / 2
    model = create_model(
        "calibrate_stage_camera",
        __base__=Parameters,
        step_um=(number(0.1, widest, "um", "how far the stage moves each way: a tenth of the field is good"), 10.0),
        min_r2=(number(0, 1, "no unit", "a fit with a smaller R² is refused"), 0.95),
        store=stored_field(),
        **measured_fields(scope, cameras),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Calibrate the stage against the camera: how the image moves when the sample does, from five frames.

        Moves the XY stage by step_um each way (and to the position where one is given, and the channel's filters), and puts it
        back. A channel's light is on during its exposures. An empty field, frames that don't agree and a fit below min_r2 are
        refused. Returns the run UID, um_per_px (2 × 2, by rows: how far the stage goes for the image to move by a pixel right and
        down, unbinned), pixel size, rotation and R²; with store center_on_pixel uses it from now on (this camera and objective).
        """
        return (yield from calibrated(StageCamera(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return measured_estimate(parameters, scope, [parameters.camera], 5, moves_s=6 * move_s(scope, x), shifts=4)

    return Template("calibrate_stage_camera", model, body, estimate, example=example_channel(scope))


def check_correlation(correlation: float, what: str, remedy: str) -> None:
    """
    Raises
    ------
    FitError
        Where two frames agree too little for their shift to mean anything.
    """
    if not correlation >= LEAST_CORRELATION:
        raise FitError(
            f"{what} agree with a correlation of {correlation:.2f}, at least {LEAST_CORRELATION} is needed: {remedy}, more"
            " light, or a field with more structure",
            "correlation",
            correlation if math.isfinite(correlation) else str(correlation),
            LEAST_CORRELATION,
        )
