"""Templates that take images: every frame goes to disk in the hardware process, the light is on during exposures only."""

from __future__ import annotations

from typing import Any, Self

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from pydantic import create_model, model_validator

from ..config import Scope
from ..devices import CameraPlan
from ..hardware import FrameSettings
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


def camera_choices(scope: Scope) -> list[str]:
    """What takes a frame: cameras first, then those that expose together."""
    return [*scope.of_kind("camera"), *scope.of_kind("multi_camera")]


def datasets_of(scope: Scope, camera: str, frames: int) -> dict[str, int]:
    """Frames by dataset: one for each camera that exposes."""
    together = scope.of_kind("multi_camera").get(camera)
    return dict.fromkeys((camera,) if together is None else together.cameras, frames)


def imaging_estimate(parameters: Any, scope: Scope, frames: dict[str, int], exposures: int | None = None) -> Estimate:
    """``exposures``: how often the light is on; None: for each frame by itself."""
    settings = frame_settings(parameters, scope)
    exposure_s = (settings.exposure_ms or 10.0) / 1000
    total = sum(frames.values()) if exposures is None else exposures
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
    cameras = camera_choices(scope)
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
        """Take one or more frames with one camera, or with cameras that expose together.

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
            return {"run_uid": run_uid, "datasets": datasets_of(context.scope, camera.name, frames)}

        return (yield from bpp.stage_wrapper(inner(), [camera]))

    return Template("snap", model, body, lambda p, s: imaging_estimate(p, s, datasets_of(s, p.camera, p.n), p.n))


def centred_steps(centre: float, slices: int, step: float) -> list[float]:
    """``slices`` positions ``step`` apart around ``centre``, in ascending order for a positive step."""
    return [centre + (index - (slices - 1) / 2) * step for index in range(slices)]


def z_stack(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
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
                return {"run_uid": run_uid, "datasets": datasets_of(context.scope, camera.name, frames)}

            return (yield from bpp.finalize_wrapper(stack(), bps.mv(axis, start)))

        return (yield from bpp.stage_wrapper(inner(), [camera]))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        slices = stack_slices(parameters.range_um, parameters.step_um)
        return imaging_estimate(parameters, scope, datasets_of(scope, parameters.camera, slices), slices)

    return Template("z_stack", model, body, estimate)


def stack_slices(range_um: float, step_um: float) -> int:
    """Slices that cover a range: one more than there are whole steps in it."""
    return int(range_um / step_um + 1e-9) + 1
