"""Runs and frames straight from their files, written here as the recorder writes them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queuescope.formats import Format
from queuescope.layout import Layout
from queuescope.reading import FrameError, RunLog, RunLogError, UnknownRunError, VolumeError, open_volume


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.mark.parametrize("shape", [(16, 24), (64, 64)], ids=["ordinary writes", "direct writes"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_frames_are_read_as_they_were_taken(
    layout: Layout, write_run: Callable[..., Any], shape: tuple[int, int], dtype: str, volume_format: Format
) -> None:
    """R3.5 from disk on the same machine."""
    run = write_run(layout, form=volume_format)
    taken = run.dataset(frames=3, shape=shape, dtype=dtype)
    volume = open_volume(run.end().volume())
    assert (volume.frames, volume.shape, volume.dtype) == (3, (3, *shape), np.dtype(dtype))
    for index in range(3):
        np.testing.assert_array_equal(volume.frame(index, from_disk=True), taken[index])
    np.testing.assert_array_equal(np.asarray(volume.stack()), taken)
    assert (volume.axes, volume.scale, volume.pixel_um, volume.channel) == (
        ["z", "y", "x"],
        [2.0, 0.5, 0.5],
        0.5,
        "gfp",
    )


def test_a_growing_volume_has_the_frames_that_count(
    layout: Layout, write_run: Callable[..., Any], volume_format: Format
) -> None:
    """R3.12 a half-written line is no frame, however long the plan's shape."""
    run = write_run(layout, form=volume_format)
    run.dataset(frames=2, planned=5)
    volume = open_volume(run.volume())
    with run.frame_list().open("a") as file:
        file.write('{"index": 2, "ti')
    assert (volume.shape[0], volume.frames, len(volume.lines())) == (5, 2, 2)
    assert volume.stack().shape == (2, 16, 24)


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(1, 4),
        (slice(None), slice(2, 5), slice(None, None, 3)),
        (slice(None, None, 2), 3),
        (2, slice(None), 5),
        (..., 7),
        ...,
        ([0, 3], slice(None), 1),
    ],
)
def test_a_stack_is_indexed_like_an_array(
    layout: Layout, write_run: Callable[..., Any], key: Any, volume_format: Format
) -> None:
    run = write_run(layout, form=volume_format)
    taken = run.dataset(frames=5)
    stack = pickle.loads(pickle.dumps(open_volume(run.volume()).stack()))
    np.testing.assert_array_equal(stack[key], taken[key])
    with pytest.raises(IndexError):
        stack[0, 0, 0, 0]
    with pytest.raises(IndexError):
        stack[5]


def test_four_axes_are_read_in_their_order(tmp_path: Path) -> None:
    """Volumes of others: (time, z, y, x), raw or compressed, with chunks of any shape."""
    zarr = pytest.importorskip("zarr")
    pixels = np.arange(2 * 3 * 8 * 10, dtype="<u2").reshape(2, 3, 8, 10)
    for name, chunks, compressors in (
        ("raw", (1, 1, 8, 10), None),
        ("packed", (1, 1, 8, 10), "auto"),
        ("odd", (2, 2, 4, 5), "auto"),
    ):
        array = zarr.create_array(tmp_path / name / "0", data=pixels, chunks=chunks, compressors=compressors)
        assert array.shape == pixels.shape
        volume = open_volume(tmp_path / name)
        assert volume.frames == 6
        np.testing.assert_array_equal(volume.frame(4), pixels[1, 1])
        np.testing.assert_array_equal(volume.stack()[1, :, 2:4], pixels[1, :, 2:4])
    (tmp_path / "packed" / "0" / "c" / "1" / "1" / "0" / "0").unlink()
    with pytest.raises(FrameError, match="frame 4 is missing"):
        open_volume(tmp_path / "packed").frame(4)


def test_a_frame_that_cannot_be_read_is_named(layout: Layout, write_run: Callable[..., Any]) -> None:
    """R3.10 a failed read raises; nothing returns a made-up image."""
    run = write_run(layout)
    run.dataset(frames=3)
    volume = open_volume(run.volume())
    run.chunk(1).unlink()
    with pytest.raises(FrameError, match=r"cam_a\.ome\.zarr: frame 1 is missing"):
        volume.frame(1)
    run.chunk(2).write_bytes(b"short")
    with pytest.raises(FrameError, match=r"frame 2 has 5 bytes instead of 768"):
        volume.frame(2)
    run.frame_list().write_text('{"index": 4}\n')
    with pytest.raises(VolumeError, match=r"frames\.jsonl, line 1: .*frame 4 stands in the place of 0"):
        volume.lines()


def test_a_tiff_that_ends_early_is_named(layout: Layout, write_run: Callable[..., Any]) -> None:
    """R3.10 a failed read raises; nothing returns a made-up image."""
    run = write_run(layout, form="ome-tiff")
    run.dataset(frames=3)
    volume = open_volume(run.end().volume())
    os.truncate(run.volume(), 20_000)
    with pytest.raises(FrameError, match=r"cam_a\.ome\.tiff: frame 2 is missing"):
        volume.frame(2)
    run.volume().unlink()
    with pytest.raises(FrameError, match=r"frame 0 is missing"):
        volume.frame(0)


