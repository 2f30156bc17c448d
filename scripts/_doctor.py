"""What the doctor finds: findings, and the order in which things are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..config import Scope, ScopeError, load_scope, scope_path
from ..layout import Layout

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    check: str
    what: str
    value: str | None = None
    limit: str | None = None
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Patient:
    """What is examined."""

    name: str
    """As given: bundled name or path."""
    path: Path | None
    """The scope file; None where there is none."""
    scope: Scope | None
    """None where the file can't be used."""
    layout: Layout
    error: str | None = None
    """Why it can't be used."""

    def micromanager(self) -> tuple[Path, str | None] | None:
        """The Micro-Manager configuration and the folder of adapters, told also by a scope file that has blanks."""
        if self.path is None:
            return None
        if self.scope is not None:
            config, folder = self.scope.micromanager.config, self.scope.micromanager.adapters
        else:
            try:
                entry = yaml.safe_load(self.path.read_text(encoding="utf-8"))["micromanager"]
                config, folder = str(entry["config"]), entry.get("adapters")
            except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
                return None
        here = self.path.parent
        return (here / config).resolve(), None if folder is None else str((here / str(folder)).resolve())


def patient(name: str, layout: Layout) -> Patient:
    """Find the scope file and read it; what is wrong with it is a finding, not an exception."""
    try:
        path = scope_path(name)
    except ScopeError as error:
        return Patient(name, None, None, layout, str(error))
    try:
        return Patient(name, path, load_scope(path), layout)
    except ScopeError as error:
        return Patient(name, path, None, layout, str(error))


Check = Callable[[Patient], Iterator[Finding]]


def examine(who: Patient, hardware: bool = False) -> Iterator[Finding]:
    """Every check in turn. A check that fails itself is a problem that says so; the others are made all the same."""
    from . import _doctor_disk, _doctor_hardware, _doctor_machine, _doctor_software

    checks: list[Check] = [*_doctor_software.CHECKS, *_doctor_disk.CHECKS, *_doctor_machine.CHECKS]
    if hardware:
        checks += _doctor_hardware.CHECKS
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            yield from check(who)
        except Exception as error:
            kind = type(error).__name__
            yield Finding("problem", name, f"the check itself failed: {kind}: {error}", remedy="tell us: this is a bug")
