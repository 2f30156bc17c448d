"""A small microscope for the hardware's tests: the demo scope with small sensors, on the real MMCore."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import SCOPES, Scope, load_scope
from queuescope.formats import frame_list
from queuescope.hardware import (
    ConnectedHardware,
    DatasetPlan,
    FrameSettings,
    RecordingPlan,
    RecordingState,
    VolumeProgram,
    VolumeView,
    connect,
)
from queuescope.layout import Layout

SENSOR = 128
"""Pixels a side of the two light-sheet cameras; the overview camera has 100, which no direct write can take."""


def scope_in(
    folder: Path, mode: str = "worker", scope: Sequence[tuple[str, str]] = (), cfg: Sequence[tuple[str, str]] = ()
) -> Scope:
    """A copy of the demo scope in ``folder`` with small sensors and volumes in software time; ``scope`` and ``cfg`` are (old,
    new) edits of its files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bundled = SCOPES / "demo-dispim"
    smaller = [("2048", str(SENSOR)), ("1024", "100")]
    _copy(bundled / "mm.cfg", folder / "mm.cfg", [*smaller, *cfg])
    plain = [("min_free_gb: 1", "min_free_gb: 0"), ("trigger: tiger_spim", "trigger: software")]
    _copy(bundled / "scope.yml", folder / "scope.yml", [*plain, *scope])
    return load_scope(folder, environ={"QUEUESCOPE_MICROMANAGER__PROCESS": mode})


def _copy(source: Path, target: Path, edits: Sequence[tuple[str, str]]) -> None:
    text = source.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, f"{source.name} has no {old!r}"
        text = text.replace(old, new)
    target.write_text(text, encoding="utf-8")


class HardwareProcess:
    """``python -m queuescope.hardware``, followed by the events on its standard output."""

    def __init__(self, scope: Path, data: Path, command: list[str] | None = None) -> None:
        command = command or [sys.executable, "-m", "queuescope.hardware", "--scope", str(scope), "--data", str(data)]
        self.data = data
        self.log = open(data.with_name(f"{data.name}.log"), "wb")  # noqa: SIM115 (closed in `end`)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def event(self) -> dict[str, Any]:
        """The next event; an empty one when the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {}

    def started(self) -> HardwareProcess:
        event = self.event()
        if event.get("event") == "lights-off-first":  # it comes after one that was killed
            event = self.event()
        assert event.get("event") == "ready", (event, Path(self.log.name).read_text())
        return self

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(timeout=20)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.log.close()


@pytest.fixture
def start_process() -> Iterator[Callable[..., HardwareProcess]]:
    """Start hardware processes; all are gone after the test."""
    started: list[HardwareProcess] = []

    def start(scope: Path, data: Path, command: list[str] | None = None) -> HardwareProcess:
        process = HardwareProcess(scope, data, command)
        started.append(process)
        return process

    yield start
    for process in started:
        process.end()


@dataclass(frozen=True)
class KilledVolume:
    """What a hardware process left that was killed in the middle of a volume of `planned` slices of cam_a."""

    scope: Scope
    layout: Layout
    path: Path
    planned: int = 150

    @property
    def frame_list(self) -> Path:
        return frame_list(self.path)


@pytest.fixture
def killed_volume(
    tmp_path: Path,
    start_process: Callable[..., HardwareProcess],
    new_plan: Callable[..., RecordingPlan],
    view: Callable[..., VolumeView],
    request: pytest.FixtureRequest,
) -> KilledVolume:
    """SIGKILL after the third frame; in each format where the test asks for `volume_format`."""
    each = "volume_format" in request.fixturenames
    form = request.getfixturevalue("volume_format") if each else None
    scope, layout = scope_in(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    planned = KilledVolume.planned
    state = hardware.open_recording(
        new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=planned, axis="z", step_um=1, format=form))
    )
    state = hardware.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", planned),)))
    while state.datasets["cam_a"].frames_written < 3:
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    process.signal(signal.SIGKILL)
    process.wait()
    hardware.close()
    return KilledVolume(scope, layout, Path(state.datasets["cam_a"].path))


@pytest.fixture(scope="module", params=["worker", "own"])
def hardware(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectedHardware]:
    """The microscope in both modes, one for all tests of a module."""
    folder = tmp_path_factory.mktemp("scope")
    scope, layout = scope_in(folder, request.param), Layout(folder / "data")
    process = None
    if request.param == "own":
        process = HardwareProcess(scope.path, layout.data)
    try:
        if process is not None:
            process.started()
        connected = connect(scope, layout, timeout_s=60)
        yield connected
        connected.close()
        if process is not None:
            process.signal(signal.SIGTERM)
            assert process.event()["event"] == "stopped"
            assert process.wait() == 0
    finally:
        if process is not None:
            process.end()
        shutil.rmtree(layout.sockets, ignore_errors=True)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Any]:
    """The microscope in this process, where its MMCore can be looked at and disturbed."""
    connected = connect(scope_in(tmp_path), Layout(tmp_path / "data"))
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def shared_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same, for tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("scope")
    connected = connect(scope_in(folder), Layout(folder / "data"))
    yield connected
    connected.close()


class Disturbed:
    """MMCore with some functions replaced, for faults that the demo adapters can't make."""

    def __init__(self, mm: Any, **replaced: Callable[..., Any]) -> None:
        self._mm, self._replaced = mm, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._mm, name)


@pytest.fixture
def disturb(local: Any) -> Callable[..., Any]:
    """``disturb(snapImage=function)`` replaces functions of the local microscope's MMCore; returns the real one."""
    core = local._microscope._core
    real = core.mm

    def replace(**functions: Callable[..., Any]) -> Any:
        core.mm = Disturbed(real, **functions) if functions else real
        return real

    return replace


@pytest.fixture(scope="session")
def make_scope() -> Callable[..., Scope]:
    """``make_scope(folder, mode, scope=[(old, new)], cfg=[(old, new)])``: a small demo scope with edits."""
    return scope_in


@pytest.fixture(scope="session")
def sensor() -> int:
    """Pixels a side of the light-sheet cameras."""
    return SENSOR


@pytest.fixture(scope="session")
def new_plan() -> Callable[..., RecordingPlan]:
    """A recording plan of these datasets for a new run."""
    return lambda *datasets: RecordingPlan(run_uid=str(uuid.uuid4()), datasets=datasets)


@pytest.fixture(scope="session")
def follow() -> Callable[[ConnectedHardware, RecordingState], RecordingState]:
    """Follow a recording until its volume has ended."""

    def ended(hardware: ConnectedHardware, state: RecordingState) -> RecordingState:
        while state.phase == "running":
            state = hardware.recording(state.recording, seen=state.version, wait_s=20)
        return state

    return ended


@pytest.fixture(scope="session")
def lit() -> FrameSettings:
    """A short exposure with the 488 nm line."""
    return FrameSettings(exposure_ms=2, light="l488", power_pct=2)


@pytest.fixture(scope="session")
def view(lit: FrameSettings) -> Callable[..., VolumeView]:
    """``view(camera, side, slices)``: one side of a volume, 1 µm and 0.01° a slice."""

    def of(camera: str, side: str, slices: int, **changed: Any) -> VolumeView:
        values = {
            "dataset": camera,
            "camera": camera,
            "settings": lit,
            "piezo": f"piezo_{side}",
            "piezo_um": tuple(float(i) for i in range(slices)),
            "galvo": f"galvo_{side}.y",
            "galvo_deg": tuple(i / 100 for i in range(slices)),
        }
        return VolumeView(**{**values, **changed})

    return of
