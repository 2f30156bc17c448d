"""Hardware-timed volumes on MMCore's stage sequences: SequenceTester writes the true position of the stage into every frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from pymmcore_plus.seq_tester import decode_image

from queuescope.config import Scope, ScopeError, load_scope
from queuescope.hardware import (
    ArgumentError,
    DatasetPlan,
    DoseError,
    FrameSettings,
    LimitError,
    RecordingState,
    VolumeProgram,
    VolumeView,
    connect,
)
from queuescope.layout import Layout

CFG = """\
Property,Core,Initialize,0
Device,THub,SequenceTester,THub
Device,Camera,SequenceTester,TCamera-0
Device,Z,SequenceTester,TZStage-0
Device,DHub,DemoCamera,DHub
Device,Gate,DemoCamera,DShutter
Device,Power,DemoCamera,D-DA
Parent,Camera,THub
Parent,Z,THub
Property,Camera,ImageMode,MachineReadable
Property,Camera,ImageWidth,128
Property,Camera,ImageHeight,128
Property,Core,Initialize,1
Property,Z,TriggerSequenceMaxLength,{longest}
Property,Z,TriggerSourceDevice,TCamera-0
Property,Z,TriggerSourcePort,{port}
Property,Core,Camera,Camera
Property,Core,AutoShutter,0
"""
SCOPE = """\
name: sequences
micromanager: {{config: mm.cfg, process: worker}}
devices:
  z: {{label: Z, kind: stage, limits: [-100, 100], reference: none, tolerance: 0.01}}
  cam: {{label: Camera, kind: camera, pixel_um: 6.5, exposure_ms: [0.1, 1000]}}
lights:
  lamp: {{gate: {{label: Gate}}, power: {{label: Power, property: Voltage, full_scale: 5, limits_pct: [0, 50]}}}}
volume: {{trigger: mm_sequence, advance: {advance}}}
storage: {{min_free_gb: 0}}
"""


def make(folder: Path, longest: int = 100, port: str = "ExposureStartEdge", advance: str = "exposure_start") -> Scope:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mm.cfg").write_text(CFG.format(longest=longest, port=port))
    (folder / "scope.yml").write_text(SCOPE.format(advance=advance))
    return load_scope(folder, environ={})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``start(longest, port, advance)``: the microscope, in this process."""
    running: list[Any] = []

    def connected(**given: Any) -> Any:
        running.append(connect(make(tmp_path, **given), Layout(tmp_path / "data")))
        return running[-1]

    yield connected
    for hardware in running:
        hardware.close()


def program(positions: tuple[float, ...], **changed: Any) -> VolumeProgram:
    settings = changed.pop("settings", FrameSettings(exposure_ms=1, light="lamp", power_pct=10))
    view = {"dataset": "cam", "camera": "cam", "settings": settings, "piezo": "z", "piezo_um": positions}
    return VolumeProgram(views=(VolumeView(**{**view, **changed}),))


def open_for(hardware: Any, new_plan: Callable[..., Any], frames: int) -> RecordingState:
    return hardware.open_recording(new_plan(DatasetPlan(name="cam", camera="cam", frames=frames, axis="z", step_um=1)))


def truth(state: RecordingState) -> list[float]:
    """Where the stage truly was at each frame."""
    path = state.datasets["cam"].path
    frames = np.asarray(zarr.open_array(f"{path}/0", mode="r")[:])
    found = []
    for frame in frames:
        states = {(one.device, one.property): one.value for one in decode_image(frame).current_state}
        found.append(states["TZStage-0", "ZPositionUm"])
    return found


