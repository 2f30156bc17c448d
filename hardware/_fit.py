"""Does the scope file fit the configuration that was loaded? Every label, property, preset and choice is looked up."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ..config import Axis, Light, Property, Scope, Switch, Temperature
from ._axes import MICROMETRES
from ._errors import ConfigurationError
from ._mmcore import Core, same
from ._trigger_fit import trigger_problems

log = logging.getLogger("queuescope.hardware")

TYPES = {
    "stage": ("StageDevice",),
    "xy_stage": ("XYStageDevice",),
    "galvo": ("GalvoDevice",),
    "camera": ("CameraDevice",),
    "multi_camera": ("CameraDevice",),
    "state": ("StateDevice",),
    "objective": ("StateDevice",),
    "autofocus": ("AutoFocusDevice",),
}


def check_fit(core: Core, scope: Scope) -> None:
    """Compare the whole scope with what MMCore has.

    Raises
    ------
    ConfigurationError
        One line for each thing that doesn't fit. Fields ``thing`` (the first one's) and ``problems``.
    """
    problems = [*_unsupported(scope), *_Fit(core, scope).problems(), *trigger_problems(core, scope)]
    if not problems:
        warn_of_wider_firmware(core, scope)
    else:
        where = f"the scope file {scope.path} does not fit the Micro-Manager configuration {scope.config_path}:"
        lines = [f"{thing}: {what}" for thing, what in problems]
        raise ConfigurationError("\n".join([where, *lines]), thing=problems[0][0], problems=lines)


def _unsupported(scope: Scope) -> Iterator[tuple[str, str]]:
    """What this version would not honour is refused rather than passed over."""
    for interlock in scope.safety.interlocks:
        if scope.devices[interlock.device].kind not in ("property", "state"):
            yield "safety.interlocks", f"{interlock.device!r} must be a device of kind property or state"


def firmware_limits(mm: Any, axis: Axis) -> tuple[float, float] | None:
    """Limits that the device keeps itself, in the scope's units: those of its property ``Position``, or ASI's
    ``LowerLim(mm)`` and ``UpperLim(mm)`` (``LowerLimX(mm)`` … of an XY stage). None where it tells none.
    """
    if (
        axis.component is None
        and mm.hasProperty(axis.label, "Position")
        and mm.hasPropertyLimits(axis.label, "Position")
    ):
        scale = MICROMETRES[axis.units]
        low, high = (get(axis.label, "Position") for get in (mm.getPropertyLowerLimit, mm.getPropertyUpperLimit))
        return low / scale, high / scale
    part = (axis.component or "").upper()
    names = [f"{end}Lim{part}(mm)" for end in ("Lower", "Upper")]
    if axis.units != "deg" and all(mm.hasProperty(axis.label, name) for name in names):
        with contextlib.suppress(ValueError):
            low, high = (1000 * float(mm.getProperty(axis.label, name)) / MICROMETRES[axis.units] for name in names)
            return low, high
    return None


def warn_of_wider_firmware(core: Core, scope: Scope) -> None:
    """A joystick knows the controller's limits only. It starts all the same: how else would somebody narrow them?"""
    for axis in scope.axes().values():
        found = firmware_limits(core.mm, axis)
        if found is not None and (found[0] < axis.limits[0] or axis.limits[1] < found[1]):
            log.warning(
                "%s: the controller's own limits %s reach beyond the scope's %s %s (%s): a hand at the joystick may go there;"
                " set the controller's to the scope's",
                axis.name,
                list(found),
                list(axis.limits),
                axis.units,
                axis.source,
            )


