"""After a process that died: hubs and lights come first, alone; then, with or without a person, everything else.

A process that ends in good order takes its note away. A note that is still there belongs to one that was killed, crashed or
lost its power: a light may be on and a sequence running. So the adapters of the lights are loaded before any other, gates are
closed, emissions switched off, controllers' sequences idled; only then the configuration as a whole, which may home stages.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..config import Scope
from ..layout import Layout
from ._errors import HardwareError
from ._lines import fields_of
from ._mmcore import Core
from ._scanners import Scanners

log = logging.getLogger("queuescope.hardware")


class Note:
    """``services/hardware.json``: there from start to orderly end."""

    def __init__(self, layout: Layout) -> None:
        self._path: Path = layout.services / "hardware.json"

    def left(self) -> dict[str, int] | None:
        """Pid of the process that left it behind and of who had started that; None where the last one ended well."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return {"pid": int(found["pid"]), "parent": int(found["parent"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return {"pid": 0, "parent": 0}

    def begin(self) -> None:
        self._path.write_text(json.dumps({"pid": os.getpid(), "parent": os.getppid()}), encoding="utf-8")

    def end(self) -> None:
        self._path.unlink(missing_ok=True)


def needs_person(scope: Scope, left: dict[str, int] | None) -> str | None:
    """Why loading everything must wait for a person, or None.

    Only a restart by whoever had started the dead process (the supervisor) waits: a person who starts the stack is there.
    """
    if left is None or left["parent"] not in (os.getppid(), 0):
        return None
    if scope.micromanager.restart == "ask":
        return "micromanager.restart is `ask`"
    movers = [name for name, device in scope.devices.items() if device.moves_on_init]
    return f"loading moves {', '.join(movers)} (moves_on_init)" if movers else None


def first_lines(lines: Iterable[str], scope: Scope) -> list[str]:
    """What lights, scanners and autofocus need of a ``.cfg``: their devices, hubs, ports and labels; no presets."""
    rows = [(line, fields) for line in lines if (fields := fields_of(line))[0]]
    devices = {fields[1] for _, fields in rows if fields[0] in ("Device", "pyDevice") and len(fields) > 3}
    wanted = _labels(scope) & devices
    moving = {device.label for device in scope.devices.values() if device.moves_on_init}
    wanted |= {part.label for part in scope.of_kind("galvo", "autofocus").values()} & devices - moving
    while True:  # hubs, serial ports, and devices that another one is made of
        needed = set()
        for _, fields in rows:
            if fields[0] in ("Parent", "Property") and len(fields) > 2 and fields[1] in wanted:
                needed |= {fields[-1]} & devices
        if needed <= wanted:
            break
        wanted |= needed
    kept = []
    for line, fields in rows:
        core = fields[:2] == ["Property", "Core"] and fields[2] in ("Initialize", "TimeoutMs")
        if core or (
            fields[0] in ("Device", "pyDevice", "Parent", "Property", "Label", "Delay") and fields[1] in wanted
        ):
            kept.append(line)
    return kept


def _labels(scope: Scope) -> set[str]:
    found = set()
    for light in scope.lights.values():
        for part in (light.gate, light.power, light.emission):
            label = getattr(part, "label", None)
            if label is not None:
                found.add(label)
    return found


def idle_sequences(core: Core) -> list[str]:
    """Stop every controller that may be running a sequence by itself; returns their labels. Never raises."""
    stopped, scanners = [], Scanners(core)
    for label in scanners.labels:
        try:
            scanners.idle_one(label)
            stopped.append(label)
        except HardwareError as error:
            log.error("the sequence of %s may still be running: %s", label, error)
    return stopped
