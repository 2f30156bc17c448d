"""From MMCore's callbacks to events by the scope's names; what no adapter tells is looked at, five times a second at most."""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..config import Property, Scope, Switch, Temperature
from ._axes import MICROMETRES, Axes
from ._errors import HardwareError
from ._events import Events
from ._mmcore import Core

log = logging.getLogger("queuescope.hardware")

LOOK_EVERY_S = 0.2

TEMPERATURE_LOOKS = 5
"""A temperature is looked at once in so many looks."""
TEMPERATURE_STEP = 0.05
"""It is told when it has changed by so many °C."""

ECHOES = 100
"""So many of our own moves may be ahead of the adapter's callbacks about them."""


class Callbacks:
    """Publishes what MMCore tells, from its registration until `close`.

    MMCore calls from threads of its own, a device of a core at a time. Nothing here calls MMCore back from there.
    """

    def __init__(self, core: Core, scope: Scope, axes: Axes, events: Events, idle: Callable[[], bool]) -> None:
        """``idle`` says whether positions may be looked at now."""
        self._core, self._axes, self._events, self._idle = core, axes, events, idle
        self._by_label = {device.label: name for name, device in scope.of_kind("stage", "xy_stage", "galvo").items()}
        self._names = _names(core, scope)
        self._cameras = {camera.label: name for name, camera in scope.of_kind("camera").items()}
        self._groups = {name: group.label for name, group in scope.of_kind("config_group").items()}
        self._of_group = _of_group(core, self._groups)
        self._regrouped: set[str] = set()
        """Configuration groups one of whose properties changed since their preset was read."""
        self._temperatures = scope.of_kind("temperature")
        self._celsius: dict[str, float] = {}
        """As told last."""
        self._looks = 0
        self._silent = set(self._by_label.values())
        """Drives whose adapter has told no position yet."""
        self._moved: set[str] = set()
        """Drives whose adapter told one since it was looked at: the last one told may have been on the way."""
        self._echoes: dict[str, deque[float]] = {axis: deque(maxlen=ECHOES) for axis in axes.by_name}
        """Positions read back after our own moves that the adapter has yet to tell."""
        for axis, position in axes.read_all()[0].items():
            events.known("position", axis, position)
        self._closing = threading.Event()
        self._receiver = _receiver(self)  # MMCore does not keep it alive
        core.listen(self._receiver)
        threading.Thread(target=self._look, name="positions", daemon=True).start()

    def close(self) -> None:
        """Nothing is published any more; a core that still calls back would abort the interpreter's exit."""
        self._closing.set()
        self._core.listen(None)
        self._events.listened.set()
        self._events.close()

    def read_back(self, axis: str, position: float) -> None:
        """Publish where a move of ours ended. The adapter may tell the same again, after the next move: that is old then."""
        if self._events.publish("position", axis, position):
            self._echoes[axis].append(position)

    # ------------------------------------------------------------------ from MMCore

    def stage(self, label: str, *found: float) -> None:
        """A stage or an XY stage says where it is."""
        name = self._by_label.get(label)
        if name is not None and all(math.isfinite(one) for one in found):
            self._silent.discard(name)
            self._moved.add(name)
            axes = [axis for axis in self._axes.by_name.values() if axis.device == name]
            for axis, one in zip(axes, found, strict=False):
                position = float(one) / MICROMETRES[axis.units] + 0.0
                if not self._is_echo(axis.name, position):
                    self._events.publish("position", axis.name, position)

    def _is_echo(self, axis: str, position: float) -> bool:
        """Whether this was published when it was read back. MMCore tells in order: what it left out before it never comes."""
        echoes = self._echoes[axis]
        if position not in echoes:
            return False
        while echoes.popleft() != position:
            pass
        return True

    def presets_may_differ(self) -> None:
        """We set labels or properties ourselves: the groups' presets are read anew soon, for whoever listens."""
        self._regrouped |= set(self._groups)

    def property(self, label: str, name: str, value: str) -> None:
        self._regrouped |= self._of_group.get((label, name), set())
        for translate in self._names.get((label, name), ()):
            translate(value, self._events)

    def shutter(self, label: str, is_open: bool) -> None:
        for translate in self._names.get((label, None), ()):
            translate("1" if is_open else "0", self._events)

    def exposure(self, label: str, exposure_ms: float) -> None:
        if label in self._cameras:
            self._events.publish("exposure", self._cameras[label], float(exposure_ms))

    # ------------------------------------------------------------------ from looking

    def _look(self) -> None:
        self._events.listened.wait()  # nothing is asked of an adapter for nobody
        while not self._closing.wait(LOOK_EVERY_S):
            if not self._events.followed or not self._idle():
                continue
            self._look_at_groups()
            self._look_at_temperatures()
            for name in sorted(self._silent | self._moved):
                self._moved.discard(name)
                try:
                    self._axes.glance(name, functools.partial(self._events.publish, "position"))
                except HardwareError as error:
                    log.debug("%s", error)
                except Exception:
                    if not self._closing.is_set():
                        log.exception("looking at %s failed", name)

    def _look_at_temperatures(self) -> None:
        """Once a second: they change by themselves, and few adapters tell it."""
        self._looks += 1
        for name, part in self._temperatures.items() if self._looks % TEMPERATURE_LOOKS == 1 else ():
            try:
                now = self._core.read_number(name, part.label, part.property)
                if abs(now - self._celsius.get(name, math.inf)) >= TEMPERATURE_STEP:
                    self._celsius[name] = now
                    self._events.publish("value", name, now)
            except HardwareError as error:
                log.debug("%s", error)

    def _look_at_groups(self) -> None:
        for name in sorted(self._regrouped.copy()):
            self._regrouped.discard(name)
            try:
                self._events.publish("label", name, self._core.preset_in_place(name, self._groups[name]))
            except HardwareError as error:
                log.debug("%s", error)


