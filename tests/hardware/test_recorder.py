"""The recorder's files: valid from the first moment, exactly the frames that count, errors that say what is missing."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xxhash
import yaozarrs
import zarr

from queuescope.config import Scope
from queuescope.formats import SUFFIXES, Format, frame_list
from queuescope.formats import check as check_xml
from queuescope.hardware import (
    DatasetPlan,
    FrameSettings,
    RecordingError,
    RecordingPlan,
    RecordingState,
    VolumeProgram,
    VolumeView,
    connect,
)
from queuescope.layout import Layout, resolve_uri
from queuescope.reading import open_volume

Plan = Callable[..., RecordingPlan]
View = Callable[..., VolumeView]


def lines(state: RecordingState, dataset: str) -> list[dict[str, Any]]:
    path = frame_list(Path(state.datasets[dataset].path))
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def local(tmp_path: Path, make_scope: Callable[..., Scope], volume_format: Format) -> Iterator[Any]:
    """The microscope in this process, recording in each format."""
    scope = make_scope(tmp_path, scope=[("format: ome-zarr", f"format: {volume_format}")])
    connected = connect(scope, Layout(tmp_path / "data"))
    yield connected
    connected.close()


def found_by_others(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """All frames, as other programs read them; the metadata are valid and of this shape."""
    if path.endswith(".ome.tiff"):
        with tifffile.TiffFile(path) as tiff:
            assert tiff.is_ome
            assert tiff.is_bigtiff
            check_xml(str(tiff.ome_metadata))
            assert len(tiff.pages) == shape[0]
            return tiff.asarray().reshape(shape)
    yaozarrs.validate_zarr_store(path)
    group = zarr.open_group(path, mode="r")
    array = group["0"]
    assert isinstance(array, zarr.Array)
    assert array.shape == shape
    assert array.chunks == (1, *shape[1:])
    return np.asarray(array[:])


def check_files(hardware: Any, state: RecordingState, dataset: str) -> np.ndarray:
    """Metadata valid; exactly the frames counted read back; each with the checksum taken at the camera."""
    frames = found_by_others(state.datasets[dataset].path, state.datasets[dataset].shape)
    assert state.datasets[dataset].chunk_shape == (1, *frames.shape[1:])
    checksums = ["xxh3_128:" + xxhash.xxh3_128_hexdigest(np.ascontiguousarray(frame)) for frame in frames]
    recorded = lines(state, dataset)
    assert checksums == [line["checksum"] for line in recorded] == list(hardware.checksums(state.recording, dataset))
    assert [line["index"] for line in recorded] == list(range(len(recorded)))
    times = [line["time"] for line in recorded]
    assert times == sorted(times)
    return frames


def test_a_volume_reads_back_as_it_left_the_cameras(
    local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState], sensor: int
) -> None:
    """Issue 2, item 6: two cameras, valid OME-Zarr 0.5 or OME-TIFF, every frame compared with its checksum."""
    plan = new_plan(
        DatasetPlan(name="cam_a", camera="cam_a", frames=5, axis="z", step_um=1.5, channel="gfp"),
        DatasetPlan(name="cam_b", camera="cam_b", frames=5, axis="z", step_um=1.5),
    )
    state = local.open_recording(plan)
    state = local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 5), view("cam_b", "b", 5))))
    state = local.close_recording(follow(local, state).recording)
    assert state.error is None
    a, b = (check_files(local, state, name) for name in ("cam_a", "cam_b"))
    assert a.shape == b.shape == (5, sensor, sensor)
    assert len({frame.tobytes() for frame in (*a, *b)}) == 10, "frames differ, so their order is proven"
    found = open_volume(Path(state.datasets["cam_a"].path))
    assert (found.axes, found.scale, found.channel) == (["z", "y", "x"], [1.5, 0.1625, 0.1625], "gfp")
    found = lines(state, "cam_a")
    assert [(line["position"]["piezo_a"], line["position"]["galvo_a.y"]) for line in found] == [
        (float(i), i / 100) for i in range(5)
    ]
    others = local.positions(("z", "xy.x", "xy.y"))
    assert all(line["position"].items() >= others.items() for line in found), (
        "and where the axes are that it doesn't move"
    )
    assert all({"piezo_b", "galvo_b.y"}.isdisjoint(line["position"]) for line in found), (
        "the other view's are elsewhere by then"
    )


def test_files_are_valid_before_the_first_frame(local: Any, new_plan: Plan, tmp_path: Path, sensor: int) -> None:
    """Issue 2, item 6: metadata at once, in the place that the uri means; the lists of frames exist."""
    state = local.open_recording(
        new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=4), DatasetPlan(name="b", camera="cam_b"))
    )
    for dataset, frames in (("cam_a", 4), ("b", 0)):
        found = state.datasets[dataset]
        assert found.shape == (frames, sensor, sensor)
        # a TIFF has one image at least, which reads zeros like all that have not come
        tiff = found.format == "ome-tiff"
        assert not found_by_others(found.path, (max(frames, 1) if tiff else frames, sensor, sensor)).any()
        assert open_volume(Path(found.path)).frames == 0
        assert lines(state, dataset) == []
        assert found.path == str(tmp_path / "data" / "volumes" / f"{state.run_uid}_{dataset}{SUFFIXES[found.format]}")
        layout = Layout(tmp_path / "data")
        assert str(resolve_uri(layout, local._microscope._scope, found.uri, "hardware")) == found.path
    local.close_recording(state.recording)


def test_counts_are_true_at_every_moment(
    local: Any, new_plan: Plan, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 2, item 6: a line stands only after its chunk is complete; the count is that of the lines."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=30, axis="z", step_um=1)))
    state = local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 30),)))
    while state.phase == "running":
        written = state.datasets["cam_a"].frames_written
        recorded = lines(state, "cam_a")
        assert len(recorded) >= written
        for line in recorded[-2:]:
            frame = open_volume(Path(state.datasets["cam_a"].path)).frame(line["index"])
            assert line["checksum"] == "xxh3_128:" + xxhash.xxh3_128_hexdigest(frame)
        state = local.recording(state.recording, seen=state.version, wait_s=20)
    assert state.datasets["cam_a"].frames_written == len(lines(state, "cam_a")) == 30
    local.close_recording(state.recording)


def test_a_recording_without_a_plan_grows(local: Any, new_plan: Plan, lit: FrameSettings, sensor: int) -> None:
    """Issue 2, item 6: readable while it grows; frames that are no whole pages (100 × 100) as well."""
    state = local.open_recording(new_plan(DatasetPlan(name="wide", camera="overview")))
    for count in (1, 2, 3):
        state = local.record_frame(state.recording, {"wide": lit})
        assert state.datasets["wide"].shape == (count, 100, 100)
        assert check_files(local, state, "wide").shape[0] == count
    closed = local.close_recording(state.recording)
    assert closed.error is None
    assert check_files(local, closed, "wide").shape[0] == 3


def test_a_short_recording_keeps_its_frames(local: Any, new_plan: Plan, lit: FrameSettings) -> None:
    """R3.12: it fails, and exactly the frames that exist read back, never fill values."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=10)))
    for _ in range(3):
        local.record_frame(state.recording, {"cam_a": lit})
    closed = local.close_recording(state.recording)
    assert "3 of 10 frames of cam_a" in closed.error
    frames = check_files(local, closed, "cam_a")
    assert frames.shape[0] == 3
    assert frames.any(axis=(1, 2)).all()
    path = Path(closed.datasets["cam_a"].path)
    if path.is_dir():
        assert sorted(os.listdir(path / "0" / "c")) == ["0", "1", "2"]
    else:
        assert path.stat().st_size < 4 * frames[0].nbytes + 65536


