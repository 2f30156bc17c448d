"""The recorder's TIFFs: any order, any frame size, with and without direct writes, valid after a death at any moment."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from queuescope.formats import ImageFacts, check, pages
from queuescope.hardware import DatasetPlan, _direct, _ome_tiff, _unfinished
from queuescope.hardware._direct import DirectBuffer
from queuescope.hardware._ome_tiff import TiffFiles
from queuescope.hardware._unfinished import Unfinished, finish_volume
from queuescope.reading import open_volume

Make = Callable[..., TiffFiles]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """``make(shape, dtype, planned)``: a TIFF, created."""
    made: list[TiffFiles] = []

    def create(
        shape: tuple[int, int] = (64, 64), dtype: str = "uint16", planned: int | None = 4, **options: Any
    ) -> TiffFiles:
        facts = ImageFacts(
            str(uuid.uuid4()),
            "cam_a",
            shape,
            dtype,
            ("z",),
            (planned or 1,),
            0.5,
            2.0,
            exposure_ms=10.0,
            acquired_at=1.0,
        )
        plan = DatasetPlan(name="cam_a", camera="cam_a", frames=planned, axis="z", step_um=2.0)
        made.append(TiffFiles(tmp_path, plan, facts, options.get("unfinished")))
        made[-1].create()
        return made[-1]

    yield create
    for files in made:
        files.release()


def random_frames(files: TiffFiles, count: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(1, np.iinfo(files.dtype).max, files.frame_shape, files.dtype) for _ in range(count)]


def record(files: TiffFiles, count: int, lines: int | None = None) -> np.ndarray:
    """Frames land in another order than they count in; returns those that count."""
    frames, buffer = random_frames(files, count), DirectBuffer()
    for index in sorted(range(count), key=lambda i: i ^ 1):
        files.write(index, frames[index], buffer)
    for index in range(count if lines is None else lines):
        files.append_line(
            {"index": index, "time": 100.5 + index, "position": {"piezo_a": 2.0 * index}, "checksum": "x"}
        )
        if files.plan.frames is None:
            files.set_frames(index + 1, durable=False)
    return np.array(frames[: count if lines is None else lines])


def found(path: Path) -> np.ndarray:
    """As tifffile reads it; its OME-XML is valid and speaks of as many frames."""
    with tifffile.TiffFile(path) as tiff:
        check(str(tiff.ome_metadata))
        series = tiff.series[0]
        shape = (len(series.pages), *tiff.pages.first.shape)
        assert all(page is not None for page in series.pages)
        assert len(tiff.pages) >= len(series.pages)
        return np.array(series.asarray()).reshape(shape)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "ordinary"])
@pytest.mark.parametrize("planned", [5, None], ids=["planned", "growing"])
@pytest.mark.parametrize("shape", [(64, 64), (100, 100), (3, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_frames_read_back_whatever_their_size_and_way(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    dtype: str,
    planned: int | None,
    direct: bool,
) -> None:
    """Issue 4, item 2: frames of whole pages and of parts of one; a portable path works without O_DIRECT."""
    if not direct:
        monkeypatch.setattr(_direct, "O_DIRECT", 0)
        monkeypatch.delattr(os, "pwrite", raising=False)  # as on Windows
    elif not _direct.O_DIRECT:
        pytest.skip("no direct writes here")
    monkeypatch.setattr(_ome_tiff, "GROWTH_BYTES", 2 * pages(shape[0] * shape[1] * np.dtype(dtype).itemsize))
    files = make(shape, dtype, planned)
    assert (files._straight >= 0) == direct
    taken = record(files, 5, lines=3)
    np.testing.assert_array_equal(found(files.path)[:3], taken)
    volume = open_volume(files.path)
    assert (volume.frames, volume.shape) == (3, (planned or 3, *shape))
    np.testing.assert_array_equal(volume.stack()[...], taken)
    files.finish(3)
    np.testing.assert_array_equal(found(files.path), taken)
    with tifffile.TiffFile(files.path) as tiff:
        assert len(tiff.pages) == 3
    ended = open_volume(files.path)
    assert (ended.shape, ended.scale) == ((3, *shape), [2.0, 0.5, 0.5])
    np.testing.assert_array_equal(ended.stack()[...], taken)


def test_whole_pages_are_mapped_by_others(make: Make) -> None:
    """Frames that are whole pages lie side by side: tifffile maps them into memory, before and after the end."""
    files = make((64, 64), planned=3)
    taken = record(files, 3)
    np.testing.assert_array_equal(tifffile.memmap(files.path, mode="r"), taken)
    files.finish(3)
    np.testing.assert_array_equal(tifffile.memmap(files.path, mode="r"), taken)


def test_a_growing_file_takes_room_as_it_needs_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of frames is not known: blocks are added, and what nobody needed is given back."""
    monkeypatch.setattr(_ome_tiff, "GROWTH_BYTES", 4 * 8192)
    files = make((64, 64), planned=None)
    before = files.path.stat().st_size
    record(files, 9)
    assert files.path.stat().st_size > before + 8 * 8192
    assert found(files.path).shape == (9, 64, 64)
    files.finish(9)
    assert found(files.path).shape == (9, 64, 64)
    assert files.path.stat().st_size < before + 10 * 8192