def told(state: RecordingState) -> list[dict[str, Any]]:
    path = Path(state.datasets["cam"].path.replace(".ome.zarr", ".frames.jsonl"))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("port", "advance"), [("ExposureStartEdge", "exposure_start"), ("ExposureStopEdge", "exposure_end")]
)
@pytest.mark.parametrize("longest", [100, 4], ids=["one burst", "three bursts"])
def test_every_frame_is_where_the_sequence_says(
    start: Any, new_plan: Any, follow: Any, port: str, advance: str, longest: int
) -> None:
    """Issue 3, item 4, mm_sequence: the true position of each frame, for both wirings, also where the stage's memory is short."""
    hardware = start(longest=longest, port=port, advance=advance)
    hardware.move({"z": 7.0})
    positions = tuple(-5.0 + 1.25 * index for index in range(10))
    state = open_for(hardware, new_plan, 10)
    state = hardware.close_recording(
        follow(hardware, hardware.start_volume(state.recording, program(positions))).recording
    )
    assert state.error is None
    assert truth(state) == pytest.approx(list(positions))
    assert [line["position"] for line in told(state)] == [{"z": pytest.approx(p)} for p in positions]
    assert all(line["programmed"] for line in told(state)), "a commanded position is never told as a readback"
    assert hardware.positions(("z",)) == {"z": pytest.approx(7.0)}, "back where it was"
    assert not hardware.light("lamp").on
    assert state.dose["lamp"] > 0


def test_a_wrong_wiring_is_found(start: Any, new_plan: Any, follow: Any) -> None:
    """R3.10: a scope that says exposure_start where the stage advances at the end gives frames that are off by one: it fails."""
    hardware = start(port="ExposureStopEdge", advance="exposure_end")
    hardware._microscope._recorder._pace._at_end = False
    state = open_for(hardware, new_plan, 5)
    missed = hardware._microscope._core
    real = missed.mm
    stops = [0]

    class Deaf:
        """The last pulse is lost."""

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def loadStageSequence(self, label: str, positions: list[float]) -> None:
            stops[0] += 1
            real.loadStageSequence(label, [positions[-1], *positions[:-1]])

    missed.mm = Deaf()
    state = follow(hardware, hardware.start_volume(state.recording, program((0.0, 1.0, 2.0, 3.0, 4.0))))
    missed.mm = real
    assert stops == [1]
    assert state.phase == "failed"
    assert "z stands at 3 um after its sequence, which ends at 4" in state.error
    assert "volume.advance: exposure_end (scope file)" in state.error
    assert state.datasets["cam"].frames_written == 5


def test_a_short_sequence_fails_with_its_count(start: Any, new_plan: Any, follow: Any) -> None:
    """R3.12: a camera that stops early: the frames that exist stay readable and are counted."""
    hardware = start()
    core = hardware._microscope._core
    real = core.mm

    class Short:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def startSequenceAcquisition(self, label: str, frames: int, *more: Any) -> None:
            real.startSequenceAcquisition(label, frames - 2, *more)

    core.mm = Short()
    state = open_for(hardware, new_plan, 6)
    state = follow(hardware, hardware.start_volume(state.recording, program(tuple(float(i) for i in range(6)))))
    core.mm = real
    closed = hardware.close_recording(state.recording)
    assert "cam: 4 of 6 frames came: the camera stopped before all were taken" in closed.error
    assert "4 of 6 frames of cam" in closed.error
    assert closed.datasets["cam"].shape[0] == 4
    assert truth(closed) == [0.0, 1.0, 2.0, 3.0]
    assert not hardware.light("lamp").on


def test_every_position_passes_the_envelope_before_it_is_uploaded(start: Any, new_plan: Any) -> None:
    """R3.8: nothing reaches the stage's memory, and nothing moves."""
    hardware = start()
    core = hardware._microscope._core
    real = core.mm
    uploads: list[Any] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            if name in ("loadStageSequence", "setPosition"):
                uploads.append(name)
            return getattr(real, name)

    core.mm = Watched()
    state = open_for(hardware, new_plan, 3)
    with pytest.raises(LimitError, match=r"z 101\.0 um is outside"):
        hardware.start_volume(state.recording, program((0.0, 101.0, 2.0)))
    core.mm = real
    assert uploads == []