def test_a_slow_disk_keeps_nobody_waiting_who_asks(
    local: Any, new_plan: Plan, lit: FrameSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state can be read while files are being finished; a frame that lands meanwhile doesn't count."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=1)))
    state = local.record_frame(state.recording, {"cam_a": lit})
    recording = local._microscope._recorder._recordings[state.recording]
    reached, goes_on = threading.Event(), threading.Event()
    finish = recording.datasets["cam_a"].files.finish

    def slowly(frames: int) -> None:
        reached.set()
        assert goes_on.wait(30)
        finish(frames)

    monkeypatch.setattr(recording.datasets["cam_a"].files, "finish", slowly)
    with ThreadPoolExecutor() as pool:
        closed = pool.submit(local.close_recording, state.recording)
        assert reached.wait(30)
        try:
            assert pool.submit(local.recording, state.recording).result(10).phase == "open"
            recording.land("cam_a", {"index": 1, "checksum": "late"})
        finally:
            goes_on.set()
        state = closed.result(30)
    assert (state.phase, state.datasets["cam_a"].frames_written) == ("closed", 1)
    check_files(local, state, "cam_a")


def test_a_frame_is_exposed_before_it_is_on_disk(
    local: Any, new_plan: Plan, lit: FrameSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``durable=False``: it counts only when it is on disk, which `stop_recording` waits for."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=2)))
    files = local._microscope._recorder._recordings[state.recording].datasets["cam_a"].files
    goes_on, sync = threading.Event(), files.sync
    monkeypatch.setattr(files, "sync", lambda indices: goes_on.wait(30) and sync(indices))
    for _ in range(2):
        state = local.record_frame(state.recording, {"cam_a": lit}, durable=False)
        assert not local.light(lit.light).on
    assert state.datasets["cam_a"].frames_written == len(lines(state, "cam_a")) == 0
    with ThreadPoolExecutor() as pool:
        stopped = pool.submit(local.stop_recording, state.recording)
        goes_on.set()
        assert stopped.result(30).datasets["cam_a"].frames_written == 2
    assert local.close_recording(state.recording).error is None
    check_files(local, state, "cam_a")


def test_after_a_frame_that_was_lost_none_is_exposed(
    local: Any, new_plan: Plan, lit: FrameSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3.12: who went on before it was on disk hears of it with the next."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=2)))
    recording = local._microscope._recorder._recordings[state.recording]

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording.datasets["cam_a"].files, "write", full)
    with contextlib.suppress(RecordingError):  # it may be known at once
        local.record_frame(state.recording, {"cam_a": lit}, durable=False)
    assert local.stop_recording(state.recording).phase == "failed"
    dose = dict(recording.account.measured)
    with pytest.raises(RecordingError, match="frame 0 of cam_a could not be written"):
        local.record_frame(state.recording, {"cam_a": lit}, durable=False)
    assert recording.account.measured == dose


def test_a_frame_of_another_shape_is_refused(local: Any, new_plan: Plan, lit: FrameSettings) -> None:
    """R3.10: shape and type are compared at every frame."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=3)))
    local.record_frame(state.recording, {"cam_a": lit})
    local.configure_camera("cam_a", binning=2)
    with pytest.raises(RecordingError, match="binning, ROI and pixel type must stay") as caught:
        local.record_frame(state.recording, {"cam_a": lit})
    assert caught.value.fields == {"frames_written": {"cam_a": 1}}
    assert local.close_recording(state.recording).datasets["cam_a"].shape[0] == 1


def test_existing_files_are_never_touched(local: Any, new_plan: Plan, tmp_path: Path) -> None:
    """A run's files are written once; a refusal leaves no new file behind."""
    volumes = tmp_path / "data" / "volumes"
    plan = new_plan(
        DatasetPlan(name="cam_a", camera="cam_a", frames=1), DatasetPlan(name="cam_b", camera="cam_b", frames=1)
    )
    precious = volumes / f"{plan.run_uid}_cam_b.frames.jsonl"
    precious.write_text("precious\n")
    with pytest.raises(RecordingError, match="exists already"):
        local.open_recording(plan)
    assert [path.name for path in volumes.iterdir()] == [precious.name]
    assert precious.read_text() == "precious\n"


def test_space_is_checked_beforehand(tmp_path: Path, make_scope: Callable[..., Scope], new_plan: Plan) -> None:
    """Issue 2, 'Done when': a full data directory; needed, free and where are said, nothing is made."""
    scope = make_scope(tmp_path, scope=[("min_free_gb: 0", "min_free_gb: 1000000")])
    hardware = connect(scope, Layout(tmp_path / "data"))
    with pytest.raises(RecordingError, match=r"storage\.min_free_gb") as caught:
        hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=5)))
    hardware.close()
    assert caught.value.fields["needed"] >= 1e15
    assert caught.value.fields["free"] > 0
    assert caught.value.fields["path"] == str(tmp_path / "data" / "volumes")
    assert list((tmp_path / "data" / "volumes").iterdir()) == []