def test_a_disk_without_room_says_so_before_the_first_frame(make: Make, tmp_path: Path) -> None:
    """R3.12: the room of all frames is set aside; what can't be had is told then, and nothing is left."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    unfinished = Unfinished(tmp_path / "notes")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            make(planned=100, unfinished=unfinished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_system_that_sets_nothing_aside_leaves_holes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS, Windows, some network file systems: the file is sparse, and works."""
    monkeypatch.setattr(_direct.sys, "platform", "darwin")
    files = make(planned=50)
    assert files.path.stat().st_blocks * 512 < 50 * 8192
    taken = record(files, 4)
    files.finish(4)
    np.testing.assert_array_equal(found(files.path), taken)


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("frames", [0, 2])
def test_a_death_while_it_is_finished_is_finished_by_the_next(
    make: Make, monkeypatch: pytest.MonkeyPatch, steps: int, frames: int
) -> None:
    """R3.12: every step of the end may be the last, and all may be done again."""
    files = make(planned=4)
    taken = record(files, 4, lines=frames)
    real, left = _unfinished._put, [steps]

    def put(*arguments: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_unfinished, "_put", put)
        try:
            files.finish(frames)
        except KeyboardInterrupt:
            files.release()
    if frames:
        np.testing.assert_array_equal(found(files.path)[:frames], taken[:frames])  # a TIFF at every moment
    assert finish_volume(files.path) == frames
    assert open_volume(files.path).shape == (frames, 64, 64)
    if frames:
        np.testing.assert_array_equal(found(files.path), taken)


def test_without_frames_there_is_no_image(make: Make) -> None:
    """R3.12: never an image of zeros that nobody took."""
    files = make(planned=4)
    files.finish(0)
    with tifffile.TiffFile(files.path) as tiff:
        assert len(tiff.pages) == 0
    assert open_volume(files.path).shape == (0, 64, 64)


def test_a_file_that_was_being_made_is_emptied(tmp_path: Path) -> None:
    """The room that a dead process had set aside is given back."""
    path = tmp_path / "made.ome.tiff"
    path.write_bytes(bytes(100_000))
    assert finish_volume(path) == 0
    assert path.stat().st_size == 0


def test_nothing_lands_behind_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame still on its way to a hanging disk would be written over the metadata: the file isn't finished then."""
    files = make(planned=4)
    (frame, *_), buffer = random_frames(files, 1), DirectBuffer()

    def hanging(*_: Any) -> int:
        with pytest.raises(OSError, match="1 frames are still being written"):
            files.finish(0)
        return -1

    with monkeypatch.context() as patch:
        patch.setattr(files, "_written", hanging)
        patch.setattr(_ome_tiff, "sync", lambda descriptor: None)
        files.write(0, frame, buffer)
    files.finish(0)
    with pytest.raises(OSError, match="has been finished"):
        files.write(1, frame, buffer)


def test_many_planes_are_told(make: Make) -> None:
    """Issue 4, item 2: time, exposure and position of every plane."""
    import ome_types

    files = make((8, 8), planned=300)
    record(files, 300)
    files.finish(300)
    image = ome_types.from_tiff(files.path).images[0]
    assert image.acquisition_date is not None
    assert image.acquisition_date.timestamp() == 100.5
    assert [plane.the_z for plane in image.pixels.planes] == list(range(300))
    assert [plane.delta_t for plane in image.pixels.planes] == list(range(300))
    assert [plane.position_z for plane in image.pixels.planes] == [2.0 * n for n in range(300)]
    assert {plane.exposure_time for plane in image.pixels.planes} == {0.01}
