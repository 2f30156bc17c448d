"""Lights: gate, power and emission, each in its own step and read back.

A gate is opened for an exposure and closed after it, whatever happened; one that `set_light` opened is closed after its
time. The emission of a laser is switched on when its light is first used and left on (cycling it costs warm-up); it goes
off for safety, and when it has been idle for long (``safety.emission_idle_s``). Every opening is metered.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ..config import Light, Scope, Switch
from ._alarms import Alarms
from ._dose import Account, DoseMeter
from ._errors import DeviceError, HardwareError, LimitError, ReadbackError, UnknownNameError
from ._light_controls import POWER_TOLERANCE, LightControls
from ._mmcore import Core
from ._surface import LightOff, LightState, Verification

log = logging.getLogger("queuescope.hardware")


OFF_S = 2.0
"""Switching off waits no longer than this for a light that doesn't answer."""

AGAIN_S = 1.0
"""A light that could not be closed in time is tried again after this."""


class Lights(LightControls):
    """All lights of the scope, by name."""

    def __init__(self, core: Core, scope: Scope, meter: DoseMeter, permit: Callable[[], None] = lambda: None) -> None:
        """``permit`` raises while no light may be on; it is asked before and after a gate is opened."""
        super().__init__(core, scope)
        self.meter = meter
        self._alarms = Alarms()
        self._idle_s = scope.safety.emission_idle_s
        self._permit = permit
        self._locks = {name: threading.RLock() for name in scope.lights}
        self._pulsing: set[str] = set()

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
            on=self._is_on(name, light.gate) or name in self._pulsing,
            power_pct=self._power_pct(name),
            emission=None if light.emission is None else self._is_on(name, light.emission),
            state=self._verification(light),
        )

    def close(self) -> None:
        """Nothing is switched off later any more; the doses are written."""
        self._alarms.close()
        self.meter.close()

    def set(self, name: str, on: bool, power_pct: float | None, max_s: float | None = None) -> LightState:
        """Open or close a gate; see `Hardware.set_light`."""
        power = self.check(name, power_pct)
        longest = self._longest(name, max_s)
        with self._locks[name]:
            if on:
                self._permit()
                account = self.meter.account()
                if max_s is None and power > 0:
                    longest = min(longest, max(0.0, self.meter.rest(name, account)) / power)
                self.meter.check({name: power * max(longest, 1e-3)}, account)
                there = self._ready(name, power)
                self._alarms.set(name, longest, partial(self._time_is_up, name))
                self._open(name, there, account, durable=True)
            else:
                self._close(name)
                if power_pct is not None:
                    self._set_power(name, power)
            return self.state(name)

    def _longest(self, name: str, max_s: float | None) -> float:
        limit = self.light(name).max_on_s
        if max_s is None:
            return limit
        if not (math.isfinite(max_s) and 0 < max_s <= limit):
            raise LimitError(
                f"{name} max_s {max_s} is outside (0, {limit:g}] (scope file: lights.{name}.max_on_s)",
                thing=name,
                value=max_s if math.isfinite(max_s) else repr(max_s),
                limit=[0, limit],
            )
        return float(max_s)

    def _time_is_up(self, name: str) -> None:
        """`set_light`'s time has passed: close the gate, again and again until it is closed."""
        off = self._off(name, self._lights[name], emission=False)
        if not off.off:
            log.error("light %s could not be closed after its time: %s", name, off.error)
            self._alarms.set(name, AGAIN_S, partial(self._time_is_up, name))

    def _emission_is_idle(self, name: str) -> None:
        emission = self._lights[name].emission
        with self._locks[name]:
            if emission is None or self.meter.is_open(name):
                return
            try:
                self._switch(name, emission, False)
                log.info("emission of %s off: it was idle for %g s", name, self._idle_s)
            except HardwareError as error:
                log.error("the idle emission of %s could not be switched off: %s", name, error)
                self._watch_emission(name)

    def _watch_emission(self, name: str) -> None:
        if self._idle_s is not None and self._lights[name].emission is not None:
            self._alarms.set((name, "emission"), self._idle_s, partial(self._emission_is_idle, name))

    @contextmanager
    def exposing(
        self, name: str | None, power_pct: float | None, account: Account | None = None, exposure_s: float = 0.0
    ) -> Iterator[None]:
        """Hold this light's gate open; None holds none. However the body ends, the gate is closed and read back.

        Raises
        ------
        DoseError
            Where the exposure would exceed the budget of the account's sample. No gate was opened.
        DeviceError
            Afterwards, where somebody else has closed it meanwhile (`lights_off`); a halt or an interlock raises its own.
        """
        if name is None:
            yield
            return
        power = self.check(name, power_pct)
        with self._locks[name]:
            self._permit()
            account = account or self.meter.account()
            self.meter.check({name: power * exposure_s}, account)
            try:
                self._open(name, self._ready(name, power), account)
                yield
                still_open = self.meter.is_open(name)
            finally:
                self._close(name)
            if not still_open:
                self._permit()  # a halt or an interlock says why
                raise DeviceError(
                    f"the gate of {name} was closed by somebody else during the exposure: frames may be dark",
                    thing=name,
                )

    @contextmanager
    def pulsed(
        self, name: str, power_pct: float | None, account: Account, light_s: float, lasting_s: float
    ) -> Iterator[Callable[[float], None]]:
        """A controller opens this light's line by pulses while the body runs; the gate that software has stays closed.

        The body must have stopped the controller before it ends, and may tell for how long the line was open (by what it
        yields); else the light counts as pulsed evenly until the end.

        Parameters
        ----------
        light_s, lasting_s
            For how long the line will be open altogether, and how long the whole will last.

        Raises
        ------
        DoseError
            Where it would exceed the budget of the account's sample. Nothing was switched.
        """
        power = self.check(name, power_pct)
        share = light_s / lasting_s
        with self._locks[name]:
            self._permit()
            self.meter.check({name: power * light_s}, account)
            try:
                there = self._ready(name, power)
                self._still_permitted(name)
                self._alarms.call_off((name, "emission"))
                self._pulsing.add(name)
                self.meter.opened(name, max(0.0, there) * share, account, durable=True)
                yield lambda seconds: self.meter.closed(name, seconds / share)
            finally:
                self._close(name)
                self._pulsing.discard(name)
                self._watch_emission(name)

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

    def _ready(self, name: str, power_pct: float) -> float:
        """Power and emission before the gate opens; what already reads right is not written again. Returns the power."""
        light = self._lights[name]
        there = self._power_pct(name)
        if abs(there - power_pct) > 100 * POWER_TOLERANCE:
            self._set_power(name, power_pct)
            there = self._power_pct(name)
        if light.emission is not None and not self._is_on(name, light.emission):
            self._switch(name, light.emission, True)
            self._watch_emission(name)
        return there

    def _open(self, name: str, power_pct: float, account: Account, durable: bool = False) -> None:
        self._still_permitted(name)
        self._alarms.call_off((name, "emission"))
        self.meter.opened(name, max(0.0, power_pct), account, durable)
        self._switch(name, self._lights[name].gate, True)
        self._still_permitted(name)

    def permit(self) -> None:
        """Raises `HaltedError`, `InterlockError` or `DisarmedError` while no light may be on."""
        self._permit()

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

    def _switch(self, name: str, switch: Switch, on: bool) -> None:
        """Set one switch, wait for its device, read it back; what a gate let through is metered."""
        self._set_switch(name, switch, on)
        if switch is self._lights[name].gate and not on:
            self._alarms.call_off(name)
            if self.meter.is_open(name):
                self.meter.closed(name)
                self._watch_emission(name)


def _unanswered(name: str) -> LightOff:
    why = f"no answer within {OFF_S:g} s: the light may still be ON"
    return LightOff(light=name, off=False, state=Verification.ASSUMED, error=why)
