"""Devices that hold a label or a value: filter wheels, turrets, configuration groups, properties, channels, lights."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..config import Light as LightSettings
from ..config import Property, Scope
from ..hardware import EventKind, Hardware, HardwareError, LightState, LimitError, UnknownNameError
from ._events import HardwareEvents
from ._status import in_turn


def is_number(value: Any) -> bool:
    """A finite number: NumPy's too, but no bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


class Setting(OphydObject):
    """What they share: a name, the hardware, one value that is read when asked, and told when it changes."""

    SUB_VALUE = "value"
    _default_sub = SUB_VALUE

    group: ClassVar[str] = "settings"
    """What people list it under."""
    event: ClassVar[EventKind | None] = None
    """The hardware's event that tells its value; None: only we can change it."""
    dtype = "string"
    units = ""

    def __init__(
        self, *, name: str, hardware: Hardware, label: str, events: HardwareEvents | None = None, parent: Any = None
    ) -> None:
        super().__init__(name=name, parent=parent, labels={self.group})
        self._hardware = hardware
        self._events = events or HardwareEvents(hardware)
        self.label = label

    def get(self) -> Any:
        """The value, read now; a failed read raises."""
        raise NotImplementedError

    def subscribe(self, callback: Callable[..., Any], event_type: str | None = None, run: bool = True) -> int:
        number: int = super().subscribe(callback, event_type=event_type, run=run)
        if self.event is not None:
            self._events.follow(self.event, self.name, self._changed, self.get)
        return number

    def _changed(self, value: Any, at: float) -> None:
        self._run_subs(sub_type=self.SUB_VALUE, value=value, timestamp=at)

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
    """Labelled positions: a filter wheel, an objective turret, the presets of a group. ``set("BP525")`` waits for it."""

    event = "label"

    def get(self) -> str:
        return self._hardware.label(self.name)

    def _extra_description(self) -> dict[str, Any]:
        return {"choices": list(self._hardware.labels(self.name))}

    def check_value(self, value: str) -> None:
        known = self._hardware.labels(self.name)
        if value not in known:
            raise UnknownNameError(
                f"{self.name} has no position {value!r}; it has {list(known)}",
                thing=self.name,
                value=repr(value),
                known=list(known),
            )

    def set(self, value: str) -> Status:
        self.check_value(value)
        return in_turn(lambda: self._hardware.select(self.name, value), self)


class PropertyValue(Setting):
    """One property of a device: a number within its limits, or one of its choices."""

    event = "value"

    def __init__(
        self, *, name: str, hardware: Hardware, settings: Property, events: HardwareEvents | None = None
    ) -> None:
        super().__init__(name=name, hardware=hardware, label=f"{settings.label}.{settings.property}", events=events)
        self.settings = settings
        self.units = settings.units
        self.dtype = "number" if settings.limits is not None else "string"

    def get(self) -> float | str:
        return self._hardware.value(self.name)

    def _extra_description(self) -> dict[str, Any]:
        if self.settings.limits is None:
            return {"choices": list(self.settings.choices or ())}
        low, high = self.settings.limits
        return {"lower_ctrl_limit": low, "upper_ctrl_limit": high}

    def check_value(self, value: float | str) -> None:
        limits, choices = self.settings.limits, self.settings.choices or ()
        if limits is not None:
            fits = is_number(value) and limits[0] <= float(value) <= limits[1]
        else:
            fits = isinstance(value, str) and value in choices
        if not fits:
            allowed = list(limits if limits is not None else choices)
            raise LimitError(
                f"{self.name} {value!r} {self.units} is not within {allowed} (scope.yml: devices.{self.name})",
                thing=self.name,
                value=repr(value),
                limit=allowed,
            )

    def set(self, value: float | str) -> Status:
        self.check_value(value)
        plain = float(value) if self.settings.limits is not None else value
        return in_turn(lambda: self._hardware.set_value(self.name, plain), self)


