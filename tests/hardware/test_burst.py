"""Bursts: frames that nothing but the camera times. Every frame that was taken reaches the disk, or the run says which didn't."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

from queuescope.config import SCOPES, load_scope
from queuescope.hardware import (
    ArgumentError,
    BurstProgram,
    BurstView,
    DatasetPlan,
    DoseError,
    FrameSettings,
    LimitError,
    RecordingError,
    RecordingPlan,
    RecordingState,
    UnknownNameError,
    connect,
)
from queuescope.hardware._ome_zarr import ZarrFiles
from queuescope.layout import Layout
from queuescope.reading import open_volume

FRAMES = 40


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Any]:
    """Two cameras of 256² on the demo adapters, in this process; the second one's image is twice as bright."""
    source = Path(__file__).parents[1] / "scopes" / "two-cameras"
    smaller = "".join(f"Property,Camera {n},OnCameraCCD{axis}Size,256\n" for n in (1, 2) for axis in "XY")
    (tmp_path / "mm.cfg").write_text((source / "mm.cfg").read_text() + smaller)
    edited = (
        (source / "scope.yml").read_text().replace("config: mm.cfg", "config: mm.cfg, process: worker, buffer_mb: 16")
    )
    (tmp_path / "scope.yml").write_text(edited)
    hardware = connect(load_scope(tmp_path, environ={}), Layout(tmp_path / "data"))
    yield hardware
    hardware.close()


def recording(hardware: Any, frames: int | None, *cameras: str) -> RecordingState:
    datasets = tuple(DatasetPlan(name=camera, camera=camera, frames=frames) for camera in cameras)
    return hardware.open_recording(RecordingPlan(run_uid=str(uuid.uuid4()), datasets=datasets))


def burst(*cameras: str, frames: int = FRAMES, rate_hz: float | None = None, **settings: Any) -> BurstProgram:
    one = FrameSettings(**{"exposure_ms": 2, "light": "lamp", **settings})
    views = tuple(BurstView(dataset=camera, camera=camera, settings=one, frames=frames) for camera in cameras)
    return BurstProgram(views=views, rate_hz=rate_hz)


def lines_of(state: RecordingState, dataset: str) -> list[dict[str, Any]]:
    return open_volume(Path(state.datasets[dataset].path)).lines()


def checksums_hold(hardware: Any, state: RecordingState) -> None:
    """What is on disk is what came from the cameras' buffer."""
    from queuescope.scripts._read_back import checksum

    for name, dataset in state.datasets.items():
        pixels = zarr.open_array(Path(dataset.path) / "0", mode="r")[...]
        taken = hardware.checksums(state.recording, name)
        assert len(taken) == dataset.frames_written == len(pixels)
        assert [checksum(frame) for frame in pixels] == list(taken)


@pytest.mark.parametrize("rate_hz", [None, 200.0])
def test_cameras_run_freely_together_and_every_frame_is_on_disk(
    pair: Any, follow: Callable[..., RecordingState], rate_hz: float | None
) -> None:
    opened = recording(pair, FRAMES, "first", "second")
    state = follow(pair, pair.start_burst(opened.recording, burst("first", "second", rate_hz=rate_hz)))
    assert state.phase == "done", state.error
    assert {name: d.frames_written for name, d in state.datasets.items()} == {"first": FRAMES, "second": FRAMES}
    state = pair.close_recording(state.recording)
    checksums_hold(pair, state)
    means = [zarr.open_array(Path(state.datasets[n].path) / "0", mode="r")[...].mean() for n in ("first", "second")]
    assert means[1] > 1.5 * means[0]  # each frame went to its own camera's dataset
    for name in ("first", "second"):
        lines = lines_of(state, name)
        times = [line["time"] for line in lines]
        assert times == sorted(times)
        assert len(set(times)) == FRAMES
        assert all("programmed" not in line and line["position"] == {"z": 0.0} for line in lines)
        if rate_hz is not None:
            assert times[-1] - times[0] > (FRAMES - 2) / rate_hz
    assert state.seconds > 0
    assert state.dose["lamp"] > 0
    assert not pair.light("lamp").on


