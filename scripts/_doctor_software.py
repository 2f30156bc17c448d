"""Checks of what is installed and of what the files say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from ..config import Scope
from ._cfg import Cfg, CfgError, read_cfg
from ._doctor import Check, Finding, Patient
from ._init_command import AskError, ask_mmcore

PYTHON = ((3, 11), (3, 13))
"""Oldest and newest Python that was tried."""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^;\s]+)")


def python(_who: Patient) -> Iterator[Finding]:
    yield python_finding(sys.version_info[:2])


def python_finding(found: tuple[int, ...]) -> Finding:
    text = ".".join(map(str, found))
    low, high = (".".join(map(str, bound)) for bound in PYTHON)
    if found < PYTHON[0]:
        return Finding(
            "problem", "python", f"Python {text} is too old", text, f"≥ {low}", f"install Python {low} or newer"
        )
    if found > PYTHON[1]:
        return Finding(
            "warning", "python", f"Python {text} was never tried", text, f"≤ {high}", f"use {high} if anything fails"
        )
    return Finding("ok", "python", f"Python {text}", text)


def packages(_who: Patient) -> Iterator[Finding]:
    installed = {
        (dist.metadata["Name"] or "").lower().replace("_", "-"): dist.version for dist in metadata.distributions()
    }
    yield from package_findings(metadata.requires("queuescope") or [], installed)


def package_findings(requires: list[str], installed: dict[str, str]) -> Iterator[Finding]:
    """Pins (``name==version``) against what is there; packages of an extra that isn't installed are passed over."""
    pins = {m[1].lower().replace("_", "-"): m[2] for text in requires if (m := _PIN.match(text.replace(" ", "")))}
    wrong = {name: pin for name, pin in pins.items() if name in installed and installed[name] != pin}
    for name, pin in sorted(wrong.items()):
        yield Finding(
            "problem",
            "packages",
            f"{name} {installed[name]} is installed",
            installed[name],
            pin,
            f"pip install {name}=={pin}",
        )
    if "pymmcore-nano" in installed:
        yield Finding(
            "problem",
            "packages",
            "pymmcore-nano is installed, and pymmcore-plus would use it without saying so",
            remedy="pip uninstall pymmcore-nano",
        )
    if not wrong and "pymmcore-nano" not in installed:
        there = len([name for name in pins if name in installed])
        yield Finding("ok", "packages", f"{there} pinned packages are installed, in the versions that were tried")


def scope_file(who: Patient) -> Iterator[Finding]:
    if who.error is None:
        yield Finding("ok", "scope file", f"{who.path}")
        return
    for line in who.error.splitlines():
        text = line.removeprefix(f"{who.path}: ")
        where, blank, wanted = text.partition(" is left blank: write ")
        if blank:
            yield Finding("problem", "limits", f"{where} is left blank", remedy=f"write {wanted}")
        else:
            yield Finding(
                "problem",
                "scope file",
                text,
                remedy=f"correct it in {who.path}" if who.path else "name it with --scope",
            )


def configuration(who: Patient) -> Iterator[Finding]:
    """The ``.cfg``, and whether the scope's labels, presets and objectives are in it."""
    place = who.micromanager()
    if place is None:
        return
    path, _ = place
    try:
        cfg = read_cfg(path)
    except CfgError as error:
        for line in str(error).splitlines():
            yield Finding("problem", "configuration", line, remedy="correct it, or save it again in Micro-Manager")
        return
    if who.scope is None:
        yield Finding("ok", "configuration", f"{path}: {len(cfg.devices)} devices")
        return
    missing = list(label_findings(who.scope, cfg))
    yield from missing
    if not missing:
        yield Finding(
            "ok", "configuration", f"{path}: {len(cfg.devices)} devices; every label of the scope file is there"
        )


