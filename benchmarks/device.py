"""What devices and the hardware process cost: set + wait + read of each kind of axis, beside bare pymmcore-plus in this process.

Bare and ours alternate within one run and move the same demo adapters by the same steps (the demo scope's own galvos are
Python devices, which a bare core doesn't know: it gets one of Micro-Manager's). The delay of a callback is from
MMCore's call in the hardware process to an ophyd subscriber here, by the one clock of this machine. A halt counts until its
caller knows that axes stand and lights are off; recovery, from the signal until the supervised process answers again.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import ENV_PREFIX, Scope, load_scope, scope_path
from ..devices import build_devices
from ..hardware import (
    ConnectedHardware,
    DatasetPlan,
    FrameSettings,
    HardwareError,
    RecordingPlan,
    VolumeProgram,
    VolumeView,
    connect,
)
from ..layout import DEFAULT_SCOPE, Layout
from ..scripts._up import stop
from ._result import Result, Row, Tell, row
from .start import bring_up

GOAL_MS = 0.5
"""What device and process may add to a set + wait + read."""

AXES = {"stage": "z", "xy stage": "xy", "galvo": "galvo"}
"""A device of each kind."""

GALVO = (
    ("mm.cfg", "Device,ZStage:Z:32,", "Device,Galvo,DemoCamera,DGalvo\nDevice,ZStage:Z:32,"),
    ("scope.yml", "  z: ", "  galvo:    {label: Galvo, kind: galvo, limits: {x: [-5, 5], y: [-5, 5]}}\n  z: "),
)
"""File, old and new text."""


def measure(quick: bool, tell: Tell) -> Result:
    """Milliseconds; 50 repetitions where ``quick``, else 500."""
    repetitions = 50 if quick else 500
    os.environ[f"{ENV_PREFIX}MICROMANAGER__PROCESS"] = "own"
    os.environ[f"{ENV_PREFIX}SERVICES__HTTP__PORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        scope, layout = demo_with_galvo(Path(folder) / "scope"), Layout(Path(folder) / "data")
        with running(scope, layout), connected(scope, layout) as hardware:
            devices, _ = build_devices(scope, layout, hardware)
            core = bare_core(scope, hardware.info().adapters)
            rows: list[Row] = []
            ratios: dict[str, float] = {}
            for kind, name in AXES.items():
                tell(f"device: {kind}")
                ours, bare, surface = axis(scope, kind, name, devices[name], hardware, core, repetitions)
                rows += [
                    row(f"{kind}, bare pymmcore-plus", "ms", bare),
                    row(f"{kind}, hardware process", "ms", surface),
                    row(f"{kind}, device and hardware process", "ms", ours),
                ]
                ratios[f"{kind}: ms added (goal {GOAL_MS:g})"] = statistics.median(ours) - statistics.median(bare)
            tell("device: callback")
            rows.append(row("callback to ophyd subscriber", "ms", callback(devices["z"], hardware, repetitions)))
            core.unloadAllDevices()
            for case, during in (("halt, idle", False), ("halt, during a volume", True)):
                tell(f"device: {case}")
                rows.append(row(case, "ms", [halt(hardware, during) for _ in range(3 if quick else 10)]))
        tell("device: recovery")
        rows.append(row("recovery after a segfault", "seconds", recovery(scope, layout, 1 if quick else 3)))
    return Result("device", rows, ratios)


def demo_with_galvo(folder: Path) -> Scope:
    """A copy of the demo scope with a galvo of Micro-Manager's own."""
    shutil.copytree(scope_path(DEFAULT_SCOPE).parent, folder)
    for name, old, new in GALVO:
        text = (folder / name).read_text(encoding="utf-8")
        if old not in text:
            raise RuntimeError(f"{DEFAULT_SCOPE}/{name} has no {old!r} any more: see GALVO")
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    return load_scope(folder)


