"""Axes: stages, XY stages and galvos, each component an axis with limits of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from ..config import Axis, Scope
from ._deadlines import travel_s
from ._errors import DeviceError, HardwareError, HardwareTimeout, LimitError, ReadbackError, UnknownNameError
from ._mmcore import Core, Deadline

MICROMETRES = {"um": 1.0, "mm": 1000.0, "deg": 1.0}
"""MMCore's stage unit (µm, or whatever the device counts) for one of the scope's units."""

SETTLE_S = 1.0
"""A controller may report idle before its position has settled: the readback is asked again for this long."""


class _Drive:
    """One physical device: one axis, or an x and a y that are moved by one call."""

    def __init__(self, core: Core, axes: tuple[Axis, ...], kind: str) -> None:
        self.core, self.axes, self.kind = core, axes, kind
        self.name, self.label = axes[0].device, axes[0].label
        self.lock = threading.RLock()
        self.stops = 0
        self._aim: tuple[float, ...] | None = None

    def read(self) -> tuple[float, ...]:
        """Positions of its axes, in the scope's units."""
        mm = self.core.mm
        if self.kind == "stage":
            found = (self.core.ask(self.name, mm.getPosition, self.label),)
        else:
            ask = mm.getXYPosition if self.kind == "xy_stage" else mm.getGalvoPosition
            found = tuple(self.core.ask(self.name, ask, self.label))
        positions = tuple(float(p) / MICROMETRES[a.units] + 0.0 for p, a in zip(found, self.axes, strict=True))
        if not all(math.isfinite(p) for p in positions):
            raise DeviceError(f"{self.name} ({self.label}) reads {positions}, which is not finite", thing=self.name)
        return positions

    def send(self, targets: Mapping[str, float], deadline: Deadline) -> None:
        """Start a move. A component without a target keeps its last one while it is still there: a stage that rounds
        down would otherwise creep with every move of the other component.
        """
        self.core.wait(self.name, self.label, deadline)
        aim = tuple(targets.get(axis.name, math.nan) for axis in self.axes)
        if any(math.isnan(a) for a in aim):
            here = self.read()
            aim = tuple(self._kept(i, here[i]) if math.isnan(a) else a for i, a in enumerate(aim))
        raw = [a * MICROMETRES[axis.units] for a, axis in zip(aim, self.axes, strict=True)]
        mm = self.core.mm
        if self.kind == "stage":
            self.core.ask(self.name, mm.setPosition, self.label, *raw)
        elif self.kind == "xy_stage":
            self.core.ask(self.name, mm.setXYPosition, self.label, *raw)
        else:
            self.core.ask(self.name, mm.setGalvoPosition, self.label, *raw)
        self._aim = aim

    def _kept(self, component: int, here: float) -> float:
        if self._aim is not None and abs(self._aim[component] - here) <= self.axes[component].tolerance:
            return self._aim[component]
        return here

    def arrive(self, targets: Mapping[str, float], stops: int, deadline: Deadline) -> dict[str, float]:
        """Wait for the move and return the readbacks of the axes that had a target."""
        try:
            self.core.wait(self.name, self.label, deadline)
        except HardwareTimeout:
            self.stop()
            raise
        settled = Deadline(SETTLE_S)
        while True:
            got = dict(zip((axis.name for axis in self.axes), self.read(), strict=True))
            missed = [a for a in self.axes if a.name in targets and abs(got[a.name] - targets[a.name]) > a.tolerance]
            if not missed:
                return {name: got[name] for name in targets}
            if self.stops != stops or settled.passed:
                axis = missed[0]
                why = "was stopped" if self.stops != stops else "stands"
                raise ReadbackError(
                    f"{axis.name} {why} at {got[axis.name]:g} {axis.units} on its way to {targets[axis.name]:g}"
                    f" (tolerance {axis.tolerance:g}, devices.{axis.device}.tolerance)",
                    thing=axis.name,
                    value=targets[axis.name],
                    got=got[axis.name],
                    limit=axis.tolerance,
                )
            time.sleep(0.005)

    def stop(self) -> None:
        self.stops += 1
        self._aim = None
        if self.kind != "galvo":  # a galvo has arrived when its call returns, and MMCore has no stop for it
            self.core.ask(self.name, self.core.mm.stop, self.label)


