"""Lights: gate, power and emission, each in its own step and read back.

A gate is opened for an exposure and closed after it, whatever happened. The emission of a laser is switched on when its
light is first used and left on (cycling it costs warm-up); it goes off for safety only.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ..config import Light, Scope, Switch
from ._errors import DeviceError, HardwareError, LimitError, ReadbackError, UnknownNameError
from ._mmcore import Core, same
from ._surface import LightOff, LightState, Verification

POWER_TOLERANCE = 0.0005
"""Allowed difference of a power's readback, as a share of full scale."""


OFF_S = 2.0
"""Switching off waits no longer than this for a light that doesn't answer."""


class Lights:
    """All lights of the scope, by name."""

    def __init__(self, core: Core, scope: Scope, permit: Callable[[], None] = lambda: None) -> None:
        """``permit`` raises while no light may be on; it is asked before and after a gate is opened."""
        self._core = core
        self._permit = permit
        self._lights = scope.lights
        self._locks = {name: threading.RLock() for name in scope.lights}

    def light(self, name: str) -> Light:
        """The light of this name.

        Raises
        ------
        UnknownNameError
            Where there is none.
        """
        if name not in self._lights:
            known = sorted(self._lights)
            raise UnknownNameError(f"{name!r} is none of the lights {known}", thing="light", value=name, known=known)
        return self._lights[name]

    def check(self, name: str, power_pct: float | None) -> float:
        """The power to be used: the one asked for, or the lowest that the limits allow, in % of full scale.

        Raises
        ------
        LimitError
            Where it is not finite or outside the light's limits.
        """
        low, high = self.light(name).limits_pct
        if power_pct is None:
            return low
        if not math.isfinite(power_pct) or not low <= power_pct <= high:
            raise LimitError(
                f"{name} power {power_pct} % is outside [{low:g}, {high:g}] (scope file: lights.{name}.power.limits_pct)",
                thing=name,
                value=power_pct if math.isfinite(power_pct) else repr(power_pct),
                limit=[low, high],
            )
        return float(power_pct)

    def state(self, name: str) -> LightState:
        """Gate, power and emission as they read now."""
        light = self.light(name)
        return LightState(
            on=self._is_on(name, light.gate),
            power_pct=self._power_pct(name),
            emission=None if light.emission is None else self._is_on(name, light.emission),
            state=self._verification(light),
        )

    def set(self, name: str, on: bool, power_pct: float | None) -> LightState:
        """Open or close a gate; see `Hardware.set_light`."""
        power = self.check(name, power_pct)
        with self._locks[name]:
            if on:
                self._permit()
                self._ready(name, power)
                self._open(name)
            else:
                self._close(name)
                if power_pct is not None:
                    self._set_power(name, power)
            return self.state(name)

    @contextmanager
    def exposing(self, name: str | None, power_pct: float | None) -> Iterator[None]:
        """Hold this light's gate open; None holds none. However the body ends, the gate is closed and read back."""
        if name is None:
            yield
            return
        power = self.check(name, power_pct)
        with self._locks[name]:
            self._permit()
            try:
                self._ready(name, power)
                self._open(name)
                yield
            finally:
                self._close(name)

    def all_off(self, emission: bool) -> tuple[LightOff, ...]:
        """Close every gate. Each light is a step of its own, in a thread of its own: none that fails, nor one that
        hangs, keeps the next from being tried. Never raises.
        """
        outcomes: dict[str, LightOff] = {}

        def switch_off(name: str, light: Light) -> None:
            outcomes[name] = self._off(name, light, emission)

        steps = {
            name: threading.Thread(target=switch_off, args=(name, light), name=f"{name}-off", daemon=True)
            for name, light in self._lights.items()
        }
        for step in steps.values():
            step.start()
        deadline = time.monotonic() + OFF_S
        for step in steps.values():
            step.join(max(0.0, deadline - time.monotonic()))
        return tuple(outcomes.get(name) or _unanswered(name) for name in self._lights)

    def off_at_once(self, name: str) -> None:
        """Gate and emission off and read back, whoever holds the light: takes no lock. The gate's error comes first."""
        light = self._lights[name]
        try:
            self._switch(name, light.gate, False)
        finally:
            if light.emission is not None:
                self._switch(name, light.emission, False)

    def off_steps(self) -> dict[str, Callable[[], None]]:
        """`off_at_once` of each light, by name."""
        return {name: partial(self.off_at_once, name) for name in self._lights}

    def _off(self, name: str, light: Light, emission: bool) -> LightOff:
        problems = []
        held = self._locks[name].acquire(timeout=OFF_S / 2)  # whoever holds it may hang: then without it
        try:
            switches = [light.gate, light.emission] if emission else [light.gate]
            for switch in switches:
                if switch is None:
                    continue
                try:
                    self._switch(name, switch, False)
                except Exception as error:  # R3.9: the next light is tried whatever this one does
                    problems.append(str(error))
        finally:
            if held:
                self._locks[name].release()
        return LightOff(
            light=name, off=not problems, state=self._verification(light), error="; ".join(problems) or None
        )

    def _ready(self, name: str, power_pct: float) -> None:
        """Power and emission before the gate opens; what already reads right is not written again."""
        light = self._lights[name]
        if abs(self._power_pct(name) - power_pct) > 100 * POWER_TOLERANCE:
            self._set_power(name, power_pct)
        if light.emission is not None and not self._is_on(name, light.emission):
            self._switch(name, light.emission, True)

    def _open(self, name: str) -> None:
        self._still_permitted(name)
        self._switch(name, self._lights[name].gate, True)
        self._still_permitted(name)

    def _still_permitted(self, name: str) -> None:
        """A halt may have switched the light off before it was on: then off again."""
        try:
            self._permit()
        except HardwareError:
            self.off_at_once(name)
            raise

    def _close(self, name: str) -> None:
        try:
            self._switch(name, self._lights[name].gate, False)
        except HardwareError as error:
            kind = ReadbackError if isinstance(error, ReadbackError) else DeviceError
            raise kind(f"the gate of {name} may still be OPEN: {error}", **error.fields) from error

    def _power_pct(self, name: str) -> float:
        power = self._lights[name].power
        if power == "fixed":
            return 100.0
        return 100 * self._core.read_number(name, power.label, power.property) / power.full_scale

    def _set_power(self, name: str, power_pct: float) -> None:
        power = self._lights[name].power
        if power == "fixed":
            return
        value = power.full_scale * power_pct / 100
        self._core.write_number(name, power.label, power.property, value, POWER_TOLERANCE * power.full_scale)

    def _switch(self, name: str, switch: Switch, on: bool) -> None:
        """Set one switch, wait for its device, read it back."""
        if switch.property is not None:
            self._core.write_exactly(name, switch.label, switch.property, switch.on if on else switch.off)
            return
        self._core.ask(name, self._core.mm.setShutterOpen, switch.label, on)
        self._core.wait(name, switch.label)
        if self._is_on(name, switch) != on:
            wanted, got = ("open", "closed") if on else ("closed", "open")
            raise ReadbackError(
                f"{name}: {switch.label} was set {wanted} and reads {got}",
                thing=name,
                value=wanted,
                got=got,
                limit=0,
            )

    def _is_on(self, name: str, switch: Switch) -> bool:
        if switch.property is None:
            return bool(self._core.ask(name, self._core.mm.getShutterOpen, switch.label))
        reads = self._core.read(name, switch.label, switch.property)
        if same(reads, switch.on):
            return True
        if same(reads, switch.off):
            return False
        raise DeviceError(
            f"{name}: {switch.label}.{switch.property} reads {reads!r}, which is neither on ({switch.on!r})"
            f" nor off ({switch.off!r})",
            thing=name,
        )

    @staticmethod
    def _verification(light: Light) -> Verification:
        return Verification.VERIFIED if light.verify == "refresh" else Verification.ASSUMED


def _unanswered(name: str) -> LightOff:
    why = f"no answer within {OFF_S:g} s: the light may still be ON"
    return LightOff(light=name, off=False, state=Verification.ASSUMED, error=why)