@contextmanager
def running(scope: Scope, layout: Layout) -> Iterator[None]:
    """A hardware process of its own."""
    words = ["--scope", str(scope.path), "--data", str(layout.data)]
    process = subprocess.Popen(
        [sys.executable, "-m", "queuescope.hardware", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def connected(scope: Scope, layout: Layout) -> Iterator[ConnectedHardware]:
    hardware = connect(scope, layout, timeout_s=60)
    try:
        yield hardware
    finally:
        hardware.close()


def bare_core(scope: Scope, adapters: str) -> Any:
    """pymmcore-plus in this process, with the same configuration."""
    from pymmcore_plus import CMMCorePlus

    core = CMMCorePlus(mm_path=adapters, adapter_paths=[adapters])
    core.loadSystemConfiguration(str(scope.config_path))
    return core


def axis(
    scope: Scope, kind: str, name: str, device: Any, hardware: ConnectedHardware, core: Any, repetitions: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of a set + wait + read: through device and process, bare, through the process alone."""
    label = scope.devices[name].label
    send: dict[str, Callable[[float], None]] = {
        "stage": lambda x: core.setPosition(label, x),
        "xy stage": lambda x: core.setXYPosition(label, x, x),
        "galvo": lambda x: core.setGalvoPosition(label, x, x),
    }
    read: dict[str, Callable[[], Any]] = {
        "stage": lambda: core.getPosition(label),
        "xy stage": lambda: core.getXYPosition(label),
        "galvo": lambda: core.getGalvoPosition(label),
    }
    pair = kind != "stage"
    names = (f"{name}.x", f"{name}.y") if pair else (name,)

    def bare(x: float) -> None:
        send[kind](x)
        core.waitForDevice(label)
        read[kind]()

    def process(x: float) -> None:
        hardware.move(dict.fromkeys(names, x))  # waits, and returns what it read

    def ours(x: float) -> None:
        device.set((x, x) if pair else x).wait(10)
        device.read()

    found: dict[Any, list[float]] = {ours: [], bare: [], process: []}
    for repetition in range(repetitions + 5):
        target = 0.5 if repetition % 2 else 1.5
        for case, milliseconds in found.items():
            began = time.perf_counter()
            case(target)
            if repetition >= 5:  # the first ones open connections
                milliseconds.append((time.perf_counter() - began) * 1000)
    return found[ours], found[bare], found[process]


def callback(device: Any, hardware: ConnectedHardware, repetitions: int) -> list[float]:
    """Milliseconds from MMCore's callback to a subscriber of the device."""
    delays: queue.Queue[float] = queue.Queue()
    number = device.subscribe(
        lambda timestamp, **_: delays.put((time.time() - timestamp) * 1000), event_type=device.SUB_READBACK, run=False
    )
    found = []
    for repetition in range(repetitions):
        hardware.move({device.settings.name: 2.5 if repetition % 2 else 3.5})
        found.append(delays.get(timeout=10))
    device.unsubscribe(number)
    return found


def halt(hardware: ConnectedHardware, during: bool) -> float:
    """Milliseconds of a halt, idle or in the middle of a volume; the microscope is rearmed afterwards."""
    recording = None
    if during:
        plan = DatasetPlan(name="overview", camera="overview", frames=1000)
        recording = hardware.open_recording(RecordingPlan(run_uid=str(uuid.uuid4()), datasets=(plan,)))
        settings = FrameSettings(exposure_ms=10, light="led")
        steps = tuple(i / 1000 for i in range(1000))
        view = VolumeView(dataset="overview", camera="overview", settings=settings, piezo="z", piezo_um=steps)
        recording = hardware.start_volume(recording.recording, VolumeProgram(views=(view,), trigger="software"))
        while recording.datasets["overview"].frames_written < 3:
            recording = hardware.recording(recording.recording, seen=recording.version, wait_s=10)
    began = time.perf_counter()
    hardware.halt("bench device", "bench")
    milliseconds = (time.perf_counter() - began) * 1000
    if recording is not None:
        hardware.close_recording(recording.recording)
    hardware.rearm("bench")
    return milliseconds


def recovery(scope: Scope, layout: Layout, repetitions: int) -> list[float]:
    """Seconds from a segfault of the hardware process, under the stack's supervisor, until calls are answered again."""
    found = []
    bring_up(scope, layout)
    try:
        for _ in range(repetitions):
            with connected(scope, layout) as hardware:
                before = hardware.info()
                began = time.monotonic()
                os.kill(before.pid, signal.SIGSEGV)
                while not _answers_anew(hardware, before.instance):
                    if time.monotonic() - began > 60:
                        raise RuntimeError(f"the hardware process did not come back: see {layout.logs}")
                    time.sleep(0.02)
                found.append(time.monotonic() - began)
    finally:
        stop(layout)
    return found


def _answers_anew(hardware: ConnectedHardware, before: str) -> bool:
    try:
        return hardware.info().instance != before
    except HardwareError:
        return False
