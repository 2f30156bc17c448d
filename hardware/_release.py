"""Handing cameras and ports to the Micro-Manager GUI and taking them back (R5.7). Neither moves anything.

Released, this process stays and answers every call with `ReleasedError`; MMCore has no device loaded, so that another program
can open the ports. That is kept in the data directory: whatever becomes of the process, its successor loads nothing either,
until somebody reclaims.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config import Scope
from ..layout import Layout
from ._errors import ArgumentError, BusyError, DeviceError, HardwareError, ReleasedError
from ._latch import LatchFile, log_safety
from ._mmcore import Core
from ._safety_state import Latch

if TYPE_CHECKING:
    from ._axes import Axes
    from ._lights import Lights
    from ._recorder import Recorder
    from ._surface import LightOff

log = logging.getLogger("queuescope.hardware")

QUIET_S = 2.0
"""Calls into adapters that are under way when the microscope is released get so long to return."""


class Released:
    """Whether the microscope is somebody else's now."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._file = layout, LatchFile.released(layout)
        self.latch = self._file.read()

    def error(self) -> ReleasedError:
        """What every call answers meanwhile."""
        latch = self.latch or Latch(by="unknown", reason="no reason given", at=time.time())
        return ReleasedError(
            f"released by {latch.by} at {latch.clock} ({latch.reason}): queuescope reclaim takes it back",
            thing="hardware",
            by=latch.by,
            reason=latch.reason,
            at=latch.at,
        )

    def refuse(self) -> None:
        """Raises `ReleasedError`."""
        raise self.error()

    def begin(self, latch: Latch) -> None:
        """On disk first: a process that dies from here on leaves the microscope released.

        Raises
        ------
        DeviceError
            Where it can't be written.
        """
        try:
            self._file.write(latch)
            self._file.make_durable()
        except OSError as error:
            raise DeviceError(f"not released: {self._file.path} can't be written: {error}", thing="release") from error
        self.latch = latch
        log_safety(self._layout, "release", by=latch.by, reason=latch.reason)

    def end(self, by: str, event: str = "reclaim") -> None:
        self._file.clear()
        self.latch = None
        log_safety(self._layout, event, by=by)


def check_person(call: str, by: str) -> None:
    """Raises `ArgumentError` where nobody is named."""
    if not by.strip():
        raise ArgumentError(f"{call}.by is empty: say who does", thing=f"{call}.by", value=by)


def refuse_busy(recorder: Recorder, axes: Axes) -> None:
    """Raises `BusyError` while a recording is open or an axis moves."""
    runs = recorder.open_runs()
    if runs:
        raise BusyError(f"release: run {runs[0]} is being recorded: wait for its end, or cancel it", thing=runs[0])
    moving = axes.moving()
    if moving:
        raise BusyError(f"release: {moving[0]} is moving: wait for it, or stop it", thing=moving[0])


def darken(lights: Lights) -> None:
    """Every gate closed and every emission off, or nothing is released.

    Raises
    ------
    DeviceError
        Naming what could not be switched off.
    """
    burning = [off for off in lights.all_off(emission=True) if not off.off]
    if burning:
        told = "; ".join(f"{off.light}: {off.error}" for off in burning)
        raise DeviceError(f"not released: lights could not be switched off: {told}", thing=burning[0].light)


def let_focus_go(core: Core) -> None:
    """MMCore's own continuous focus, where something switched it on; moves nothing."""
    if core.mm.getAutoFocusDevice() and core.ask("focus lock", core.mm.isContinuousFocusEnabled):
        core.ask("focus lock", core.mm.enableContinuousFocus, False)


def wait_quiet(core: Core) -> None:
    """Until no thread is inside an adapter.

    Raises
    ------
    BusyError
        Naming what still is, after `QUIET_S`.
    """
    deadline = time.monotonic() + QUIET_S
    while core.asking:
        if time.monotonic() > deadline:
            thing = next(iter(core.asking.values()), ("", None, 0.0))[0]
            raise BusyError(f"release: {thing} is still busy after {QUIET_S:g} s", thing=thing, limit=QUIET_S)
        time.sleep(0.005)


def movers(scope: Scope) -> str | None:
    """Why loading must wait for a person, or None."""
    names = [name for name, device in scope.devices.items() if device.moves_on_init]
    return f"reclaimed, and loading moves {', '.join(names)} (moves_on_init)" if names else None


def not_ours(scope: Scope, error: HardwareError) -> tuple[LightOff, ...]:
    """What `lights_off` tells of lights that this process can't reach."""
    from ._surface import LightOff, Verification

    return tuple(LightOff(light=name, off=False, state=Verification.ASSUMED, error=str(error)) for name in scope.lights)


def in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="reclaim", daemon=True).start()
