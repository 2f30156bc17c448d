"""A configuration loaded once in a process of its own, to see whether it would work: for `queuescope doctor --hardware`.

``python -m queuescope.hardware._checkup --scope NAME|PATH`` prints one line of JSON, `Checkup`. Everything is loaded as at a
start, in a temporary data directory; every device is read once; gates are closed and emissions switched off; nothing is moved,
but stages may home where their adapter does that.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel

from ..config import Scope, load_scope
from ..layout import Layout
from ._errors import ConfigurationError, HardwareError
from ._fit import firmware_limits
from ._local import LocalHardware
from ._mmcore import Core


class Checkup(BaseModel):
    """What was found."""

    problems: list[str] = []
    """Why it would not start, a line for each thing."""
    unread: dict[str, str] = {}
    """Devices that could not be read, and why."""
    read: int = 0
    """Readings that were taken."""
    firmware: dict[str, tuple[float, float]] = {}
    """The controller's own limits by axis, where it tells them."""
    exposures: dict[str, tuple[float, float]] = {}
    """The camera's own shortest and longest exposure in ms, where it tells them."""
    frame_bytes: dict[str, int] = {}
    """Size of one frame by camera."""
    not_off: dict[str, str] = {}
    """Lights that could not be switched off, and why."""


def checkup(scope: Scope, layout: Layout) -> Checkup:
    """Load, read, unload. Only one MMCore may do so in a process."""
    try:
        hardware = LocalHardware.load(scope, layout)
    except ConfigurationError as error:
        return Checkup(problems=[str(line) for line in error.fields.get("problems") or [str(error)]])
    except HardwareError as error:
        return Checkup(problems=[str(error)])
    try:
        state = hardware.state()
        readings = (state.positions, state.labels, state.values, state.cameras, state.lights)
        core = hardware._microscope._core
        firmware = {name: found for name, axis in scope.axes().items() if (found := firmware_limits(core.mm, axis))}
        return Checkup(
            unread=state.errors,
            read=sum(len(part) for part in readings),
            firmware=firmware,
            exposures=_exposures(core, scope),
            frame_bytes={n: c.width * c.height * (2 if c.dtype == "uint16" else 1) for n, c in state.cameras.items()},
            not_off={off.light: off.error or "" for off in hardware.lights_off(emission=True) if not off.off},
        )
    finally:
        hardware.close()


def _exposures(core: Core, scope: Scope) -> dict[str, tuple[float, float]]:
    found = {}
    for name, camera in scope.of_kind("camera").items():
        mm = core.of(camera.label).mm
        if mm.hasProperty(camera.label, "Exposure") and mm.hasPropertyLimits(camera.label, "Exposure"):
            low, high = (get(camera.label, "Exposure") for get in (mm.getPropertyLowerLimit, mm.getPropertyUpperLimit))
            found[name] = (low, high)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Load a configuration once and read everything.")
    parser.add_argument("--scope", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="queuescope-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        found = checkup(load_scope(arguments.scope), Layout(Path(folder) / "data"))
    print(found.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