class _Fit:
    def __init__(self, core: Core, scope: Scope) -> None:
        self._core, self._mm, self._scope = core, core.mm, scope
        self._loaded = core.loaded

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from self._devices()
        yield from self._firmware()
        yield from self._lights()
        yield from self._channels()
        yield from self._objectives()
        yield from self._joysticks()

    def _joysticks(self) -> Iterator[tuple[str, str]]:
        for one in self._scope.safety.joysticks:
            if one.label not in self._loaded:
                yield self._no_label("safety.joysticks", one.label)
            else:
                yield from self._property("safety.joysticks", one.label, one.property, values=(one.on, one.off))

    def _devices(self) -> Iterator[tuple[str, str]]:
        guarded = set(self._guarded())
        for name, device in self._scope.devices.items():
            where = f"devices.{name}"
            if device.kind == "config_group":
                yield from self._group(f"{where}.label", device.label)
                continue
            if device.label not in self._loaded:
                yield self._no_label(f"{where}.label", device.label)
                continue
            wanted = TYPES.get(device.kind)
            got = self._core.device_type(device.label)
            if wanted and got not in wanted:
                yield (
                    f"{where}.label",
                    f"{device.label!r} is a {got}, a device of kind {device.kind} needs a {wanted[0]}",
                )
            if device.kind == "stage" and got == "StageDevice" and self._mm.isContinuousFocusDrive(device.label):
                yield (
                    f"{where}.label",
                    f"{device.label!r} is the offset of an autofocus, which moves another stage past its limits: take it"
                    " out, and state `offset` at the autofocus",
                )
            if device.kind == "multi_camera" and got == "CameraDevice":
                yield from self._physical(where, device.label, device.cameras)
            if isinstance(device, Temperature):
                yield from self._property(f"{where}.property", device.label, device.property, writes=False)
                if device.setpoint is not None:
                    yield from self._property(f"{where}.setpoint", device.label, device.setpoint)
            if isinstance(device, Property):
                yield from self._property(
                    f"{where}.property", device.label, device.property, values=device.choices or ()
                )
                if {(device.label, device.property), (device.label, "")} & guarded:
                    yield (
                        f"{where}.property",
                        f"{device.label}.{device.property} belongs to a light, an axis, the objective or the autofocus: use that",
                    )

    def _physical(self, where: str, label: str, cameras: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        wanted = [self._scope.devices[camera].label for camera in cameras]
        names = [name for name in self._mm.getDevicePropertyNames(label) if name.startswith("Physical Camera")]
        found = [text for name in sorted(names) if (text := self._mm.getProperty(label, name)) not in ("", "Undefined")]
        if found != wanted:
            yield (
                f"{where}.cameras",
                f"the scope says {wanted}, {label} has {found or 'no property Physical Camera 1'}: set its Physical Camera 1 … in"
                " the configuration (it takes Micro-Manager's adapters only), or list its cameras in that order",
            )

    def _group(self, where: str, group: str) -> Iterator[tuple[str, str]]:
        """A group that plans choose from must not be a way round an axis, a light or the objective."""
        groups = list(self._mm.getAvailableConfigGroups())
        if group not in groups:
            yield where, f"the configuration has no group {group!r}; it has {groups}"
            return
        if group == "System":
            yield where, "the group System is Micro-Manager's own (Startup, Shutdown): name another"
        guarded = {label for label, _ in self._guarded()}
        for preset in self._mm.getAvailableConfigs(group):
            for label, prop, _ in self._core.preset(group, preset):
                if label in guarded:
                    yield (
                        where,
                        f"[{group}, {preset}] sets {label}.{prop}, light, axis, objective or autofocus: take it out",
                    )

    def _firmware(self) -> Iterator[tuple[str, str]]:
        """A position that the scope allows and the device can't take would be an error in the middle of a plan."""
        for axis in self._scope.axes().values():
            found = firmware_limits(self._mm, axis) if axis.label in self._loaded else None
            if found is not None and not (found[0] <= axis.limits[0] and axis.limits[1] <= found[1]):
                yield (
                    axis.source,
                    f"the scope allows {list(axis.limits)} {axis.units}, {axis.label}'s own limits are {list(found)}: narrow"
                    " the scope's, or widen the device's",
                )

    def _guarded(self) -> Iterator[tuple[str, str]]:
        """Properties that move an axis, turn the objectives or switch a light."""
        for turret in self._scope.of_kind("objective").values():
            yield from ((turret.label, "Label"), (turret.label, "State"))
        for axis in self._scope.axes().values():
            yield axis.label, "Position"
        for autofocus in self._scope.of_kind("autofocus").values():
            yield autofocus.label, ""
        for light in self._scope.lights.values():
            for part in (light.gate, light.power, light.emission):
                if part is not None and part != "fixed":
                    yield part.label, part.property or ""
        for joystick in self._scope.safety.joysticks:
            yield joystick.label, joystick.property

    def _lights(self) -> Iterator[tuple[str, str]]:
        for name, light in self._scope.lights.items():
            where = f"lights.{name}"
            yield from self._switch(f"{where}.gate", light.gate)
            if light.emission is not None:
                yield from self._switch(f"{where}.emission", light.emission)
            yield from self._refreshed(where, light)
            power = light.power
            if power == "fixed":
                continue
            if power.label not in self._loaded:
                yield self._no_label(f"{where}.power.label", power.label)
                continue
            missing = list(self._property(f"{where}.power.property", power.label, power.property))
            yield from missing
            mm = self._core.of(power.label).mm
            if not missing and mm.hasPropertyLimits(power.label, power.property):
                top = mm.getPropertyUpperLimit(power.label, power.property)
                asked = power.full_scale * power.limits_pct[1] / 100
                if asked > top:
                    yield (
                        f"{where}.power",
                        f"limits_pct reach {asked:g}, but {power.label}.{power.property} ends at {top:g}: correct"
                        " full_scale or limits_pct",
                    )

    def _refreshed(self, where: str, light: Light) -> Iterator[tuple[str, str]]:
        """ASI's adapters answer from a cache unless told otherwise: such a readback verifies nothing."""
        name = "RefreshPropertyValues"
        switches = (light.gate, light.emission) if light.verify == "refresh" else ()
        for label in dict.fromkeys(switch.label for switch in switches if switch is not None):
            mm = self._core.of(label).mm
            if label not in self._loaded or not mm.hasProperty(label, name):
                continue
            if mm.getProperty(label, name) != "No":
                continue
            yield (
                f"{where}.verify",
                f"{label} answers from a cache ({name} is No): set {label}.{name} to Yes in the configuration, or say"
                " verify: none",
            )

    def _switch(self, where: str, switch: Switch) -> Iterator[tuple[str, str]]:
        if switch.label not in self._loaded:
            yield self._no_label(f"{where}.label", switch.label)
        elif switch.property is None:
            got = self._core.device_type(switch.label)
            if got != "ShutterDevice":
                yield f"{where}.label", f"{switch.label!r} is a {got}: name its property, or a ShutterDevice"
        else:
            yield from self._property(
                f"{where}.property", switch.label, switch.property, values=(switch.on, switch.off)
            )

    def _channels(self) -> Iterator[tuple[str, str]]:
        guarded = {label for label, _ in self._guarded()}
        for name, channel in self._scope.channels.items():
            where = f"channels.{name}"
            if channel.preset is not None:
                group, preset = channel.preset
                if not self._mm.isConfigDefined(group, preset):
                    groups = list(self._mm.getAvailableConfigGroups())
                    presets = list(self._mm.getAvailableConfigs(group)) if group in groups else []
                    has = (
                        f"the group {group!r} has the presets {presets}"
                        if group in groups
                        else f"the groups are {groups}"
                    )
                    yield f"{where}.preset", f"[{group}, {preset}] is not in the configuration; {has}"
                else:
                    for label, prop, _ in self._core.preset(group, preset):
                        if label in guarded:
                            yield (
                                f"{where}.preset",
                                f"[{group}, {preset}] sets {label}.{prop}, light, axis, objective or autofocus: take it out",
                            )
            wheel = self._scope.filter_of(channel)
            if wheel is not None:
                label = self._scope.devices[wheel].label
                yield from self._state_label(f"{where}.emission", wheel, label, channel.emission or "")

    def _objectives(self) -> Iterator[tuple[str, str]]:
        for turret, device in self._scope.of_kind("objective").items():
            for name, objective in self._scope.objectives.items():
                yield from self._state_label(f"objectives.{name}.label", turret, device.label, objective.label)

    def _state_label(self, where: str, device: str, label: str, wanted: str) -> Iterator[tuple[str, str]]:
        if label in self._loaded and self._core.device_type(label) == "StateDevice":
            known = list(self._mm.getStateLabels(label))
            if wanted not in known:
                yield where, f"{device} ({label}) has no label {wanted!r}; it has {known}"

    def _property(
        self, where: str, label: str, name: str, values: tuple[str, ...] = (), writes: bool = True
    ) -> Iterator[tuple[str, str]]:
        mm = self._core.of(label).mm
        if not mm.hasProperty(label, name):
            known = list(mm.getDevicePropertyNames(label))
            yield where, f"{label!r} has no property {name!r}; it has {known}"
            return
        if writes and mm.isPropertyReadOnly(label, name):
            yield where, f"{label}.{name} is read only, so it can't be set"
        allowed = list(mm.getAllowedPropertyValues(label, name))
        for value in values:
            if allowed and not any(same(one, value) for one in allowed):
                yield where, f"{label}.{name} can't be {value!r}; it can be {allowed}"

    def _no_label(self, where: str, label: str) -> tuple[str, str]:
        close = [known for known in self._loaded if known.lower().replace(" ", "") == label.lower().replace(" ", "")]
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return where, f"the configuration has no device {label!r}{hint}; it has {self._loaded}"
