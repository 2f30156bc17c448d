"""An incubator whose temperature follows its setpoint with the lag of a real one."""

from __future__ import annotations

import math
import time

from pymmcore_plus.experimental.unicore import GenericDevice

AMBIENT_C = 23.0
LAG_S = 120.0
"""Time constant: after so long 63 % of a step is done."""


class Chamber:
    """First-order warming and cooling towards a setpoint."""

    def __init__(self, celsius: float) -> None:
        self.setpoint = celsius
        self._celsius, self._at = celsius, 0.0

    def at(self, seconds: float) -> float:
        """Temperature in °C at this time, which never goes back."""
        done = 1 - math.exp(-max(0.0, seconds - self._at) / LAG_S)
        self._celsius += (self.setpoint - self._celsius) * done
        self._at = max(self._at, seconds)
        return self._celsius


class Incubator(GenericDevice):
    """A stage-top incubator: ``Temperature`` and ``Setpoint`` in °C.

    For tests: ``ClockOffset(s)`` lets its time pass, ``SimulatedFault`` makes it fall silent, or lose its heater.
    """

    def __init__(self) -> None:
        super().__init__()
        cls = Incubator
        self._chamber = Chamber(37.0)
        self._began = time.monotonic()
        self._offset_s = 0.0
        self.register_property("Temperature", getter=cls._temperature, is_read_only=True, property_type=float)
        self.register_property(
            "Setpoint",
            getter=cls._get_setpoint,
            setter=cls._set_setpoint,
            limits=(AMBIENT_C - 3, 42.0),
            property_type=float,
        )
        self.register_property("ClockOffset(s)", getter=cls._get_offset, setter=cls._set_offset, property_type=float)
        faults = ("none", "no answer", "heater off")
        self.register_property("SimulatedFault", default_value=faults[0], allowed_values=faults)

    def _now(self) -> float:
        return time.monotonic() - self._began + self._offset_s

    def _check(self) -> str:
        fault = str(self.get_property_value("SimulatedFault"))
        if fault == "no answer":
            raise RuntimeError("the incubator does not answer")
        return fault

    def _temperature(self) -> float:
        fault, wanted = self._check(), self._chamber.setpoint
        try:
            self._chamber.setpoint = AMBIENT_C if fault == "heater off" else wanted
            return self._chamber.at(self._now())
        finally:
            self._chamber.setpoint = wanted

    def _get_setpoint(self) -> float:
        self._check()
        return self._chamber.setpoint

    def _set_setpoint(self, value: float) -> None:
        self._temperature()  # until now it went towards the old one
        self._chamber.setpoint = float(value)
        self.core.events.propertyChanged.emit(self.get_label(), "Setpoint", f"{value:g}")

    def _get_offset(self) -> float:
        return self._offset_s

    def _set_offset(self, value: float) -> None:
        self._temperature()
        self._offset_s = float(value)
