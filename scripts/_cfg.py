"""A Micro-Manager configuration read by its text, so that it can be read where its adapters are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", int, float)


class CfgError(ValueError):
    """A configuration that can't be read; one line of text for each fault, with its line number."""


@dataclass(frozen=True)
class CfgDevice:
    label: str
    adapter: str
    """Name of the adapter library; of the Python module for a `#py` device."""
    name: str
    """The device's name in its adapter; the class for a `#py` device."""
    line: int
    python: bool = False


@dataclass
class Cfg:
    """What a configuration says, in its order."""

    devices: dict[str, CfgDevice] = field(default_factory=dict)
    properties: list[tuple[str, str, str]] = field(default_factory=list)
    """Label, property, value of every ``Property`` line."""
    labels: dict[str, dict[int, str]] = field(default_factory=dict)
    """Position labels by state device."""
    groups: dict[str, dict[str, list[tuple[str, str, str]]]] = field(default_factory=dict)
    """Configuration groups: preset to (label, property, value)."""
    pixel_sizes: dict[str, float] = field(default_factory=dict)
    """µm by resolution preset."""
    resolutions: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    """What a resolution preset goes with: (label, property, value)."""
    focus: set[str] = field(default_factory=set)
    """Devices with a FocusDirection."""

    def core(self, role: str) -> str | None:
        """The device that has a role (``Camera``, ``Shutter``, ``Focus`` …), None where nobody has it."""
        entries = [*self.properties, *self.groups.get("System", {}).get("Startup", [])]
        found = [value for label, name, value in entries if (label, name) == ("Core", role) and value]
        return found[-1] if found else None


_FIELDS: dict[str, tuple[int, ...]] = {
    "Device": (4,),
    "pyDevice": (4,),
    "Property": (3, 4),
    "Parent": (3,),
    "Label": (4,),
    "ConfigGroup": (2, 3, 5, 6),
    "ConfigPixelSize": (2, 5, 6),
    "PixelSize_um": (3,),
    "PixelSizeAffine": (8,),
    "FocusDirection": (3,),
    "Delay": (3,),
}
"""Fields of a line, itself included, by command; others of Micro-Manager's are passed over."""
_PASSED_OVER = {"Equipment", "ImageSynchro", "PixelSizeAngle_dxdz", "PixelSizeAngle_dydz", "PixelSizeOptimalZ_Um"}
_NAMES_A_DEVICE = {"Property": 1, "Parent": 1, "Label": 1, "ConfigGroup": 3, "ConfigPixelSize": 2, "FocusDirection": 1}


def read_cfg(path: Path) -> Cfg:
    """Read a ``.cfg``.

    Raises
    ------
    CfgError
        Where it can't be read or isn't a Micro-Manager configuration: every fault with its line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CfgError(f"{path}: can't be read: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")  # what the Configuration Wizard writes on older Windows
    if "\0" in text:
        raise CfgError(f"{path}: is no text file: name the .cfg that Micro-Manager loads")
    return parse_cfg(text, str(path))


def parse_cfg(text: str, source: str = "configuration") -> Cfg:
    """The same from text; ``source`` is its name in errors."""
    cfg = Cfg()
    faults: list[str] = []
    named: list[tuple[int, str]] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if line.startswith("#py "):
            line = line.removeprefix("#py ").strip()
        if not line or line.startswith("#"):
            continue
        fields = [part.strip() for part in line.split(",")]
        try:
            _take(cfg, fields, number)
        except ValueError as error:
            faults.append(f"{source} line {number}: {error} ({raw.strip()!r})")
            continue
        at = _NAMES_A_DEVICE.get(fields[0])
        if at is not None and len(fields) > at:
            named.append((number, fields[at]))
        if fields[0] == "Parent":
            named.append((number, fields[2]))
    known = {"Core", *cfg.devices}
    faults += [f"{source} line {n}: no Device line names {label!r}" for n, label in named if label not in known]
    if not cfg.devices and not faults:
        faults.append(f"{source}: has no Device line: it is no Micro-Manager configuration, or an empty one")
    if faults:
        raise CfgError("\n".join(faults))
    return cfg


def _take(cfg: Cfg, fields: list[str], number: int) -> None:
    command, count = fields[0], len(fields)
    if command in _PASSED_OVER:
        return
    if command not in _FIELDS:
        raise ValueError(f"{command!r} is no command of a Micro-Manager configuration")
    if count not in _FIELDS[command]:
        wanted = " or ".join(str(n) for n in _FIELDS[command])
        raise ValueError(f"{command} has {count} fields instead of {wanted}")
    match command:
        case "Device" | "pyDevice":
            label = fields[1]
            if not label or label == "Core":
                raise ValueError("a device needs a label, and it can't be 'Core'")
            if label in cfg.devices:
                raise ValueError(f"the label {label!r} was given in line {cfg.devices[label].line} already")
            cfg.devices[label] = CfgDevice(label, fields[2], fields[3], number, command == "pyDevice")
        case "Property":
            cfg.properties.append((fields[1], fields[2], fields[3] if count == 4 else ""))
        case "Label":
            cfg.labels.setdefault(fields[1], {})[_number(int, fields[2], "position")] = fields[3]
        case "ConfigGroup":
            presets = cfg.groups.setdefault(fields[1], {})
            if count > 2:
                preset = presets.setdefault(fields[2], [])
                if count > 3:
                    preset.append((fields[3], fields[4], fields[5] if count == 6 else ""))
        case "ConfigPixelSize":
            entries = cfg.resolutions.setdefault(fields[1], [])
            if count > 2:
                entries.append((fields[2], fields[3], fields[4] if count == 5 else ""))
        case "PixelSize_um":
            cfg.pixel_sizes[fields[1]] = _number(float, fields[2], "pixel size")
        case "FocusDirection":
            _number(int, fields[2], "focus direction")
            cfg.focus.add(fields[1])


def _number(kind: Callable[[str], T], text: str, what: str) -> T:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"the {what} {text!r} is no number") from None