def test_more_frames_than_the_disk_holds_are_refused(local: Any, new_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="not enough space"):
        local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=10**12)))
    assert list((tmp_path / "data" / "volumes").iterdir()) == []


@contextmanager
def small_files() -> Iterator[None]:
    """Inside it the system refuses files above 1 kB, as a full disk does; pytest's own output too, so it is left early."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_fails_the_frame(local: Any, new_plan: Plan, lit: FrameSettings) -> None:
    """R3.12: the error names the path and the good frames; no half-written chunk keeps a name."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=4)))
    local.record_frame(state.recording, {"cam_a": lit})
    with small_files(), pytest.raises(RecordingError, match="1 of 4 frames of cam_a") as caught:
        local.record_frame(state.recording, {"cam_a": lit})
    assert state.datasets["cam_a"].path in str(caught.value)
    state = local.recording(state.recording)
    assert (state.phase, state.datasets["cam_a"].frames_written) == ("failed", 1)
    if state.datasets["cam_a"].format == "ome-zarr":
        assert os.listdir(Path(state.datasets["cam_a"].path, "0", "c", "1", "0")) == []
    assert check_files(local, local.close_recording(state.recording), "cam_a").shape[0] == 1
    assert not local.light("l488").on


def test_a_disk_that_fills_up_ends_the_volume(
    local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState]
) -> None:
    """R3.12: acquisition stops, lights are off, axes are back, what is on disk reads back."""
    before = local.move({"piezo_a": 3.0, "galvo_a.y": 0.3})
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=150, axis="z", step_um=1)))
    state = local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 150),)))
    while state.datasets["cam_a"].frames_written < 3:
        state = local.recording(state.recording, seen=state.version, wait_s=20)
    with small_files():
        state = follow(local, state)
    written = state.datasets["cam_a"].frames_written
    assert state.phase == "failed"
    assert 3 <= written < 150
    assert f"{written} of 150 frames of cam_a" in state.error
    assert state.datasets["cam_a"].path in state.error
    assert not any(light.on for light in local.state().lights.values())
    assert local.positions(tuple(before)) == pytest.approx(before)


