"""Volumes run by the controller: the emulated Tiger writes into each frame where piezo and mirrors truly were."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from queuescope.config import Scope, load_scope
from queuescope.hardware import (
    ArgumentError,
    ConfigurationError,
    DatasetPlan,
    DoseError,
    FrameSettings,
    HaltedError,
    InterlockError,
    LimitError,
    RecordingError,
    RecordingState,
    VolumeProgram,
    connect,
)
from queuescope.hardware.simulated import Stamp, decode
from queuescope.layout import Layout

SCANNERS = ("Scanner:AB:33", "Scanner:CD:33")
LONG = 400
"""Slices of a volume that is still running whenever a test looks."""


def tiger_scope(make_scope: Callable[..., Scope], folder: Path, mode: str = "worker", **edits: Any) -> Scope:
    """The small demo scope with volumes paced by its controller."""
    made = make_scope(folder, mode, **edits)
    environ = {"QUEUESCOPE_MICROMANAGER__PROCESS": mode, "QUEUESCOPE_VOLUME__TRIGGER": "tiger_spim"}
    return load_scope(made.path, environ=environ)


@pytest.fixture(scope="module")
def tiger(tmp_path_factory: pytest.TempPathFactory, make_scope: Callable[..., Scope]) -> Iterator[Any]:
    """The microscope in this process, its controller ten times as fast; every test leaves it idle."""
    folder = tmp_path_factory.mktemp("scope")
    hardware = connect(tiger_scope(make_scope, folder), Layout(folder / "data"))
    core(hardware).mm.setProperty("TigerCommHub", "TimeScale", "0.1")
    yield hardware
    hardware.close()


@pytest.fixture
def unhurried(tiger: Any) -> Iterator[None]:
    """The controller in real time: a volume of `LONG` slices lasts far longer than a test needs to stop it."""
    core(tiger).mm.setProperty("TigerCommHub", "TimeScale", "1.0")
    yield
    core(tiger).mm.setProperty("TigerCommHub", "TimeScale", "0.1")


@pytest.fixture
def faults(tiger: Any) -> Iterator[Any]:
    """The controller's fault switches; off again after the test."""
    controller = core(tiger).mm.device("TigerCommHub").controller
    yield controller
    controller.faults()
    for label in SCANNERS:
        core(tiger).mm.setProperty(label, "SPIMState", "Idle")


def core(hardware: Any) -> Any:
    return hardware._microscope._core


def setting(hardware: Any, label: str, name: str) -> str | float:
    text = core(hardware).mm.getProperty(label, name)
    try:
        return float(text)
    except ValueError:
        return text


def datasets(*cameras: str, frames: int) -> tuple[DatasetPlan, ...]:
    return tuple(DatasetPlan(name=c, camera=c, frames=frames, axis="z", step_um=1) for c in cameras)


def both(view: Callable[..., Any], slices: int, **changed: Any) -> VolumeProgram:
    deg = tuple(index * 0.0005 for index in range(slices))
    um = tuple(index * 0.05 for index in range(slices))
    sides = (("cam_a", "a"), ("cam_b", "b"))
    return VolumeProgram(
        views=tuple(view(c, s, slices, piezo_um=um, galvo_deg=deg, **changed) for c, s in sides), order="volume"
    )


def stamps(state: RecordingState, dataset: str) -> list[Stamp]:
    frames = np.asarray(zarr.open_array(f"{state.datasets[dataset].path}/0", mode="r")[:])
    found = [decode(frame) for frame in frames]
    assert None not in found
    return found  # type: ignore[return-value]


def told(state: RecordingState, dataset: str) -> list[dict[str, Any]]:
    path = Path(state.datasets[dataset].path.replace(".ome.zarr", ".frames.jsonl"))
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_frames(hardware: Any, state: RecordingState, dataset: str = "cam_a", more_than: int = 2) -> RecordingState:
    while state.datasets[dataset].frames_written <= more_than:
        assert state.phase == "running", state.error
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    return state


def run(hardware: Any, follow: Any, new_plan: Any, program: VolumeProgram) -> RecordingState:
    frames = len(program.views[0].piezo_um)
    state = hardware.open_recording(new_plan(*datasets(*(v.camera for v in program.views), frames=frames)))
    state = follow(hardware, hardware.start_volume(state.recording, program))
    return hardware.close_recording(state.recording)


