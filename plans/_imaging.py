"""What all templates that take images have in common, and `snap`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import create_model

from ..config import Scope
from ..devices import in_series
from ..formats import FORMATS
from ._acquisition import one_run
from ._channels import cameras_of, channels_of, frame_settings, series_of
from ._costs import (
    AT_POINTS,
    DATASET_S,
    FLOWN,
    IN_A_ROW,
    MEASURE_S,
    RUN_S,
    UNKNOWN_EXPOSURE_S,
    Way,
    focus_s,
    measured,
    move_s,
    readouts_s,
    select_s,
    step_s,
)
from ._parameters import Parameters, channel_field, choice, count, described, once_a_scope, position_field
from ._stepped import InARow
from ._sweeping import SERIES, focusing_stages, sweep_field, sweep_of, sweep_slices
from ._template import Estimate, PlanBody, PlanContext, Template

MOST_CHANNELS = 8


@once_a_scope
def common_fields(scope: Scope, channels: int = MOST_CHANNELS) -> Mapping[str, Any]:
    """Parameters that are the same everywhere: channels, position, focus, on_focus_fail, roi, binning, format."""
    sweeps = bool(focusing_stages(scope) and scope.of_kind("camera"))
    focuses = ["none", *(["lock"] if scope.of_kind("autofocus") else []), *(["sweep"] if sweeps else [])]
    doc = "lock: engage the focus lock before the frames, release it after them"
    if sweeps:
        doc += "; sweep: find the focus as focus_sweep does before the frames, with their first channel, and stay there"
    doc += " (the result's focus_um)"
    roi = create_model(
        "roi",
        __base__=Parameters,
        x_px=(count(0, 100_000, "left edge, unbinned pixels"), ...),
        y_px=(count(0, 100_000, "upper edge, unbinned pixels"), ...),
        width_px=(count(1, 100_000, "width, unbinned pixels"), ...),
        height_px=(count(1, 100_000, "height, unbinned pixels"), ...),
    )
    return {
        "channels": (channel_field(scope, channels), None),
        "position": (position_field(scope), None),
        "focus": (choice(focuses, doc), "none"),
        **({"sweep": (sweep_field(scope), None)} if sweeps else {}),
        "on_focus_fail": (
            choice(
                ["fail", "skip", "last"],
                "where the focus isn't found: fail the run, take no frames then, or go to where it was found last",
            ),
            "fail",
        ),
        "roi": (
            described(
                roi | None, "part of the chip, put back afterwards: {x_px, y_px, width_px, height_px}; null: as it is"
            ),
            None,
        ),
        "binning": (count(1, 16, "binning, put back afterwards; null: as it is") | None, None),
        "format": (
            choice(FORMATS, "of the files; null: as the scope file says (storage.format)") | None,
            None,
        ),
    }


def sweep_estimate(parameters: Any, scope: Scope, camera: str, times: int = 1) -> Estimate:
    """Of ``focus: sweep`` before frames whose first camera is this one, so many times; nothing where it isn't asked for."""
    sweep = sweep_of(parameters, scope)
    if sweep is None:
        return Estimate()
    settings, frames = frame_settings(channels_of(parameters)[0], scope), times * sweep_slices(sweep)
    exposure_s = UNKNOWN_EXPOSURE_S if settings.exposure_ms is None else settings.exposure_ms / 1000
    beside_s = (
        readouts_s(scope, [camera])[0] + step_s(scope, sweep.axis) + measured(parameters, scope, camera) * MEASURE_S
    )
    frame_s = exposure_s + AT_POINTS.frame_s + beside_s
    return Estimate(
        seconds=DATASET_S + frames * frame_s + times * move_s(scope, sweep.axis),
        frames={in_series(camera, SERIES): frames},
        dose={settings.light: frames * exposure_s * (settings.power_pct or 0.0)} if settings.light else {},
        once_s=DATASET_S,
    )


def example_channel(scope: Scope) -> dict[str, Any]:
    """``channels`` of an example: the first one, with its stored exposure and power."""
    first = next(iter(scope.channels), None)
    return {} if first is None else {"channels": [{"name": first}]}


def camera_choices(scope: Scope) -> list[str]:
    """What takes a frame: cameras first, then those that expose together."""
    return [*scope.of_kind("camera"), *scope.of_kind("multi_camera")]


def imaging_estimate(
    parameters: Any, scope: Scope, cameras: Iterable[str], frames: int, exposures: int | None = None, way: Way = FLOWN
) -> Estimate:
    """One round of frames, without what a sweep for the focus takes (`sweep_estimate`).

    Parameters
    ----------
    frames
        Of each camera in each channel.
    exposures
        How often the light is on for them, where cameras expose together; None: for each by itself.
    """
    readouts = readouts_s(scope, cameras := list(cameras))
    times = frames * len(cameras) if exposures is None else exposures
    readout_s = sum(readouts) / len(readouts) if exposures is None else max(readouts)
    counts: dict[str, int] = {}
    dose: dict[str, float] = {}
    round_s, channels = getting_there_s(parameters, scope), channels_of(parameters)
    for channel in channels:
        settings = frame_settings(channel, scope)
        exposure_s = UNKNOWN_EXPOSURE_S if settings.exposure_ms is None else settings.exposure_ms / 1000
        selections = frames if way.by_point and len(channels) > 1 else 1
        round_s += way.begin_s + selections * select_s(scope, channel)
        round_s += times * (exposure_s + readout_s + way.frame_s)
        counts |= {in_series(camera, series_of(parameters, channel)): frames for camera in cameras}
        if settings.light:
            dose[settings.light] = dose.get(settings.light, 0.0) + times * exposure_s * (settings.power_pct or 0.0)
    once_s = RUN_S + len(counts) * DATASET_S
    return Estimate(seconds=once_s + round_s, frames=counts, dose=dose, once_s=once_s)


def getting_there_s(parameters: Any, scope: Scope) -> float:
    """What comes before a round's frames: the way to the position, the focus lock."""
    x, _, z = scope.sample_axes()
    place = getattr(parameters, "position", None)
    seconds = 0.0
    if place is not None:
        seconds += move_s(scope, x, *(() if getattr(place, "z_um", 0.0) is None else (z,)))
    if getattr(parameters, "focus", "none") == "lock":
        seconds += focus_s(scope)
    return seconds


class Snap(InARow):
    def points(self) -> PlanBody:
        yield from ()
        return [{} for _ in range(self.parameters.n)]


def snap(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
    if not cameras:
        return None
    model = create_model(
        "snap",
        __base__=Parameters,
        camera=(choice(cameras, "the camera"), cameras[0]),
        n=(count(1, 10_000, "how many frames, of each channel"), 1),
        **common_fields(scope),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take one or more frames with one camera, or with cameras that expose together.

        Moves to the position where one is given, the stage that focuses where that is asked for, and the channels' filters. A
        channel's light is on during its exposures. Returns the run UID and the frames written.
        """
        return (yield from one_run(Snap(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        cameras = cameras_of(scope, parameters.camera)
        taken = imaging_estimate(parameters, scope, cameras, parameters.n, parameters.n, IN_A_ROW)
        return taken + sweep_estimate(parameters, scope, cameras[0])

    return Template("snap", model, body, estimate, acquire=Snap, example={"n": 2, **example_channel(scope)})
