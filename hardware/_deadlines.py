"""How long a call may take: `micromanager.call_timeout_s` plus what it legitimately does. Used on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..config import Axis, Scope
from ._surface import FrameSettings

SLOWEST_PER_S = {"um": 100.0, "mm": 0.1, "deg": 1.0}
"""No stage of a microscope travels slower than this; a move may take its axis's whole range at this speed."""

DISK_S = 10.0
"""Writing and syncing what is in hand may take this long."""

SLOWEST_DISK_MB_S = 100.0
"""What is in MMCore's buffer reaches the disk at least at this speed."""

MEASURING_S = 30.0
"""The first measurement imports what it needs; one of a large frame on a slow machine takes seconds."""

URGENT = frozenset(("safety", "halt", "rearm", "arm"))
"""Calls that have a listener of their own, so that they wait behind no other call and no full pool of connections."""

URGENT_S = 1.0
"""They take no longer than this."""

LOADING_S = 120.0
"""Loading a configuration, homing included, should not take longer."""

REPLY_S = 2.0
"""The proxy waits this much longer, so that the hardware's own timeout, which says more, arrives first."""


def travel_s(axes: Iterable[Axis]) -> float:
    """Time that the longest of these moves may take."""
    return max(((axis.limits[1] - axis.limits[0]) / SLOWEST_PER_S[axis.units] for axis in axes), default=0.0)


def exposure_s(scope: Scope, camera: str | None, settings: FrameSettings) -> float:
    """Longest exposure that these settings may mean, in seconds."""
    cameras = scope.of_kind("camera")
    limits = [cameras[camera].exposure_ms] if camera in cameras else [c.exposure_ms for c in cameras.values()]
    longest = max((high for _, high in limits), default=0.0)
    asked = longest if settings.exposure_ms is None else min(max(settings.exposure_ms, 0.0), longest)
    return asked / 1000  # what lies outside is refused, at once


def stopping_s(scope: Scope, axes: Mapping[str, Axis] | None = None) -> float:
    """Longest time until a volume or burst has ended that was told to: its exposure and move in hand, its frames to the disk."""
    axes = scope.axes() if axes is None else axes
    slice_s = sum(camera.exposure_ms[1] / 1000 for camera in scope.of_kind("camera").values())
    buffered_s = scope.micromanager.buffer_mb / SLOWEST_DISK_MB_S
    return scope.micromanager.call_timeout_s + DISK_S + buffered_s + slice_s + travel_s(axes.values())


def allowance_s(scope: Scope, name: str, values: Mapping[str, Any], axes: Mapping[str, Axis] | None = None) -> float:
    """What this call may take beyond `call_timeout_s`. ``axes``: those of the scope, where the caller keeps them."""
    axes = scope.axes() if axes is None else axes
    match name:
        case "move":
            return travel_s(axes[target] for target in values["targets"] if target in axes)
        case "state":
            return sum(1 + camera.exposure_ms[1] / 1000 for camera in scope.of_kind("camera").values())
        case "focus" | "lock_focus":  # there, perhaps back, and as long as the lock may take
            lock_s = sum(autofocus.lock_s for autofocus in scope.of_kind("autofocus").values())
            return lock_s + 3 * travel_s(axes.values())
        case "snap":
            return 2 * exposure_s(
                scope, values["camera"], values["settings"]
            )  # it may wait for a frame of another call
        case "record_together":
            return DISK_S + 2 * exposure_s(scope, None, values["settings"])
        case "record_frame":
            return DISK_S + sum(2 * exposure_s(scope, None, s) for s in values["settings"].values())
        case "recording":
            return sum(max(0.0, min(values[name], 30.0)) for name in ("wait_s", "gather_s"))
        case "events":
            return max(0.0, min(values["wait_s"], 30.0))
        case "open_recording" | "close_recording" | "stop_recording" | "hold_recording":
            return stopping_s(scope, axes) - scope.micromanager.call_timeout_s
        case "measure_frame" | "frame_shift":
            return MEASURING_S
        case "rearm" | "reclaim":
            return LOADING_S  # they may load everything
        case "lights_off":
            return float(len(scope.lights))
        case _:
            return 0.0