def test_a_two_camera_volume_is_where_it_was_programmed(tiger: Any, view: Any, new_plan: Any, follow: Any) -> None:
    """Issue 3, item 4: every frame of both sides by its stamp; only the right laser line was open; all is restored."""
    cards = [
        (label, name)
        for label in (*SCANNERS, "PiezoStage:P:34", "PiezoStage:Q:35", "HamCam1", "HamCam2", "PLogic:E:36")
        for name in core(tiger).mm.getDevicePropertyNames(label)
        if name not in ("CCDTemperature", "FrontpanelOutputState")
        and not core(tiger).mm.isPropertyReadOnly(label, name)
    ]
    tiger.move({"piezo_a": 12.0, "galvo_a.y": 0.3, "galvo_a.x": 0.1})
    before = tiger.state()
    kept = {card: setting(tiger, *card) for card in cards}
    program = both(view, 6, sheet_width_deg=1.0, sheet_offset_deg=0.2)
    state = run(tiger, follow, new_plan, program)
    assert state.error is None
    for dataset, side in (("cam_a", "A"), ("cam_b", "B")):
        found = stamps(state, dataset)
        assert [one.slice for one in found] == list(range(6))
        assert {one.side for one in found} == {side}
        assert {one.trigger for one in found} == {"external"}
        assert [one.piezo_um for one in found] == pytest.approx([index * 0.05 for index in range(6)], abs=1e-3)
        assert [one.galvo_y_deg for one in found] == pytest.approx([index * 0.0005 for index in range(6)], abs=1e-4)
        assert [one.galvo_x_deg for one in found] == pytest.approx([0.2] * 6, abs=1e-4)
        assert {one.lines for one in found} == {frozenset({6})}, "the 488 line, and no other"
        lines = told(state, dataset)
        assert [line["position"][f"piezo_{side.lower()}"] for line in lines] == pytest.approx(
            [one.piezo_um for one in found], abs=1e-3
        )
        assert all(line["programmed"] for line in lines)
    assert {card: setting(tiger, *card) for card in cards} == kept, (
        "offsets, amplitudes and camera triggers are what they were"
    )
    after = tiger.state()
    assert after.positions == pytest.approx(before.positions)
    assert after.cameras == before.cameras
    assert after.errors == {}
    assert state.dose["l488"] == pytest.approx(12 * 0.002 * 2, rel=0.01), "the pulses count, not the time between"
    assert not any(light.on for light in after.lights.values())


def test_one_side_runs_alone(tiger: Any, view: Any, new_plan: Any, follow: Any) -> None:
    """Issue 3, item 4: side B alone, in the dark: no line is open."""
    program = VolumeProgram(views=(view("cam_b", "b", 3, settings=FrameSettings(exposure_ms=1)),))
    state = run(tiger, follow, new_plan, program)
    assert state.error is None
    assert [(one.side, one.slice, one.lines) for one in stamps(state, "cam_b")] == [
        ("B", index, frozenset()) for index in range(3)
    ]
    assert state.dose == {}


def test_a_missed_trigger_fails_the_run_with_the_right_count(
    tiger: Any, faults: Any, view: Any, new_plan: Any, follow: Any
) -> None:
    """R3.12: fewer frames than asked for fails the run; those that exist stay readable and are counted; all is restored."""
    faults.faults(miss={"B": [1, 4]})
    state = run(tiger, follow, new_plan, both(view, 6))
    assert state.error.startswith("cam_b: 4 of 6 frames came: the cameras missed triggers")
    assert "6 of 6 frames of cam_a, 4 of 6 frames of cam_b" in state.error
    assert (state.datasets["cam_a"].shape[0], state.datasets["cam_b"].shape[0]) == (6, 4)
    assert [one.slice for one in stamps(state, "cam_b")] == [0, 2, 3, 5]
    assert setting(tiger, "HamCam2", "TRIGGER SOURCE") == "INTERNAL"
    assert {setting(tiger, label, "SPIMState") for label in SCANNERS} == {"Idle"}


def test_a_controller_that_goes_on_by_itself_is_stopped(
    tiger: Any, faults: Any, view: Any, new_plan: Any, follow: Any
) -> None:
    """Issue 3, item 4: every way out writes Idle; a programme that repeats for ever ends with the frames that were asked for."""
    faults.faults(fire_until_stopped=True)
    state = run(tiger, follow, new_plan, both(view, 4))
    assert state.error is None
    assert faults.status()["state"] == "Idle"
    assert faults.status()["laser_on"] == []


def test_a_controller_that_refuses_to_stop_is_told_and_its_lasers_go_off(
    tiger: Any, faults: Any, view: Any, new_plan: Any, follow: Any
) -> None:
    """R3.9: where Idle isn't read back the run fails and says so, emission goes off, and no axis is moved."""
    faults.faults(fire_until_stopped=True, refuse_idle=True)
    state = run(tiger, follow, new_plan, both(view, 4))
    assert "the controller may still be running its sequence" in state.error
    assert "4 of 4 frames of cam_a" in state.error
    assert tiger.light("l488").emission is False
    faults.faults()
    tiger.stop()
    assert faults.status()["state"] == "Idle"
    tiger.move({"piezo_a": 0.0, "piezo_b": 0.0, "galvo_a.y": 0.0, "galvo_b.y": 0.0, "galvo_a.x": 0.0, "galvo_b.x": 0.0})