def label_findings(scope: Scope, cfg: Cfg) -> Iterator[Finding]:
    groups = scope.of_kind("config_group")
    labels = {f"devices.{name}.label": d.label for name, d in scope.devices.items() if name not in groups}
    for name, light in scope.lights.items():
        labels[f"lights.{name}.gate.label"] = light.gate.label
        if light.power != "fixed":
            labels[f"lights.{name}.power.label"] = light.power.label
        if light.emission is not None:
            labels[f"lights.{name}.emission.label"] = light.emission.label
    known = ", ".join(cfg.devices)
    for where, label in labels.items():
        if label not in cfg.devices:
            yield _absent(where, label, f"no device {label!r}", known)
    for name, group in groups.items():
        if group.label not in cfg.groups:
            yield _absent(f"devices.{name}.label", group.label, f"no group {group.label!r}", ", ".join(cfg.groups))
    for name, channel in scope.channels.items():
        if channel.preset is not None:
            group, preset = channel.preset
            if preset not in cfg.groups.get(group, {}):
                there = ", ".join(f"[{g}, {p}]" for g, presets in cfg.groups.items() for p in presets if g != "System")
                yield _absent(f"channels.{name}.preset", f"[{group}, {preset}]", "no such preset", there)
    turrets = [d.label for d in scope.of_kind("objective").values() if d.label in cfg.labels]
    for name, objective in scope.objectives.items():
        for turret in turrets:
            if objective.label not in cfg.labels[turret].values():
                there = ", ".join(cfg.labels[turret].values())
                yield _absent(f"objectives.{name}.label", objective.label, f"{turret} has no such position", there)


def _absent(where: str, value: str, what: str, known: str) -> Finding:
    remedy = f"write one of: {known}" if known else "the configuration has none"
    return Finding("problem", "configuration", f"{where}: {what} in the configuration", value, known or None, remedy)


def adapters(who: Patient) -> Iterator[Finding]:
    """Asked in a process of its own; devices are created, not initialised."""
    place = who.micromanager()
    if place is None or not place[0].is_file():
        return
    try:
        answer = ask_mmcore(*place, load=False)
    except AskError as error:
        yield Finding(
            "problem", "adapters", str(error), remedy="pip install 'queuescope[hardware]', or reinstall that adapter"
        )
        return
    yield from adapter_findings(answer)


def adapter_findings(answer: dict[str, object]) -> Iterator[Finding]:
    """From `queuescope.hardware._inventory`'s answer."""
    looked = answer.get("looked") or []
    places = [str(place) for place in looked] if isinstance(looked, list) else []
    interface = answer.get("device_interface")
    for place in places:
        if "passed over" in place:
            yield Finding(
                "warning",
                "adapters",
                place,
                limit=f"device interface {interface}",
                remedy="install the Micro-Manager nightly of this device interface, or another pymmcore",
            )
    missing = answer.get("missing")
    if isinstance(missing, list):
        for name in missing:
            yield Finding(
                "problem",
                "adapters",
                f"the device adapter {name!r} was not found",
                name,
                ", ".join(places) or "no folder of adapters",
                f"install it, or set micromanager.adapters to the folder that holds mmgr_dal_{name}",
            )
    modules = answer.get("modules")
    for name in modules if isinstance(modules, list) else []:
        yield Finding(
            "problem",
            "adapters",
            f"the Python module {name!r} of a `#py` device was not found",
            name,
            remedy=f"install its package, or put {name.split('.')[0]}.py beside the configuration",
        )
    if answer.get("error"):
        yield Finding(
            "problem", "adapters", str(answer["error"]), remedy="check micromanager.adapters and the configuration"
        )
    elif not missing and not modules:
        yield Finding(
            "ok", "adapters", f"all found in {answer['adapters']} (device interface {interface}, as this MMCore's)"
        )


LASER = (
    "software is not laser safety: a class 3B or 4 laser needs a hardware interlock that cuts it without any computer"
)


def lasers(who: Patient) -> Iterator[Finding]:
    if who.scope is None:
        return
    strong = [name for name, light in who.scope.lights.items() if light.laser_class in ("3B", "4")]
    unstated = [n for n, light in who.scope.lights.items() if light.emission is not None and light.laser_class is None]
    if strong and not who.scope.safety.interlocks:
        yield Finding(
            "warning",
            "lasers",
            f"class 3B or 4 and no interlock in the scope file: {', '.join(strong)}",
            remedy=f"{LASER}; where it can be read, name it under safety.interlocks",
        )
    if unstated:
        yield Finding(
            "warning",
            "lasers",
            f"{', '.join(unstated)}: a light with an emission switch and no laser_class",
            remedy="write the class on the laser's label under laser_class",
        )
    if not strong and not unstated:
        yield Finding("ok", "lasers", "no light of class 3B or 4")
    elif strong and who.scope.safety.interlocks:
        yield Finding(
            "ok", "lasers", f"interlock: {', '.join(i.device for i in who.scope.safety.interlocks)}. Remember: {LASER}"
        )


CHECKS: list[Check] = [python, packages, scope_file, configuration, adapters, lasers]