@pytest.mark.parametrize("kind", ["plain", "compressed", "big-endian", "imagej", "four axes", "tiled"])
def test_tiffs_of_others_are_read(tmp_path: Path, kind: str) -> None:
    """Issue 4, item 2: what other programs wrote, whole or packed."""
    tifffile = pytest.importorskip("tifffile")
    pixels = np.arange(6 * 32 * 48, dtype="<u2").reshape(6, 32, 48)
    options: dict[str, Any] = {"metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeZ": 2.0}, "ome": True}
    if kind == "compressed":
        options["compression"] = "zlib"
    elif kind == "big-endian":
        options["byteorder"] = ">"
    elif kind == "imagej":
        options = {"imagej": True, "metadata": {"axes": "ZYX"}}
    elif kind == "four axes":
        pixels = pixels.reshape(2, 3, 32, 48)
        options["metadata"] = {"axes": "TZYX"}
    elif kind == "tiled":
        options |= {"tile": (16, 16), "compression": "lzma"}
    path = tmp_path / "theirs.ome.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", **options)
    volume = open_volume(path)
    assert (volume.shape, volume.dtype, volume.frames) == (pixels.shape, np.dtype("<u2"), 6)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(volume.stack()))), pixels)
    if kind == "plain":
        assert (volume.axes, volume.scale, volume.pixel_um) == (["z", "y", "x"], [2.0, 0.5, 0.5], 0.5)


def test_a_tiff_that_is_no_volume_is_named(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    with pytest.raises(VolumeError, match=r"nothing\.tiff is not there"):
        open_volume(tmp_path / "nothing.tiff")
    (tmp_path / "junk.tiff").write_bytes(b"junk" * 300)
    with pytest.raises(VolumeError, match=r"junk\.tiff is no TIFF"):
        open_volume(tmp_path / "junk.tiff")
    tifffile.imwrite(tmp_path / "flat.tiff", np.zeros((8, 8), "u2"))
    with pytest.raises(VolumeError, match="2 axes"):
        open_volume(tmp_path / "flat.tiff")
    tifffile.imwrite(tmp_path / "colour.tiff", np.zeros((4, 8, 8, 3), "u1"), photometric="rgb")
    with pytest.raises(VolumeError, match="4 axes"):
        open_volume(tmp_path / "colour.tiff")


def test_a_tiff_opens_no_other_file(tmp_path: Path) -> None:
    """What its OME-XML names may lie anywhere."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((2, 8, 8), "u2"), ome=True)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = tiff.ome_metadata
    assert xml is not None
    other = xml.replace("<TiffData ", '<TiffData FirstZ="0" ', 1).replace(
        "/></Pixels>",
        '><UUID FileName="a.ome.tif">urn:uuid:00000000-0000-4000-8000-000000000000</UUID></TiffData></Pixels>',
    )
    assert other != xml
    (tmp_path / "in").mkdir()
    other = other.replace("a.ome.tif", "../a.ome.tif")
    tifffile.imwrite(tmp_path / "in" / "b.ome.tif", np.zeros((2, 8, 8), "u2"), description=other, metadata=None)
    assert not np.asarray(open_volume(tmp_path / "in" / "b.ome.tif").stack()).any()


def test_what_is_no_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"nothing\.ome\.zarr is not there"):
        open_volume(tmp_path / "nothing.ome.zarr")
    (tmp_path / "flat" / "0").mkdir(parents=True)
    (tmp_path / "flat" / "0" / "zarr.json").write_text(json.dumps({"shape": [4, 4], "data_type": "uint16"}))
    with pytest.raises(VolumeError, match="2 axes"):
        open_volume(tmp_path / "flat")


def test_a_log_tells_its_datasets_and_settings(layout: Layout, write_run: Callable[..., Any]) -> None:
    run = write_run(layout)
    run.dataset("cam_a", frames=2, planned=4)
    run.dataset("cam_b", frames=1, told=False)
    log = RunLog.read(layout, run.uid)
    assert log.unfinished
    assert [(d.name, d.stream, d.planned) for d in log.datasets.values()] == [("cam_a", "primary", 4)]
    run.end()
    ended = RunLog.read(layout, run.uid)
    assert ended.stop is not None
    assert log.saturation("cam_a", "uint16") == 4095  # recorded: 12 bits
    assert log.saturation("cam_b", "uint8") == 255


def test_a_log_announces_arrays_before_their_first_frame(layout: Layout, write_run: Callable[..., Any]) -> None:
    run = write_run(layout)
    keys = {"cam_a": {"dtype": "array", "external": "STREAM:"}, "piezo_a": {"dtype": "number"}}
    run.document("descriptor", {"uid": "d", "name": "fine", "data_keys": keys})
    log = RunLog.read(layout, run.uid)
    assert (log.datasets, log.announced) == ({}, {"cam_a": "fine"})


def test_a_log_that_is_not_there_or_damaged_says_so(layout: Layout, write_run: Callable[..., Any]) -> None:
    for uid in ("../../etc/passwd", "00000000-0000"):
        with pytest.raises(UnknownRunError):
            RunLog.read(layout, uid)
    run = write_run(layout)
    with layout.document_log(run.uid).open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(RunLogError, match=rf"documents/{run.uid}\.jsonl, line 2"):
        RunLog.read(layout, run.uid)