class Axes:
    """All axes of the scope, by name."""

    def __init__(self, core: Core, scope: Scope) -> None:
        self._core = core
        self.by_name = scope.axes()
        self._drives: dict[str, _Drive] = {}
        for device, part in scope.of_kind("stage", "xy_stage", "galvo").items():
            own = tuple(axis for axis in self.by_name.values() if axis.device == device)
            self._drives[device] = _Drive(core, own, part.kind)

    def axis(self, name: str) -> Axis:
        """The axis of this name.

        Raises
        ------
        UnknownNameError
            Where there is none.
        """
        if name not in self.by_name:
            known = sorted(self.by_name)
            raise UnknownNameError(f"{name!r} is none of the axes {known}", thing="axis", value=name, known=known)
        return self.by_name[name]

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """Positions of these axes; a failed read raises."""
        wanted = [self.axis(name) for name in names]
        found: dict[str, float] = {}
        for device in dict.fromkeys(axis.device for axis in wanted):
            drive = self._drives[device]
            found.update(zip((axis.name for axis in drive.axes), drive.read(), strict=True))
        return {axis.name: found[axis.name] for axis in wanted}

    def read_all(self) -> tuple[dict[str, float], dict[str, str]]:
        """Positions of every axis that can be read, and by device why the others can't."""
        found: dict[str, float] = {}
        errors: dict[str, str] = {}
        for device, drive in self._drives.items():
            try:
                found.update(zip((axis.name for axis in drive.axes), drive.read(), strict=True))
            except HardwareError as error:
                errors[device] = str(error)
        return found, errors

    def check(self, name: str, target: float) -> float:
        """The target, if this axis may go there.

        Raises
        ------
        LimitError
            Where it is not finite or outside the axis's limits.
        """
        axis = self.axis(name)
        low, high = axis.limits
        if not math.isfinite(target) or not low <= target <= high:
            is_where = "outside" if math.isfinite(target) else "not a finite number, let alone inside"
            raise LimitError(
                f"{name} {target} {axis.units} is {is_where} [{low:g}, {high:g}] (scope file: {axis.source})",
                thing=name,
                value=target if math.isfinite(target) else repr(target),
                limit=[low, high],
            )
        return float(target)

    def move(self, targets: Mapping[str, float]) -> dict[str, float]:
        """Move axes together, wait for all, return the readbacks. Nothing moves unless every target passes."""
        checked = {name: self.check(name, target) for name, target in targets.items()}
        devices = sorted({self.by_name[name].device for name in checked})
        with ExitStack() as held:
            for device in devices:
                held.enter_context(self._drives[device].lock)
            deadline = self._core.deadline(travel_s(self.by_name[name] for name in checked))
            stops = {device: self._drives[device].stops for device in devices}
            parts = {d: {n: t for n, t in checked.items() if self.by_name[n].device == d} for d in devices}
            for device in devices:
                self._drives[device].send(parts[device], deadline)
            arrived: dict[str, float] = {}
            for device in devices:
                arrived.update(self._drives[device].arrive(parts[device], stops[device], deadline))
        return {name: arrived[name] for name in checked}

    def stop(self, names: Iterable[str] | None) -> None:
        """Stop these axes (with their devices' other components), or all; one failure keeps none from being tried."""
        devices = list(self._drives) if names is None else list(dict.fromkeys(self.axis(n).device for n in names))
        failed = []
        for device in devices:
            try:
                self._drives[device].stop()
            except HardwareError as error:
                failed.append(str(error))
        if failed:
            raise DeviceError(f"not everything could be stopped: {'; '.join(failed)}", thing="stop")
