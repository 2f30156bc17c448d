"""Positioners: stages, XY stages and galvos."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ophyd import Component, Device
from ophyd.device import Staged
from ophyd.positioner import PositionerBase
from ophyd.status import Status

from ..config import Axis as AxisSettings
from ..hardware import Hardware, LimitError
from ._events import HardwareEvents
from ._progress import Progress
from ._settings import is_number
from ._status import Pauses, in_turn


def check_axis(settings: AxisSettings, value: float) -> None:
    """Refuse a target that is no finite number or outside the axis's limits.

    Raises
    ------
    LimitError
        Naming the axis, the value, the limits and where they are written.
    """
    low, high = settings.limits
    if not is_number(value) or not low <= value <= high:
        raise LimitError(
            f"{settings.name} {value!r} {settings.units} is outside [{low}, {high}] (scope.yml: {settings.source})",
            thing=settings.name,
            value=repr(value),
            limit=[low, high],
        )


class AxisPositioner(PositionerBase):
    """One scalar axis, in µm or degrees.

    ``set`` returns a status that is done when the axis has arrived and its readback lies within the tolerance.
    Subscribers of ``SUB_READBACK`` (the default) are told every position, also those that a joystick went to.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        hardware: Hardware | None = None,
        settings: AxisSettings | None = None,
        events: HardwareEvents | None = None,
        parent: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, parent=parent, labels={"stages"}, **kwargs)
        if parent is not None:  # a component of an AxisPair, which knows the hardware
            hardware, settings, events = parent.hardware, parent.axis_settings[prefix], parent.events
        if hardware is None or settings is None:
            raise TypeError(f"axis {name!r} needs hardware and settings")
        self._hardware = hardware
        self.settings = settings
        self._setpoint: float | None = None
        self._pauses = Pauses()
        self._events = events or HardwareEvents(hardware)

    def subscribe(self, callback: Any, event_type: str | None = None, run: bool = True) -> int:
        number: int = super().subscribe(callback, event_type=event_type, run=run)
        if event_type in (None, self.SUB_READBACK):
            self._events.follow("position", self.settings.name, self._read_back, lambda: self.position)
        return number

    def _read_back(self, position: float, at: float) -> None:
        self._run_subs(sub_type=self.SUB_READBACK, value=position, timestamp=at)

    def hardware_restarted(self) -> None:
        self._setpoint = None

    @property
    def egu(self) -> str:
        return self.settings.units

    @property
    def limits(self) -> tuple[float, float]:
        return self.settings.limits

    @property
    def position(self) -> float:
        """Read now; a failed read raises."""
        return self._hardware.positions((self.settings.name,))[self.settings.name]

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": [self.name]}

    def check_value(self, value: float) -> None:
        check_axis(self.settings, value)

    def move(self, position: float, moved_cb: Any = None, timeout: float | None = None) -> Status:
        self.check_value(position)
        self._setpoint = float(position)
        status = Progress(self, lambda: self.position, float(position), self.egu, timeout=timeout)
        self._pauses.busy = status
        in_turn(self._pauses.allow(lambda: self._hardware.move({self.settings.name: float(position)})), self, status)
        if moved_cb is not None:
            status.add_callback(lambda _: moved_cb(obj=self))
        return status

    def set(
        self, new_position: float, *, timeout: float | None = None, moved_cb: Any = None, wait: bool = False
    ) -> Status:
        status = self.move(new_position, moved_cb=moved_cb, timeout=timeout)
        if wait:
            status.wait(timeout)
        return status

    def locate(self) -> dict[str, float]:
        readback = self.position
        return {"setpoint": readback if self._setpoint is None else self._setpoint, "readback": readback}

    def stop(self, *, success: bool = False) -> None:
        if self._pauses.stops(success):
            self._hardware.stop((self.settings.name,))

    def read(self) -> dict[str, dict[str, Any]]:
        return {self.name: {"value": self.position, "timestamp": time.time()}}

    def describe(self) -> dict[str, dict[str, Any]]:
        low, high = self.limits
        return {
            self.name: {
                "source": f"mm:{self.settings.label}",
                "dtype": "number",
                "shape": [],
                "units": self.egu,
                "lower_ctrl_limit": low,
                "upper_ctrl_limit": high,
            }
        }

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}


class AxisPair(Device):
    """An XY stage or a galvo: ``x`` and ``y``, moved together by ``set((x, y))``."""

    x = Component(AxisPositioner, "x", kind="hinted")
    y = Component(AxisPositioner, "y", kind="hinted")

    def __init__(
        self,
        *,
        name: str,
        hardware: Hardware,
        axes: Mapping[str, AxisSettings],
        events: HardwareEvents | None = None,
    ) -> None:
        self.hardware, self.events = hardware, events or HardwareEvents(hardware)
        self._pauses = Pauses()
        self.axis_settings = {component: axes[f"{name}.{component}"] for component in ("x", "y")}
        super().__init__("", name=name, labels={"stages"})

    def hardware_restarted(self) -> None:
        self._staged = Staged.no
        for axis in (self.x, self.y):
            axis.hardware_restarted()

    def check_value(self, value: tuple[float, float]) -> None:
        if not isinstance(value, Sequence) or len(value) != 2 or isinstance(value, str):
            raise LimitError(
                f"{self.name} is sent to a pair (x, y), not to {value!r}",
                thing=self.name,
                value=repr(value),
                limit=None,
            )
        for component, target in zip(("x", "y"), value, strict=True):
            check_axis(self.axis_settings[component], target)

    def read(self) -> dict[str, dict[str, Any]]:
        """Both axes, read at once; a failed read raises."""
        here = self.hardware.positions(tuple(settings.name for settings in self.axis_settings.values()))
        now = time.time()
        values = {axis.name: here[self.axis_settings[c].name] for c, axis in (("x", self.x), ("y", self.y))}
        return {name: {"value": value, "timestamp": now} for name, value in values.items()}

    def set(self, value: tuple[float, float], *, timeout: float | None = None) -> Status:
        """Move both axes; both targets are checked before either moves."""
        self.check_value(value)
        targets = {self.axis_settings[c].name: float(v) for c, v in zip(("x", "y"), value, strict=True)}
        names, units = tuple(targets), self.axis_settings["x"].units

        def here() -> tuple[float, ...]:
            found = self.hardware.positions(names)
            return tuple(found[name] for name in names)

        status = Progress(self, here, tuple(targets.values()), units, timeout=timeout)
        self._pauses.busy = status
        return in_turn(self._pauses.allow(lambda: self.hardware.move(targets)), self, status)

    def stop(self, *, success: bool = False) -> None:
        if self._pauses.stops(success):
            self.hardware.stop(tuple(settings.name for settings in self.axis_settings.values()))
