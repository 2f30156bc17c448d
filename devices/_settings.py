"""Devices that hold a label or a value: filter wheels, turrets, temperatures, properties, channels, lights."""

from __future__ import annotations

import math
import time
from typing import Any

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..config import Light as LightSettings
from ..config import Property, Scope, Temperature
from ..hardware import Hardware, LimitError, UnknownNameError
from ._status import in_thread


class Setting(OphydObject):
    """What they share: a name, the hardware, one value that is read when asked."""

    dtype = "string"
    units = ""

    def __init__(self, *, name: str, hardware: Hardware, label: str, parent: Any = None) -> None:
        super().__init__(name=name, parent=parent)
        self._hardware = hardware
        self.label = label

    def get(self) -> Any:
        raise NotImplementedError

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": [self.name]}

    def read(self) -> dict[str, dict[str, Any]]:
        return {self.name: {"value": self.get(), "timestamp": time.time()}}

    def describe(self) -> dict[str, dict[str, Any]]:
        description = {"source": f"mm:{self.label}", "dtype": self.dtype, "shape": []}
        if self.units:
            description["units"] = self.units
        return {self.name: {**description, **self._extra_description()}}

    def _extra_description(self) -> dict[str, Any]:
        return {}

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}


class LabelledState(Setting):
    """A device with labelled positions: a filter wheel or an objective turret. ``set("BP525")`` waits for it."""

    def get(self) -> str:
        return self._hardware.label(self.name)

    def check_value(self, value: str) -> None:
        known = self._hardware.labels(self.name)
        if value not in known:
            raise UnknownNameError(
                f"{self.name} has no position {value!r}; it has {list(known)}",
                thing=self.name,
                value=value,
                known=list(known),
            )

    def set(self, value: str) -> Status:
        self.check_value(value)
        return in_thread(lambda: self._hardware.select(self.name, value), self)


class MeasuredValue(Setting):
    """A temperature in °C, or one property of a device."""

    def __init__(self, *, name: str, hardware: Hardware, settings: Temperature | Property) -> None:
        super().__init__(name=name, hardware=hardware, label=f"{settings.label}.{settings.property}")
        self.settings = settings
        self.units = settings.units
        self.dtype = "number" if settings.limits is not None else "string"

    def get(self) -> float | str:
        return self._hardware.value(self.name)

    def _extra_description(self) -> dict[str, Any]:
        if self.settings.limits is None:
            return {}
        low, high = self.settings.limits
        return {"lower_ctrl_limit": low, "upper_ctrl_limit": high}

    def check_value(self, value: float | str) -> None:
        limits = self.settings.limits
        choices = self.settings.choices if isinstance(self.settings, Property) else None
        if limits is not None:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = number and math.isfinite(value) and limits[0] <= value <= limits[1]  # type: ignore[arg-type,operator]
        else:
            fits = value in (choices or ())
        if not fits:
            allowed = list(limits if limits is not None else choices or ())
            raise LimitError(
                f"{self.name} {value!r} {self.units} is not within {allowed} (scope.yml: devices.{self.name})",
                thing=self.name,
                value=repr(value),
                limit=allowed,
            )

    def set(self, value: float | str) -> Status:
        self.check_value(value)
        return in_thread(lambda: self._hardware.set_value(self.name, value), self)


class LightGate(Setting):
    """A light's gate. ``set(True)`` opens it at the lowest power, ``set(False)`` closes it; ``set(2.5)`` opens it at 2.5 %.

    Plans seldom need it: a camera opens the gate for the exposure alone (`FrameSettings.light`).
    """

    dtype = "boolean"

    def __init__(self, *, name: str, hardware: Hardware, settings: LightSettings) -> None:
        super().__init__(name=name, hardware=hardware, label=settings.gate.label)
        self.settings = settings

    def get(self) -> bool:
        return self._hardware.light(self.name).on

    def check_value(self, value: bool | float) -> None:
        low, high = self.settings.limits_pct
        if isinstance(value, bool):
            return
        if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise LimitError(
                f"{self.name} {value!r} % is outside [{low}, {high}] (scope.yml: lights.{self.name}.power.limits_pct)",
                thing=self.name,
                value=repr(value),
                limit=[low, high],
            )

    def set(self, value: bool | float) -> Status:
        self.check_value(value)
        power = None if isinstance(value, bool) else float(value)
        return in_thread(lambda: self._hardware.set_light(self.name, value is not False, power), self)

    def stop(self, *, success: bool = False) -> None:
        self._hardware.set_light(self.name, False)


class ChannelSelector(Setting):
    """Which channel's preset and filter are in place. ``set("gfp")`` applies them; it opens no gate."""

    def __init__(self, *, name: str, hardware: Hardware, scope: Scope) -> None:
        super().__init__(name=name, hardware=hardware, label="channels")
        self._channels = scope.channels
        self._current = ""

    def hardware_restarted(self) -> None:
        self._current = ""

    def get(self) -> str:
        return self._current

    def check_value(self, value: str) -> None:
        if value not in self._channels:
            raise UnknownNameError(
                f"there is no channel {value!r}; scope.yml has {sorted(self._channels)}",
                thing="channel",
                value=value,
                known=sorted(self._channels),
            )

    def set(self, value: str) -> Status:
        self.check_value(value)

        def apply() -> None:
            self._current = ""
            self._hardware.apply_channel(value)
            self._current = value

        return in_thread(apply, self)
