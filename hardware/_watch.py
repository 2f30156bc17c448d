"""What the hardware process watches over itself: adapters that hang.

A call into an adapter can't be interrupted. One that overstays its allowance costs the process: lights and motion are
switched off on the adapters that answer, the caller is told, and the process ends hard, to be started again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..config import Scope
from ._deadlines import travel_s
from ._errors import HardwareTimeout
from ._mmcore import Core

log = logging.getLogger("queuescope.hardware")

TICK_S = 0.05

_LOADING = frozenset({"loadSystemConfiguration", "unloadAllDevices"})
"""Take as long as they take: homing stages, controllers that answer slowly."""
_EXPOSING = frozenset({"snapImage", "getImage", "popNextImage", "waitForImageSynchro"})
_MOVING = frozenset(
    {"setPosition", "setXYPosition", "setGalvoPosition", "setRelativePosition", "home", "fullFocus", "incrementalFocus"}
)
"""With some adapters these return only when the axis has arrived."""
_ALLOCATING = frozenset({"setCircularBufferMemoryFootprint", "clearCircularBuffer"})
"""MMCore touches every page of its buffer."""
SLOWEST_MEMORY_MB_S = 25.0
"""Pages come from a busy system at least at this speed (a virtual machine under load was seen to give 80)."""


def hung(core: Core, scope: Scope) -> tuple[int, HardwareTimeout] | None:
    """The thread and the device of a call into an adapter that overstays its allowance, or None."""
    now = time.monotonic()
    for thread, (thing, function, since) in list(core.asking.items()):
        name = getattr(function, "__name__", "call")
        limit_s = call_limit_s(scope, name, thing)
        if limit_s is not None and now - since > limit_s:
            return thread, HardwareTimeout(
                f"{thing}: {name} has not returned for {now - since:.1f} s (its limit is {limit_s:g} s: scope file,"
                " micromanager.call_timeout_s, and exposure, travel or buffer): its adapter hangs, the hardware process ends and"
                " is started again",
                thing=thing,
                value=name,
                limit=limit_s,
            )
    return None


def call_limit_s(scope: Scope, function: str, thing: str = "") -> float | None:
    """How long MMCore may take for this function of the device ``thing``; None where that is not limited.

    A move may take the travel of its device's axes; one of a device without axes (an autofocus), that of the longest of all.
    """
    if function in _LOADING:
        return None
    limit_s = scope.micromanager.call_timeout_s
    if function in _EXPOSING:
        limit_s += max((camera.exposure_ms[1] for camera in scope.of_kind("camera").values()), default=0.0) / 1000
    if function in _MOVING:
        axes = scope.axes().values()
        limit_s += travel_s([axis for axis in axes if axis.device == thing.partition(".")[0]] or axes)
    if function in _ALLOCATING:
        limit_s += scope.micromanager.buffer_mb / SLOWEST_MEMORY_MB_S
    return limit_s


def watch(stopping: threading.Event, look: Callable[[], None], tick_s: float = TICK_S) -> None:
    """Look every ``tick_s`` until ``stopping``; what it raises is logged and it looks again."""
    while not stopping.wait(tick_s):
        try:
            look()
        except Exception:
            log.exception("watching over the hardware failed")
