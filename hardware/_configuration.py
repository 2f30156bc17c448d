"""Loading the Micro-Manager configuration: where the adapters are, what is missing, what its startup may not touch."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import Scope
from ..layout import Layout
from ._errors import ConfigurationError, DeviceError
from ._lines import fields_of, has_module, python_devices
from ._mmcore import Core, discovered_installations
from ._own_cores import own_labels, split
from ._restart import first_lines

log = logging.getLogger("queuescope.hardware")


@dataclass(frozen=True)
class Adapters:
    """The folder of device adapters that is used, and every place that was looked at."""

    folder: Path
    looked: tuple[str, ...]


def find_adapters(scope: Scope) -> Adapters:
    """`micromanager.adapters`, else an installed Micro-Manager, else the ``mm-test-adapters`` package.

    Raises
    ------
    ConfigurationError
        Where there is none, or the folder named in the scope holds no adapter.
    """
    if scope.micromanager.adapters is not None:
        folder = (scope.path.parent / Path(scope.micromanager.adapters).expanduser()).resolve()
        if not any(_adapter_files(folder)):
            raise ConfigurationError(
                f"micromanager.adapters: {folder} holds no device adapters (files mmgr_dal_*): name the folder where"
                " Micro-Manager is installed",
                thing="micromanager.adapters",
                value=str(folder),
            )
        return Adapters(folder, (f"{folder} (micromanager.adapters)",))
    looked: list[str] = []
    bundled = _bundled()
    for found in discovered_installations():
        if found.path == bundled:
            continue
        if found.div_compatible and any(_adapter_files(found.path)):
            return Adapters(found.path, (*looked, f"{found.path} (an installed Micro-Manager)"))
        looked.append(
            f"{found.path} (passed over: its device interface is {found.device_interface}, not this MMCore's)"
        )
        log.warning("Micro-Manager at %s", looked[-1])
    if bundled is not None and any(_adapter_files(bundled)):
        return Adapters(bundled, (*looked, f"{bundled} (the package mm-test-adapters)"))
    raise ConfigurationError(
        f"no device adapters were found: no installed Micro-Manager fits ({', '.join(looked) or 'there is none'}) and the"
        " package mm-test-adapters is not installed: set micromanager.adapters in the scope file",
        thing="micromanager.adapters",
        looked=looked,
    )


def _bundled() -> Path | None:
    try:
        import mm_test_adapters
    except ImportError:
        return None
    return Path(mm_test_adapters.device_adapter_path()).resolve()


def _adapter_files(folder: Path) -> Iterator[Path]:
    for pattern in ("libmmgr_dal_*", "mmgr_dal_*"):
        yield from folder.glob(pattern)


def make_cores(scope: Scope, layout: Layout, adapters: Adapters) -> Core:
    """The microscope's core, and one for each camera of `micromanager.core_per_camera`; nothing is loaded. Each logs into a
    file of its own.
    """
    python, own = _python_labels(scope), own_labels(scope)

    def make(log_name: str, has_python: bool) -> Core:
        files = layout.services if has_python else None
        return Core(adapters.folder, layout.logs / log_name, scope.micromanager.call_timeout_s, files)

    core = make("mmcore.log", bool(python - set(own)))
    for label, name in own.items():
        core.take_in(label, make(f"mmcore-{name}.log", label in python))
    return core


def _python_labels(scope: Scope) -> set[str]:
    """Python devices of the scope's ``.cfg``; none where it can't be read, which `load_configuration` will tell."""
    try:
        lines = scope.config_path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {label for _, label, _, _ in python_devices(lines)}


def load_configuration(core: Core, scope: Scope, adapters: Adapters) -> None:
    """Load the scope's ``.cfg`` without the startup entries that would touch lights or axes, each line into its device's core.

    Raises
    ------
    ConfigurationError
        Where the file is missing, an adapter is missing, a camera can't have a core of its own, or MMCore refuses.
    """
    path = scope.config_path
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"micromanager.config: {path} can't be read: {error.strerror} (relative paths start at the scope file"
            f" {scope.path})",
            thing="micromanager.config",
            value=str(path),
        ) from error
    _check_adapters(core, lines, path, adapters)
    parts = split(_without_startup_motion(lines, scope), scope)
    try:
        if len(parts.main) == len(lines):
            core.ask("configuration", core.mm.loadSystemConfiguration, str(path))
        else:
            _load_lines(core, path.name, parts.main)
        for label, own in core.own.items():
            _load_lines(own, path.name, parts.own[label])
        core.settle()
    except DeviceError as error:
        raise ConfigurationError(
            f"Micro-Manager could not load {path} with the adapters in {adapters.folder}: {error.__cause__}: check that each"
            " device is switched on and named as the adapter names it",
            thing="micromanager.config",
            value=str(path),
            looked=list(adapters.looked),
        ) from error


def load_first(core: Core, scope: Scope, adapters: Adapters) -> None:
    """Load hubs, lights and scanners alone; see `_restart`.

    Raises
    ------
    ConfigurationError
        As `load_configuration`.
    """
    path = scope.config_path
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        _load_lines(core, path.name, first_lines(lines, scope))
    except (OSError, DeviceError) as error:
        raise ConfigurationError(
            f"after a process that died, the hubs and lights of {path} could not be loaded alone: {error}: is the light"
            " source's controller switched on?",
            thing="micromanager.config",
            value=str(path),
            looked=list(adapters.looked),
        ) from error


def _load_lines(core: Core, name: str, lines: list[str]) -> None:
    """Load these lines of a configuration: MMCore reads files only."""
    with tempfile.TemporaryDirectory(prefix="queuescope-") as folder:
        part = Path(folder) / name
        part.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        core.ask("configuration", core.mm.loadSystemConfiguration, str(part))


def _check_adapters(core: Core, lines: list[str], path: Path, adapters: Adapters) -> None:
    _check_modules(lines, path)
    known = set(core.mm.getDeviceAdapterNames())
    for number, line in enumerate(lines, start=1):
        fields = fields_of(line)
        if fields[0] == "Device" and len(fields) >= 4 and fields[2] not in known:
            raise ConfigurationError(
                f"the device adapter {fields[2]!r} (device {fields[1]!r}, {path} line {number}) was not found; looked in"
                f" {', '.join(adapters.looked)}: install it, or set micromanager.adapters in the scope file to the folder that"
                f" holds mmgr_dal_{fields[2]}",
                thing=fields[2],
                value=fields[1],
                looked=list(adapters.looked),
                line=number,
            )


def _check_modules(lines: list[str], path: Path) -> None:
    """Modules of Python devices: installed ones, or a lab's own file beside its configuration."""
    for number, label, module, _ in python_devices(lines):
        if not has_module(module, path.parent):
            raise ConfigurationError(
                f"the Python module {module!r} (device {label!r}, {path} line {number}) was not found: install its package, or"
                f" put {module.split('.')[0]}.py into {path.parent}",
                thing=module,
                value=label,
                looked=[str(path.parent)],
                line=number,
            )


def _without_startup_motion(lines: list[str], scope: Scope) -> list[str]:
    """`loadSystemConfiguration` applies the preset System/Startup: entries on lights and axes stay out unless allowed."""
    guarded = {axis.label for axis in scope.axes().values()}
    for light in scope.lights.values():
        parts = (light.gate, light.power, light.emission)
        guarded |= {part.label for part in parts if part is not None and part != "fixed"}
    kept = []
    for line in lines:
        fields = fields_of(line)
        startup = fields[:3] == ["ConfigGroup", "System", "Startup"] and len(fields) >= 5
        if startup and fields[3] in guarded and f"{fields[3]}.{fields[4]}" not in scope.micromanager.startup_allowed:
            log.warning(
                "left out of System/Startup: %s.%s (a light or an axis; list it in micromanager.startup_allowed to apply it)",
                fields[3],
                fields[4],
            )
            continue
        kept.append(line)
    return kept
