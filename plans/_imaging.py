"""Templates that take images: every frame goes to disk in the hardware process, the light is on during exposures only."""

from __future__ import annotations

from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from pydantic import create_model

from ..config import Scope
from ..devices import CameraPlan
from ..hardware import FrameSettings
from ._movement import device_of
from ._parameters import Parameters, channel_field, choice, count, position_field
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


def cameras_of(scope: Scope, camera: str) -> tuple[str, ...]:
    """The cameras that expose: this one, or those of a multi-camera. Each has a dataset of its name."""
    together = scope.of_kind("multi_camera").get(camera)
    return (camera,) if together is None else tuple(together.cameras)


def datasets_of(scope: Scope, camera: str, frames: int) -> dict[str, int]:
    """Frames by dataset."""
    return dict.fromkeys(cameras_of(scope, camera), frames)


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
        position = context.positions[position]
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
