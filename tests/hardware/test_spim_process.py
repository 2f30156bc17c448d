"""A controller that outlives the hardware process: it keeps firing, and the next process idles it before anything else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr

from queuescope.config import Scope
from queuescope.hardware import DatasetPlan, HardwareTimeout, RecordingState, VolumeProgram, connect
from queuescope.hardware.simulated import attach
from queuescope.layout import Layout

LONG = 400
"""Slices a side of a volume that runs for 17 s: far longer than a test needs to end it."""
TIGER = [("trigger: software", "trigger: tiger_spim")]
APART = [("TigerCommHub,SerialPort,in-process", "TigerCommHub,SerialPort,process")]


@pytest.fixture
def scope(tmp_path: Path, make_scope: Callable[..., Scope]) -> Scope:
    """Volumes paced by a controller that is a process of its own."""
    return make_scope(tmp_path, "own", scope=TIGER, cfg=APART)


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """``controllers()``: the controller of this test's data directory; it ends with the test."""
    found: list[Any] = []

    def controller() -> Any:
        found.append(attach(Layout(tmp_path / "data").services))
        return found[-1]

    yield controller
    for one in found[:1]:
        one.end()


def long_program(view: Callable[..., Any]) -> VolumeProgram:
    um = tuple(index * 0.02 for index in range(LONG))
    deg = tuple(index * 0.0005 for index in range(LONG))
    sides = (("cam_a", "a"), ("cam_b", "b"))
    views = tuple(view(c, s, LONG, piezo_um=um, galvo_deg=deg, sheet_width_deg=1.5) for c, s in sides)
    return VolumeProgram(views=views, order="volume")


def begin(hardware: Any, new_plan: Any, view: Any) -> RecordingState:
    """Start the long volume; returns when frames are on disk."""
    plan = (DatasetPlan(name=c, camera=c, frames=LONG, axis="z", step_um=0.02) for c in ("cam_a", "cam_b"))
    state = hardware.open_recording(new_plan(*plan))
    state = hardware.start_volume(state.recording, long_program(view))
    while state.datasets["cam_a"].frames_written < 3:
        assert state.phase == "running", state.error
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    return state


def test_a_controller_that_fires_on_is_idled_first_and_lights_before_it(
    tmp_path: Path, scope: Scope, start_process: Any, controllers: Any, new_plan: Any, view: Any
) -> None:
    """Issue 3, item 4, R0.3: kill -9 in a volume; the controller fires on; the next process stops it in its first stage."""
    process = start_process(scope.path, tmp_path / "data").started()
    hardware = connect(scope, Layout(tmp_path / "data"), timeout_s=60)
    controller = controllers()
    controller.faults(fire_until_stopped=True)
    state = begin(hardware, new_plan, view)
    process.signal(signal.SIGKILL)
    process.wait()
    slices = controller.status()["slices"]
    assert controller.wait_slices(slices + 3, 20) > slices + 3, "nobody told it to stop"
    assert controller.status()["state"] == "Running"
    assert controller.read("A.amplitude") == 1.5

    successor = start_process(scope.path, tmp_path / "data")
    first = successor.event()
    assert first["event"] == "lights-off-first"
    assert all(light["off"] for light in first["lights"])
    status = controller.status()
    assert (status["state"], status["laser_on"]) == ("Idle", []), "before the rest of the configuration is loaded"
    runs = status["runs"]
    assert successor.event()["event"] == "ready"
    assert controller.status()["runs"] == runs
    assert controller.read("A.amplitude") == 0.0, "what the dead process had changed is what it was"

    frames = zarr.open_array(f"{state.datasets['cam_a'].path}/0", mode="r")
    lines = Path(state.datasets["cam_a"].path.replace(".ome.zarr", ".frames.jsonl")).read_text().splitlines()
    assert frames.shape[0] == len(lines) >= 3, "what is on disk is readable and counted"
    hardware.close()
    hardware = connect(scope, Layout(tmp_path / "data"), timeout_s=60)
    again = hardware.state()
    assert not any(light.on or light.emission for light in again.lights.values())
    assert hardware.dose().assumed.get("l488", 0) > 0, "it may have shone until it was found dark"
    again_state = begin(hardware, new_plan, view)
    assert hardware.stop_recording(again_state.recording).phase == "failed"
    assert controller.status()["state"] == "Idle"
    hardware.close()


CLIENT = """
import sys
from queuescope.config import load_scope
from queuescope.hardware import *
from queuescope.layout import Layout
hardware = connect(load_scope(sys.argv[1]), Layout(sys.argv[2]), timeout_s=60)
plan = DatasetPlan(name="cam_a", camera="cam_a", frames=600)
run = hardware.open_recording(RecordingPlan(run_uid="gone-client", datasets=(plan,)))
view = VolumeView(dataset="cam_a", camera="cam_a", settings=FrameSettings(exposure_ms=2, light="l488", power_pct=2),
    piezo="piezo_a", piezo_um=tuple(i * 0.02 for i in range(600)), galvo="galvo_a.y",
    galvo_deg=tuple(i * 0.0005 for i in range(600)))
run = hardware.start_volume(run.recording, VolumeProgram(views=(view,)))
while run.datasets["cam_a"].frames_written < 3:
    run = hardware.recording(run.recording, seen=run.version, wait_s=20)
print("running", flush=True)
sys.stdin.read()
"""


def test_a_client_that_vanishes_ends_the_controller(
    tmp_path: Path, scope: Scope, start_process: Any, controllers: Any
) -> None:
    """Issue 3, item 2 and 4: nobody would end what it began, so the hardware does."""
    process = start_process(scope.path, tmp_path / "data").started()
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(scope.path), str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "running\n"
        controller = controllers()
        assert controller.status()["state"] == "Running"
    finally:
        client.kill()
        client.communicate()
    assert process.event()["event"] == "client-gone"
    status = controller.status()
    assert (status["state"], status["laser_on"]) == ("Idle", [])


def test_a_hanging_camera_costs_the_process_and_stops_the_controller(
    tmp_path: Path, make_scope: Callable[..., Scope], new_plan: Any, view: Any
) -> None:
    """R0.3: the way of a call that hangs writes Idle too, before the process ends."""
    hardware = connect(make_scope(tmp_path, "worker", scope=TIGER), Layout(tmp_path / "data"))
    try:
        microscope = hardware._microscope
        state = begin(hardware, new_plan, view)
        controller = microscope._core.mm.device("TigerCommHub").controller
        assert controller.status()["state"] == "Running"
        microscope.give_up(HardwareTimeout("cam_a: popNextImage hangs", thing="cam_a", limit=1))
        deadline = time.monotonic() + 20
        while controller.status()["state"] != "Idle" and time.monotonic() < deadline:
            controller.wait_slices(controller.status()["slices"], 0.1)
        assert controller.status()["state"] == "Idle"
        assert hardware.close_recording(state.recording).datasets["cam_a"].frames_written >= 3
    finally:
        hardware.close()
