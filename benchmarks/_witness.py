"""An independent witness of what the hardware process does to its adapters: a log that outlives it.

``python -m queuescope.benchmarks._witness`` is the hardware process with MMCore's writing functions wrapped: each call is
a line in the file named by the environment before it reaches the adapter, and another one after it. `World` reads them.
A light that a killed process had switched on is on here until somebody switches it off, as it would be on a real microscope.

Two faults are made in here, below everything that could refuse them: `CRASH` is DemoCamera's own segfault, `HANG` lets the
next call into an adapter, whosever it is, never return.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import Axis, Scope

WITNESS_ENV = "QUEUESCOPE_BENCH_WITNESS"

_WRITING = frozenset(
    (
        *("setProperty", "setShutterOpen", "setPosition", "setXYPosition", "setGalvoPosition", "setRelativePosition"),
        "snapImage",
    )
)


_HANGING = _WRITING | {"getProperty", "getPosition", "getXYPosition", "getGalvoPosition", "deviceBusy", "snapImage"}

CRASH, HANG = signal.SIGUSR1, signal.SIGUSR2
FOR_EVER_S = 3600.0


class Witnessed:
    """MMCore, with a log of what is written."""

    def __init__(self, mm: Any, file: Path) -> None:
        self._mm = mm
        self._log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._wrapped: dict[str, Callable[..., Any]] = {}
        self._hang = threading.Lock()
        """Held while nothing is to hang."""
        self._hang.acquire()

    def crash(self) -> None:
        """A null pointer is dereferenced in a camera's adapter, as soon as it lets us in."""
        for label in self._mm.getLoadedDevices():
            if label != "Core" and self._mm.hasProperty(label, "SimulateCrash"):
                self._mm.setProperty(label, "SimulateCrash", "Dereference Null Pointer")

    def hang(self) -> None:
        """The next call of an adapter does not return."""
        self._hang.release()

    def __getattr__(self, name: str) -> Any:
        if name in _HANGING and self._hang.acquire(blocking=False):
            return self._named(name, lambda *_: time.sleep(FOR_EVER_S))
        if name not in _WRITING:
            return getattr(self._mm, name)
        if name not in self._wrapped:
            self._wrapped[name] = self._witnessed(name, getattr(self._mm, name))
        return self._wrapped[name]

    def _witnessed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            self._note(name, args, "asked")
            result = function(*args)
            self._note(name, args, "done")
            return result

        return self._named(name, call)

    @staticmethod
    def _named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        call.__name__ = name  # by which the hardware tells how long a call may take
        return call

    def _note(self, name: str, args: tuple[Any, ...], phase: str) -> None:
        line = json.dumps([time.time(), os.getpid(), name, args, phase])
        os.write(self._log, line.encode() + b"\n")


class World:
    """Lights and axes as the adapters were told, whoever told them and however that one ended."""

    def __init__(self, file: Path, scope: Scope) -> None:
        self._file, self._read_to = file, 0
        self._gates = {
            (light.gate.label, light.gate.property): (name, light.gate) for name, light in scope.lights.items()
        }
        self._axes: dict[str, list[Axis]] = {}
        for axis in scope.axes().values():
            self._axes.setdefault(axis.label, []).append(axis)
        self.lit: dict[str, float] = {}
        """Lights whose gate is open, and since when. One counts as open when it was about to be opened, and as closed when
        that was done.
        """
        self.dark_at = 0.0
        """When the last open gate was closed, in seconds since the epoch."""
        self.exposures = 0
        """Frames that a camera was told to take one by one."""
        self.strayed: list[str] = []
        """Targets outside an axis's limits that were sent to an adapter."""

    def look(self) -> None:
        """Read what is new."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                self._take(*json.loads(line))

    def _take(self, at: float, pid: int, name: str, args: list[Any], phase: str) -> None:
        if name == "setProperty":
            self._switched(at, (args[0], args[1]), str(args[2]), phase)
        elif name == "setShutterOpen" and len(args) == 2:
            self._switched(at, (args[0], None), "1" if args[1] else "0", phase)
        elif name == "snapImage":
            self.exposures += phase == "asked"
        elif phase == "asked":
            self._sent(pid, name, args)

    def _switched(self, at: float, key: tuple[str, str | None], value: str, phase: str) -> None:
        if key not in self._gates:
            return
        name, gate = self._gates[key]
        if value == gate.off:
            if phase == "done" and self.lit.pop(name, None) is not None and not self.lit:
                self.dark_at = at
        elif phase == "asked":
            self.lit.setdefault(name, at)

    def _sent(self, pid: int, name: str, args: list[Any]) -> None:
        label, *targets = args
        if name == "setRelativePosition":
            self.strayed.append(f"{label} was moved by {targets}: relative moves are not used")
            return
        for axis, target in zip(self._axes.get(label, ()), targets, strict=False):
            low, high = axis.limits
            if not low <= target <= high:
                self.strayed.append(f"{axis.name} was sent to {target} by process {pid}, outside [{low}, {high}]")


def main() -> None:
    from ..hardware import _mmcore
    from ..hardware.__main__ import main as hardware

    file = Path(os.environ[WITNESS_ENV])
    made = _mmcore.Core.__init__

    def make(core: Any, *args: Any, **kwargs: Any) -> None:
        made(core, *args, **kwargs)
        core.mm = witnessed = Witnessed(core.mm, file)
        for number, fault in ((CRASH, witnessed.crash), (HANG, witnessed.hang)):
            on_signal[number] = fault

    on_signal: dict[int, Callable[[], None]] = {}
    for number in (CRASH, HANG):  # in a thread, since an adapter may keep it waiting
        signal.signal(number, lambda number, _: threading.Thread(target=on_signal[number], daemon=True).start())
    _mmcore.Core.__init__ = make  # type: ignore[method-assign,assignment]
    hardware()


if __name__ == "__main__":
    main()
