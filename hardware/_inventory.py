"""What MMCore knows of a configuration, asked in a process of its own: an adapter that crashes costs nothing.

``python -m queuescope.hardware._inventory FILE.cfg [--adapters DIR] [--load]`` prints one line of JSON: ``{"adapters":
DIR|null, "device_interface": N|null, "looked": […], "missing": [ADAPTER…], "modules": [PYTHON MODULE that is missing…],
"types": {LABEL: TYPE}, "limits": {LABEL: {PROPERTY: [low, high]}}, "writable": {LABEL: [PROPERTY…]}, "error": …|null}``. Devices
are created, but not initialised: no hardware is touched. ``--load`` initialises them, without what System/Startup sets;
stages may home.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from ..config import MicroManager, Scope
from ._configuration import find_adapters
from ._errors import HardwareError
from ._lines import fields_of, has_module, python_devices
from ._mmcore import Core


def inventory(config: Path, adapters: str | None, load: bool) -> dict[str, Any]:
    """The same as a mapping; in this very process."""
    scope = Scope(name="inventory", micromanager=MicroManager(config=config.name, adapters=adapters), devices={})
    scope._path = config.resolve()
    found: dict[str, Any] = {"adapters": None, "device_interface": None, "looked": [], "missing": [], "modules": []}
    found |= {"types": {}, "limits": {}, "writable": {}, "error": None}
    lines = config.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    devices = [fields for line in lines if (fields := fields_of(line))[0] == "Device" and len(fields) >= 4]
    python = [["pyDevice", label, module, name] for _, label, module, name in python_devices(lines)]
    try:
        place = find_adapters(scope)
    except HardwareError as error:
        return {**found, "missing": sorted({d[2] for d in devices}), "error": str(error)}
    found |= {"adapters": str(place.folder), "looked": list(place.looked)}
    with tempfile.TemporaryDirectory(prefix="queuescope-") as folder:
        files = Path(folder) if python else None
        core = Core(place.folder, Path(folder) / "mmcore.log", call_timeout_s=10, python=files)
        try:
            found["device_interface"] = _interface(core)
            known = set(core.mm.getDeviceAdapterNames())
            found["missing"] = sorted({d[2] for d in devices} - known)
            absent = {d[2] for d in python if not has_module(d[2], config.resolve().parent)}
            found["modules"] = sorted(absent)
            here = [d for d in devices if d[2] in known] + [d for d in python if d[2] not in absent]
            if load:
                kept = [line for line in lines if fields_of(line)[:3] != ["ConfigGroup", "System", "Startup"]]
                copy = Path(folder) / "loaded.cfg"
                copy.write_text("\n".join(kept) + "\n", encoding="utf-8", errors="surrogateescape")
                core.ask("configuration", core.mm.loadSystemConfiguration, str(copy))
                _ask_properties(core, [d[1] for d in here], found)
            else:
                for fields in here:
                    core.ask(fields[1], core.mm.loadDevice, *fields[1:4])
            found["types"] = {d[1]: core.device_type(d[1]) for d in here}
        except HardwareError as error:
            found["error"] = str(error)
        finally:
            core.close()
    return found


def _interface(core: Core) -> int | None:
    """Version of the device interface, from ``Device API version 75, Module API version 10``."""
    digits = [word for word in core.mm.getAPIVersionInfo().replace(",", " ").split() if word.isdigit()]
    return int(digits[0]) if digits else None


def _ask_properties(core: Core, labels: list[str], found: dict[str, Any]) -> None:
    mm = core.mm
    for label in labels:
        writable = [name for name in mm.getDevicePropertyNames(label) if not mm.isPropertyReadOnly(label, name)]
        found["writable"][label] = writable
        found["limits"][label] = {
            name: [mm.getPropertyLowerLimit(label, name), mm.getPropertyUpperLimit(label, name)]
            for name in writable
            if mm.hasPropertyLimits(label, name)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="What MMCore knows of a configuration.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--adapters", default=None)
    parser.add_argument("--load", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(inventory(arguments.config, arguments.adapters, arguments.load)), flush=True)


if __name__ == "__main__":
    main()
