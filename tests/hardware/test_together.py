"""Cameras that expose together: a frame of each, of one exposure, never mixed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from queuescope.config import ScopeError, load_scope
from queuescope.devices import build_devices
from queuescope.hardware import (
    ArgumentError,
    ConfigurationError,
    DatasetPlan,
    DeviceError,
    FrameSettings,
    LimitError,
    RecordingError,
    RecordingPlan,
    UnknownNameError,
    connect,
)
from queuescope.layout import Layout

SCOPE = Path(__file__).parents[1] / "scopes" / "two-cameras"
LIT = FrameSettings(exposure_ms=5, light="lamp")


def two_cameras(folder: Path, *edits: tuple[str, str]) -> Any:
    """A copy of the scope with edits."""
    shutil.copytree(SCOPE, folder)
    text = (folder / "scope.yml").read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "scope.yml").write_text(text)
    return load_scope(folder, environ={"QUEUESCOPE_MICROMANAGER__PROCESS": "worker"})


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return two_cameras(tmp_path_factory.mktemp("two") / "scope")


@pytest.fixture(scope="module")
def hardware(scope: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    connected: Any = connect(scope, Layout(tmp_path_factory.mktemp("data")))
    yield connected
    connected.close()


@pytest.fixture
def recording(hardware: Any, new_plan: Callable[..., RecordingPlan]) -> Iterator[Any]:
    plans = (DatasetPlan(name=f"of_{c}", camera=c, frames=3) for c in ("second", "first"))
    state = hardware.open_recording(new_plan(*plans))
    yield state
    hardware.close_recording(state.recording)


def bright(state: Any, name: str) -> list[float]:
    frames = np.asarray(
        zarr.open_array(f"{state.datasets[name].path}/0", mode="r")[: state.datasets[name].frames_written]
    )
    return [float(frame.mean()) for frame in frames]


def test_each_cameras_frames_are_its_own(hardware: Any, recording: Any) -> None:
    """R3.12: three exposures of two cameras; datasets in another order than the cameras; one light, one time."""
    for _ in range(3):
        state = hardware.record_together(recording.recording, "both", LIT)
    assert {name: d.frames_written for name, d in state.datasets.items()} == {"of_second": 3, "of_first": 3}
    assert min(bright(state, "of_second")) > 1.5 * max(bright(state, "of_first"))
    assert not hardware.light("lamp").on
    with pytest.raises(RecordingError, match="planned for 3 frames and has them all"):
        hardware.record_together(recording.recording, "both", LIT)


def test_the_sample_is_lit_once(hardware: Any, recording: Any) -> None:
    """Issue 3, 3: the gate opens once for all cameras, and the dose is that of one exposure at least."""
    seen = hardware.events().cursor
    state = hardware.record_together(recording.recording, "both", LIT)
    told: list[Any] = []
    while False not in told:
        batch = hardware.events(seen, 20)
        assert batch.events
        seen = batch.cursor
        told += [event.value for event in batch.events if (event.kind, event.name) == ("light", "lamp")]
    assert told == [True, False]
    assert state.dose["lamp"] >= 100 * 0.005


def test_frames_that_do_not_fit_together_are_refused(hardware: Any, recording: Any) -> None:
    """R3.12: MMCore would shape them all by the first camera; nothing is exposed, and then all goes on."""
    hardware.configure_camera("second", binning=2)
    with pytest.raises(ArgumentError, match="one size and type"):
        hardware.record_together(recording.recording, "both", LIT)
    hardware.configure_camera("second", binning=1)


@pytest.mark.parametrize(
    ("multi", "settings", "error"),
    [
        ("both", FrameSettings(exposure_ms=600), LimitError),
        ("both", FrameSettings(exposure_ms=5, light="sun"), UnknownNameError),
        ("first", LIT, UnknownNameError),
    ],
)
def test_a_bad_value_exposes_nothing(
    hardware: Any, recording: Any, multi: str, settings: FrameSettings, error: type[Exception]
) -> None:
    """R3.8: the limits of every camera hold."""
    with pytest.raises(error):
        hardware.record_together(recording.recording, multi, settings)
    assert hardware.recording(recording.recording).datasets["of_first"].frames_written == 0


def test_a_recording_has_a_dataset_for_each(hardware: Any, new_plan: Callable[..., RecordingPlan]) -> None:
    """R3.12: no frame is thrown away, and none goes where another camera's should."""
    for cameras in (["first"], ["first", "first"]):
        plans = [DatasetPlan(name=f"d{i}", camera=camera) for i, camera in enumerate(cameras)]
        state = hardware.open_recording(new_plan(*plans))
        with pytest.raises(ArgumentError, match="one dataset for each"):
            hardware.record_together(state.recording, "both", LIT)
        hardware.close_recording(state.recording)


