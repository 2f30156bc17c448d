"""State devices, temperatures, single properties and channels."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import TypeVar

from ..config import Property, Scope, Temperature
from ._axes import Axes
from ._errors import HardwareError, LimitError, NotAllowedError, ReadbackError, UnknownNameError
from ._mmcore import Core, same

T = TypeVar("T")


class Optics:
    """Everything that is selected or set by value, by its name in the scope. A configuration group's labels are its
    presets; its label is the one that fits what its devices read now, "" where none does.
    """

    def __init__(self, core: Core, scope: Scope, axes: Axes) -> None:
        self._core = core
        self._scope = scope
        self._axes = axes
        self._selectable = scope.of_kind("state", "objective", "config_group")
        self._values: dict[str, Temperature | Property] = scope.of_kind("temperature", "property")
        self._lock = threading.RLock()

    def labels(self, device: str) -> tuple[str, ...]:
        """Labels of a state device or the objective turret, in order."""
        part = self._known("state device", device, self._selectable)
        mm = self._core.mm
        ask = mm.getAvailableConfigs if part.kind == "config_group" else mm.getStateLabels
        return tuple(self._core.ask(device, ask, part.label))

    def label(self, device: str) -> str:
        """The label in place."""
        part = self._known("state device", device, self._selectable)
        if part.kind == "config_group":
            return self._core.preset_in_place(device, part.label)
        return str(self._core.ask(device, self._core.mm.getStateLabel, part.label))

    def select(self, device: str, label: str) -> str:
        """Turn to a labelled position, wait, return the label read back.

        Raises
        ------
        UnknownNameError
            Where the device has no such label. Nothing moved.
        """
        known = self.labels(device)
        if label not in known:
            raise UnknownNameError(
                f"{device} has no label {label!r}; it has {list(known)}", thing=device, value=label, known=list(known)
            )
        if self._selectable[device].kind == "config_group":
            with self._lock:
                return self._apply_preset(device, self._selectable[device].label, label)
        mm_label = self._selectable[device].label
        with self._lock, self._axes.turning(mm_label, label):
            self._core.wait(device, mm_label)
            self._core.ask(device, self._core.mm.setStateLabel, mm_label, label)
            self._core.wait(device, mm_label)
            got = self.label(device)
        if got != label:
            raise ReadbackError(
                f"{device} was sent to {label!r} and is at {got!r}", thing=device, value=label, got=got, limit=0
            )
        return got

    def _apply_preset(self, thing: str, group: str, preset: str) -> str:
        """Set each entry of a preset, wait for its device, read it back; then all once more, since a later entry may undo
        an earlier one. Never MMCore's ``waitForConfig``, which swallows timeouts.
        """
        entries = self._core.ask(thing, self._core.preset, group, preset)
        for label, name, value in entries:
            self._core.write_exactly(thing, label, name, value)
        for label, name, value in entries:
            got = self._core.read(thing, label, name)
            if not same(got, value):
                raise ReadbackError(
                    f"{thing}: preset {preset!r} wants {label}.{name} {value!r}, which reads {got!r} when all are set",
                    thing=thing,
                    value=value,
                    got=got,
                    limit=0,
                )
        return preset

    def value(self, device: str) -> float | str:
        """A temperature in °C, or a property: a number where it has limits, else its text."""
        part = self._known("temperature or property", device, self._values)
        return self._read(device, part)

    def _read(self, device: str, part: Temperature | Property) -> float | str:
        if isinstance(part, Temperature) or part.limits is not None:
            return self._core.read_number(device, part.label, part.property)
        return self._core.read(device, part.label, part.property)

    def set_value(self, device: str, value: float | str) -> float | str:
        """Write a setpoint or a property within its limits or choices, return what is read back.

        Raises
        ------
        LimitError
            Where the value is outside. Nothing was written.
        NotAllowedError
            Where the temperature has no setpoint.
        """
        part = self._known("temperature or property", device, self._values)
        name = part.setpoint if isinstance(part, Temperature) else part.property
        if name is None:
            raise NotAllowedError(f"{device} is read only: devices.{device}.setpoint names no property", thing=device)
        with self._lock:
            if part.limits is not None:
                number = self._checked_number(device, value, part.limits)
                tolerance = 1e-3 * (part.limits[1] - part.limits[0])
                return self._core.write_number(device, part.label, name, number, tolerance)
            choices = part.choices if isinstance(part, Property) and part.choices else ()
            chosen = next((choice for choice in choices if same(str(value), choice)), None)
            if chosen is None:
                raise LimitError(
                    f"{device} {value!r} is none of {list(choices)} (scope file: devices.{device}.choices)",
                    thing=device,
                    value=str(value),
                    limit=list(choices),
                )
            self._core.write_exactly(device, part.label, name, chosen)
            return self._read(device, part)

    @staticmethod
    def _checked_number(device: str, value: float | str, limits: tuple[float, float]) -> float:
        low, high = limits
        if isinstance(value, str) or not math.isfinite(value) or not low <= value <= high:
            raise LimitError(
                f"{device} {value!r} is not a number inside [{low:g}, {high:g}] (scope file: devices.{device}.limits)",
                thing=device,
                value=repr(value),
                limit=[low, high],
            )
        return float(value)

    def apply_channel(self, channel: str) -> None:
        """Set each entry of the channel's preset, waiting for its device and reading it back, then the emission filter."""
        part = self._known("channel", channel, self._scope.channels)
        with self._lock:
            if part.preset is not None:
                thing = f"channels.{channel}"
                entries = self._core.ask(thing, self._core.preset, *part.preset)
                for label, name, value in entries:
                    self._core.write_exactly(thing, label, name, value)
            filter_wheel = self._scope.filter_of(part)
            if filter_wheel is not None:
                self.select(filter_wheel, str(part.emission))

    def touched(self, group: str | None, preset: str | None) -> tuple[dict[str, str], dict[str, float | str]]:
        """Labels and values of the devices that a preset sets, read now: many adapters don't tell what it did to them."""
        if group is None or preset is None:
            return {}, {}
        own = {label for label, _, _ in self._core.ask(group, self._core.preset, group, preset)}
        labels = {
            name: self.label(name)
            for name, part in self._selectable.items()
            if part.kind != "config_group" and part.label in own
        }
        return labels, {name: self._read(name, part) for name, part in self._values.items() if part.label in own}

    def read_all(self) -> tuple[dict[str, str], dict[str, float | str], dict[str, str]]:
        """Labels, values, and by device why the rest can't be read."""
        labels: dict[str, str] = {}
        values: dict[str, float | str] = {}
        errors: dict[str, str] = {}
        for device in self._selectable:
            try:
                labels[device] = self.label(device)
            except HardwareError as error:
                errors[device] = str(error)
        for device, part in self._values.items():
            try:
                values[device] = self._read(device, part)
            except HardwareError as error:
                errors[device] = str(error)
        return labels, values, errors

    @staticmethod
    def _known(thing: str, name: str, parts: Mapping[str, T]) -> T:
        if name not in parts:
            known = sorted(parts)
            raise UnknownNameError(f"{name!r} is no {thing}; there are {known}", thing=thing, value=name, known=known)
        return parts[name]