@pytest.mark.parametrize("ends", ["stop_recording", "stop", "close"])
def test_stopping_ends_the_controller_at_once(
    tiger: Any, faults: Any, unhurried: None, view: Any, new_plan: Any, follow: Any, ends: str
) -> None:
    """R3.11: `stop` and its like don't wait for the volume's end; what came is counted, the controller is idle and dark."""
    state = tiger.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=LONG)))
    state = wait_frames(tiger, tiger.start_volume(state.recording, both(view, LONG)))
    if ends == "stop":
        tiger.stop()
        state = follow(tiger, state)
    elif ends == "stop_recording":
        state = tiger.stop_recording(state.recording)
    state = tiger.close_recording(state.recording)
    assert f"of {LONG} frames of cam_a" in state.error
    written = state.datasets["cam_a"].frames_written
    assert 3 <= written < LONG
    assert [one.slice for one in stamps(state, "cam_a")] == list(range(written))
    status = faults.status()
    assert (status["state"], status["laser_on"]) == ("Idle", [])
    assert setting(tiger, "HamCam1", "TRIGGER SOURCE") == "INTERNAL"
    assert not tiger.light("l488").on
    assert 0 < state.dose["l488"] < LONG * 0.002 * 2


def test_a_halt_idles_every_scanner(
    tiger: Any, faults: Any, unhurried: None, view: Any, new_plan: Any, follow: Any
) -> None:
    """R3.11, R5.3: halt writes Idle on every scanner itself, and switches emission off."""
    state = tiger.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=LONG)))
    state = wait_frames(tiger, tiger.start_volume(state.recording, both(view, LONG)))
    report = tiger.halt("smoke", "ana")
    done = {step.name: step.done for step in report.steps}
    assert all(done[f"{label} SPIMState"] for label in SCANNERS)
    assert all(done.values())
    assert faults.status()["state"] == "Idle"
    state = follow(tiger, state)
    assert "halted by ana: smoke" in state.error
    with pytest.raises(HaltedError):
        tiger.start_volume(state.recording, both(view, 2))
    tiger.rearm("ana")
    assert tiger.light("l488").emission is False
    tiger.close_recording(state.recording)


def test_an_open_door_idles_the_controller(
    tmp_path: Path, make_scope: Callable[..., Scope], view: Any, new_plan: Any, follow: Any
) -> None:
    """R5.3: lights first, and the light that the controller pulses is one; the volume says which interlock it was."""
    door = '  door: {label: Door, kind: property, property: State, choices: ["0", "1"]}\n  laser_line:'
    interlock = 'safety: {interlocks: [{device: door, open: "1", kind: door}]}\nstorage:'
    cfg = [
        (
            "Device,LaserLine,DemoCamera,DStateDevice",
            "Device,LaserLine,DemoCamera,DStateDevice\nDevice,Door,DemoCamera,DShutter",
        )
    ]
    scope = tiger_scope(make_scope, tmp_path, scope=[("  laser_line:", door), ("storage:", interlock)], cfg=cfg)
    hardware = connect(scope, Layout(tmp_path / "data"))
    try:
        state = hardware.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=LONG)))
        state = wait_frames(hardware, hardware.start_volume(state.recording, both(view, LONG)))
        core(hardware).mm.setProperty("Door", "State", "1")
        state = follow(hardware, state)
        assert "interlock door" in state.error
        status = core(hardware).mm.device("TigerCommHub").controller.status()
        assert (status["state"], status["laser_on"]) == ("Idle", [])
        assert hardware.light("l488").emission is False
        with pytest.raises(InterlockError):
            hardware.start_volume(state.recording, both(view, 2))
    finally:
        hardware.close()


def test_while_it_runs_everything_can_be_read_and_nothing_moved(
    tiger: Any, faults: Any, unhurried: None, view: Any, new_plan: Any, follow: Any
) -> None:
    """R3.8: a running volume owns the microscope; its light is told as on."""
    state = tiger.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=LONG)))
    state = wait_frames(tiger, tiger.start_volume(state.recording, both(view, LONG)))
    found = tiger.state()
    assert found.errors == {}
    assert found.lights["l488"].on
    for call in (lambda: tiger.move({"z": 1.0}), lambda: tiger.snap("cam_a", FrameSettings())):
        with pytest.raises(RecordingError, match="a volume or burst is running"):
            call()
    tiger.stop_recording(state.recording)
    tiger.close_recording(state.recording)