def test_a_camera_that_changed_places_is_noticed(hardware: Any, recording: Any) -> None:
    """R3.12: before the exposure, not in the images."""
    mm = hardware._microscope._core.mm
    mm.setProperty("Both", "Physical Camera 2", "Undefined")
    with pytest.raises(DeviceError, match=r"devices\.both\.cameras"):
        hardware.record_together(recording.recording, "both", LIT)
    mm.setProperty("Both", "Physical Camera 2", "Camera 2")


def test_single_frames_and_joint_ones_take_turns(hardware: Any, new_plan: Callable[..., RecordingPlan]) -> None:
    """R3.12: MMCore has one current camera; threads that use another one meanwhile mix nothing up."""
    state = hardware.open_recording(new_plan(*(DatasetPlan(name=f"of_{c}", camera=c) for c in ("first", "second"))))
    shown: list[float] = []
    threads = [
        threading.Thread(
            target=lambda: shown.append(float(hardware.snap("second", FrameSettings(exposure_ms=2)).mean()))
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
        state = hardware.record_together(state.recording, "both", FrameSettings(exposure_ms=2))
    for thread in threads:
        thread.join(20)
    assert min([*bright(state, "of_second"), *shown]) > 1.5 * max(bright(state, "of_first"))
    hardware.close_recording(state.recording)


def test_it_is_a_detector_with_two_datasets(scope: Any, hardware: Any, tmp_path: Path) -> None:
    """Issue 3, 3: one trigger, a frame of each in the documents, and how each was taken."""
    devices, recordings = build_devices(scope, Layout(tmp_path), hardware)
    both = devices["both"]
    recordings.start_run("together-0001")
    both.stage()
    both.trigger().wait(20)
    assert set(both.describe()) == {"first", "second"}
    assert [name for name, _ in both.collect_asset_docs()] == ["stream_resource", "stream_datum"] * 2
    configuration = both.read_configuration()
    assert set(configuration) == set(both.describe_configuration())
    assert {"first_exposure_ms", "second_exposure_ms", "first_emission"} <= set(configuration)
    assert recordings.end_run() == ({"first": 1, "second": 1}, None)
    both.unstage()


def test_a_scope_that_names_others_is_refused(tmp_path: Path) -> None:
    """R3.8: a camera that isn't there; an order that isn't the adapter's."""
    with pytest.raises(ScopeError, match=r"devices\.both\.cameras: 'third' must be one of"):
        two_cameras(tmp_path / "a", ("cameras: [first, second]", "cameras: [first, third]"))
    swapped = two_cameras(tmp_path / "b", ("cameras: [first, second]", "cameras: [second, first]"))
    with pytest.raises(ConfigurationError, match=r"devices\.both\.cameras: the scope says \['Camera 2', 'Camera 1'\]"):
        connect(swapped, Layout(tmp_path / "data"))


def test_plans_offer_it_like_a_camera(scope: Any, hardware: Any, tmp_path: Path) -> None:
    """Issue 3, 3: frames of each, light for one; in the estimate, in the documents, in the answer."""
    from queuescope.plans import build_plans, templates
    from queuescope.startup._session import ScopeRunEngine

    devices, recordings = build_devices(scope, Layout(tmp_path), hardware)
    snap = templates(scope)["snap"]
    asked = {"camera": "both", "n": 2, "channels": [{"name": "red"}]}
    estimate = snap.estimate(snap.check(asked), scope)
    assert estimate.frames == {"first": 2, "second": 2}
    assert estimate.dose == {"lamp": pytest.approx(2 * 0.010 * 100)}
    documents: list[tuple[str, Any]] = []
    engine = ScopeRunEngine(recordings)
    result = engine(build_plans(scope, devices)["snap"](**asked), lambda name, doc: documents.append((name, doc)))
    assert result.plan_result["datasets"] == {"first": 2, "second": 2}
    stop = documents[-1][1]
    assert (stop["exit_status"], stop["frames"]) == ("success", {"first": 2, "second": 2})
    assert [name for name, _ in documents].count("stream_resource") == 2
