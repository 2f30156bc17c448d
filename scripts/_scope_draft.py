"""A scope file written from a Micro-Manager configuration: everything found, and a blank where only a person knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..config import BLANK, RESERVED
from ._cfg import Cfg
from ._kinds import Names, kinds, quoted, slug
from ._light_guess import guess_lights, light_lines

Bounds = Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class Asked:
    """What MMCore said of the devices; empty where it couldn't be asked."""

    types: Mapping[str, str] = field(default_factory=dict)
    limits: Bounds = field(default_factory=dict)
    writable: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    text: str
    """The scope file."""
    found: dict[str, int]
    """How many of each thing."""
    notes: list[str]
    """What a person should know."""


def draft(cfg: Cfg, name: str, config: str, adapters: str | None = None, asked: Asked | None = None) -> Draft:
    """Write the scope file of a configuration.

    Parameters
    ----------
    cfg
        The configuration.
    name
        Name of the microscope.
    config, adapters
        Entries of ``micromanager``: path of the ``.cfg`` as seen from the scope file; folder of adapters, or None.
    asked
        What MMCore knows of its devices.
    """
    return _Writer(cfg, asked or Asked()).draft(name, config, adapters)


class _Writer:
    def __init__(self, cfg: Cfg, asked: Asked) -> None:
        self._cfg, self._asked = cfg, asked
        self._kinds = kinds(cfg, asked.types)
        self._lights = guess_lights(cfg, self._kinds, asked.limits, asked.writable)
        self._names = Names(*RESERVED)
        self._light_names = [(self._names.give(light.text, "light"), light) for light in self._lights]
        self._turret = self._find_turret()
        self._devices: dict[str, tuple[str, str]] = {}
        self._moving: set[str] = set()
        self._notes: list[str] = []
        self._groups = 0

    def draft(self, name: str, config: str, adapters: str | None) -> Draft:
        devices, lights = list(self._device_lines()), list(light_lines(self._light_names))
        channels, objectives = list(self._channel_lines()), list(self._objective_lines())
        lines = [
            f"# {name}: written by 'queuescope init' from {config}.",
            f"# Wherever it says {BLANK} only you know the value: the comment beside it says what to write. Until then",
            "# 'queuescope up' refuses to start and names what is missing. 'queuescope doctor' checks the rest.",
            f"name: {slug(name, 'scope').replace('_', '-')}",
            "micromanager:",
            f"  config: {quoted(config)}",
        ]
        if adapters is not None:
            lines.append(f"  adapters: {quoted(adapters)}")
        lines += [*self._startup_lines()]
        lines += [
            "",
            "# Names on the left are yours to choose; plans use them. Limits hold for everybody, scripts included.",
        ]
        lines += ["devices:", *devices] if devices else ["devices: {}"]
        lines += self._unused()
        for title, part, remark in (
            ("lights", lights, "A gate opens and closes, a power is set in %, an emission is a laser's own switch."),
            ("channels", channels, "exposure_ms: what is used where a plan names none; change it as you like."),
            ("objectives", objectives, "pixel_um: size of an unbinned pixel in the sample."),
        ):
            if part:
                lines += ["", f"# {remark}", f"{title}:", *part]
        lines += ["", "storage: {min_free_gb: 5}"]
        found = dict.fromkeys(("stage", "xy_stage", "galvo", "camera", "state", "objective"), 0)
        for _, kind in self._devices.values():
            found[kind] += 1
        found |= {
            "config_group": self._groups,
            "light": len(self._lights),
            "channel": sum(not line.lstrip().startswith("#") for line in channels),
        }
        return Draft("\n".join(lines) + "\n", {k: n for k, n in found.items() if n}, self._notes)

    def _startup_lines(self) -> Iterator[str]:
        """System/Startup may not touch lights and axes; which device a shutter works on is wiring, not switching."""
        entries = self._cfg.groups.get("System", {}).get("Startup", [])
        own = {label for light in self._lights for label in light.labels} | self._moving
        touching = [(label, name) for label, name, _ in entries if label in own]
        wiring = [f"{label}.{name}" for label, name in touching if name == "State Device"]
        if wiring:
            listed = ", ".join(quoted(entry) for entry in wiring)
            yield f"  startup_allowed: [{listed}]   # the device that this shutter works on"
        left = [f"{label}.{name}" for label, name in touching if name != "State Device"]
        if left:
            yield f"  # System/Startup also sets {', '.join(left)}: lights and axes, so these are left out when it is loaded."
            yield "  # List one as startup_allowed: [LABEL.PROPERTY] if it must be set all the same."

    def _find_turret(self) -> str | None:
        states = [label for label, kind in self._kinds.items() if kind == "state"]
        named = [label for label in states if re.search(r"objective|nosepiece", self._text(label), re.I)]
        by_pixel = [e[0] for entries in self._cfg.resolutions.values() for e in entries if e[0] in states]
        return next(iter([*named, *by_pixel]), None)

    def _text(self, label: str) -> str:
        return f"{label} {self._cfg.devices[label].name}"

    # ------------------------------------------------------------------ devices

    def _device_lines(self) -> Iterator[str]:
        taken = {label for light in self._lights for label in light.labels}
        special = self._special_names()
        order = ("xy_stage", "stage", "galvo", "camera", "state")
        for kind in order:
            for label in (label for label, k in self._kinds.items() if k == kind and label not in taken):
                name = self._names.give(special.get(label, label), kind)
                wanted = "objective" if label == self._turret else kind
                self._devices[label] = (name, wanted)
                if kind in ("xy_stage", "stage", "galvo"):
                    self._moving.add(label)
                entry, remark = self._device(label, wanted)
                yield f"  {name}: {{label: {quoted(label)}, kind: {wanted}{entry}}}" + (
                    f"   # {remark}" if remark else ""
                )
        yield from self._group_lines()
        if any(kind == "galvo" for _, kind in self._devices.values()):
            yield "  # A light-sheet microscope: add 'view: A' (or B) to the camera, the piezo and the galvo of each side, and"
            yield "  # 'calibration: {slope_um_per_deg: …, offset_um: …}' to each galvo: then acquire_volume is offered."

    def _group_lines(self) -> Iterator[str]:
        """Groups that are no channels: a light path, a camera's modes."""
        for group, presets in self._cfg.groups.items():
            if group == "System" or group in self._channel_groups() or not presets:
                continue
            guarded = self._guarded([entry for entries in presets.values() for entry in entries])
            if guarded:
                yield f"  # the group {group} sets {guarded}, which only this package may: it is left out"
                continue
            name = self._names.give(group, "group")
            self._groups += 1
            yield f"  {name}: {{label: {quoted(group)}, kind: config_group}}   # {', '.join(presets)[:80]}"

    def _channel_groups(self) -> list[str]:
        told = self._cfg.core("ChannelGroup")
        likely = r"channel|laser|illum|fluor|light ?source|filter"
        return [group for group in self._cfg.groups if group == told or re.search(likely, group, re.I)]

    def _special_names(self) -> dict[str, str]:
        """The stages that ``x_um, y_um, z_um`` of a position mean."""
        names = {}
        xy = [label for label, kind in self._kinds.items() if kind == "xy_stage"]
        if xy:
            role = self._cfg.core("XYStage")
            names[role if role in xy else xy[0]] = "xy"
        stages = [label for label, kind in self._kinds.items() if kind == "stage"]
        likely = [label for label in stages if re.match(r"z$|zstage|.*z ?drive|.*focus", label, re.I)]
        focus = self._cfg.core("Focus")
        z = next(iter(likely), focus if focus in stages else stages[0] if len(stages) == 1 else None)
        if z is not None:
            names[z] = "z"
            self._notes.append(
                f"z is {z!r}: the stage that z_um of a position means. Rename another one to z if it is that."
            )
        return names

    def _device(self, label: str, kind: str) -> tuple[str, str]:
        told = self._asked.limits.get(label, {})
        own = [
            f"{name} {low:g} … {high:g}"
            for name, (low, high) in told.items()
            if re.search(r"limit|position", name, re.I)
        ]
        hint = f" (the controller says {'; '.join(own)})" if own else ""
        match kind:
            case "stage":
                return f", limits: {BLANK}", f"[low, high] in µm{hint}"
            case "xy_stage":
                return f", limits: {{x: {BLANK}, y: {BLANK}}}", f"each [low, high] in µm{hint}"
            case "galvo":
                return f", limits: {{x: {BLANK}, y: {BLANK}}}", f"each [low, high] in degrees{hint}"
            case "camera":
                low, high = told.get("Exposure", (0.0, 0.0))
                own_ms = f"; the camera allows {low:g} … {high:g}" if high else ""
                return (
                    f", pixel_um: {BLANK}, exposure_ms: {BLANK}",
                    f"the sensor's pitch in µm; [shortest, longest] in ms{own_ms}",
                )
            case _:
                return "", ", ".join(self._cfg.labels.get(label, {}).values())[:80]

    def _unused(self) -> Iterator[str]:
        taken = {*self._devices, *(label for light in self._lights for label in light.labels)}
        left = [
            label
            for label in self._cfg.devices
            if label not in taken and self._kinds[label] not in ("hub", "serial port")
        ]
        if left:
            yield "  # Also in the configuration, not used here:"
        for label in left:
            device, kind = self._cfg.devices[label], self._kinds[label]
            origin = f"Python, {device.adapter}.{device.name}" if device.python else f"{device.adapter}, {device.name}"
            yield f"  #   {label} ({origin}): {kind}"
            hint = self._hint(label, kind)
            if hint:
                yield f"  #     to use it, add   {hint}"
            if kind == "unknown":
                self._notes.append(
                    f"{label!r} ({origin}, line {device.line}): its kind could not be told: add it under devices if you need it"
                )

    def _hint(self, label: str, kind: str) -> str | None:
        """The entry of what nobody should get unasked: an autofocus moves a stage by itself."""
        by_label = {label: name for label, (name, _) in self._devices.items()}
        if kind == "autofocus":
            stages = [name for name, kind in self._devices.values() if kind == "stage"]
            axis = "z" if "z" in stages else by_label.get(self._cfg.core("Focus") or "") or "STAGE_THAT_IT_MOVES"
            return (
                f"autofocus: {{label: {quoted(label)}, kind: autofocus, axis: {axis}, reach: HOW_FAR_IT_MAY_MOVE_IT}}"
            )
        physical = sorted(
            (n, v) for owner, n, v in self._cfg.properties if owner == label and n.startswith("Physical Camera")
        )
        cameras = [by_label[value] for _, value in physical if value in by_label]
        if len(cameras) >= 2:
            name = slug(label, "cameras")
            return f"{name}: {{label: {quoted(label)}, kind: multi_camera, cameras: [{', '.join(cameras)}]}}"
        return None

    # ------------------------------------------------------------------ channels

    def _channel_lines(self) -> Iterator[str]:
        names = Names()
        for group in self._channel_groups():
            for preset, entries in self._cfg.groups[group].items():
                if re.search(r"\b(all )?off\b|shutdown|startup", preset, re.I):
                    yield f"  # [{group}, {preset}] is no channel"
                    continue
                light, sure = self._light_of(preset, entries)
                guarded = self._guarded(entries)
                known = f"[{quoted(group)}, {quoted(preset)}]"
                shown = "" if guarded else f", preset: {known}"
                entry = f"  {names.give(preset, 'channel')}: {{light: {light}{shown}, exposure_ms: 10}}"
                remarks = [] if sure else ["light guessed" if light != BLANK else "light: a name from above"]
                if guarded:
                    remarks.append(
                        f"{known} sets {guarded}, which only this package may: take that out of it, then name it here"
                    )
                yield entry + (f"   # {'; '.join(remarks)}" if remarks else "")

    def _light_of(self, preset: str, entries: list[tuple[str, str, str]]) -> tuple[str, bool]:
        """Name of a preset's light, and whether the configuration says so."""
        stated = [value for label, name, value in entries if (label, name) == ("Core", "Shutter")]
        for name, light in self._light_names:
            if stated and light.gate == stated[-1]:
                return name, True
        by_colour = [
            name for name, light in self._light_names if light.wavelength_nm and str(light.wavelength_nm) in preset
        ]
        usual = [name for name, light in self._light_names if light.gate == self._cfg.core("Shutter")]
        only = [name for name, _ in self._light_names] if len(self._light_names) == 1 else []
        return next(iter([*by_colour, *only, *usual]), BLANK), False

    def _guarded(self, entries: list[tuple[str, str, str]]) -> str:
        own = {label for light in self._lights for label in light.labels} | self._moving | {self._turret}
        return ", ".join(f"{label}.{name}" for label, name, _ in entries if label in own)

    # ------------------------------------------------------------------ objectives

    def _objective_lines(self) -> Iterator[str]:
        turret, names, seen = self._turret, Names(), set()
        if turret is None or turret not in self._devices:
            if self._cfg.pixel_sizes:
                sizes = ", ".join(f"{name} {size:g} µm" for name, size in self._cfg.pixel_sizes.items())
                self._notes.append(f"pixel sizes without an objective turret: {sizes}; no objectives were written")
            return
        positions = self._cfg.labels.get(turret, {})
        for resolution, entries in self._cfg.resolutions.items():
            for label, name, value in entries:
                if label != turret or name not in ("Label", "State"):
                    continue
                position = positions.get(int(value), "") if name == "State" and value.isdigit() else value
                size = self._cfg.pixel_sizes.get(resolution)
                if not position or position in seen:
                    continue
                seen.add(position)
                aperture = re.search(r"(?<![\d.])(0\.\d+|1\.[0-6]\d*)(?![\d.])", position)
                na = aperture[1] if aperture else BLANK
                remark = "   # na: guessed from the label" if aperture else "   # na: on the objective's barrel"
                yield (
                    f"  {names.give(resolution, 'objective')}: {{label: {quoted(position)}, na: {na},"
                    f" pixel_um: {BLANK if not size else f'{size:g}'}}}{remark}"
                )
        left = [label for label in positions.values() if label not in seen]
        if left:
            yield f"  # without a pixel size in the configuration: {', '.join(left)}"