def test_limits_hold_for_offsets_amplitudes_and_sweeps(tiger: Any, view: Any, new_plan: Any) -> None:
    """R3.8: slices, the sheet's middle and its ends are checked like positions, before anything is written."""
    kept = [setting(tiger, SCANNERS[0], name) for name in ("SPIMNumSlices", "SingleAxisXOffset(deg)")]
    state = tiger.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=5)))
    for changed, match in (
        ({"sheet_width_deg": 9.0, "sheet_offset_deg": 1.0}, r"galvo_a\.x 5\.5 deg is outside \[-5, 5\]"),
        ({"sheet_offset_deg": -6.0}, r"galvo_a\.x -\d"),
        ({"piezo_um": (196.0, 198.0, 200.0, 202.0, 204.0)}, r"piezo_a 202\.0 um is outside"),
        ({"galvo_deg": (4.0, 4.5, 5.0, 5.5, 6.0)}, r"galvo_a\.y 5\.5 deg is outside"),
        ({"settings": FrameSettings(exposure_ms=995)}, r"cam_a exposure 1005\.1 ms is outside"),
    ):
        with pytest.raises(LimitError, match=match):
            tiger.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 5, **changed),)))
    falling = view("cam_a", "a", 5, piezo_um=(4.0, 3.0, 2.0, 1.0, 0.0))
    with pytest.raises(ArgumentError, match="piezo_um descends"):
        tiger.start_volume(state.recording, VolumeProgram(views=(falling,)))
    mixed = view("cam_a", "a", 5, piezo="piezo_b")
    with pytest.raises(ArgumentError, match="must be of one view"):
        tiger.start_volume(state.recording, VolumeProgram(views=(mixed,)))
    assert [setting(tiger, SCANNERS[0], name) for name in ("SPIMNumSlices", "SingleAxisXOffset(deg)")] == kept
    tiger.close_recording(state.recording)


def test_the_pulses_are_held_against_the_budget(tiger: Any, view: Any, new_plan: Any, follow: Any) -> None:
    """R5.6: the dose of a controller's volume is known beforehand, and measured."""
    tiger.set_sample("fish-7", {"l488": 0.03})
    try:
        state = tiger.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=6)))
        with pytest.raises(DoseError, match=r"l488: 0\.048"):
            tiger.start_volume(state.recording, both(view, 6))
        tiger.close_recording(state.recording)
        state = run(tiger, follow, new_plan, both(view, 3))
        assert state.error is None
        assert tiger.dose().used["l488"] == pytest.approx(0.024, rel=0.01)
    finally:
        tiger.set_sample(None, {})


def test_cameras_of_different_sizes_are_refused(tiger: Any, view: Any, new_plan: Any) -> None:
    """FACTS: they share one buffer, in which a frame of another size wipes the rest."""
    tiger.configure_camera("cam_b", binning=2)
    try:
        state = tiger.open_recording(new_plan(*datasets("cam_a", "cam_b", frames=3)))
        with pytest.raises(ArgumentError, match="frames of one size and type"):
            tiger.start_volume(state.recording, both(view, 3))
        tiger.close_recording(state.recording)
    finally:
        tiger.configure_camera("cam_b", binning=1)


def test_a_configuration_that_lacks_the_controller_is_refused(tmp_path: Path, make_scope: Callable[..., Scope]) -> None:
    """R3.8: labels and properties are looked up at start, and named."""
    edits = [
        ("hub: TigerCommHub", "hub: TigerHub"),
        ("readout_ms: 10,", "readout_ms: 10, properties: {TRIGGER: EXTERNAL},"),
        ("output: output 6 only", "output: output 9 only"),
    ]
    scope = tiger_scope(make_scope, tmp_path, scope=edits)
    with pytest.raises(ConfigurationError) as caught:
        connect(scope, Layout(tmp_path / "data"))
    text = str(caught.value)
    assert "volume.controller.hub: the configuration has no device 'TigerHub'" in text
    assert "devices.cam_a.external.properties: 'HamCam1' lacks ['TRIGGER']" in text
    assert "lights.l488.output: PLogic:E:36.OutputChannel can't be 'output 9 only'" in text


def test_a_light_gated_by_software_is_open_all_the_time_and_counts(
    tmp_path: Path, make_scope: Callable[..., Scope], view: Any, new_plan: Any, follow: Any
) -> None:
    """R5.6: the gate that software holds open is metered from opening to closing; the controller's pulses go nowhere."""
    scope = tiger_scope(make_scope, tmp_path, scope=[("gated_by: controller", "gated_by: software")])
    hardware = connect(scope, Layout(tmp_path / "data"))
    try:
        core(hardware).mm.setProperty("TigerCommHub", "TimeScale", "0.1")
        began = time.monotonic()
        state = run(hardware, follow, new_plan, both(view, 3))
        elapsed = time.monotonic() - began
        assert state.error is None
        assert 0 < state.dose["l488"] <= 2 * elapsed
        assert {one.lines for one in stamps(state, "cam_a")} == {frozenset()}
        assert not hardware.light("l488").on
    finally:
        hardware.close()