class LightGate(Setting):
    """A light's gate. ``set(True)`` opens it at the lowest power, ``set(False)`` closes it; ``set(2.5)`` opens it at 2.5 %.

    Plans seldom need it: a camera opens the gate for the exposure alone (`FrameSettings.light`). It reads whether the gate
    is open and, as ``{name}_power_pct``, the power that is set.
    """

    group = "lights"
    event = "light"
    dtype = "boolean"

    def __init__(
        self, *, name: str, hardware: Hardware, settings: LightSettings, events: HardwareEvents | None = None
    ) -> None:
        super().__init__(name=name, hardware=hardware, label=settings.gate.label, events=events)
        self.settings = settings
        self._turn = threading.Lock()
        self._stops = 0

    def state(self) -> LightState:
        return self._hardware.light(self.name)

    def get(self) -> bool:
        return self.state().on

    def read(self) -> dict[str, dict[str, Any]]:
        state, now = self.state(), time.time()
        return {
            self.name: {"value": state.on, "timestamp": now},
            f"{self.name}_power_pct": {"value": state.power_pct, "timestamp": now},
        }

    def describe(self) -> dict[str, dict[str, Any]]:
        low, high = self.settings.limits_pct
        power = self.settings.power
        label = self.label if power == "fixed" else f"{power.label}.{power.property}"
        return {
            **super().describe(),
            f"{self.name}_power_pct": {
                "source": f"mm:{label}",
                "dtype": "number",
                "shape": [],
                "units": "%",
                "lower_ctrl_limit": low,
                "upper_ctrl_limit": high,
            },
        }

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        now = time.time()
        return {key: {"value": value, "timestamp": now} for key, value in self._configuration().items()}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        described: dict[str, dict[str, Any]] = {}
        for key, value in self._configuration().items():
            dtype = "string" if isinstance(value, str) else "number"
            described[key] = {"source": f"mm:{self.label}", "dtype": dtype, "shape": []}
            if key.endswith("_nm"):
                described[key]["units"] = "nm"
        return described

    def _configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = {f"{self.name}_verification": self.state().state.value}
        if self.settings.wavelength_nm is not None:
            found[f"{self.name}_wavelength_nm"] = self.settings.wavelength_nm
        return found

    def check_value(self, value: bool | float) -> None:
        low, high = self.settings.limits_pct
        if isinstance(value, bool):
            return
        if not is_number(value) or not low <= value <= high:
            raise LimitError(
                f"{self.name} {value!r} % is outside [{low}, {high}] (scope.yml: lights.{self.name}.power.limits_pct)",
                thing=self.name,
                value=repr(value),
                limit=[low, high],
            )

    def set(self, value: bool | float, *, max_s: float | None = None) -> Status:
        """The hardware closes the gate again after ``max_s`` seconds, whatever becomes of us; None: as the scope says."""
        self.check_value(value)
        power, stops = None if isinstance(value, bool) else float(value), self._stops

        def switch() -> None:
            with self._turn:
                if stops == self._stops:  # else it was stopped meanwhile, and stays dark
                    self._hardware.set_light(self.name, value is not False, power, max_s)

        return in_turn(switch, self)

    def stop(self, *, success: bool = False) -> None:
        """Close the gate. What was about to open it opens it no more: after a pause the RunEngine asks again."""
        self._stops += 1
        with self._turn:
            self._hardware.set_light(self.name, False)


class ChannelSelector(Setting):
    """Which channel's preset and filter are in place. ``set("gfp")`` applies them; it opens no gate.

    It reads the channel that was applied last, or "" where there was none, or its emission filter is no longer in place.
    """

    def __init__(self, *, name: str, hardware: Hardware, scope: Scope, events: HardwareEvents | None = None) -> None:
        super().__init__(name=name, hardware=hardware, label="channels", events=events)
        self._scope = scope
        self._channels = scope.channels
        self._current = ""

    def hardware_restarted(self) -> None:
        self._current = ""

    def get(self) -> str:
        current = self._current
        if not current:
            return ""
        channel = self._channels[current]
        wheel = self._scope.filter_of(channel)
        return current if wheel is None or self._hardware.label(wheel) == channel.emission else ""

    def _extra_description(self) -> dict[str, Any]:
        return {"choices": sorted(self._channels)}

    def check_value(self, value: str) -> None:
        if not isinstance(value, str) or value not in self._channels:
            raise UnknownNameError(
                f"there is no channel {value!r}; scope.yml has {sorted(self._channels)}",
                thing="channel",
                value=repr(value),
                known=sorted(self._channels),
            )

    def set(self, value: str) -> Status:
        self.check_value(value)

        def apply() -> None:
            self._current = ""
            try:
                self._hardware.apply_channel(value)
            except HardwareError:
                self._changed("", time.time())
                raise
            self._current = value
            self._changed(value, time.time())

        return in_turn(apply, self)