def test_a_failed_volume_can_be_closed_on_a_full_disk(
    local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState]
) -> None:
    """R3.12: exactly the frames counted remain."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=6, axis="z", step_um=1)))
    core = local._microscope._core
    real, count = core.mm, [0]

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def snapImage(self) -> None:
            count[0] += 1
            if count[0] == 4:
                raise RuntimeError("camera link lost")
            real.snapImage()

    core.mm = Failing()
    state = follow(local, local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 6),))))
    core.mm = real
    assert state.phase == "failed"
    assert state.error.startswith("cam_a: camera link lost")
    assert "3 of 6 frames of cam_a" in state.error
    closed = local.close_recording(state.recording)
    assert (closed.phase, closed.error) == ("closed", state.error)
    assert check_files(local, closed, "cam_a").shape[0] == 3


def test_stopping_motion_ends_a_volume_where_it_is(
    local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState]
) -> None:
    """R3.11: `stop` ends the volume, and no axis moves afterwards."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=150, axis="z", step_um=1)))
    state = local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 150),)))
    while state.datasets["cam_a"].frames_written < 3:
        state = local.recording(state.recording, seen=state.version, wait_s=20)
    local.stop()
    state = follow(local, state)
    assert state.phase == "failed"
    assert local.positions(("piezo_a",))["piezo_a"] >= 2
    closed = local.close_recording(state.recording)
    assert check_files(local, closed, "cam_a").shape[0] == closed.datasets["cam_a"].frames_written >= 3


