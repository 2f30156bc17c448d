"""MMCore with errors that name our devices, deadlines on every wait, and values read back.

MMCore itself accepts NaN, values out of range and writes to read-only properties without a word, and its
``waitForConfig`` swallows timeouts: nothing outside this room's modules may touch the core directly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..lean import deferring
from ._errors import DeviceError, HardwareTimeout, ReadbackError

_REFUSALS = (RuntimeError, ValueError, MemoryError, IndexError, OSError)
"""What MMCore's errors arrive as."""


_MDA = (
    "pymmcore_plus.core._sequencing",
    "pymmcore_plus.mda._generator_sequence",
    "ome_writers",
    "unittest.mock",
    "useq",
)
"""What pymmcore-plus 0.18.1 imports for its own acquisition engine, which nothing here uses: 0.16 of 0.2 s of CPU."""


def import_mmcore() -> Any:
    """The package ``pymmcore_plus``, without the log file it opens in the user's home and the log level it sets."""
    os.environ.setdefault("PYMM_LOG_FILE", "0")
    root = logging.getLogger()
    level = root.level
    with contextlib.nullcontext() if "pymmcore_plus" in sys.modules else deferring(*_MDA):
        import pymmcore_plus
    root.setLevel(level)
    return pymmcore_plus


def discovered_installations() -> Iterator[Any]:
    """Installations of Micro-Manager that pymmcore-plus knows of: ``path, div_compatible, device_interface`` each."""
    import_mmcore()
    from pymmcore_plus._discovery import discover_mm  # the public find_micromanager doesn't tell which of them fit

    yield from discover_mm()


