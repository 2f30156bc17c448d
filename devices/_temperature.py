"""A temperature: ``set`` is done when it has been reached and stays there."""

from __future__ import annotations

import threading
import time
from typing import Any

from ophyd.status import Status

from ..config import Temperature
from ..hardware import Hardware, HardwareError, HardwareTimeout, LimitError, NotAllowedError
from ._events import HardwareEvents
from ._progress import Progress
from ._settings import Setting, is_number
from ._status import Pauses, in_thread

LOOK_EVERY_S = 0.5


class TemperatureStoppedError(HardwareError):
    """Somebody stopped waiting for a temperature; its setpoint stays."""

    code = "stopped"


class TemperatureValue(Setting):
    """In °C. ``set(37.0)`` is done when it has stayed within the scope's ``tolerance`` for ``stable_s``, and fails after
    ``timeout_s``; without a setpoint it is read only.

    `stop` ends the waiting; the setpoint stays, since a sample may depend on it.
    """

    event = "value"
    dtype = "number"

    def __init__(
        self, *, name: str, hardware: Hardware, settings: Temperature, events: HardwareEvents | None = None
    ) -> None:
        super().__init__(name=name, hardware=hardware, label=f"{settings.label}.{settings.property}", events=events)
        self.settings = settings
        self.units = settings.units
        self._pauses = Pauses()
        self._stopped = threading.Event()

    def get(self) -> float:
        return float(self._hardware.value(self.name))

    def _extra_description(self) -> dict[str, Any]:
        low, high = self.settings.limits
        return {"lower_ctrl_limit": low, "upper_ctrl_limit": high}

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {f"{self.name}_tolerance": {"value": self.settings.tolerance, "timestamp": time.time()}}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        described = {"source": f"mm:{self.label}", "dtype": "number", "shape": [], "units": self.units}
        return {f"{self.name}_tolerance": described}

    def check_value(self, value: float) -> None:
        if self.settings.setpoint is None:
            raise NotAllowedError(
                f"{self.name} is read only (scope.yml: devices.{self.name}.setpoint names no property)", thing=self.name
            )
        low, high = self.settings.limits
        if not is_number(value) or not low <= value <= high:
            raise LimitError(
                f"{self.name} {value!r} {self.units} is not within [{low}, {high}] (scope.yml: devices.{self.name}.limits)",
                thing=self.name,
                value=repr(value),
                limit=[low, high],
            )

    def set(self, value: float, *, timeout: float | None = None, reach: bool = True) -> Status:
        """Write the setpoint and wait, at most ``timeout`` seconds (None: the scope's ``timeout_s``); with ``reach=False`` don't
        wait for it. A later `set` takes an earlier one's place, which fails then.
        """
        self.check_value(value)
        target, limit_s = float(value), self.settings.timeout_s if timeout is None else timeout
        self._stopped.set()  # whoever waits for another target
        self._stopped = stopped = threading.Event()
        if not reach:
            return in_thread(lambda: self._hardware.set_value(self.name, target), self)
        status = Progress(self, self.get, target, self.units)
        return in_thread(self._pauses.allow(lambda: self._reach(target, limit_s, stopped)), self, status)

    def _reach(self, target: float, limit_s: float, stopped: threading.Event) -> None:
        settings, deadline = self.settings, time.monotonic() + limit_s
        self._hardware.set_value(self.name, target)
        reached: float | None = None
        while True:
            here, now = self.get(), time.monotonic()
            if abs(here - target) > settings.tolerance:
                reached = None
            else:
                reached = now if reached is None else reached
                if now - reached >= settings.stable_s:
                    return
            if now >= deadline:
                state = "isn't stable" if reached is not None else "hasn't got there"
                raise HardwareTimeout(
                    f"{self.name} was sent to {target:g} {self.units} and {state} after {limit_s:g} s: it reads {here:g}"
                    f" (tolerance {settings.tolerance:g} for {settings.stable_s:g} s; scope.yml: devices.{self.name})",
                    thing=self.name,
                    value=target,
                    limit=limit_s,
                )
            if stopped.wait(min(LOOK_EVERY_S, max(deadline - now, 0.0))):
                raise TemperatureStoppedError(
                    f"{self.name} was stopped at {here:g} {self.units} on its way to {target:g}; its setpoint stays",
                    thing=self.name,
                    value=target,
                )

    def stop(self, *, success: bool = False) -> None:
        self._pauses.stops(success)
        self._stopped.set()