def test_the_order_of_a_volume_is_kept(
    local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState]
) -> None:
    """By slice the views alternate; by volume one follows the other."""
    for order, alternates in (("slice", True), ("volume", False)):
        plans = (DatasetPlan(name=c, camera=c, frames=3, axis="z", step_um=1) for c in ("cam_a", "cam_b"))
        state = local.open_recording(new_plan(*plans))
        program = VolumeProgram(views=(view("cam_a", "a", 3), view("cam_b", "b", 3)), order=order)
        state = local.close_recording(follow(local, local.start_volume(state.recording, program)).recording)
        stamped = sorted((line["time"], name) for name in ("cam_a", "cam_b") for line in lines(state, name))
        names = [name for _, name in stamped]
        assert names == (["cam_a", "cam_b"] * 3 if alternates else ["cam_a"] * 3 + ["cam_b"] * 3)


def test_one_volume_at_a_time(local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState]) -> None:
    """While it runs nothing else may move, expose or switch; reading, stopping and lights-off go on."""
    first = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=150, axis="z", step_um=1)))
    second = local.open_recording(new_plan(DatasetPlan(name="cam_b", camera="cam_b", frames=2, axis="z", step_um=1)))
    state = local.start_volume(first.recording, VolumeProgram(views=(view("cam_a", "a", 150),)))
    other = VolumeProgram(views=(view("cam_b", "b", 2),))
    for call in (
        lambda: local.start_volume(second.recording, other),
        lambda: local.move({"z": 1.0}),
        lambda: local.select("emission", "Open"),
        lambda: local.set_value("chamber", 1.0),
        lambda: local.set_light("led", True),
        lambda: local.apply_channel("gfp"),
        lambda: local.configure_camera("cam_a", binning=2),
        lambda: local.snap("cam_b", FrameSettings()),
        lambda: local.record_frame(second.recording, {"cam_b": FrameSettings()}),
    ):
        with pytest.raises(RecordingError, match="a volume or burst is running"):
            call()
    assert local.state().errors == {}
    assert all(off.off for off in local.lights_off())
    assert local.stop_recording(state.recording).phase == "failed"
    assert follow(local, local.start_volume(second.recording, other)).phase == "done"


def test_writing_slower_than_exposing_holds_the_exposures(
    local: Any, new_plan: Plan, view: View, follow: Callable[..., RecordingState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue to the disk is bounded: frames wait at the camera, none is lost."""
    from queuescope.hardware import _writer

    monkeypatch.setattr(_writer, "QUEUE_BYTES", 2 * 128 * 128 * 2)
    most = [0]
    writer = local._microscope._recorder._writer
    put = writer.put

    def watched(*args: Any) -> None:
        put(*args)
        most[0] = max(most[0], writer._held)

    monkeypatch.setattr(writer, "put", watched)
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=20, axis="z", step_um=1)))
    state = follow(local, local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 20),))))
    assert state.datasets["cam_a"].frames_written == 20
    assert most[0] <= 2 * 128 * 128 * 2