def test_what_a_sequence_can_not_do_is_said(start: Any, new_plan: Any) -> None:
    """No silent fallback: galvos, swept sheets, and a stage without a memory."""
    hardware = start(longest=0)
    state = open_for(hardware, new_plan, 2)
    with pytest.raises(ArgumentError, match=r"z \(Z\) can't be sequenced"):
        hardware.start_volume(state.recording, program((0.0, 1.0)))
    with pytest.raises(ArgumentError, match=r"sheet_width_deg 1 needs volume\.trigger: tiger_spim"):
        hardware.start_volume(state.recording, program((0.0, 1.0), sheet_width_deg=1.0))


def test_the_budget_holds_for_the_whole_time_that_the_gate_is_open(start: Any, new_plan: Any) -> None:
    """R5.6: refused beforehand; no light."""
    hardware = start()
    hardware.set_sample("fish-1", {"lamp": 0.05})
    state = open_for(hardware, new_plan, 10)
    with pytest.raises(DoseError, match="lamp"):
        hardware.start_volume(state.recording, program(tuple(float(i) for i in range(10))))
    assert hardware.dose().used == {}


def test_stopping_ends_a_sequence_at_once(tmp_path: Path, new_plan: Any, follow: Any) -> None:
    """R3.11: `stop` ends it wherever it is; no pulse moves the stage afterwards, and what came is counted."""
    scope, frames = make(tmp_path, longest=100_000), 1000
    cfg = (tmp_path / "mm.cfg").read_text().replace("Camera,SequenceTester,TCamera-0", "Camera,DemoCamera,DCam")
    kept = [line for line in cfg.splitlines() if not line.startswith(("Property,Camera,", "Parent,Camera"))]
    kept += ["Property,Camera,OnCameraCCDXSize,64", "Property,Camera,OnCameraCCDYSize,64"]
    (tmp_path / "mm.cfg").write_text("\n".join([*kept, ""]))  # a camera that takes as long as it exposes
    hardware = connect(scope, Layout(tmp_path / "data"))
    try:
        settings = FrameSettings(exposure_ms=10, light="lamp", power_pct=10)
        state = open_for(hardware, new_plan, frames)
        positions = tuple(index % 50 * 0.5 for index in range(frames))
        state = hardware.start_volume(state.recording, program(positions, settings=settings))
        while state.datasets["cam"].frames_written < 5:
            assert state.phase == "running", state.error
            state = hardware.recording(state.recording, seen=state.version, wait_s=20)
        hardware.stop()
        state = follow(hardware, state)
        assert state.phase == "failed"
        assert "motion was stopped" in state.error
        assert not hardware._microscope._core.mm.isSequenceRunning("Camera")
        assert not hardware.light("lamp").on
        closed = hardware.close_recording(state.recording)
        assert 5 <= closed.datasets["cam"].frames_written < frames
        assert len(told(closed)) == closed.datasets["cam"].shape[0] == closed.datasets["cam"].frames_written
    finally:
        hardware.close()


def test_software_time_refuses_what_it_can_not_sweep(
    shared_local: Any, new_plan: Any, view: Callable[..., VolumeView]
) -> None:
    """Issue 3, item 4: a parameter without effect is refused, with what it needs."""
    state = shared_local.open_recording(
        new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=2, axis="z", step_um=1))
    )
    for name in ("sheet_width_deg", "sheet_offset_deg"):
        swept = view("cam_a", "a", 2, **{name: 1.0})
        with pytest.raises(ArgumentError, match=rf"cam_a: {name} 1 needs volume\.trigger: tiger_spim"):
            shared_local.start_volume(state.recording, VolumeProgram(views=(swept,)))
    shared_local.close_recording(state.recording)


def test_a_controller_that_is_not_named_is_refused(tmp_path: Path) -> None:
    """R3.8: what a trigger mode needs is asked for when the scope is loaded."""
    make(tmp_path)
    text = (tmp_path / "scope.yml").read_text().replace("trigger: mm_sequence", "trigger: tiger_spim")
    (tmp_path / "scope.yml").write_text(text)
    with pytest.raises(ScopeError, match=r"volume\.controller is missing"):
        load_scope(tmp_path, environ={})
