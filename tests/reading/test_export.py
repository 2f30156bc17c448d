"""``queuescope export``: what other programs find in the files, and what is never left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import tifffile
import zarr
from typer.testing import CliRunner, Result

from queuescope.config import load_scope
from queuescope.formats import Format
from queuescope.layout import Layout
from queuescope.reading import open_volume
from queuescope.scripts._export import ExportError, export
from queuescope.scripts._export_formats import FORMATS, OmeTiff, OmeZarr
from queuescope.scripts.cli import complete_app

Command = Callable[..., Result]
KINDS = ("ome-tiff", "tiff-stack", "tiff-series", "ome-zarr")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def command(layout: Layout, to: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``queuescope export UID --format FORMAT --to …``, in this process."""
    monkeypatch.setenv("QUEUESCOPE_DATA", str(layout.data))
    monkeypatch.setenv("QUEUESCOPE_SCOPE", "demo-dispim")

    def run(uid: str, form: str, *words: str) -> Result:
        words = ("export", uid, "--format", form, "--to", str(to), *words)
        return CliRunner().invoke(complete_app(), words, catch_exceptions=False)

    return run


@pytest.fixture
def run(layout: Layout, write_run: Callable[..., Any]) -> Any:
    """Two cameras of different size and depth."""
    return finished(write_run(layout))


@pytest.fixture
def either(layout: Layout, write_run: Callable[..., Any], volume_format: Format) -> Any:
    """The same in each format."""
    return finished(write_run(layout, form=volume_format))


def finished(run: Any) -> Any:
    run.dataset("cam_a", frames=3)
    run.dataset("cam_b", frames=2, shape=(10, 12), dtype="uint8", axis="t", step_um=None, channel=None)
    return run.end()


def found(path: Path) -> np.ndarray:
    """What a stock reader finds."""
    if path.suffix == ".zarr":
        return np.asarray(zarr.open_array(path / "0", mode="r"))
    if path.is_dir():
        return np.array([tifffile.imread(file) for file in sorted(path.glob("*.tiff"))])
    return tifffile.imread(path)


def left(to: Path) -> list[str]:
    return sorted(path.name for path in to.iterdir()) if to.exists() else []


@pytest.mark.parametrize("form", KINDS)
def test_every_pixel_arrives_in_its_type(command: Command, either: Any, form: str) -> None:
    """Issue 4, item 7: dtype never wrapped, whichever camera and format it was recorded in."""
    run = either
    done = command(run.uid, form, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["run_uid"], told["format"]) == (run.uid, form)
    for file in told["files"]:
        taken = np.array(run.frames[file["dataset"]])
        read = found(Path(file["path"]))
        assert read.dtype == taken.dtype
        np.testing.assert_array_equal(read, taken)
        assert (file["frames"], file["shape"], file["dtype"]) == (len(taken), list(taken.shape), taken.dtype.name)
    assert len(left(Path(told["files"][0]["path"]).parent)) == 2


def make_four_axes(run: Any, name: str = "cam_a") -> None:
    """The dataset's six frames as (time, z): two rounds of three slices."""
    array = run.volume(name) / "0"
    for index in range(6):
        there = array / "c" / f"t{index // 3}" / str(index % 3)
        there.parent.mkdir(exist_ok=True)
        (array / "c" / str(index)).rename(there)
    for number in (0, 1):
        (array / "c" / f"t{number}").rename(array / "c" / str(number))
    content = json.loads((array / "zarr.json").read_text())
    content["shape"] = [2, 3, *content["shape"][1:]]
    content["chunk_grid"]["configuration"]["chunk_shape"].insert(0, 1)
    content["dimension_names"] = ["t", "z", "y", "x"]
    (array / "zarr.json").write_text(json.dumps(content))
    group = json.loads((run.volume(name) / "zarr.json").read_text())
    image = group["attributes"]["ome"]["multiscales"][0]
    image["axes"].insert(0, {"name": "t", "type": "time"})
    image["datasets"][0]["coordinateTransformations"][0]["scale"].insert(0, 1.0)
    (run.volume(name) / "zarr.json").write_text(json.dumps(group))


@pytest.mark.parametrize("form", KINDS)
def test_four_axes_are_exported_whole_and_in_order(
    command: Command, layout: Layout, write_run: Callable[..., Any], form: str
) -> None:
    """Issue 4, item 7: 4-D handled; suitcase-tiff alone drops it without a word."""
    run = write_run(layout)
    taken = run.dataset("cam_a", frames=6)
    run.end()
    make_four_axes(run)
    done = command(run.uid, form, "--json")
    assert done.exit_code == 0, done.stderr
    path = Path(json.loads(done.stdout.splitlines()[-1])["files"][0]["path"])
    read = found(path)
    np.testing.assert_array_equal(read.reshape(taken.shape), taken)
    if form == "ome-zarr":
        assert read.shape == (2, 3, 16, 24)
    if form == "ome-tiff":
        pixels = ome_types.from_tiff(path).images[0].pixels
        assert (pixels.size_t, pixels.size_z, pixels.dimension_order.value) == (2, 3, "XYZTC")
        assert [(p.the_t, p.the_z) for p in pixels.planes] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        with tifffile.TiffFile(path) as tiff:
            assert tiff.series[0].axes == "TZYX"


