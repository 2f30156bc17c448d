"""What things take in an estimate, beside exposures: constants that were measured, and what the scope file says of its devices.

The constants are of the demo scope on two cores with a solid-state disk (docs/decisions/0086): Python, documents, files. What a
device takes differs from microscope to microscope and stands in the scope file: `move_s`, `readout_ms`, `select_s`, `focus_s`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..config import Scope

RUN_S = 0.005
"""A run: its start and stop document, which are forced to the disk."""
DATASET_S = 0.018
"""A dataset of it: files made, described and closed."""
CALL_S = 0.001
"""A call that moves or sets something, or an event that reads it, beside what the device takes."""
CHECK_S = 0.002
"""Going through the steps of a protocol before the first."""
MEASURE_S, SHIFT_S = 0.28, 0.97
"""Measuring a frame of 2048 × 2048 pixels, and how far it lies from another one; others by their size (`measured`)."""
UNKNOWN_EXPOSURE_S = 0.01
"""Where a plan leaves it as it is."""


@dataclass(frozen=True)
class Way:
    """How frames are taken: what its beginning costs in each channel and round, and what each frame does."""

    begin_s: float
    frame_s: float
    by_point: bool = False
    """Each frame has its channel selected, where there are several; else each round of a channel."""


FLOWN = Way(begin_s=0.016, frame_s=0.0005)
"""By the hardware process alone."""
IN_A_ROW = Way(begin_s=0.01, frame_s=0.002, by_point=True)
"""One by one, with nothing moving: each round's last frames are waited for until they are on disk."""
AT_POINTS = Way(begin_s=0.002, frame_s=0.011, by_point=True)
"""One by one, each with an event, and waited for until it is on disk."""


def move_s(scope: Scope, *axes: str | None) -> float:
    """Moves of these axes, one after the other."""
    names = [axis.partition(".")[0] for axis in axes if axis is not None]
    return sum(getattr(scope.devices[name], "move_s", 0.0) + CALL_S for name in names)


def step_s(scope: Scope, axis: str) -> float:
    """A step of a stack or a sweep, which is short: a tenth of a move."""
    return getattr(scope.devices[axis.partition(".")[0]], "move_s", 0.0) / 10


def turn_s(scope: Scope) -> float:
    """Another objective."""
    return sum(turret.move_s + CALL_S for turret in scope.of_kind("objective").values())


def focus_s(scope: Scope) -> float:
    """The autofocus, once or until it has locked."""
    return sum(autofocus.focus_s + CALL_S for autofocus in scope.of_kind("autofocus").values())


def select_s(scope: Scope, channel: Any) -> float:
    """A channel's preset and filter; None: no light."""
    return 0.0 if channel is None else scope.channels[channel.name].select_s + CALL_S


def measured(parameters: Any, scope: Scope, camera: str) -> float:
    """How many times as large a frame is as one of 2048 × 2048: so much longer it takes to measure it."""
    width, height = scope.of_kind("camera")[camera].chip_px
    if parameters.roi is not None:
        width, height = min(width, parameters.roi.width_px), min(height, parameters.roi.height_px)
    return width * height / (parameters.binning or 1) ** 2 / 2048**2


def readouts_s(scope: Scope, cameras: Iterable[str]) -> list[float]:
    """What a frame of each takes beside its exposure."""
    return [scope.of_kind("camera")[camera].readout_ms / 1000 for camera in cameras]