def test_a_disk_that_does_not_keep_up_ends_the_burst_before_a_frame_is_lost(
    pair: Any, follow: Callable[..., RecordingState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still until MMCore's buffer is nearly full: the camera is stopped, and all that it gave is written."""
    may_write, real = threading.Event(), ZarrFiles.write

    def slow(self: ZarrFiles, *args: Any) -> str:
        assert may_write.wait(60)
        return real(self, *args)

    monkeypatch.setattr(ZarrFiles, "write", slow)
    frames = 1000
    opened = recording(pair, frames, "first")
    state = pair.start_burst(opened.recording, burst("first", frames=frames, exposure_ms=1))
    core = pair._microscope._cameras.core("first")
    while not core.mm.isSequenceRunning("Camera 1"):
        pass
    while core.mm.isSequenceRunning("Camera 1"):
        threading.Event().wait(0.005)
    assert not core.mm.isBufferOverflowed()
    may_write.set()
    state = follow(pair, state)
    assert state.phase == "failed"
    assert "the disk doesn't keep up" in str(state.error)
    assert "micromanager.buffer_mb" in str(state.error)
    got = state.datasets["first"].frames_written
    assert 120 < got < frames  # at least what the buffer holds of 0.13 MB frames, all of it
    assert not pair.light("lamp").on
    checksums_hold(pair, pair.close_recording(state.recording))
    numbers = [line["index"] for line in lines_of(state, "first")]
    assert numbers == list(range(got))


def test_a_burst_larger_than_the_buffer_goes_through_it(pair: Any, follow: Callable[..., RecordingState]) -> None:
    frames = 250  # 31 MB through 16
    opened = recording(pair, frames, "first")
    state = follow(pair, pair.start_burst(opened.recording, burst("first", frames=frames, exposure_ms=3)))
    assert state.phase == "done", state.error
    assert state.datasets["first"].frames_written == frames


@pytest.mark.parametrize("rate_hz", [None, 20.0])
def test_a_burst_can_be_stopped_and_keeps_what_was_taken(
    pair: Any, follow: Callable[..., RecordingState], rate_hz: float | None
) -> None:
    opened = recording(pair, 5000, "first")
    state = pair.start_burst(opened.recording, burst("first", frames=5000, rate_hz=rate_hz, exposure_ms=10))
    while state.datasets["first"].frames_written < 3:
        state = pair.recording(state.recording, seen=state.version, wait_s=20)
    with pytest.raises(RecordingError, match="a volume or burst is running"):
        pair.snap("first", FrameSettings())
    state = pair.stop_recording(state.recording)
    assert state.phase == "failed"
    assert "stopped by stop_recording" in str(state.error)
    assert not pair._microscope._core.mm.isSequenceRunning("Camera 1")
    assert not pair.light("lamp").on
    checksums_hold(pair, pair.close_recording(state.recording))


def test_its_seconds_count_from_the_first_exposure_not_from_making_room(
    pair: Any, follow: Callable[..., RecordingState], monkeypatch: pytest.MonkeyPatch
) -> None:
    from queuescope.hardware import _capture, _recording

    late_s = 0.0

    def slow(self: Any) -> None:
        nonlocal late_s
        prepare(self)
        late_s = 1000.0  # MMCore touches every page of its buffer

    prepare = _capture.Capture.prepare
    monkeypatch.setattr(_capture.Capture, "prepare", slow)
    monkeypatch.setattr(_recording, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late_s))
    opened = recording(pair, 2, "first")
    done = follow(pair, pair.start_burst(opened.recording, burst("first", frames=2)))
    assert (done.phase, late_s) == ("done", 1000.0)
    assert 0 < done.seconds < 1000


def test_a_steady_burst_is_held_in_the_dark_and_goes_on(pair: Any, follow: Callable[..., RecordingState]) -> None:
    opened = recording(pair, FRAMES, "first")
    state = pair.start_burst(opened.recording, burst("first", rate_hz=100))
    while state.datasets["first"].frames_written < 3:
        state = pair.recording(state.recording, seen=state.version, wait_s=20)
    held = pair.hold_recording(state.recording, True)
    while pair._microscope._recorder._recordings[state.recording].in_flight:  # the frame in hand
        threading.Event().wait(0.002)
    before = pair.recording(state.recording).datasets["first"].frames_written
    assert held.phase == "running"
    assert not pair.light("lamp").on
    assert pair.recording(state.recording, seen=pair.recording(state.recording).version, wait_s=0.1).phase == "running"
    assert pair.recording(state.recording).datasets["first"].frames_written == before
    pair.hold_recording(state.recording, False)
    state = follow(pair, state)
    assert state.phase == "done", state.error
    assert state.datasets["first"].frames_written == FRAMES


def test_a_burst_that_is_held_can_be_stopped(pair: Any) -> None:
    opened = recording(pair, FRAMES, "first")
    pair.start_burst(opened.recording, burst("first", rate_hz=10))
    pair.hold_recording(opened.recording, True)
    assert pair.stop_recording(opened.recording).phase == "failed"


def test_a_halt_ends_a_burst(pair: Any, follow: Callable[..., RecordingState]) -> None:
    """R3.11"""
    opened = recording(pair, 5000, "first")
    state = pair.start_burst(opened.recording, burst("first", frames=5000, exposure_ms=10))
    while state.datasets["first"].frames_written < 2:
        state = pair.recording(state.recording, seen=state.version, wait_s=20)
    pair.halt("the embryo moves", "test")
    state = follow(pair, state)
    assert state.phase == "failed"
    assert not pair._microscope._core.mm.isSequenceRunning("Camera 1")
    assert not pair.light("lamp").on
    pair.rearm("test")


def test_a_frame_that_was_lost_before_the_buffer_fails_the_burst(
    pair: Any, follow: Callable[..., RecordingState]
) -> None:
    """R3.12: those before it count, those after it don't."""
    core, lost = pair._microscope._core, 5
    real, popped = core.mm.popNextImageMD, iter(range(FRAMES))

    class Leaky:
        def __getattr__(self, name: str) -> Any:
            return getattr(mm, name)

        @staticmethod
        def popNextImageMD(metadata: Any) -> np.ndarray:
            if next(popped) == lost:
                while not mm.getRemainingImageCount():
                    pass
                real(metadata)
                while not mm.getRemainingImageCount():
                    pass
            return real(metadata)

    mm = core.mm
    core.mm = Leaky()
    opened = recording(pair, FRAMES, "first")
    state = follow(pair, pair.start_burst(opened.recording, burst("first")))
    core.mm = mm
    assert state.phase == "failed"
    assert f"frame {lost + 1} came in the place of frame {lost}" in str(state.error)
    assert state.datasets["first"].frames_written == lost
    checksums_hold(pair, pair.close_recording(state.recording))


def test_a_camera_that_stops_early_fails_the_burst_with_its_count(
    pair: Any, follow: Callable[..., RecordingState]
) -> None:
    """R3.12"""
    opened = recording(pair, 5000, "first")
    state = pair.start_burst(opened.recording, burst("first", frames=5000, exposure_ms=10))
    while state.datasets["first"].frames_written < 2:
        state = pair.recording(state.recording, seen=state.version, wait_s=20)
    pair._microscope._core.mm.stopSequenceAcquisition("Camera 1")
    state = follow(pair, state)
    assert state.phase == "failed"
    assert "of 5000 frames came: the camera stopped before all were taken" in str(state.error)
    assert 2 <= state.datasets["first"].frames_written < 5000


@pytest.mark.parametrize(
    ("program", "error", "told"),
    [
        (burst("first", exposure_ms=5000), LimitError, r"\[1, 1000\]"),
        (burst("first", light="moon"), UnknownNameError, "moon"),
        (burst("second"), UnknownNameError, "second"),
        (burst("first", frames=FRAMES + 1), RecordingError, f"room for {FRAMES} more"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_light(
    pair: Any, program: BurstProgram, error: type[Exception], told: str
) -> None:
    """R3.8"""
    opened = recording(pair, FRAMES, "first")
    with pytest.raises(error, match=told):
        pair.start_burst(opened.recording, program)
    assert pair.recording(opened.recording).phase == "open"
    assert pair.dose().used == {}


def test_cameras_of_a_burst_have_one_light(pair: Any) -> None:
    opened = recording(pair, FRAMES, "first", "second")
    one, other = burst("first").views[0], burst("second", light=None).views[0]
    with pytest.raises(ArgumentError, match="one light and power"):
        pair.start_burst(opened.recording, BurstProgram(views=(one, other)))


def test_cameras_of_different_sizes_are_not_mixed_up_in_one_buffer(pair: Any) -> None:
    """MMCore's one buffer holds frames of one size: the second camera would wipe the first one's frames."""
    pair.configure_camera("second", binning=2)
    opened = recording(pair, FRAMES, "first", "second")
    with pytest.raises(ArgumentError, match=r"micromanager\.core_per_camera"):
        pair.start_burst(opened.recording, burst("first", "second"))
    pair.configure_camera("second", binning=1)


def test_a_burst_counts_against_the_sample_s_budget(pair: Any) -> None:
    """The gate is open from the first frame to the last; what exceeds the budget is refused before."""
    pair.set_sample("embryo-7", {"lamp": 1.0})
    opened = recording(pair, FRAMES, "first")
    with pytest.raises(DoseError):
        pair.start_burst(opened.recording, burst("first", exposure_ms=10))
    pair.set_sample(None, {})


def test_a_burst_that_takes_longer_than_its_exposures_ends_with_the_budget(
    pair: Any, follow: Callable[..., RecordingState]
) -> None:
    """The demo camera takes longer for a frame than 1 ms; the light goes off when the sample has had what it may have."""
    frames = 290  # 29 % × s by their exposures, and 0.3 s of light may be had
    pair.set_sample("embryo-8", {"lamp": 30.0})
    opened = recording(pair, frames, "first")
    state = follow(pair, pair.start_burst(opened.recording, burst("first", frames=frames, exposure_ms=1)))
    assert state.phase == "failed"
    assert "all that the sample's budget has left" in str(state.error)
    assert not pair.light("lamp").on
    pair.set_sample(None, {})


def test_python_cameras_take_bursts_too(local: Any, follow: Callable[..., RecordingState]) -> None:
    """The demo diSPIM's cameras wait for the controller's triggers in volumes; here they run freely."""
    assert (SCOPES / "demo-dispim" / "scope.yml").exists()
    opened = recording(local, FRAMES, "cam_a", "cam_b")
    state = follow(local, local.start_burst(opened.recording, burst("cam_a", "cam_b", light="l488", power_pct=2)))
    assert state.phase == "done", state.error
    state = local.close_recording(state.recording)
    checksums_hold(local, state)
    assert json.loads((Path(state.datasets["cam_a"].path) / "0" / "zarr.json").read_text())["shape"][0] == FRAMES
