"""`acquire_volume`: a light-sheet volume with one or two cameras, paced by whatever the scope file says."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from bluesky import plan_stubs as bps
from pydantic import Field, FiniteFloat, ValidationInfo, create_model, model_validator

from ..config import Calibration, Galvo, Scope
from ..devices import ProgramPlan, in_series
from ..hardware import VolumeProgram, VolumeView, slice_timing, volume_ms
from ._acquisition import Flown, one_run
from ._calibrations import Calibrations
from ._channels import channels_of, frame_settings
from ._costs import FLOWN, UNKNOWN_EXPOSURE_S, move_s, select_s, step_s
from ._ending import ending
from ._imaging import common_fields, example_channel, getting_there_s, imaging_estimate, sweep_estimate
from ._movement import device_of
from ._parameters import Parameters, choice, count, number
from ._positions import Positions
from ._reading import value
from ._steps import centred_steps
from ._sweeping import sweep_of
from ._template import Estimate, PlanBody, PlanContext, Template


def acquire_volume(scope: Scope) -> Template | None:
    """Needs, for each view, one camera and one stage (piezo) of that view; a galvo of the view where there is one."""
    views = {view: parts for view in ("A", "B") if (parts := view_parts(scope, view)) is not None}
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
        def _inside_the_limits(self, info: ValidationInfo) -> Self:
            positions: Positions | None = (info.context or {}).get("positions")
            stored = None if positions is None else positions.calibrations
            if not swept and getattr(self, "sheet_width_deg", None) is not None:
                raise ValueError(
                    "sheet_width_deg: nothing sweeps the sheet during an exposure with volume.trigger:"
                    f" {scope.volume.trigger} (scope.yml); leave it out, or pace volumes with tiger_spim"
                )
            centre = getattr(self, "centre_piezo_um", None)
            moved = {views[view][1] for view in chosen_views(self, views)}
            if centre is not None and (sweep := sweep_of(self, scope)) is not None and sweep.axis in moved:
                raise ValueError(f"centre_piezo_um: the sweep of {sweep.axis} finds the middle: leave it out")
            for view in chosen_views(self, views):
                program_of(
                    self,
                    scope,
                    views,
                    {view: 0.0 if centre is None else centre},
                    check=centre is not None,
                    stored=stored,
                )
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
                Field(
                    description="piezo against scanner: stored (measured, or scope.yml), or {slope_um_per_deg, offset_um?}"
                ),
            ],
            "stored",
        ),
        order=(choice(orders, "both views at each slice, or one view after the other"), orders[0]),
        **common_fields(scope),
    )

    class Volume(Flown):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.waits = scope.volume.trigger == "software"
            self._views = chosen_views(self.parameters, views)
            self.metadata = {
                "motors": [views[view][1] for view in self._views],
                "volume_trigger": scope.volume.trigger,
            }

        def exposing(self) -> tuple[str, ...]:
            return tuple(views[view][0] for view in chosen_views(self.parameters, views))

        def program(self, channel: Any, series: str) -> PlanBody:
            parameters, centres = self.parameters, {}
            for view in self._views:
                centres[view] = parameters.centre_piezo_um
                if centres[view] is None:
                    centres[view] = yield from value(device_of(self.context, views[view][1]))
            program = program_of(
                parameters,
                scope,
                views,
                centres,
                check=True,
                channel=channel,
                series=series,
                stored=self.context.positions.calibrations,
            )
            datasets = self.datasets(
                self.cameras, parameters.slices, channel, series, axis="z", step_um=parameters.step_um
            )
            return ProgramPlan(program, datasets)

        def _take(self) -> PlanBody:
            offset, before = self.parameters.sheet_offset_deg, {}
            galvos = [galvo for view in self._views if (galvo := views[view][2]) is not None]

            def placed() -> PlanBody:
                for galvo in galvos if offset is not None and not swept else ():
                    axis = self.context.devices[galvo].x
                    before[axis] = yield from value(axis)
                    yield from bps.mv(axis, offset)
                yield from super(Volume, self)._take()

            def back() -> PlanBody:
                for axis, where in before.items():
                    yield from bps.mv(axis, where)

            yield from ending(placed(), back)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Acquire a light-sheet volume with one or two cameras.

        Moves the piezo and the scanner of each view slice by slice and brings them back (and to the position, the stage that
        focuses and the channels' filters where given). With several channels one volume after the other. A channel's light is on
        during its exposures. Returns the run UID, the frames written, and the seconds from the first exposure until the last
        frame was on disk.
        """
        return (yield from one_run(Volume(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        cameras = [views[view][0] for view in chosen_views(parameters, views)]
        software = imaging_estimate(parameters, scope, cameras, parameters.slices)
        if swept:
            taken = by_controller(parameters, scope, cameras, software)
        else:
            piezos = [views[view][1] for view in chosen_views(parameters, views)]
            volume_s = sum(parameters.slices * step_s(scope, piezo) + move_s(scope, piezo) for piezo in piezos)
            taken = software + Estimate(seconds=len(channels_of(parameters)) * volume_s)
        return taken + sweep_estimate(parameters, scope, cameras[0])

    example = {"slices": 3, **example_channel(scope)}
    return Template("acquire_volume", model, body, estimate, acquire=Volume, example=example)


ViewParts = tuple[str, str, str | None]
"""Camera, piezo and (where there is one) galvo of a view."""


def view_parts(scope: Scope, view: str) -> ViewParts | None:
    def of(kind: str) -> str | None:
        return next((name for name, device in scope.of_kind(kind).items() if device.view == view), None)

    camera, piezo = of("camera"), of("stage")
    return None if camera is None or piezo is None else (camera, piezo, of("galvo"))


def chosen_views(parameters: Any, views: dict[str, ViewParts]) -> list[str]:
    return list(views) if parameters.views == "both" else [parameters.views]


def program_of(
    parameters: Any,
    scope: Scope,
    views: dict[str, ViewParts],
    centres: dict[str, float],
    *,
    check: bool,
    channel: Any = None,
    series: str = "",
    stored: Calibrations | None = None,
) -> VolumeProgram:
    """The slices of the views in ``centres`` (piezo centre in µm by view), in one channel.

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
            calibration = calibration_of(parameters, scope.of_kind("galvo")[galvo], galvo, stored)
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
                dataset=in_series(camera, series),
                camera=camera,
                settings=frame_settings(channel, scope),
                piezo=piezo,
                piezo_um=tuple(targets),
                galvo=None if galvo is None else f"{galvo}.y",
                galvo_deg=angles,
                sheet_width_deg=parameters.sheet_width_deg if swept else None,
                sheet_offset_deg=parameters.sheet_offset_deg if swept else None,
            )
        )
    return VolumeProgram(views=tuple(programs), order=parameters.order)


def by_controller(parameters: Any, scope: Scope, cameras: list[str], software: Estimate) -> Estimate:
    """What a volume that the controller paces takes: its own timing; light during the pulses, or with the gate held open."""
    external = [scope.of_kind("camera")[camera].external for camera in cameras]
    controller = scope.volume.controller
    assert controller is not None
    total, dose = getting_there_s(parameters, scope), dict(software.dose)
    held: dict[str, float] = {}
    for channel in channels_of(parameters):
        settings = frame_settings(channel, scope)
        timing = slice_timing(
            settings.exposure_ms or 1000 * UNKNOWN_EXPOSURE_S,
            max(camera.readout_ms for camera in external),
            max(camera.reset_ms for camera in external),
        )
        seconds = volume_ms(timing, parameters.slices, len(cameras), controller.delay_before_side_ms) / 1000
        total += FLOWN.begin_s + select_s(scope, channel) + seconds
        if settings.light is not None and scope.lights[settings.light].gated_by == "software":
            held[settings.light] = held.get(settings.light, 0.0) + seconds * (settings.power_pct or 0.0)
    return Estimate(software.once_s + total, software.frames, dose | held, software.once_s)


def calibration_of(parameters: Any, galvo: Galvo, name: str, stored: Calibrations | None = None) -> Calibration:
    """What was asked for; for ``stored`` what a calibration found last (`calibrate_piezo_galvo`), else what scope.yml says."""
    if parameters.calibration != "stored":
        return Calibration.model_validate(parameters.calibration.model_dump())
    if stored is not None and (found := stored.piezo_galvo(name)) is not None:
        return found
    if galvo.calibration is None:
        raise ValueError(
            f"calibration: {name} has no stored calibration (scope.yml: devices.{name}.calibration);"
            " run calibrate_piezo_galvo, or give {slope_um_per_deg, offset_um}"
        )
    return galvo.calibration
