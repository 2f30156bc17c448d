"""An adapter that crashes or hangs costs the hardware process: callers are told what happened, and never wait for ever."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import (
    DatasetPlan,
    FrameSettings,
    HardwareError,
    HardwareGoneError,
    HardwareTimeout,
    RecordingPlan,
    VolumeProgram,
    VolumeView,
    connect,
)
from queuescope.hardware._watch import call_limit_s
from queuescope.layout import Layout, frames_on_disk

FAULTS = """  crash: {label: Bottom, kind: property, property: SimulateCrash, choices: ["", "Dereference Null Pointer"]}
  very_slow: {label: Bottom, kind: property, property: Exposure, limits: [1, 60000]}
  emission: {label: Emission,"""
"""Devices for tests only: DemoCamera's own segfault, and an exposure far beyond what the scope allows a camera."""


@pytest.fixture
def faulty(make_scope: Callable[..., Any], start_process: Callable[..., Any], tmp_path: Path) -> Any:
    """A hardware process whose camera can crash and hang, and a connection to it."""
    edits = [("  emission: {label: Emission,", FAULTS), ("call_timeout_s: 10", "call_timeout_s: 1")]
    scope = make_scope(tmp_path, "own", scope=edits, cfg=[("ExposureMs,10000.0", "ExposureMs,60000.0")])
    layout = Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    yield hardware, process
    hardware.close()


def timed(call: Callable[[], Any]) -> tuple[HardwareError, float]:
    began = time.monotonic()
    with pytest.raises(HardwareError) as caught:
        call()
    return caught.value, time.monotonic() - began


def test_a_segfault_ends_calls_at_once(faulty: Any) -> None:
    """R0.3: a real one, in the adapter: `HardwareGoneError` within 2 s."""
    hardware, process = faulty
    error, seconds = timed(lambda: hardware.set_value("crash", "Dereference Null Pointer"))
    assert type(error) is HardwareGoneError
    assert seconds < 20  # R0.3 says 2 s: `bench faults`
    assert process.wait() == -signal.SIGSEGV


def test_an_adapter_that_hangs_costs_the_process(faulty: Any, new_plan: Callable[..., RecordingPlan]) -> None:
    """R0.3, R3.12: at the call's deadline the caller is told which device and which function; the process ends by itself."""
    hardware, process = faulty
    state = hardware.open_recording(new_plan(DatasetPlan(name="overview", camera="overview", frames=3)))
    hardware.record_frame(state.recording, {"overview": FrameSettings(exposure_ms=2)})
    hardware.set_value("very_slow", 60000.0)
    error, seconds = timed(lambda: hardware.record_frame(state.recording, {"overview": FrameSettings()}))
    assert type(error) is HardwareTimeout
    assert error.fields == {"thing": "overview", "value": "snapImage", "limit": 2.0}
    assert "overview: snapImage has not returned" in str(error)
    assert 1.9 < seconds < 20
    assert type(timed(hardware.info)[0]) is HardwareGoneError
    event = process.event()
    assert (event["event"], event["error"]) == ("hung", str(error))
    assert {light["light"] for light in event["lights"]} == {"l405", "l488", "l561", "l637", "led"}
    assert process.wait() == 4
    assert frames_on_disk(Path(state.datasets["overview"].path)) == 1


def test_a_hang_in_a_volume_is_told_to_who_follows_it(
    faulty: Any, new_plan: Callable[..., RecordingPlan], view: Callable[..., VolumeView]
) -> None:
    """R0.3: no call hangs here, the volume's own thread does."""
    hardware, process = faulty
    state = hardware.open_recording(new_plan(DatasetPlan(name="overview", camera="overview", frames=5)))
    hardware.set_value("very_slow", 60000.0)
    program = VolumeProgram(views=(view("overview", "a", 5, settings=FrameSettings()),))
    state = hardware.start_volume(state.recording, program)

    def follow() -> None:
        now = state
        while now.phase == "running":
            now = hardware.recording(now.recording, seen=now.version, wait_s=20)

    error, seconds = timed(follow)
    assert type(error) is HardwareGoneError
    assert "overview: snapImage has not returned" in str(error)
    assert seconds < 20, "the long poll itself"
    assert process.wait() == 4


def test_calls_that_take_long_by_right_have_longer_limits(make_scope: Callable[..., Any], tmp_path: Path) -> None:
    """R0.3: exposures and travel are added; loading has no limit."""
    scope = make_scope(tmp_path)
    assert call_limit_s(scope, "getProperty") == 10
    assert call_limit_s(scope, "snapImage") == 11
    assert call_limit_s(scope, "setXYPosition", "xy") == pytest.approx(10 + 32.35)
    assert call_limit_s(scope, "setPosition", "z") == 10 + 3, "its own travel, not the longest one's"
    assert call_limit_s(scope, "setGalvoPosition", "galvo_a.y") == 10 + 10
    assert call_limit_s(scope, "fullFocus", "autofocus") == pytest.approx(10 + 32.35)
    assert call_limit_s(scope, "setCircularBufferMemoryFootprint", "cam_a") == 10 + 40, "1,000 MB, page by page"
    assert call_limit_s(scope, "loadSystemConfiguration") is None


def test_a_call_in_mmcore_is_known_while_it_lasts(local: Any, disturb: Callable[..., Any]) -> None:
    """R0.3: device and function of each thread, nothing of threads that have returned or raised."""
    entered, leave = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        entered.set()
        leave.wait(20)
        raise RuntimeError("serial line is dead")

    core = local._microscope._core
    disturb(getPosition=slow)
    thread = threading.Thread(target=lambda: timed(lambda: local.positions(("z",))))
    thread.start()
    assert entered.wait(20)
    assert [asked[0] for asked in core.asking.values()] == ["z"]
    leave.set()
    thread.join()
    assert core.asking == {}
