"""Cameras with an MMCore of their own (`micromanager.core_per_camera`): which lines of the configuration each core loads.

Such a camera takes along what is its alone (its hub, its port) and what System/Startup sets of it. The presets stay whole in the
main core: MMCore keeps them whether or not it has their devices, and each entry is applied where its device is (`Core.of`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from ..config import Scope
from ._errors import ConfigurationError
from ._lines import fields_of

log = logging.getLogger("queuescope.hardware")

THING = "micromanager.core_per_camera"
OF_DEVICE = ("Device", "pyDevice", "Parent", "Property", "Label", "Delay", "FocusDirection")
"""Commands whose first field is the device that they are about."""


@dataclass(frozen=True)
class Parts:
    """The lines of a configuration, by the core that loads them."""

    main: list[str]
    own: dict[str, list[str]]
    """By the label of the camera that has the core for itself."""


def own_labels(scope: Scope) -> dict[str, str]:
    """The cameras with a core of their own: names in the scope by their label."""
    return {scope.devices[name].label: name for name in scope.micromanager.core_per_camera}


def split(lines: Iterable[str], scope: Scope) -> Parts:
    """Each line to the core that has its device.

    Raises
    ------
    ConfigurationError
        Where the configuration has no such camera, or it can't be taken out of the main core. Nothing was loaded.
    """
    rows = [(line, fields_of(line)) for line in lines]
    home = {device: label for label, name in own_labels(scope).items() for device in _alone(name, label, rows, scope)}
    parts = Parts([], {label: [] for label in own_labels(scope)})
    for line, fields in rows:
        if fields[:2] == ["Property", "Core"] and fields[2] in ("Initialize", "TimeoutMs"):
            for part in (parts.main, *parts.own.values()):
                part.append(line)
        elif fields[:2] == ["Property", "Core"] and fields[-1] in home:
            continue  # its own core has no other camera that could be current
        elif fields[0] in OF_DEVICE and len(fields) > 1 and fields[1] in home:
            parts.own[home[fields[1]]].append(line)
        elif (
            fields[0] == "ConfigGroup"
            and len(fields) > 4
            and fields[3] in home
            and fields[1:3] == ["System", "Startup"]
        ):
            parts.own[home[fields[3]]].append(line)
        elif fields[0] == "ConfigGroup" and len(fields) > 4 and fields[3] == "Core" and fields[-1] in home:
            log.warning("left out of %s/%s: Core.%s: %s is in a core of its own", *fields[1:3], *fields[4:6])
        else:
            parts.main.append(line)
    return parts


def _alone(name: str, label: str, rows: list[tuple[str, list[str]]], scope: Scope) -> set[str]:
    """This camera, and what it needs (its hub, its port), which nothing else may need."""
    devices = {fields[1] for _, fields in rows if fields[0] in ("Device", "pyDevice") and len(fields) > 3}
    if label not in devices:
        raise ConfigurationError(
            f"{THING}: {name}: the configuration {scope.config_path} has no device {label!r}; it has {sorted(devices)}: correct"
            f" devices.{name}.label (scope file)",
            thing=THING,
            value=name,
            known=sorted(devices),
        )
    pairs = [
        (fields[1], fields[-1])
        for _, fields in rows
        if fields[0] in ("Parent", "Property") and len(fields) > 2 and fields[1] in devices and fields[-1] in devices
    ]
    taken = {label}
    while more := {needed for device, needed in pairs if device in taken} - taken:
        taken |= more
    multi = sorted(n for n, part in scope.of_kind("multi_camera").items() if name in part.cameras)
    using = multi or sorted({device for device, needed in pairs if needed == label} - taken)
    if using:
        raise ConfigurationError(
            f"{THING}: {using[0]!r} uses {name} ({label}), and a device that uses a camera (a Multi Camera) must be in the same"
            f" core: take {name} out of {using[0]!r} in the scope file and in {scope.config_path}, or out of {THING}",
            thing=THING,
            value=name,
            shared_with=using,
        )
    for needed in sorted(taken - {label}):
        sharing = sorted({device for device, other in pairs if other == needed} - taken)
        if sharing:
            raise ConfigurationError(
                f"{THING}: {name} ({label}) needs {needed!r}, which {', '.join(map(repr, sharing))} needs too, and a device is"
                f" loaded in one core only: give {label!r} a hub or port of its own ({scope.config_path}), or take {name} out of"
                f" {THING}",
                thing=THING,
                value=name,
                shared_with=sharing,
            )
    return taken
