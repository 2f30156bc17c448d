"""`acquire_volume`: a light-sheet volume with one or two cameras, paced by whatever the scope file says."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from pydantic import Field, FiniteFloat, create_model, model_validator

from ..config import Calibration, Galvo, Scope
from ..devices import ProgramPlan
from ..hardware import DatasetPlan, VolumeProgram, VolumeView, slice_timing, volume_ms
from ._flying import fly
from ._imaging import channel_name, frame_settings, go_and_select, imaging_estimate
from ._movement import device_of
from ._parameters import Parameters, channel_field, choice, count, number, position_field
from ._stack import centred_steps
from ._template import Estimate, PlanBody, PlanContext, Template


def acquire_volume(scope: Scope) -> Template | None:
    """Needs, for each view, one camera and one stage (piezo) of that view; a galvo of the view where there is one."""
    views = {view: parts for view in ("A", "B") if (parts := _view_parts(scope, view)) is not None}
    if not views:
        return None
    swept = scope.volume.trigger == "tiger_spim"
    orders = ["slice", "volume"] if scope.volume.trigger == "software" else ["volume"]
    piezos = [scope.axes()[piezo] for _, piezo, _ in views.values()]
    lowest, highest = max((p.limits[0] for p in piezos), default=0.0), min((p.limits[1] for p in piezos), default=0.0)

    class CalibrationParameters(Parameters):
        slope_um_per_deg: FiniteFloat
        offset_um: FiniteFloat = 0.0

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            if not swept and getattr(self, "sheet_width_deg", None) is not None:
                raise ValueError(
                    "sheet_width_deg: nothing sweeps the sheet during an exposure with volume.trigger:"
                    f" {scope.volume.trigger} (scope.yml); leave it out, or pace volumes with tiger_spim"
                )
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
        sheet_width_deg=(
            number(0, 20, "deg", "width of the sheet, end to end; null: as the controller has it; needs tiger_spim")
            | None,
            None,
        ),
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
        order=(choice(orders, "both views at each slice, or one view after the other"), orders[0]),
        channels=(channel_field(scope), None),
        position=(position_field(scope), None),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Acquire a light-sheet volume with one or two cameras.

        Moves the piezo and the scanner of each view slice by slice and brings them back (and to the position and the
        channel's filter where given). The channel's light is on during the exposures. Returns the run UID, the frames
        written, and the seconds from the first exposure until the last frame was on disk.
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
            metadata = {
                "motors": [view.piezo for view in program.views],
                "volume_trigger": context.scope.volume.trigger,
            }
            waits = context.scope.volume.trigger == "software"
            return (yield from fly(volume, ProgramPlan(program, datasets), metadata, waits=waits))

        def with_sheet() -> PlanBody:
            if parameters.sheet_offset_deg is None or swept:
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
        software = imaging_estimate(parameters, scope, frames)
        return by_controller(parameters, scope, frames, software) if swept else software

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
    swept = scope.volume.trigger == "tiger_spim"
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
            offset, width = parameters.sheet_offset_deg, parameters.sheet_width_deg
            if offset is not None or width is not None:
                ends = [(offset or 0.0) + half * (width or 0.0) for half in (-0.5, 0.5)]
                checks.append((axes[f"{galvo}.x"], ends))
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
                sheet_width_deg=parameters.sheet_width_deg if swept else None,
                sheet_offset_deg=parameters.sheet_offset_deg if swept else None,
            )
        )
    return VolumeProgram(views=tuple(programs), order=parameters.order)


def by_controller(parameters: Any, scope: Scope, frames: dict[str, int], software: Estimate) -> Estimate:
    """What a volume that the controller paces takes: its own timing; light during the pulses, or with the gate held open."""
    settings = frame_settings(parameters, scope)
    cameras = scope.of_kind("camera")
    external = [cameras[camera].external for camera in frames]
    timing = slice_timing(
        settings.exposure_ms or 10.0,
        max(camera.readout_ms for camera in external),
        max(camera.reset_ms for camera in external),
    )
    controller = scope.volume.controller
    assert controller is not None
    seconds = volume_ms(timing, parameters.slices, len(frames), controller.delay_before_side_ms) / 1000
    dose = dict(software.dose)
    if settings.light is not None and scope.lights[settings.light].gated_by == "software":
        dose[settings.light] = seconds * (settings.power_pct or 0.0)
    return Estimate(seconds=1.0 + seconds, frames=software.frames, dose=dose)


def calibration_of(parameters: Any, galvo: Galvo, name: str) -> Calibration:
    if parameters.calibration != "stored":
        return Calibration.model_validate(parameters.calibration.model_dump())
    if galvo.calibration is None:
        raise ValueError(
            f"calibration: {name} has no stored calibration (scope.yml: devices.{name}.calibration);"
            " give {slope_um_per_deg, offset_um}"
        )
    return galvo.calibration
