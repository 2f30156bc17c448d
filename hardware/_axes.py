"""Axes: stages, XY stages and galvos, each component an axis with limits of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from ..config import Axis, Scope
from ._deadlines import travel_s
from ._envelope import Envelope
from ._errors import DeviceError, FocusLockError, HardwareError, HardwareTimeout, ReadbackError
from ._mmcore import Core, Deadline
from ._references import References

MICROMETRES = {"um": 1.0, "mm": 1000.0, "deg": 1.0}
"""MMCore's stage unit (µm, or whatever the device counts) for one of the scope's units."""

SETTLE_S = 1.0
"""A controller may report idle before its position has settled: the readback is asked again for this long."""


class _Drive:
    """One physical device: one axis, or an x and a y that are moved by one call."""

    def __init__(
        self, core: Core, axes: tuple[Axis, ...], kind: str, permit: Callable[[], None], references: References
    ) -> None:
        self.core, self.axes, self.kind, self._permit, self._references = core, axes, kind, permit, references
        self.name, self.label = axes[0].device, axes[0].label
        self.lock = threading.RLock()
        self.stops = 0
        self.moving = False
        """A move is under way."""
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
        self._permit()
        self.moving = True
        if self.kind == "stage":
            self.core.ask(self.name, mm.setPosition, self.label, *raw)
        elif self.kind == "xy_stage":
            self.core.ask(self.name, mm.setXYPosition, self.label, *raw)
        else:
            self.core.ask(self.name, mm.setGalvoPosition, self.label, *raw)
        self._aim = aim
        try:
            self._permit()
        except HardwareError:  # a halt meanwhile may have stopped it before it moved
            self.stop()
            raise

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
        if self.moving:
            self._references.forget(axis.name for axis in self.axes)
        if self.kind != "galvo":  # a galvo has arrived when its call returns, and MMCore has no stop for it
            self.core.ask(self.name, self.core.mm.stop, self.label)


class Axes:
    """All axes of the scope, by name."""

    def __init__(
        self, core: Core, scope: Scope, references: References, permit: Callable[[], None] = lambda: None
    ) -> None:
        """``permit`` raises while nothing may move; it is asked before and after a move is started."""
        self._core, self.permit = core, permit
        self.by_name = scope.axes()
        self.envelope, self.references = Envelope(scope), references
        self._turret = next(iter(scope.of_kind("objective").items()), None)
        self._anchor: Mapping[str, float] | None = None
        self._together = threading.RLock()
        """Held by moves whose limits depend on what else moves: one at a time."""
        self._led: dict[str, tuple[str, Callable[[], bool]]] = {}
        """By axis: the autofocus that may lead it, and whether its lock is engaged now."""
        self._drives: dict[str, _Drive] = {}
        for device, part in scope.of_kind("stage", "xy_stage", "galvo").items():
            own = tuple(axis for axis in self.by_name.values() if axis.device == device)
            self._drives[device] = _Drive(core, own, part.kind, permit, references)
        homed = {axis.name for axis in self.by_name.values() if scope.devices[axis.device].moves_on_init}
        references.compare_start(self.read_all()[0], homed)

    def close(self) -> None:
        """Nothing is expected of the axes' positions any more."""
        self.references.close()

    def axis(self, name: str) -> Axis:
        """The axis of this name; `UnknownNameError` where there is none."""
        return self.envelope.axis(name)

    def read(self, names: Iterable[str]) -> dict[str, float]:
        """Positions of these axes; a failed read raises."""
        wanted = [self.axis(name) for name in names]
        found: dict[str, float] = {}
        for device in dict.fromkeys(axis.device for axis in wanted):
            drive = self._drives[device]
            found.update(zip((axis.name for axis in drive.axes), drive.read(), strict=True))
        return {axis.name: found[axis.name] for axis in wanted}

    def glance(self, device: str, tell: Callable[[str, float], object]) -> None:
        """Tell the positions of a device's axes if nobody moves it now; it can't move before they are told."""
        drive = self._drives[device]
        if not drive.lock.acquire(blocking=False):
            return
        try:
            for axis, position in zip(drive.axes, drive.read(), strict=True):
                tell(axis.name, position)
        finally:
            drive.lock.release()

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

    def resting(self, moved: Iterable[str]) -> dict[str, float]:
        """Where the other axes stand, as far as they can be read, but for those that a focus lock leads now."""
        found, _ = self.read_all()
        led = {axis for axis, (_, engaged) in self._led.items() if axis in found and engaged()}
        return {axis: at for axis, at in found.items() if axis not in led.union(moved)}

    def moving(self) -> list[str]:
        """Devices that a move of ours is under way for."""
        return [device for device, drive in self._drives.items() if drive.moving]

    def check(self, name: str, target: float) -> float:
        """The target, if this axis may go there; `LimitError` where it is not finite or outside the axis's limits."""
        return self.envelope.check_target(name, target, self._objective((name,)))

    def check_sequence(self, steps: Sequence[Mapping[str, float]], back: bool = False) -> None:
        """Moves that will follow each other, all of them before the first; ``back``: and then to where they began."""
        moved = {name for targets in steps for name in targets}
        for targets in steps:
            for name, target in targets.items():
                self.check(name, target)
        with self._alone(moved):
            here = self._here(moved)
            steps = [*steps, {name: here[name] for name in moved}] if back else steps
            self.envelope.check_sequence(here, steps, self._objective(moved), self._anchor)

    def move(self, targets: Mapping[str, float]) -> dict[str, float]:
        """Move axes together, wait for all, return the readbacks. Nothing moves unless every target passes."""
        objective = self._objective(targets)
        checked = {name: self.envelope.check_target(name, target, objective) for name, target in targets.items()}
        devices = sorted({self.by_name[name].device for name in checked})
        with ExitStack() as held:
            held.enter_context(self._alone(checked))
            for device in devices:
                held.enter_context(self._drives[device].lock)
            here = self._here(checked, needed=False)
            self.envelope.check_move(here, checked, self._objective(checked), self._anchor)
            self._anchor = self.envelope.anchor_after(here, checked, self._anchor)
            deadline = self._core.deadline(travel_s(self.by_name[name] for name in checked))
            stops = {device: self._drives[device].stops for device in devices}
            parts = {d: {n: t for n, t in checked.items() if self.by_name[n].device == d} for d in devices}
            self.references.leaving(here, checked)
            try:
                for device in devices:
                    self._drives[device].send(parts[device], deadline)
                arrived: dict[str, float] = {}
                for device in devices:
                    arrived.update(self._drives[device].arrive(parts[device], stops[device], deadline))
                self.references.arrived(arrived)
            finally:
                for device in devices:
                    self._drives[device].moving = False
        return {name: arrived[name] for name in checked}

    def led_by(self, name: str, autofocus: str, engaged: Callable[[], bool]) -> None:
        """This axis is moved by an autofocus while ``engaged()``: then by nobody else, and no objective turret turns."""
        self._led[self.axis(name).name] = autofocus, engaged

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Nobody else moves this axis meanwhile, nor what its limits depend on."""
        with self._alone([name]), self._drives[self.axis(name).device].lock:
            yield

    def may_be_led(self, name: str, reach: float | None) -> tuple[float, float, float]:
        """Where this axis stands, and the lowest and highest position that something else may move it to from there.

        Raises
        ------
        LimitError, CollisionError, ReferenceLostError
            Where it stands outside its limits, not everything in reach is allowed, or its reference is lost.
        """
        objective = self._objective([name])
        here = self._here([name], led=True)
        low, high = self.envelope.limits(name, objective)
        start, tolerance = here[name], self.axis(name).tolerance
        self.envelope.check_target(
            name, min(max(start, low), high) if low - tolerance <= start <= high + tolerance else start
        )
        if reach is not None:
            low, high = max(low, start - reach), min(high, start + reach)
        anchor = self._anchor
        for end in (low, high):
            self.envelope.check_move(here, {name: end}, objective, anchor)
            anchor = self.envelope.anchor_after(here, {name: end}, anchor)
        self._anchor = anchor
        return start, low, high

    def _refuse_led(self, moving: set[str]) -> None:
        for axis, (autofocus, engaged) in self._led.items():
            if (axis in moving or self.envelope.share_a_box(axis, moving)) and engaged():
                moved = axis if axis in moving else sorted(moving)[0]
                raise FocusLockError(
                    f"{moved} can't be moved while the focus lock {autofocus} is engaged, which moves {axis}: release it"
                    " first (lock_focus)",
                    thing=moved,
                    value=autofocus,
                )

    def _here(self, moving: Iterable[str], needed: bool = True, led: bool = False) -> dict[str, float]:
        """Positions that the envelope and the references ask for before these axes move (``needed``: and their own).

        Raises
        ------
        ReferenceLostError
            Where one of them can't be trusted.
        FocusLockError
            Where a focus lock moves one of them, or one that these could meet (``led``: that is who asks).
        """
        moving = set(moving)
        if not led:
            self._refuse_led(moving)
        asked = self.envelope.asks_positions(moving, self._anchor is not None)
        if needed:
            asked |= moving
        asked |= moving & self.references.watched
        here = self.read(sorted(asked))
        self.references.compare(here)
        self.references.require(moving)
        return here

    def _objective(self, names: Iterable[str]) -> str | None:
        """The objective in place, where the limits of any of these axes depend on it; None: unknown, or it doesn't matter."""
        if self._turret is None or not self.envelope.asks_objective(names):
            return None
        name, turret = self._turret
        return self.envelope.objective_of(self._core.ask(name, self._core.mm.getStateLabel, turret.label))

    @contextmanager
    def _alone(self, names: Iterable[str]) -> Iterator[None]:
        """Where these axes' limits depend on what else moves, nothing else moves meanwhile."""
        names = set(names)
        if not self.envelope.asks_positions(names) and not self.envelope.asks_objective(names):
            yield
            return
        limit_s = self._core.call_timeout_s + travel_s(self.by_name.values())
        if not self._together.acquire(timeout=limit_s):
            raise HardwareTimeout(f"another move has not ended after {limit_s:g} s", thing="move", limit=limit_s)
        try:
            yield
        finally:
            self._together.release()

    @contextmanager
    def turning(self, mm_label: str, label: str) -> Iterator[None]:
        """Hold every axis whose limits depend on it while this device turns to ``label``, if it is the objective turret.

        Raises
        ------
        CollisionError
            Where an axis must be retracted first, or stands where the new objective may not be.
        """
        names = [name for name in self.by_name if self.envelope.asks_objective([name])]
        retracted = self.envelope.retracted
        turns = self._turret is not None and mm_label == self._turret[1].label
        for axis, (autofocus, engaged) in self._led.items():
            if turns and engaged():
                raise FocusLockError(
                    f"the objective turret can't turn while the focus lock {autofocus} moves {axis}: release it first"
                    " (lock_focus)",
                    thing=axis,
                    value=autofocus,
                )
        if not turns or not (names or retracted):
            yield
            return
        with self._alone([*names, *retracted]):
            here = self.read([*names, *retracted])
            self.references.compare(here)
            self.envelope.check_turn(here, label)
            yield

    def confirm_reference(self, name: str, by: str) -> float:
        """A person confirms that this axis reads right; returns its position. See `Hardware.confirm_reference`."""
        here = self.read([self.axis(name).name])[name]
        self.references.confirm(name, here, by)
        return here

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

    def stop_steps(self) -> dict[str, Callable[[], None]]:
        """What stops each device that moves, by name; takes no lock."""
        return {device: drive.stop for device, drive in self._drives.items() if drive.kind != "galvo"}
