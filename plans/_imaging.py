"""Templates that take images: every frame goes to disk in the hardware process, the light is on during exposures only."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from pydantic import Field, FiniteFloat, create_model, model_validator

from ..config import Calibration, Galvo, Scope
from ..devices import CameraPlan, VolumePlan
from ..hardware import DatasetPlan, FrameSettings, VolumeProgram, VolumeView
from ._movement import device_of
from ._parameters import MAX_FRAMES, Parameters, channel_field, choice, count, number, position_field
from ._template import Estimate, PlanBody, PlanContext, Template

FRAME_OVERHEAD_S = 0.02
"""Readout, moves and writing of one software-triggered frame, beside its exposure."""


def frame_settings(parameters: Any, scope: Scope) -> FrameSettings:
    """Exposure, light and power of the channel asked for; no channel: no light."""
    if not parameters.channels:
        return FrameSettings()
    asked = parameters.channels[0]
    channel = scope.channels[asked.name]
    lowest = scope.lights[channel.light].limits_pct[0]
    stored = lowest if channel.power_pct is None else channel.power_pct
    return FrameSettings(
        exposure_ms=channel.exposure_ms if asked.exposure_ms is None else asked.exposure_ms,
        light=channel.light,
        power_pct=stored if asked.power_pct is None else asked.power_pct,
    )


def channel_name(parameters: Any) -> str | None:
    return parameters.channels[0].name if parameters.channels else None


def imaging_estimate(parameters: Any, scope: Scope, frames: dict[str, int]) -> Estimate:
    settings = frame_settings(parameters, scope)
    exposure_s = (settings.exposure_ms or 10.0) / 1000
    total = sum(frames.values())
    dose = {settings.light: total * exposure_s * (settings.power_pct or 0.0)} if settings.light else {}
    return Estimate(seconds=1.0 + total * (exposure_s + FRAME_OVERHEAD_S), frames=frames, dose=dose)


def go_and_select(parameters: Any, context: PlanContext) -> PlanBody:
    """Go to the position and apply the channel's preset and filter."""
    position = parameters.position
    if isinstance(position, str):
        position = context.scope.positions[position]
    if position is not None:
        x, _, z = context.scope.sample_axes()
        if x:
            yield from bps.mv(context.devices[x.partition(".")[0]], (position.x_um, position.y_um))
        if z and position.z_um is not None:
            yield from bps.mv(device_of(context, z), position.z_um)
    if parameters.channels:
        yield from bps.mv(context.devices["channel"], parameters.channels[0].name)


