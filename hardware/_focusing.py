"""Autofocus: focusing once, and the focus lock. Both move a stage past everything that checks moves, so both are held here.

The scope says which stage an autofocus moves. Before it may, that stage's position must be known, its reference good, and
everything that it could reach allowed by the envelope; afterwards, and five times a second while the lock is engaged, the
stage is read back. Outside, the lock is released and the stage is led back by an ordinary, checked move; where that can't be
its reference is lost, and a person must look. While the lock is engaged the stage is moved by nobody else (`FocusLockError`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ..config import Autofocus, Scope
from ._axes import Axes
from ._errors import (
    DeviceError,
    FocusError,
    FocusLockError,
    HardwareError,
    LimitError,
    NotAllowedError,
    ReadbackError,
    UnknownNameError,
)
from ._mmcore import Core, Deadline
from ._safety import Safety
from ._surface import FocusState

log = logging.getLogger("queuescope.hardware")

WATCH_S = 0.2
"""How often a stage that a focus lock leads is read."""

FAILURES = 3
"""So many readings in a row may fail before the lock is released."""


@dataclass
class _Led:
    """A focus lock that is engaged: whose stage it leads, from where, and how far it may."""

    name: str
    axis: str
    start: float
    low: float
    high: float
    over: threading.Event = field(default_factory=threading.Event)
    why: str | None = None
    """Why it ended, where nobody asked for that."""


class Focusing:
    """The scope's autofocus, where it has one."""

    def __init__(
        self,
        core: Core,
        scope: Scope,
        axes: Axes,
        safety: Safety,
        publish: Callable[[str, float], object],
        tell: Callable[[str, bool], object],
        interrupt: Callable[[str, tuple[str, ...]], object],
    ) -> None:
        """Releases a lock that an earlier process left engaged. Where that fails its stage is moved by nobody.

        Parameters
        ----------
        publish
            Told the axis and its position while a lock leads it.
        tell
            Told the autofocus and whether it is locked.
        interrupt
            Told why, and which axes it leads, when a lock goes astray: ends a volume that moves them.
        """
        self._core, self._axes, self._safety = core, axes, safety
        self._publish, self._tell, self._interrupt = publish, tell, interrupt
        self._parts: dict[str, Autofocus] = scope.of_kind("autofocus")
        self._one = threading.RLock()
        """One focusing at a time; held while the lock is engaged or released, not while it holds."""
        self._led: dict[str, _Led] = {}
        self._ended: dict[str, str] = {}
        for name, part in self._parts.items():
            axes.led_by(part.axis, name, partial(self._enabled, name))
        release_first(core, scope)

    # ------------------------------------------------------------------ what is asked

    def state(self, name: str) -> FocusState:
        """As the adapter says now."""
        part = self._known(name)
        enabled = self._enabled(name)
        locked = enabled and bool(self._ask(name, self._core.mm.isContinuousFocusLocked))
        offset = None if part.offset is None else self._offset(name)
        return FocusState(enabled=enabled, locked=locked, offset=offset, axis=part.axis, ended=self._ended.get(name))

    def read_all(self) -> tuple[dict[str, FocusState], dict[str, str]]:
        """The state of each, and by device why one can't be read."""
        found: dict[str, FocusState] = {}
        errors: dict[str, str] = {}
        for name in self._parts:
            try:
                found[name] = self.state(name)
            except HardwareError as error:
                errors[name] = str(error)
        return found, errors

    def once(self, name: str, how: Literal["full", "incremental"]) -> dict[str, float]:
        """Focus once; returns where the stage stands then, by axis. See `Hardware.focus`."""
        part = self._known(name)
        with self._one, self._axes.held(part.axis):
            if self._enabled(name):
                raise FocusLockError(
                    f"{name} keeps {part.axis} in focus already: its lock is engaged; release it first (lock_focus)",
                    thing=name,
                    value=part.axis,
                )
            led = self._may_lead(name, part)
            self._safety.permit_motion()
            self._axes.references.forget([part.axis])
            failed: HardwareError | None = None
            try:
                self._ask(name, self._core.mm.fullFocus if how == "full" else self._core.mm.incrementalFocus)
                self._core.wait(name, part.label)
            except HardwareError as error:
                failed = error
            here = self._settle(led)
            if failed is not None:
                raise failed
            self._safety.permit_motion()
            return {part.axis: here}

    def lock(self, name: str, offset: float | None) -> FocusState:
        """Engage the focus lock, or set the offset of one that is; see `Hardware.lock_focus`."""
        part = self._known(name)
        self._check_offset(name, part, offset)
        with self._one, self._axes.held(part.axis):
            led = self._led.get(name)
            if led is None or led.over.is_set() or not self._enabled(name):
                self._safety.permit_lock()
                led = self._may_lead(name, part)
                self._axes.references.forget([part.axis])
            if offset is not None:
                self._set_offset(name, part, offset)
            self._engage(led)
            deadline = Deadline(part.lock_s)
            while not (self._enabled(name) and self._ask(name, self._core.mm.isContinuousFocusLocked)):
                if led.over.is_set() or deadline.passed:
                    why = led.why or f"{name} did not lock within {part.lock_s:g} s (scope file: devices.{name}.lock_s)"
                    self.release_at_once(name)
                    if self._led.pop(name, None) is led:
                        self._settle(led)
                    raise FocusError(f"{why}; its lock is released", thing=name, value=led.axis, limit=part.lock_s)
                time.sleep(0.02)
            return self._told(name)

    def release(self, name: str) -> FocusState:
        """Release the focus lock and read the stage back; see `Hardware.lock_focus`."""
        part = self._known(name)
        self.release_at_once(name)
        with self._one, self._axes.held(part.axis):
            led = self._led.pop(name, None)
            if led is not None:
                self._settle(led)
            return self._told(name)

    def _told(self, name: str) -> FocusState:
        state = self.state(name)
        self._tell(name, state.locked)
        return state

    # ------------------------------------------------------------------ releasing, whoever holds what

    def release_at_once(self, name: str) -> None:
        """Release the lock; takes no lock of ours.

        Raises
        ------
        ReadbackError, DeviceError
            Where it may still be engaged.
        """
        led = self._led.get(name)
        if led is not None:
            led.over.set()
        release_at_once(self._core, name, self._parts[name].label)
        self._tell(name, False)

    def release_steps(self) -> dict[str, Callable[[], None]]:
        """`release_at_once` of each, by name."""
        return {name: partial(self.release_at_once, name) for name in self._parts}

    def release_all(self, axes: tuple[str, ...] | None = None) -> None:
        """Release the locks that lead these axes, or all; one that fails keeps none from being tried."""
        failed = []
        for name, part in self._parts.items():
            if axes is None or part.axis in axes:
                try:
                    self.release_at_once(name)
                except HardwareError as error:
                    failed.append(str(error))
        if failed:
            raise DeviceError("; ".join(failed), thing="focus lock")

    # ------------------------------------------------------------------ what is checked

    def _may_lead(self, name: str, part: Autofocus) -> _Led:
        """From where, and how far, the stage may be moved now.

        Raises
        ------
        HardwareError
            Where its position isn't known, is out of its limits, or not everything in reach is allowed.
        """
        self._ended.pop(name, None)
        start, low, high = self._axes.may_be_led(part.axis, part.reach)
        return _Led(name, part.axis, start, low, high)

    def _settle(self, led: _Led) -> float:
        """Where the stage stands when it is no longer led: inside, or led back, or lost.

        Raises
        ------
        FocusError
            Where it was outside.
        """
        axis = self._axes.axis(led.axis)
        try:
            self._core.wait(axis.device, axis.label)
            here = self._axes.read((led.axis,))[led.axis]
        except HardwareError as error:
            self._axes.references.lose(led.axis, None, f"was moved by {led.name} and could not be read then: {error}")
            raise
        if led.low - axis.tolerance <= here <= led.high + axis.tolerance:
            self._axes.references.arrived({led.axis: here})
            self._publish(led.axis, here)
            return here
        where = f"to {here:g} {axis.units}, outside [{led.low:g}, {led.high:g}]"
        why = f"{led.name} took {led.axis} {where}"
        self._ended[led.name] = why
        fields = {"thing": led.axis, "value": here, "limit": [led.low, led.high]}
        try:
            self.release_at_once(led.name)
            back = self._axes.move({led.axis: led.start})[led.axis]
        except HardwareError as error:
            self._axes.references.lose(led.axis, here, f"was taken {where} by {led.name}")
            raise FocusError(
                f"{why}; it could not be led back ({error}): it is locked until a person has checked it (queuescope"
                f" confirm {led.axis})",
                **fields,
            ) from error
        self._publish(led.axis, back)
        raise FocusError(f"{why}; its lock is released and it was moved back to {back:g}", **fields)

    # ------------------------------------------------------------------ the lock

    def _engage(self, led: _Led) -> None:
        self._ask(led.name, self._core.mm.enableContinuousFocus, True)
        if self._led.get(led.name) is not led:
            self._led[led.name] = led
            threading.Thread(target=self._watch, args=(led,), name="focus-lock", daemon=True).start()
        try:
            self._safety.permit_lock()
        except HardwareError:  # a halt meanwhile may have released it before it was engaged
            self.release_at_once(led.name)
            raise

    def _watch(self, led: _Led) -> None:
        """Until the lock is over: does the stage stay where it may be?"""
        failures = 0
        while not led.over.wait(WATCH_S):
            try:
                here = self._axes.read((led.axis,))[led.axis]
                enabled = self._enabled(led.name)
                locked = enabled and bool(self._ask(led.name, self._core.mm.isContinuousFocusLocked))
                failures = 0
            except HardwareError as error:
                failures += 1
                if failures < FAILURES:
                    continue
                return self._astray(led, f"{led.axis} can't be read: {error}")
            if led.over.is_set():
                return None
            self._publish(led.axis, here)
            self._tell(led.name, locked)
            if not enabled:
                return self._astray(led, f"{led.name} released its lock by itself, or somebody at the microscope did")
            tolerance = self._axes.axis(led.axis).tolerance
            if not led.low - tolerance <= here <= led.high + tolerance:
                return self._astray(led, f"{led.name} led {led.axis} to {here:g}, outside [{led.low:g}, {led.high:g}]")
        return None

    def _astray(self, led: _Led, why: str) -> None:
        """The lock is released at once; then whoever needs the stage is told, and it is led back where it must be."""
        led.why = self._ended[led.name] = why
        log.error("focus lock: %s", why)
        try:
            self.release_at_once(led.name)
        except HardwareError as error:
            log.error("%s", error)
            self._ended[led.name] = f"{why}; {error}"
        self._interrupt(why, (led.axis,))
        try:
            with self._one, self._axes.held(led.axis):
                if self._led.get(led.name) is led:
                    del self._led[led.name]
                    self._settle(led)
        except HardwareError as error:
            log.error("focus lock: %s", error)
            self._ended[led.name] = str(error)

    # ------------------------------------------------------------------ the adapter

    def _known(self, name: str) -> Autofocus:
        if name not in self._parts:
            known = sorted(self._parts)
            raise UnknownNameError(
                f"{name!r} is no autofocus; there are {known}", thing="autofocus", value=name, known=known
            )
        return self._parts[name]

    def _ask(self, name: str, function: Callable[..., object], *args: object) -> object:
        choose(self._core, name, self._parts[name].label)
        return self._core.ask(name, function, *args)

    def _enabled(self, name: str) -> bool:
        return bool(self._ask(name, self._core.mm.isContinuousFocusEnabled))

    def _offset(self, name: str) -> float:
        choose(self._core, name, self._parts[name].label)
        offset = float(self._core.ask(name, self._core.mm.getAutoFocusOffset))
        if not math.isfinite(offset):
            raise DeviceError(f"{name}: its offset reads {offset}, which is no finite number", thing=name)
        return offset

    @staticmethod
    def _check_offset(name: str, part: Autofocus, offset: float | None) -> None:
        if offset is None:
            return
        if part.offset is None:
            raise NotAllowedError(
                f"{name} has no offset to set: devices.{name}.offset states no limits", thing=name, value=offset
            )
        low, high = part.offset
        if not math.isfinite(offset) or not low <= offset <= high:
            raise LimitError(
                f"{name} offset {offset} {part.offset_units} is outside [{low:g}, {high:g}] (scope file:"
                f" devices.{name}.offset)",
                thing=name,
                value=offset if math.isfinite(offset) else repr(offset),
                limit=[low, high],
            )

    def _set_offset(self, name: str, part: Autofocus, offset: float) -> None:
        self._ask(name, self._core.mm.setAutoFocusOffset, float(offset))
        self._core.wait(name, part.label)
        got = self._offset(name)
        limits = part.offset or (0.0, 0.0)
        limit = 1e-2 * (limits[1] - limits[0])
        if abs(got - offset) > limit:
            raise ReadbackError(
                f"{name}: its offset was set to {offset:g} and reads {got:g} (tolerance {limit:g})",
                thing=name,
                value=offset,
                got=got,
                limit=limit,
            )


