"""The dose meter, budgets, and lights that switch themselves off (R5.6, R3.9), on the real MMCore."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import (
    ArgumentError,
    ConfigurationError,
    ConnectedHardware,
    DatasetPlan,
    DoseError,
    FrameSettings,
    LimitError,
    RecordingPlan,
    VolumeProgram,
    connect,
)
from queuescope.hardware._dose import Account, DoseMeter
from queuescope.layout import Layout

LIT = FrameSettings(exposure_ms=20, light="l488", power_pct=2)
FRAME = 2 * 0.020
"""What one such frame gives at least, in % × s."""


@pytest.fixture
def sample(hardware: ConnectedHardware) -> Any:
    """Open a sample of its own for a test; closed after it."""

    def opened(name: str, **budget: float) -> str:
        hardware.set_sample(name, budget)
        return name

    yield opened
    hardware.set_sample(None, {})


def test_light_is_measured_from_gate_to_gate(hardware: ConnectedHardware, new_plan: Any, sample: Any) -> None:
    """R5.6: at least power × exposure, at most what the call took; by sample, position and run."""
    sample("worm-1")
    plan = RecordingPlan(
        run_uid="dose-measured", datasets=(DatasetPlan(name="cam_a", camera="cam_a", frames=2),), position="head"
    )
    state = hardware.open_recording(plan)
    began = time.monotonic()
    for _ in range(2):
        state = hardware.record_frame(state.recording, {"cam_a": LIT})
    took = time.monotonic() - began
    assert 2 * FRAME <= state.dose["l488"] <= 2.01 * took
    assert hardware.close_recording(state.recording).dose == state.dose
    hardware.snap("cam_a", LIT)
    told = hardware.dose()
    assert (told.sample_id, told.open, told.assumed) == ("worm-1", True, {})
    assert told.by_position["head"] == state.dose
    assert told.by_position[""]["l488"] >= FRAME
    assert told.used["l488"] == pytest.approx(state.dose["l488"] + told.by_position[""]["l488"])
    assert hardware.dose("worm-1") == told
    assert hardware.dose("never-seen").used == {}


def test_a_run_can_not_name_another_sample(hardware: ConnectedHardware, sample: Any) -> None:
    """R5.6: while a sample is open all light counts for it, named or left out."""
    datasets = (DatasetPlan(name="cam_a", camera="cam_a"),)
    free = hardware.open_recording(RecordingPlan(run_uid="dose-free-1", datasets=datasets, sample_id="other"))
    hardware.record_frame(free.recording, {"cam_a": LIT})
    hardware.close_recording(free.recording)
    assert hardware.dose("other").used["l488"] >= FRAME
    sample("worm-2")
    with pytest.raises(ArgumentError, match="names sample 'other', but 'worm-2' is open"):
        hardware.open_recording(RecordingPlan(run_uid="dose-free-2", datasets=datasets, sample_id="other"))


def test_a_frame_beyond_the_budget_is_refused_in_the_dark(
    hardware: ConnectedHardware, new_plan: Any, sample: Any
) -> None:
    """R5.6: before light goes on; the error names sample, light, used, asked and budget. Without light frames go on."""
    sample("worm-3", l488=1.5 * FRAME, led=0)
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a")))
    hardware.record_frame(state.recording, {"cam_a": LIT})
    used = hardware.dose().used
    for refused in (
        lambda: hardware.record_frame(state.recording, {"cam_a": LIT}),
        lambda: hardware.snap("cam_a", LIT),
        lambda: hardware.set_light("l488", True, 2.0, 10.0),
        lambda: hardware.set_light("led", True, 5.0),
    ):
        with pytest.raises(DoseError):
            refused()
    with pytest.raises(DoseError, match=r"l488: 0.04 % × s asked for, but sample 'worm-3' has had") as caught:
        hardware.snap("cam_a", LIT)
    fields = caught.value.fields
    assert (fields["thing"], fields["sample"], fields["value"], fields["limit"]) == (
        "l488",
        "worm-3",
        FRAME,
        1.5 * FRAME,
    )
    assert fields["used"] == pytest.approx(used["l488"])
    assert hardware.dose().used == used
    assert not hardware.light("led").on
    state = hardware.record_frame(state.recording, {"cam_a": FrameSettings(exposure_ms=20)})
    assert state.datasets["cam_a"].frames_written == 2
    hardware.close_recording(state.recording)


def test_a_budget_can_be_changed_and_never_forgets(hardware: ConnectedHardware, sample: Any) -> None:
    """R5.6: opening a sample again keeps what it has had."""
    sample("worm-4", l488=1.0)
    hardware.snap("cam_a", LIT)
    used = hardware.dose().used
    sample("worm-5")
    assert hardware.dose().used == {}
    sample("worm-4", l488=0.001)
    assert hardware.dose().used == used
    with pytest.raises(DoseError):
        hardware.snap("cam_a", LIT)
    for budget, error in (
        ({"sun": 1.0}, ArgumentError),
        ({"l488": float("nan")}, LimitError),
        ({"l488": -1.0}, LimitError),
    ):
        with pytest.raises(error):
            hardware.set_sample("worm-4", budget)
    with pytest.raises(ArgumentError, match="sample_id"):
        hardware.set_sample("no spaces", {})


def test_a_volume_is_held_against_the_budget(
    hardware: ConnectedHardware, new_plan: Any, view: Any, follow: Any, sample: Any
) -> None:
    """R5.6: refused as a whole before its first slice; one that spends more than was estimated ends when it is spent."""
    program = VolumeProgram(views=(view("cam_a", "a", 50),))  # 2 ms at 2 % a slice: 0.2 % × s, and what the gate adds
    sample("worm-6", l488=0.19)
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=50)))
    with pytest.raises(DoseError, match=r"0\.2 % × s asked for"):
        hardware.start_volume(state.recording, program)
    assert hardware.dose().used == {}
    sample("worm-6", l488=0.2)
    state = follow(hardware, hardware.start_volume(state.recording, program))
    assert state.phase == "failed"
    assert "sample 'worm-6' has had" in str(state.error)
    assert 0 < state.datasets["cam_a"].frames_written < 50
    assert state.dose == hardware.dose().used
    assert state.dose["l488"] < 0.2 + 2 * 0.05
    assert not hardware.light("l488").on
    hardware.close_recording(state.recording)


def test_set_light_has_a_longest_time(hardware: ConnectedHardware) -> None:
    """R4 set_light: asked for more than the light's `max_on_s`, nothing is opened."""
    for longest in (0.0, -1.0, 121.0, float("nan")):
        with pytest.raises(LimitError, match=r"lights\.led\.max_on_s"):
            hardware.set_light("led", True, 5.0, longest)
    assert not hardware.light("led").on