class Deadline:
    """A point in time, and how far away it was."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._at = time.monotonic() + limit_s

    @property
    def passed(self) -> bool:
        return time.monotonic() > self._at


class Core:
    """An MMCore. A microscope has one, which knows those that single cameras have for themselves (`take_in`): what is asked for
    a label is asked where that device is loaded.
    """

    def __init__(self, adapters: Path, log_file: Path, call_timeout_s: float, python: Path | None = None) -> None:
        """``python``: the configuration has Python devices, whose files lie in this folder; see `_python_core`."""
        core_class = import_mmcore().CMMCorePlus
        places = {"mm_path": str(adapters), "adapter_paths": [str(adapters)]}
        self.mm: Any
        """MMCore below pymmcore-plus's signals, which read a property twice more for every write."""
        if python is None:
            self._plus = core_class(**places)
            self.mm = super(core_class, self._plus)
        else:
            from ._mixed import Mixed
            from ._python_core import PythonCore

            self._plus = PythonCore(**places, folder=python)
            self.mm = Mixed(self._plus)
        self._python = python is not None
        self.mm.registerCallback(None)  # nobody listens, and a core that calls back aborts the interpreter's exit
        self.mm.setPrimaryLogFile(str(log_file))
        self.mm.enableStderrLog(False)
        self.adapters = adapters
        self.call_timeout_s = call_timeout_s
        self.asking: dict[int, tuple[str, Callable[..., Any], float]] = {}
        """What each thread asks of MMCore now: the device, the function, since when (monotonic)."""
        self.own: dict[str, Core] = {}
        """Cores of single cameras, by the camera's label."""
        self._home: dict[str, Core] = {}
        """By label, the core of each device that is loaded in one of those."""

    def take_in(self, label: str, own: Core) -> None:
        """This camera is to have a core of its own. What hangs there is noticed here."""
        own.asking = self.asking
        self.own[label] = own

    def settle(self) -> None:
        """Find out what is loaded in the cameras' own cores."""
        self._home = {label: own for own in self.own.values() for label in own.mm.getLoadedDevices() if label != "Core"}

    def of(self, label: str) -> Core:
        """The core in which this device is loaded."""
        return self._home.get(label, self)

    @property
    def loaded(self) -> list[str]:
        """Labels of all devices, those of the cameras' own cores last."""
        return [label for label in self.mm.getLoadedDevices() if label != "Core"] + list(self._home)

    def close(self) -> None:
        """Unload every device of every core. The first failure is raised at the end."""
        self._home = {}
        failed: Exception | None = None
        for core in (*self.own.values(), self):
            try:
                core.mm.unloadAllDevices()
            except _REFUSALS as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def listen(self, receiver: Any) -> None:
        """Tell MMCore's callbacks, those of Python devices included, to this object; None: to nobody any more."""
        for core in (self, *self.own.values()):
            core.mm.registerCallback(receiver)
            if core._python:
                core._plus.tell(receiver)

    def preset(self, group: str, name: str) -> list[tuple[str, str, str]]:
        """Device, property and value of each entry of a configuration preset."""
        return [tuple(setting) for setting in self._plus.getConfigData(group, name)]

    def preset_in_place(self, thing: str, group: str) -> str:
        """The preset that fits what the group's devices read now, "" where none does."""
        presets = {name: self.preset(group, name) for name in self.ask(thing, self.mm.getAvailableConfigs, group)}
        keys = {(label, name) for entries in presets.values() for label, name, _ in entries}
        if not any(label in self._home for label, _ in keys):
            return str(self.ask(thing, self.mm.getCurrentConfig, group))
        reads = {key: self.read(thing, *key) for key in keys}  # MMCore would ask itself for the other cores' devices
        fitting = (n for n, entries in presets.items() if all(same(reads[lab, prop], v) for lab, prop, v in entries))
        return next(fitting, "")

    def device_type(self, label: str) -> str:
        """``StageDevice``, ``CameraDevice`` …"""
        return self.of(label)._plus.getDeviceType(label).name

    def ask(self, thing: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call MMCore for the device named ``thing``.

        Raises
        ------
        DeviceError
            In MMCore's words.
        """
        thread = threading.get_ident()
        self.asking[thread] = (thing, function, time.monotonic())
        try:
            return function(*args)
        except _REFUSALS as error:
            words = " ".join(str(error).split())
            raise DeviceError(f"{thing}: {words} (Micro-Manager, {function.__name__})", thing=thing) from error
        finally:
            self.asking.pop(thread, None)

    def deadline(self, allowance_s: float = 0.0) -> Deadline:
        """``call_timeout_s`` plus ``allowance_s`` from now."""
        return Deadline(self.call_timeout_s + allowance_s)

    def wait(self, thing: str, label: str, deadline: Deadline | None = None) -> None:
        """Wait until this device is idle.

        Raises
        ------
        HardwareTimeout
            At the deadline; by default ``call_timeout_s`` from now.
        """
        deadline = deadline or self.deadline()
        pause = 0.0005
        while self.ask(thing, self.of(label).mm.deviceBusy, label):
            if deadline.passed:
                raise HardwareTimeout(
                    f"{thing} ({label}) is still busy after {deadline.limit_s:.1f} s (micromanager.call_timeout_s and its"
                    " travel)",
                    thing=thing,
                    limit=deadline.limit_s,
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)

    def read(self, thing: str, label: str, name: str) -> str:
        """A property as its adapter gives it."""
        return self.ask(thing, self.of(label).mm.getProperty, label, name)

    def read_number(self, thing: str, label: str, name: str) -> float:
        """A property that is a finite number.

        Raises
        ------
        DeviceError
            Where it is not.
        """
        text = self.read(thing, label, name)
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if number - number != 0:  # NaN or infinite
            raise DeviceError(f"{thing}: {label}.{name} reads {text!r}, which is not a finite number", thing=thing)
        return number

    def write(self, thing: str, label: str, name: str, value: str) -> str:
        """Write a property, wait for its device, return what it reads then."""
        self.ask(thing, self.of(label).mm.setProperty, label, name, value)
        self.wait(thing, label)
        return self.read(thing, label, name)

    def write_exactly(self, thing: str, label: str, name: str, value: str) -> None:
        """Write a property that must read the same afterwards.

        Raises
        ------
        ReadbackError
            Where it reads something else.
        """
        got = self.write(thing, label, name, value)
        if not same(got, value):
            raise ReadbackError(
                f"{thing}: {label}.{name} was set to {value!r} and reads {got!r}",
                thing=thing,
                value=value,
                got=got,
                limit=0,
            )

    def write_number(self, thing: str, label: str, name: str, value: float, tolerance: float) -> float:
        """Write a number and return the readback, which must lie within ``tolerance``.

        Raises
        ------
        ReadbackError
            Where it does not.
        """
        core = self.of(label)
        whole = core._plus.getPropertyType(label, name).name == "Integer"
        text = str(round(value)) if whole else f"{value:.6g}"
        self.ask(thing, core.mm.setProperty, label, name, text)
        self.wait(thing, label)
        got = self.read_number(thing, label, name)
        limit = max(tolerance, 0.5 if whole else 0.0)
        if abs(got - value) > limit:
            raise ReadbackError(
                f"{thing}: {label}.{name} was set to {text} and reads {got} (tolerance {limit:g})",
                thing=thing,
                value=value,
                got=got,
                limit=limit,
            )
        return got


def new_metadata() -> Any:
    """An empty object that MMCore fills with a frame's tags."""
    import pymmcore

    return pymmcore.Metadata()


def same(read: str, written: str) -> bool:
    """Whether a property reads what was written, be it in another notation (``1`` and ``1.0000``)."""
    if read == written:
        return True
    try:
        return float(read) == float(written)
    except ValueError:
        return False
