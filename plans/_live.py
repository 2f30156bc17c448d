"""`live`: look through a camera, for as long as somebody does."""

from __future__ import annotations

import time
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from pydantic import create_model

from ..config import Scope
from ..devices import LivePlan
from ..hardware import FrameSettings
from ._costs import RUN_S
from ._parameters import Parameters, choice, number
from ._reading import observe
from ._template import Estimate, PlanBody, PlanContext, Template

LONGEST_S = 120.0
VIEWER_S = 2.0
"""Who hasn't asked for a picture for so long doesn't look any more."""
START_S = 10.0
"""So long it waits, without light, for the first one who does."""
EVERY_S = 0.1
"""No frame sooner after another."""
OTHERS_MS = 10.0
"""Exposure where neither channel nor parameter says one, for the estimate."""


def live(scope: Scope) -> Template | None:
    cameras = scope.of_kind("camera")
    if not cameras:
        return None
    shortest = max(camera.exposure_ms[0] for camera in cameras.values())
    longest = min(camera.exposure_ms[1] for camera in cameras.values())
    model = create_model(
        "live",
        __base__=Parameters,
        camera=(choice(list(cameras), "the camera"), next(iter(cameras))),
        channel=(choice(list(scope.channels), "its light is on during exposures; null: no light") | None, None),
        exposure_ms=(number(shortest, longest, "ms", "exposure time; null: the channel's, or as it is") | None, None),
        max_s=(number(0.5, LONGEST_S, "s", "how long at most"), 30.0),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Look through a camera: frames that are not recorded, shown by GET /api/scope/live.png while somebody asks for it.

        Moves the channel's filter and nothing else. The channel's light is on during exposures, at most ten a second, and counts
        for the sample that is open. Without a viewer no exposure is made: it waits up to 10 s for the first one, and ends when
        nobody has asked for a picture for 2 s, or after max_s. Returns the run UID, how many frames were taken, the seconds, the
        dose, and why it ended.
        """
        view, settings = context.devices["live_view"], settings_of(parameters, scope)

        def inner() -> PlanBody:
            lights = [settings.light] if settings.light else []
            run_uid = yield from bps.open_run({"lights": lights, "channel": parameters.channel, "recorded": False})
            if parameters.channel is not None:
                yield from bps.mv(context.devices["channel"], parameters.channel)
            yield from bps.prepare(view, LivePlan(parameters.camera, settings), wait=True)
            began = time.monotonic()
            ended = "max_s" if context.dry else (yield from _frames(view, began + parameters.max_s))
            yield from bps.checkpoint()
            yield from observe(view)
            yield from bps.close_run()
            seconds = round(time.monotonic() - began, 3)
            return {"run_uid": run_uid, "frames": view.frames, "seconds": seconds, "dose": view.dose, "ended": ended}

        return (yield from bpp.stage_wrapper(inner(), [view]))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        """With somebody who looks all the time."""
        settings = settings_of(parameters, scope)
        exposure_s = (settings.exposure_ms or OTHERS_MS) / 1000
        lit_s = parameters.max_s * exposure_s / max(EVERY_S, exposure_s)
        dose = {settings.light: lit_s * (settings.power_pct or 0.0)} if settings.light else {}
        return Estimate(seconds=RUN_S + parameters.max_s, dose=dose)

    return Template("live", model, body, estimate, example={"max_s": 0.5})


def settings_of(parameters: Any, scope: Scope) -> FrameSettings:
    if parameters.channel is None:
        return FrameSettings(exposure_ms=parameters.exposure_ms)
    channel = scope.channels[parameters.channel]
    lowest = scope.lights[channel.light].limits_pct[0]
    return FrameSettings(
        exposure_ms=channel.exposure_ms if parameters.exposure_ms is None else parameters.exposure_ms,
        light=channel.light,
        power_pct=lowest if channel.power_pct is None else channel.power_pct,
    )


def _frames(view: Any, until: float) -> PlanBody:
    """Frame after frame while somebody looks; returns why it ended."""
    while True:
        yield from bps.checkpoint()
        began = time.monotonic()
        if began >= until:
            return "max_s"
        if view.idle_s > (VIEWER_S if view.looked else START_S):
            return "nobody looks" if view.looked else "nobody looked"
        if view.looked:
            yield from bps.trigger(view, wait=True)
        yield from bps.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