@pytest.mark.parametrize("form", KINDS)
def test_wide_types_are_not_squeezed(command: Command, run: Any, to: Path, form: str) -> None:
    """suitcase makes uint16 of everything unless told: 70000 became 4464."""
    pixels = np.linspace(-1e6, 1e6, 2 * 8 * 10, dtype="<f4").reshape(2, 8, 10)
    for name in ("cam_a", "cam_b"):
        run.frame_list(name).unlink()
        zarr.create_array(run.volume(name) / "0", data=pixels, chunks=(1, 8, 10), compressors=None, overwrite=True)
    assert command(run.uid, form).exit_code == 0
    for name in left(to):
        read = found(to / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, pixels)


def test_ome_tiff_tells_what_was_recorded(command: Command, either: Any, to: Path) -> None:
    """Issue 4, item 2: axes, pixel size, channels, positions, exposure, timestamps; valid by the schema."""
    run = either
    import xmlschema

    assert command(run.uid, "ome-tiff").exit_code == 0
    path = to / f"{run.uid}_cam_a.ome.tiff"
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert tiff.series[0].axes == "ZYX"
        xml = tiff.ome_metadata
    assert xml is not None
    xmlschema.validate(xml, Path(ome_types.__file__).parent / "ome-2016-06.xsd")
    ome = ome_types.from_tiff(path)
    image = ome.images[0]
    pixels = image.pixels
    assert (pixels.size_x, pixels.size_y, pixels.size_z, pixels.size_c, pixels.size_t) == (24, 16, 3, 1, 1)
    assert (pixels.physical_size_x, pixels.physical_size_y, pixels.physical_size_z) == (0.5, 0.5, 2.0)
    assert (pixels.type.value, pixels.significant_bits) == ("uint16", 12)
    assert pixels.channels[0].name == "gfp"
    assert [plane.the_z for plane in pixels.planes] == [0, 1, 2]
    assert [plane.delta_t for plane in pixels.planes] == pytest.approx([0, 0.02, 0.04], abs=1e-6)
    assert [plane.exposure_time for plane in pixels.planes] == [0.01] * 3
    assert [plane.position_z for plane in pixels.planes] == [0.0, 2.0, 4.0]
    assert image.acquisition_date is not None
    assert image.acquisition_date.timestamp() == 1.7e9
    assert run.uid in image.name
    told = {m.k: m.value for m in ome.structured_annotations.map_annotations[0].value.ms}
    assert told["run_uid"] == run.uid
    assert told["sample_id"] == "e1"
    other = ome_types.from_tiff(to / f"{run.uid}_cam_b.ome.tiff").images[0].pixels
    assert (other.type.value, other.size_t, other.physical_size_z) == ("uint8", 2, None)


def test_an_ome_zarr_copy_is_whole(command: Command, either: Any, to: Path) -> None:
    run = either
    yaozarrs = pytest.importorskip("yaozarrs")
    assert command(run.uid, "ome-zarr").exit_code == 0
    made = to / f"{run.uid}_cam_a.ome.zarr"
    yaozarrs.validate_zarr_store(str(made))
    assert (made / "frames.jsonl").read_text() == run.frame_list("cam_a").read_text()
    copy = open_volume(made)
    assert (copy.axes, copy.scale, copy.channel) == (["z", "y", "x"], [2.0, 0.5, 0.5], "gfp")


@pytest.mark.parametrize("form", KINDS)
def test_nothing_is_overwritten(command: Command, run: Any, to: Path, form: str) -> None:
    assert command(run.uid, form).exit_code == 0
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    again = command(run.uid, form)
    assert again.exit_code == 1
    assert "exists already: nothing is overwritten" in again.stderr
    assert {path: path.read_bytes() for path in to.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_told_before_anything_is_written(
    command: Command, run: Any, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 4_000_000})
    monkeypatch.setattr("queuescope.scripts._export.shutil.disk_usage", lambda path: usage)
    done = command(run.uid, "ome-tiff")
    assert done.exit_code == 1
    assert "not enough space" in done.stderr
    assert "storage.min_free_gb" in done.stderr
    assert left(to) == []