def _of_group(core: Core, groups: dict[str, str]) -> dict[tuple[str, str], set[str]]:
    """By Micro-Manager label and property: the configuration groups (by their names in the scope) that it belongs to."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, group in groups.items():
        for preset in core.ask(name, core.mm.getAvailableConfigs, group):
            for label, prop, _ in core.preset(group, preset):
                found.setdefault((label, prop), set()).add(name)
    return found


Translate = Callable[[str, Events], object]


def _names(core: Core, scope: Scope) -> dict[tuple[str, str | None], list[Translate]]:
    """What a property of a Micro-Manager device (None: its shutter) means in the scope."""
    found: dict[tuple[str, str | None], list[Translate]] = {}
    for name, device in scope.of_kind("temperature", "property").items():
        found.setdefault((device.label, device.property), []).append(_value_of(name, device))
    for name, device in scope.of_kind("state", "objective").items():
        labels = tuple(core.ask(name, core.mm.getStateLabels, device.label))
        found.setdefault((device.label, "Label"), []).append(_label_of(name, labels))
        found.setdefault((device.label, "State"), []).append(_label_of(name, labels))
    for name, light in scope.lights.items():
        gate = light.gate
        keys: set[tuple[str, str | None]] = {(gate.label, gate.property)}
        if gate.property in (None, "State"):
            keys.add((gate.label, None))
        for key in keys:
            found.setdefault(key, []).append(_light_of(name, gate))
    return found


def _value_of(name: str, device: Temperature | Property) -> Translate:
    def publish(value: str, events: Events) -> None:
        if device.limits is None:
            events.publish("value", name, value)
            return
        try:
            number = float(value)
        except ValueError:
            return
        if math.isfinite(number):
            events.publish("value", name, number)

    return publish


def _label_of(name: str, labels: tuple[str, ...]) -> Translate:
    def publish(value: str, events: Events) -> None:
        label = labels[int(value)] if value.isdecimal() and value not in labels and int(value) < len(labels) else value
        events.publish("label", name, label)

    return publish


def _light_of(name: str, gate: Switch) -> Translate:
    return lambda value, events: events.publish("light", name, value == gate.on)


def _receiver(callbacks: Callbacks) -> Any:
    """An object for MMCore to call. Its own defaults print to standard output, so each is overridden."""
    from pymmcore import MMEventCallback

    def quietly(told: Callable[..., None]) -> Callable[..., None]:
        def receive(_: Any, *args: Any) -> None:
            try:
                told(*args)
            except Exception:  # C++ must not see it
                log.exception("a callback of MMCore failed")

        return receive

    told: dict[str, Callable[..., None]] = {
        "onStagePositionChanged": callbacks.stage,
        "onXYStagePositionChanged": callbacks.stage,
        "onPropertyChanged": callbacks.property,
        "onShutterOpenChanged": callbacks.shutter,
        "onExposureChanged": callbacks.exposure,
    }
    names = [name for name in dir(MMEventCallback) if name.startswith("on")]
    members = {name: quietly(told.get(name, lambda *_: None)) for name in names}
    return type("Receiver", (MMEventCallback,), members)()