def snap(scope: Scope) -> Template | None:
    cameras = list(scope.of_kind("camera"))
    if not cameras:
        return None
    model = create_model(
        "snap",
        __base__=Parameters,
        camera=(choice(cameras, "the camera"), cameras[0]),
        n=(count(1, 10_000, "how many frames"), 1),
        channels=(channel_field(scope), None),
        position=(position_field(scope), None),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take one or more frames with one camera.

        Moves to the position where one is given, and the channel's filter. The channel's light is on during the exposures.
        Returns the run UID and the frames written.
        """
        camera = context.devices[parameters.camera]
        settings = frame_settings(parameters, context.scope)

        def inner() -> PlanBody:
            yield from go_and_select(parameters, context)
            plan = CameraPlan(settings=settings, frames=parameters.n, axis="t", channel=channel_name(parameters))
            run_uid = yield from bps.open_run({"detectors": [camera.name]})
            yield from bps.prepare(camera, plan, wait=True)
            for _ in range(parameters.n):
                yield from bps.checkpoint()
                yield from bps.trigger_and_read([camera])
            frames = camera.get_index()
            yield from bps.close_run()
            return {"run_uid": run_uid, "datasets": {camera.name: frames}}

        return (yield from bpp.stage_wrapper(inner(), [camera]))

    return Template("snap", model, body, lambda p, s: imaging_estimate(p, s, {p.camera: p.n}))


def centred_steps(centre: float, slices: int, step: float) -> list[float]:
    """``slices`` positions ``step`` apart around ``centre``, in ascending order for a positive step."""
    return [centre + (index - (slices - 1) / 2) * step for index in range(slices)]


def z_stack(scope: Scope) -> Template | None:
    cameras = list(scope.of_kind("camera"))
    stages = {name: scope.axes()[name] for name, stage in scope.of_kind("stage").items() if stage.units == "um"}
    if not cameras or not stages:
        return None
    _, _, z = scope.sample_axes()
    widest = max((axis.limits[1] - axis.limits[0] for axis in stages.values()), default=0.0)
    lowest = min((axis.limits[0] for axis in stages.values()), default=0.0)
    highest = max((axis.limits[1] for axis in stages.values()), default=0.0)

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            range_um, step_um, centre = (
                getattr(self, "range_um", 0.0),
                getattr(self, "step_um", 1.0),
                getattr(self, "centre_um", None),
            )
            axis = stages[getattr(self, "axis", "")]
            low, high = axis.limits
            slices = stack_slices(range_um, step_um)
            if slices > MAX_FRAMES:
                raise ValueError(f"step_um: range_um / step_um gives {slices} slices, more than {MAX_FRAMES}")
            half = (slices - 1) * step_um / 2
            outside = half * 2 > high - low if centre is None else centre - half < low or centre + half > high
            if outside:
                where = f"{range_um} um" if centre is None else f"[{centre - half}, {centre + half}] um"
                raise ValueError(
                    f"range_um: {axis.name} over {where} leaves [{low}, {high}] (scope.yml: {axis.source})"
                )
            return self

    model = create_model(
        "z_stack",
        __base__=Checked,
        range_um=(number(0, widest, "um", "height of the stack, first to last slice"), ...),
        step_um=(number(0.01, max(widest, 0.01), "um", "distance of two slices"), ...),
        centre_um=(number(lowest, highest, "um", "middle of the stack; null: where the axis is") | None, None),
        axis=(choice(list(stages), "the stage that moves"), z if z in stages else next(iter(stages), ...)),
        camera=(choice(cameras, "the camera"), cameras[0] if cameras else ...),
        channels=(channel_field(scope), None),
        position=(position_field(scope), None),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take a stack: move a stage step by step, one frame at each, then go back to where it was.

        Moves the axis named (and to the position and the channel's filter where given). The channel's light is on during the
        exposures. Returns the run UID and the frames written.
        """
        camera, axis = context.devices[parameters.camera], device_of(context, parameters.axis)
        slices = stack_slices(parameters.range_um, parameters.step_um)
        settings = frame_settings(parameters, context.scope)

        def inner() -> PlanBody:
            yield from go_and_select(parameters, context)
            start = yield from bps.rd(axis)
            centre = start if parameters.centre_um is None else parameters.centre_um
            targets = centred_steps(centre, slices, parameters.step_um)
            for target in targets:
                axis.check_value(target)
            plan = CameraPlan(
                settings=settings, frames=slices, axis="z", step_um=parameters.step_um, channel=channel_name(parameters)
            )

            def stack() -> PlanBody:
                run_uid = yield from bps.open_run({"detectors": [camera.name], "motors": [axis.name]})
                yield from bps.prepare(camera, plan, wait=True)
                for target in targets:
                    yield from bps.checkpoint()
                    yield from bps.mv(axis, target)
                    yield from bps.trigger_and_read([camera, axis])
                frames = camera.get_index()
                yield from bps.close_run()
                return {"run_uid": run_uid, "datasets": {camera.name: frames}}

            return (yield from bpp.finalize_wrapper(stack(), bps.mv(axis, start)))

        return (yield from bpp.stage_wrapper(inner(), [camera]))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        slices = stack_slices(parameters.range_um, parameters.step_um)
        return imaging_estimate(parameters, scope, {parameters.camera: slices})

    return Template("z_stack", model, body, estimate)


def stack_slices(range_um: float, step_um: float) -> int:
    """Slices that cover a range: one more than there are whole steps in it."""
    return int(range_um / step_um + 1e-9) + 1


def acquire_volume(scope: Scope) -> Template | None:
    """Needs, for each view, one camera and one stage (piezo) of that view; a galvo of the view where there is one."""
    views = {view: parts for view in ("A", "B") if (parts := _view_parts(scope, view)) is not None}
    if not views:
        return None
    piezos = [scope.axes()[piezo] for _, piezo, _ in views.values()]
    lowest, highest = max((p.limits[0] for p in piezos), default=0.0), min((p.limits[1] for p in piezos), default=0.0)

    class CalibrationParameters(Parameters):
        slope_um_per_deg: FiniteFloat
        offset_um: FiniteFloat = 0.0

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            centre = getattr(self, "centre_piezo_um", None)
            for view in chosen_views(self, views):
                program_of(self, scope, views, {view: 0.0 if centre is None else centre}, check=centre is not None)
            return self

    model = create_model(
        "acquire_volume",
        __base__=Checked,
        views=(
            choice([*views, *(["both"] if len(views) > 1 else [])], "which light-sheet views"),
            "both" if len(views) > 1 else next(iter(views), ...),
        ),
        slices=(count(1, 10_000, "slices of each view"), 50),
        step_um=(number(0.01, 100, "um", "distance of two slices"), 1.0),
        centre_piezo_um=(number(lowest, highest, "um", "middle of the volume; null: where each piezo is") | None, None),
        sheet_offset_deg=(
            number(-10, 10, "deg", "centre of the sheet's width (scanner x); null: unchanged") | None,
            None,
        ),
        calibration=(
            Annotated[
                Literal["stored"] | CalibrationParameters,
                Field(description="piezo against scanner: stored (in scope.yml), or {slope_um_per_deg, offset_um?}"),
            ],
            "stored",
        ),
        order=(choice(["slice", "volume"], "both views at each slice, or one view after the other"), "slice"),
        channels=(channel_field(scope), None),
        position=(position_field(scope), None),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Acquire a light-sheet volume with one or two cameras.

        Moves the piezo and the scanner of each view slice by slice and brings them back (and to the position and the
        channel's filter where given). The channel's light is on during the exposures. Returns the run UID and the frames written.
        """
        volume = context.devices["volume"]
        chosen = chosen_views(parameters, views)

        def inner() -> PlanBody:
            yield from go_and_select(parameters, context)
            centres = {}
            for view in chosen:
                _, piezo, _ = views[view]
                here = yield from bps.rd(device_of(context, piezo))
                centres[view] = here if parameters.centre_piezo_um is None else parameters.centre_piezo_um
            program = program_of(parameters, context.scope, views, centres, check=True)
            datasets = tuple(
                DatasetPlan(
                    name=view.dataset,
                    camera=view.camera,
                    frames=parameters.slices,
                    axis="z",
                    step_um=parameters.step_um,
                    channel=channel_name(parameters),
                )
                for view in program.views
            )
            cameras = [view.camera for view in program.views]
            run_uid = yield from bps.open_run({"detectors": cameras, "motors": [view.piezo for view in program.views]})
            yield from bps.prepare(volume, VolumePlan(program, datasets), wait=True)
            yield from bps.declare_stream(volume, name="primary", collect=True)
            yield from bpp.finalize_wrapper(slices(), end_of_slices)
            frames = volume.get_index()
            yield from bps.close_run()
            return {"run_uid": run_uid, "datasets": dict.fromkeys(cameras, frames)}

        def slices() -> PlanBody:
            yield from bps.checkpoint()
            yield from bps.kickoff(volume, wait=True)
            while not volume.ended:
                yield from bps.trigger(volume, wait=True)
                yield from bps.collect(volume, name="primary")

        def end_of_slices() -> PlanBody:
            """However it ended: stop what still runs, then tell of every frame that is on disk."""
            yield from bps.stop(volume)
            yield from bps.collect(volume, name="primary")

        def with_sheet() -> PlanBody:
            if parameters.sheet_offset_deg is None:
                return (yield from inner())
            before = {}
            for view in chosen:
                galvo = views[view][2]
                if galvo is not None:
                    before[galvo] = yield from bps.rd(context.devices[galvo].x)
                    yield from bps.mv(context.devices[galvo].x, parameters.sheet_offset_deg)

            def back() -> PlanBody:
                for galvo, offset in before.items():
                    yield from bps.mv(context.devices[galvo].x, offset)

            return (yield from bpp.finalize_wrapper(inner(), back))

        return (yield from bpp.stage_wrapper(with_sheet(), [volume]))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        frames = {views[view][0]: parameters.slices for view in chosen_views(parameters, views)}
        return imaging_estimate(parameters, scope, frames)

    return Template("acquire_volume", model, body, estimate)


ViewParts = tuple[str, str, str | None]
"""Camera, piezo and (where there is one) galvo of a view."""


def _view_parts(scope: Scope, view: str) -> ViewParts | None:
    def of(kind: str) -> str | None:
        return next((name for name, device in scope.of_kind(kind).items() if device.view == view), None)

    camera, piezo = of("camera"), of("stage")
    return None if camera is None or piezo is None else (camera, piezo, of("galvo"))


def chosen_views(parameters: Any, views: dict[str, ViewParts]) -> list[str]:
    return list(views) if parameters.views == "both" else [parameters.views]


def program_of(
    parameters: Any, scope: Scope, views: dict[str, ViewParts], centres: dict[str, float], *, check: bool
) -> VolumeProgram:
    """The slices of the views in ``centres`` (piezo centre in µm by view).

    Raises
    ------
    ValueError
        With ``check``: where a piezo or scanner would leave its limits; always: without a calibration for a scanner.
    """
    axes = scope.axes()
    programs = []
    for view, centre in centres.items():
        camera, piezo, galvo = views[view]
        targets = centred_steps(centre, parameters.slices, parameters.step_um)
        checks = [(axes[piezo], targets)]
        angles = None
        if galvo is not None:
            calibration = calibration_of(parameters, scope.of_kind("galvo")[galvo], galvo)
            angles = tuple((um - calibration.offset_um) / calibration.slope_um_per_deg for um in targets)
            checks.append((axes[f"{galvo}.y"], list(angles)))
            if parameters.sheet_offset_deg is not None:
                checks.append((axes[f"{galvo}.x"], [parameters.sheet_offset_deg]))
        for axis, values in checks if check else ():
            low, high = axis.limits
            if min(values) < low or max(values) > high:
                raise ValueError(
                    f"slices: {axis.name} would go over [{min(values):g}, {max(values):g}] {axis.units}, outside [{low}, {high}]"
                    f" (scope.yml: {axis.source}): fewer slices, a smaller step or another centre"
                )
        programs.append(
            VolumeView(
                dataset=camera,
                camera=camera,
                settings=frame_settings(parameters, scope),
                piezo=piezo,
                piezo_um=tuple(targets),
                galvo=None if galvo is None else f"{galvo}.y",
                galvo_deg=angles,
            )
        )
    return VolumeProgram(views=tuple(programs), order=parameters.order)


def calibration_of(parameters: Any, galvo: Galvo, name: str) -> Calibration:
    if parameters.calibration != "stored":
        return Calibration.model_validate(parameters.calibration.model_dump())
    if galvo.calibration is None:
        raise ValueError(
            f"calibration: {name} has no stored calibration (scope.yml: devices.{name}.calibration);"
            " give {slope_um_per_deg, offset_um}"
        )
    return galvo.calibration