def quietly(name: str, doing: str, done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("after", [1, 2, 4], ids=["first frame", "second frame", "second dataset"])
def test_a_disk_that_fills_up_leaves_nothing_half(layout: Layout, run: Any, to: Path, after: int) -> None:
    """Frames of a dataset that was complete before stay."""
    written = 0

    class Filling(OmeZarr):
        def write(self, source: Any, folder: Path, tell: Any) -> Path:
            def counted() -> None:
                nonlocal written
                written += 1
                if written == after:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                tell()

            return super().write(source, folder, counted)

    with pytest.raises(ExportError, match=r"could not be written: .*No space left"):
        export(load_scope("demo-dispim"), layout, run.uid, Filling(), to, quietly)
    assert left(to) == ([f"{run.uid}_cam_a.ome.zarr"] if after == 4 else [])


def test_what_reads_back_differently_is_removed(layout: Layout, run: Any, to: Path) -> None:
    """Every pixel is compared after writing."""

    class Careless(OmeTiff):
        def write(self, source: Any, folder: Path, tell: Any) -> Path:
            path = super().write(source, folder, tell)
            with tifffile.TiffFile(path) as tiff:
                offset = tiff.pages[2].dataoffsets[0]
            with path.open("r+b") as file:
                file.seek(offset + 100)
                byte = file.read(1)
                file.seek(offset + 100)
                file.write(bytes([byte[0] ^ 1]))
            return path

    class Forgetful(OmeTiff):
        def frames(self, path: Path) -> Any:
            import contextlib

            return contextlib.nullcontext(iter([]))

    for form, said in ((Careless(), "frame 2 reads back differently"), (Forgetful(), "0 frames instead of 3")):
        with pytest.raises(ExportError, match=said):
            export(load_scope("demo-dispim"), layout, run.uid, form, to, quietly)
        assert left(to) == []


def test_a_damaged_frame_is_not_passed_on(command: Command, either: Any, to: Path) -> None:
    run = either
    run.spoil(1)
    done = command(run.uid, "tiff-stack")
    assert done.exit_code == 1
    assert "frame 1 differs from the one that was taken" in done.stderr
    assert f"queuescope verify {run.uid}" in done.stderr
    assert left(to) == []


KILLED = """
import sys, time
from queuescope.scripts import _export
from queuescope.scripts.cli import complete_app
sync = _export.sync_tree
def told(path):
    sync(path)
    print("all written, nothing compared", flush=True)
    time.sleep(600)
_export.sync_tree = told
sys.argv = ["queuescope", *sys.argv[1:]]
complete_app()()
"""


def test_a_killed_export_leaves_nothing_that_looks_whole(command: Command, run: Any, layout: Layout, to: Path) -> None:
    """Killed when every byte is there and none is compared; the next export clears up."""
    words = ["export", run.uid, "--format", "tiff-stack", "--to", str(to), "--data", str(layout.data)]
    with subprocess.Popen([sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("all written")
        process.send_signal(signal.SIGKILL)
    assert left(to)
    assert all(name.startswith(".") and name.endswith(".partial") for name in left(to))
    assert command(run.uid, "tiff-stack").exit_code == 0
    assert not any(name.startswith(".") for name in left(to))


def test_two_exports_of_one_run_do_not_meet(command: Command, run: Any, to: Path) -> None:
    partial = to / f".{run.uid}_cam_a.ome.tiff.partial"
    partial.mkdir(parents=True)
    with (partial / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = command(run.uid, "ome-tiff")
    assert done.exit_code == 1
    assert "is being written by another process" in done.stderr
    assert partial.exists()


def test_a_long_series_needs_few_open_files(
    command: Command, layout: Layout, write_run: Callable[..., Any], to: Path
) -> None:
    """suitcase keeps each file of a series open to the end: 1000 frames were too many."""
    run = write_run(layout)
    run.dataset("cam_a", frames=150, shape=(2, 2))
    run.end()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 60, hard))
    try:
        done = command(run.uid, "tiff-series")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert done.exit_code == 0, done.stderr
    [folder] = left(to)
    assert len(list((to / folder).iterdir())) == 150


def test_what_cannot_be_exported_says_why(
    command: Command, run: Any, layout: Layout, write_run: Callable[..., Any]
) -> None:
    growing = write_run(layout)
    growing.dataset("cam_a", frames=1, planned=5)
    empty = write_run(layout).end()
    for uid, form, said in (
        (growing.uid, "ome-tiff", "has no end yet"),
        (empty.uid, "ome-tiff", "has no frames"),
        ("0000-0000", "ome-tiff", "no run 0000-0000 is known"),
        (run.uid, "jpeg", "no format 'jpeg': there are ome-tiff, tiff-stack, tiff-series, ome-zarr"),
    ):
        done = command(uid, form)
        assert done.exit_code == 1
        assert said in " ".join(done.stderr.split())
    assert set(FORMATS) == set(KINDS)