def closing(local: Any, light: str, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the meter has seen this light's gate closed."""
    meter, closed = local._microscope._meter, threading.Event()
    real = meter.closed

    def seen(name: str) -> None:
        was_open = meter.is_open(name)
        real(name)
        if was_open and name == light:
            closed.set()

    monkeypatch.setattr(meter, "closed", seen)
    return closed


def test_a_light_left_on_goes_off_by_itself(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.9, R4 set_light: whatever became of the caller; the dose is what was measured."""
    closed = closing(local, "led", monkeypatch)
    began = time.monotonic()
    assert local.set_light("led", True, 5.0, 0.1).on
    assert closed.wait(60)
    assert time.monotonic() - began >= 0.1
    assert not local.light("led").on
    assert 0.3 <= local.dose().used["led"] <= 5 * (time.monotonic() - began)


def test_a_budget_shortens_the_time_of_a_light_left_on(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5.6: without max_s a light burns until the budget is spent, not longer."""
    local.set_sample("worm", {"led": 0.5})
    closed = closing(local, "led", monkeypatch)
    local.set_light("led", True, 5.0)
    assert closed.wait(60)
    assert local.dose().used["led"] == pytest.approx(0.5, abs=0.25)


def test_closing_late_is_tried_again(local: Any, disturb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.9: an adapter that fails once leaves no light on; it counts until it is really off."""
    monkeypatch.setattr("queuescope.hardware._lights.AGAIN_S", 0.05)
    closed = closing(local, "led", monkeypatch)
    real, failed = disturb(), threading.Event()

    def fails_once(label: str, name: str, value: str) -> None:
        if (label, value) == ("LED:X:31", "0") and not failed.is_set():
            failed.set()
            raise RuntimeError("the controller is busy")
        real.setProperty(label, name, value)

    local.set_light("led", True, 5.0, 0.05)
    disturb(setProperty=fails_once)
    assert failed.wait(60)
    assert closed.wait(60)
    disturb()
    assert not local.light("led").on


def test_idle_emission_goes_off(
    tmp_path: Path, make_scope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DESIGN section 4: after the scope's time without an open gate, and on again at the next use."""
    edit = ("queue:   {on_failure: continue}", "safety: {emission_idle_s: 0.05}\nqueue:   {on_failure: continue}")
    local: Any = connect(make_scope(tmp_path, scope=[edit]), Layout(tmp_path / "data"))
    lights, off = local._microscope._lights, threading.Event()
    real = lights._emission_is_idle

    def seen(name: str) -> None:
        real(name)
        off.set()

    monkeypatch.setattr(lights, "_emission_is_idle", seen)
    try:
        for _ in range(2):
            off.clear()
            local.snap("cam_a", LIT)
            assert off.wait(60)
            assert local.light("l488").emission is False
        local.set_light("l488", True, 1.0)
        real("l488")
        assert local.light("l488").emission is True
    finally:
        local.close()


def test_a_death_with_the_gate_open_counts_until_it_was_found_closed(
    tmp_path: Path, make_scope: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    """R5.6: after kill -9 the dose is there, budget and sample too, and says which part nobody measured."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout)
    hardware.set_sample("worm", {"led": 1000.0})
    hardware.snap("cam_a", LIT)
    measured = hardware.dose().used["l488"]
    began = time.monotonic()
    hardware.set_light("led", True, 5.0)
    process.signal(signal.SIGKILL)
    process.wait()
    hardware.close()
    start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout)
    told = hardware.dose()
    assert (told.sample_id, told.budget) == ("worm", {"led": 1000.0})
    assert told.used["l488"] == pytest.approx(measured)
    assert 0 < told.used["led"] <= 5 * (time.monotonic() - began)
    assert told.assumed == {"led": told.used["led"]}
    assert not hardware.light("led").on
    hardware.close()


def meter_at(file: Path) -> DoseMeter:
    meter = DoseMeter(file)
    meter.settle()
    return meter


def test_doses_survive_restarts_and_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5.6: a torn last line is an opening that never began; a long file becomes its sums."""
    file = tmp_path / "dose.jsonl"
    meter = meter_at(file)
    account = Account("worm", "tail")
    meter.opened("l488", 2.0, account)
    meter.closed("l488")
    before = meter.state("worm")
    meter.close()
    with file.open("ab") as out:
        out.write(b'{"on": 9, "light": "l4')
    meter = meter_at(file)
    assert meter.state("worm").by_position == before.by_position
    monkeypatch.setattr("queuescope.hardware._dose.LARGEST", 100)
    for _ in range(20):
        meter.opened("l488", 2.0, account)
        meter.closed("l488")
    after = meter.state("worm")
    assert len(file.read_bytes().splitlines()) <= 4
    meter.close()
    assert meter_at(file).state("worm").used == pytest.approx(after.used)


def test_a_clock_set_back_takes_nothing_away(tmp_path: Path) -> None:
    """R5.6: an opening from the future counts nothing rather than less."""
    file = tmp_path / "dose.jsonl"
    line = {"on": 1, "light": "led", "power_pct": 5.0, "at": time.time() + 1e6, "sample": "worm", "position": ""}
    file.write_text(json.dumps(line) + "\n")
    assert meter_at(file).state("worm").used == {"led": 0.0}


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """R5.6: a budget can't be held on unknown doses."""
    file = tmp_path / "dose.jsonl"
    file.write_text('{"on": 1}\nrubbish\n')
    with pytest.raises(ConfigurationError, match=r"dose\.jsonl, line 2: .*every dose then starts at 0"):
        DoseMeter(file).settle()


def test_what_nobody_asked_is_called_assumed(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R3.9: told `verified` only where the controller is asked, `assumed` where the scope says that it can't be."""
    edits = [("verify: refresh", "verify: none")]
    local: Any = connect(make_scope(tmp_path, scope=edits), Layout(tmp_path / "data"))
    try:
        assert {light: state.state.value for light, state in local.state().lights.items()} == {
            **dict.fromkeys(("l405", "l488", "l561", "l637"), "assumed"),
            "led": "verified",
        }
        assert {off.light: off.state.value for off in local.lights_off(emission=True)}["l488"] == "assumed"
        assert local.set_light("l488", True, 1.0).state.value == "assumed"
    finally:
        local.close()