def release_first(core: Core, scope: Scope) -> None:
    """After a process that died, before everything is loaded: release a lock that it left. Never raises."""
    for name, part in scope.of_kind("autofocus").items():
        if part.label in core.mm.getLoadedDevices():
            try:
                release_at_once(core, name, part.label)
            except HardwareError as error:
                log.error("%s", error)


def choose(core: Core, name: str, label: str) -> None:
    """MMCore asks its current autofocus only; a scope has one, but a preset may have chosen another."""
    if core.mm.getAutoFocusDevice() != label:
        core.ask(name, core.mm.setAutoFocusDevice, label)


def release_at_once(core: Core, name: str, label: str) -> None:
    """Release a focus lock and read back that it is.

    Raises
    ------
    ReadbackError, DeviceError
        Where it may still be engaged.
    """
    refused: DeviceError | None = None
    try:
        choose(core, name, label)
        try:
            core.ask(name, core.mm.enableContinuousFocus, False)
        except DeviceError as error:  # one that isn't engaged may refuse to be released
            refused = error
        engaged = bool(core.ask(name, core.mm.isContinuousFocusEnabled))
    except DeviceError as error:
        raise DeviceError(f"the focus lock of {name} may still be ENGAGED: {error}", thing=name) from error
    if engaged:
        raise ReadbackError(
            f"the focus lock of {name} is still ENGAGED: {refused or 'it was released and reads engaged'}",
            thing=name,
            value=False,
            got=True,
            limit=0,
        )
