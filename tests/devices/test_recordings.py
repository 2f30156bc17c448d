"""What a run's end says of its frames when the hardware is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope, load_scope
from queuescope.devices import RunRecordings, _recordings
from queuescope.hardware import (
    DatasetPlan,
    DatasetState,
    HardwareGoneError,
    RecordingPlan,
    RecordingState,
    UnknownNameError,
)
from queuescope.layout import Layout

FRAMES = DatasetState(
    name="cam_a",
    camera="cam_a",
    uri="data://DATA/volumes/x.ome.zarr",
    path="x",
    shape=(30, 8, 8),
    dtype="uint16",
    chunk_shape=(1, 8, 8),
    frames_written=30,
)


class BehindACable:
    """Hardware that does not answer until ``errors`` are used up."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0

    def open_recording(self, plan: RecordingPlan) -> RecordingState:
        return RecordingState(recording="r", run_uid=plan.run_uid, phase="open", datasets={"cam_a": FRAMES}, version=0)

    def close_recording(self, recording: str) -> RecordingState:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return RecordingState(
            recording=recording, run_uid="run-0001", phase="closed", datasets={"cam_a": FRAMES}, version=1
        )


def ended(tmp_path: Path, scope: Scope, hardware: Any) -> tuple[dict[str, int | None], str | None]:
    """The end of a run that has two lines in its frame list."""
    layout = Layout(tmp_path / "data")
    layout.create()
    recordings = RunRecordings(scope, layout, hardware)
    recordings.start_run("run-0001")
    recordings.open("run-0001", DatasetPlan(name="cam_a", camera="cam_a", frames=30))
    (layout.volumes / "run-0001_cam_a.frames.jsonl").write_text("{}\n{}\n")
    return recordings.end_run()


@pytest.fixture
def far() -> Scope:
    return load_scope("demo-dispim", environ={"QUEUESCOPE_SERVICES__HARDWARE": "tcp://192.0.2.1:47400"})


def gone() -> HardwareGoneError:
    return HardwareGoneError("close_recording: the hardware process is gone", thing="hardware")


@pytest.mark.parametrize(("session_id", "told"), [(None, None), ("s1", "s1"), (7, "7"), ("x" * 500, "x" * 128)])
def test_a_session_of_any_name_keeps_no_frame_back(
    tmp_path: Path, far: Scope, session_id: object, told: object
) -> None:
    """It comes from a client's queue item, and is metadata only."""
    asked: list[RecordingPlan] = []

    class Noting(BehindACable):
        def open_recording(self, plan: RecordingPlan) -> RecordingState:
            asked.append(plan)
            return super().open_recording(plan)

    recordings = RunRecordings(far, Layout(tmp_path), Noting())  # type: ignore[arg-type]
    recordings.start_run("run-0001", session_id=session_id)
    recordings.open("run-0001", DatasetPlan(name="cam_a", camera="cam_a", frames=30))
    assert asked[0].session_id == told


def test_a_cut_link_is_waited_for(tmp_path: Path, far: Scope) -> None:
    """R3.12: the process at its other end writes on until it knows that it is alone: only it can say how many frames."""
    hardware = BehindACable(gone(), gone())
    assert ended(tmp_path, far, hardware) == ({"cam_a": 30}, None)
    assert hardware.asked == 3


def test_a_cut_link_is_not_waited_for_for_ever(tmp_path: Path, far: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.12: after the time in which it puts itself safe, what lies on the disk is what there is."""
    monkeypatch.setattr(_recordings, "ALONE_S", 0.3)
    frames, problem = ended(tmp_path, far, BehindACable(*(gone() for _ in range(100))))
    assert frames == {"cam_a": 2}
    assert "is gone" in str(problem)


def test_another_process_at_its_place_is_asked_once(tmp_path: Path, far: Scope) -> None:
    """R3.12: it knows nothing of the recording, so the one before it is dead and writes no more."""
    hardware = BehindACable(gone(), UnknownNameError("no recording 'r'", thing="recording"))
    frames, problem = ended(tmp_path, far, hardware)
    assert (frames, hardware.asked) == ({"cam_a": 2}, 2)
    assert "no recording" in str(problem)


def test_a_dead_process_here_is_not_waited_for(tmp_path: Path) -> None:
    """R0.3: on this machine a connection ends with its process: the stop document comes at once."""
    hardware = BehindACable(gone())
    assert ended(tmp_path, load_scope("demo-dispim", environ={}), hardware)[0] == {"cam_a": 2}
    assert hardware.asked == 1


def test_what_comes_late_opens_nothing_in_the_next_run(tmp_path: Path, far: Scope) -> None:
    """Issue 5, item 8: a plan was halted while a device made its files; the run after it keeps its own names."""
    recordings = RunRecordings(far, Layout(tmp_path), BehindACable())  # type: ignore[arg-type]
    recordings.start_run("run-0001")
    asked = recordings.run_uid
    recordings.end_run()
    recordings.start_run("run-0002")
    with pytest.raises(RuntimeError, match="came too late: its run run-0001 has ended"):
        recordings.open(asked, DatasetPlan(name="cam_a", camera="cam_a", frames=30))
    assert recordings.open(recordings.run_uid, DatasetPlan(name="cam_a", camera="cam_a")).run_uid == "run-0002"
