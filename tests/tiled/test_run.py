"""A run in a notebook: frames, tables, pictures, from the files where they are and through Tiled elsewhere."""

from __future__ import annotations

import html
import importlib.util
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from PIL import Image

from queuescope.agents import NapariMissingError, NoSuchDatasetError, NoSuchRunError, NotOnThisMachineError, catalog
from queuescope.formats import SUFFIXES, Format

Open = Callable[..., Any]
SIZE = (16, 24)


@pytest.fixture
def opened() -> Iterator[Open]:
    """``catalog(…)``, closed after the test; ``requests`` are the paths it asked Tiled for."""
    made: list[Any] = []

    def open_it(*arguments: Any, **options: Any) -> Any:
        made.append(catalog(*arguments, **options))
        made[-1].requests = []
        hooks = made[-1].context.http_client.event_hooks
        hooks["request"] = [*hooks["request"], lambda request: made[-1].requests.append(request.url.path)]
        made[-1].context.http_client.event_hooks = hooks
        return made[-1]

    yield open_it
    for one in made:
        one.context.http_client.close()


@pytest.fixture
def run(stand: Any, acquire: Any) -> Any:
    return acquired(stand, acquire)


@pytest.fixture
def either(stand: Any, acquire: Any, volume_format: Format) -> Any:
    """The same in each format."""
    return acquired(stand, acquire, form=volume_format)


def acquired(stand: Any, acquire: Any, **options: Any) -> Any:
    metadata = {"plan_name": "acquire_volume"}
    run = acquire(stand.layout, ("cam_a", "cam_b"), planned=5, size=SIZE, metadata=metadata, **options)
    run.expose(5)
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered")
    return run


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another computer: where Tiled opens the file there is nothing for us."""
    from queuescope.agents import _where

    folder = _where.volume_of
    monkeypatch.setattr(_where, "volume_of", lambda uri: tmp_path / "not here" / folder(uri).name)


def test_frames_come_lazily_from_disk_on_the_same_machine(stand: Any, either: Any, opened: Open) -> None:
    """R3.5 from disk on the same machine, by UID, with one call: no pixel and no question crosses HTTP."""
    run = either
    runs = opened(stand.layout.data)
    found = runs[run.uid]
    frames = found.frames("cam_b")
    assert isinstance(frames, dask.array.Array)
    assert (frames.shape, frames.dtype, frames.chunksize) == ((5, *SIZE), np.dtype("<u2"), (1, *SIZE))
    np.testing.assert_array_equal(frames.compute(), run.acquired("cam_b"))
    np.testing.assert_array_equal(frames[3, 2:9, ::2].compute(), run.acquired("cam_b")[3, 2:9, ::2])
    assert found.path("cam_b") == run.volume("cam_b")
    assert found.preview("cam_b").frames == 1
    assert runs.requests == []


def test_by_address_the_file_is_used_once_it_is_known_to_be_the_same(stand: Any, either: Any, opened: Open) -> None:
    """R3.5, with the address only: one row through Tiled tells that the file at that path is the one."""
    run = either
    found = opened(stand.url, stand.layout.key("agent"))[run.uid]
    assert found.path("cam_a") == run.volume("cam_a")
    np.testing.assert_array_equal(found.frames("cam_a").compute(), run.acquired("cam_a"))


@pytest.mark.usefixtures("elsewhere")
def test_elsewhere_frames_come_through_tiled(stand: Any, either: Any, opened: Open) -> None:
    """R3.5 over Tiled elsewhere: the same lazy array."""
    run = either
    found = opened(stand.url, stand.layout.key("observer"))[run.uid]
    frames = found.frames("cam_a")
    assert isinstance(frames, dask.array.Array)
    assert found.path("cam_a") is None
    np.testing.assert_array_equal(frames.compute(), run.acquired("cam_a"))
    np.testing.assert_array_equal(frames[2, :, 5].compute(), run.acquired("cam_a")[2, :, 5])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("copy", ["whole", "frames missing", "other pixels"])
def test_a_mounted_root_is_used_only_where_it_holds_the_same_file(
    stand: Any, run: Any, opened: Open, tmp_path: Path, copy: str
) -> None:
    """DESIGN, Files: machines see three paths. An old or another copy of the file is not the file."""
    mount = tmp_path / "mount" / "volumes"
    shutil.copytree(run.volume("cam_a"), mount / run.volume("cam_a").name)
    lines = run.frame_list("cam_a").read_text().splitlines(keepends=True)
    (mount / run.frame_list("cam_a").name).write_text("".join(lines[: 3 if copy == "frames missing" else None]))
    if copy == "other pixels":
        chunk = mount / run.volume("cam_a").name / "0" / "c" / "4" / "0" / "0"
        chunk.write_bytes(bytes(len(chunk.read_bytes())))
    found = opened(stand.url, stand.layout.key("agent"), roots={"DATA": tmp_path / "mount"})[run.uid]
    there = mount / run.volume("cam_a").name
    assert found.path("cam_a") == (there if copy == "whole" else None)
    np.testing.assert_array_equal(found.frames("cam_a").compute(), run.acquired("cam_a"))


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_a_growing_run_has_the_frames_that_are_there(stand: Any, acquire: Any, opened: Open) -> None:
    """R3.4 also while the run grows."""
    growing = acquire(stand.layout, planned=6, size=SIZE)
    growing.expose(1)
    stand.wait_announced(growing, 1)
    found = opened(stand.layout.data)[growing.uid]
    assert found.frames().shape == (1, *SIZE)
    growing.expose(2)
    np.testing.assert_array_equal(found.frames()[-1].compute(), growing.frames["cam_a"][2])
    growing.stop()


def test_the_run_stays_a_tiled_client(stand: Any, run: Any, opened: Open) -> None:
    """Nothing of Tiled's client changes: streams, newest, partial UIDs, search."""
    from tiled.queries import Key

    runs = opened(stand.layout.data)
    found = runs[run.uid]
    np.testing.assert_array_equal(found["primary"]["cam_a"].read(), run.acquired("cam_a"))
    np.testing.assert_array_equal(found["primary/cam_a"][2], run.frames["cam_a"][2])
    assert found.metadata["start"]["uid"] == found.start["uid"] == run.uid
    assert found.metadata["stop"]["exit_status"] == "success"
    assert runs[-1].uid == run.uid
    assert runs[run.uid[:8]].frames("cam_a").shape == (5, *SIZE)
    assert runs.search(Key("start.uid") == run.uid)[run.uid].frames("cam_a").shape == (5, *SIZE)
    assert "BlueskyRun" in repr(found)


def test_frames_are_there_before_the_catalog_has_heard_of_them(stand: Any, acquire: Any, opened: Open) -> None:
    """Tiled may be late or away: the files are the truth. What only the catalog has says that the run is not there."""
    aside = stand.layout.data / "aside"  # a log that the courier doesn't see
    aside.mkdir(exist_ok=True)
    early = acquire(stand.layout, planned=3, size=SIZE, documents=aside)
    early.expose(2)
    runs = opened(stand.layout.data)
    runs.where.layout = type(
        "Aside",
        (),
        {
            "document_log": lambda self, uid: aside / f"{uid}.jsonl",
            "documents": aside,
            "moved": stand.layout.moved,
            "data": stand.layout.data,
        },
    )()
    found = runs[early.uid]
    np.testing.assert_array_equal(found.frames().compute(), early.acquired())
    assert found.metadata["start"]["uid"] == found.start["uid"] == early.uid
    assert "stop" not in found.metadata
    assert "test_volume {'cam_a'}" in repr(found)
    assert "running" in found._repr_html_()
    assert found.context is runs.context
    early.stop("fail", "the disk was full")
    assert found.metadata["stop"]["reason"] == found.stop["reason"] == "the disk was full"
    assert runs.requests == []
    with pytest.raises(
        NoSuchRunError, match=rf"has no run {early.uid} yet, only .*{early.uid}\.jsonl has it: .*courier"
    ):
        found["primary"]


def test_a_run_without_frames_has_its_metadata_before_the_catalog_has_heard_of_it(
    stand: Any, acquire: Any, opened: Open
) -> None:
    """A log alone, no dataset: nothing is asked of Tiled, whoever looks."""
    told = acquire(stand.layout, (), size=SIZE)
    runs = opened(stand.layout.data)
    found = runs[told.uid]
    assert (dict(found.datasets), found.metadata["start"]["plan_name"]) == ({}, "test_volume")
    assert "no frames" in found._repr_html_()
    assert runs.requests == []


def test_a_run_that_nobody_has_is_named(stand: Any, run: Any, opened: Open) -> None:
    """Which run, where it was looked for, what to do; to Python it is a key that is missing."""
    here, elsewhere = opened(stand.layout.data), opened(stand.url, stand.layout.key("agent"))
    unknown = "0" * 8 + run.uid[8:]
    for key in (unknown, unknown[:12]):
        assert key not in here
        with pytest.raises(NoSuchRunError, match=rf"no run {key}: neither .* nor .*documents has it: check the uid"):
            here[key]
        with pytest.raises(NoSuchRunError, match=rf"has no run {key}: check the uid .* courier has delivered it"):
            elsewhere[key]


def test_a_search_gives_only_what_it_found(stand: Any, run: Any, opened: Open) -> None:
    """Also where the run's files are on this machine."""
    from tiled.queries import Key

    none = opened(stand.layout.data).search(Key("start.plan_name") == "nothing_of_the_kind")
    with pytest.raises(NoSuchRunError, match=f"this search found no run {run.uid}"):
        none[run.uid]


def test_tables_of_readings_and_of_frames(stand: Any, run: Any, opened: Open) -> None:
    found = opened(stand.layout.data)[run.uid]
    readings = found.table()
    assert list(readings["piezo_a"]) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert readings.index.name == "seq_num"
    assert {"time", "piezo_a"} <= set(readings.columns)
    frames = found.table("cam_a")
    assert list(frames.index) == [0, 1, 2, 3, 4]
    assert list(frames["piezo_a"]) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert frames["time"].is_monotonic_increasing
    with pytest.raises(NoSuchDatasetError, match="it has primary, cam_a, cam_b"):
        found.table("cam_c")


def test_a_run_without_readings_tells_of_its_frames(stand: Any, acquire: Any, opened: Open) -> None:
    """A volume is one flyer: no events, but every frame's time and position."""
    volume = acquire(stand.layout, planned=2, size=SIZE, scalars=False)
    volume.expose(2)
    volume.stop()
    stand.courier.wait_for(f"run {volume.uid} delivered")
    assert list(opened(stand.layout.data)[volume.uid].table()["piezo_a"]) == [0.0, 1.0]


@pytest.mark.usefixtures("elsewhere")
def test_elsewhere_the_frames_table_says_where_it_is(stand: Any, run: Any, opened: Open) -> None:
    found = opened(stand.url, stand.layout.key("agent"))[run.uid]
    assert list(found.table()["piezo_a"]) == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(NotOnThisMachineError, match="roots="):
        found.table("cam_a")


def grey(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_previews_are_the_same_from_disk_and_through_tiled(
    stand: Any, run: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3.4 by UID."""
    found = opened(stand.layout.data)[run.uid]
    asked: list[dict[str, Any]] = [{}, {"index": -1}, {"project": "max"}, {"project": "mean"}, {"index": 1, "scale": 4}]
    here = [found.preview("cam_a", **options) for options in asked]
    assert [p.first for p in here] == [2, 4, 0, 0, 1]
    assert grey(here[0].png).shape == SIZE
    assert grey(here[-1].png).shape == (4, 6)
    assert np.corrcoef(grey(here[2].png).ravel(), run.acquired("cam_a").max(axis=0).ravel())[0, 1] > 0.99
    monkeypatch.setattr("queuescope.agents._where.volume_of", lambda uri: Path("/nowhere"))
    there = opened(stand.url, stand.layout.key("agent"))[run.uid]
    for options, local in zip(asked, here, strict=True):
        np.testing.assert_array_equal(grey(there.preview("cam_a", **options).png), grey(local.png))
    for index in (5, -6):
        with pytest.raises(IndexError, match="there are 5, -5 to 4"):
            found.preview("cam_a", index=index)


def test_a_preview_is_saved_and_shown(stand: Any, run: Any, opened: Open, tmp_path: Path) -> None:
    shown = opened(stand.layout.data)[run.uid].preview("cam_b")
    assert shown.save(tmp_path / "p.png").read_bytes() == shown._repr_png_()


def test_a_dataset_that_is_not_there_is_named(stand: Any, run: Any, opened: Open) -> None:
    found = opened(stand.layout.data)[run.uid]
    with pytest.raises(NoSuchDatasetError, match=r"no dataset 'cam_c': it has cam_a, cam_b"):
        found.frames("cam_c")
    with pytest.raises(NoSuchDatasetError, match=r"which dataset\? it has cam_a, cam_b"):
        found.frames()


class Viewer:
    """Stands for napari's window: remembers what it was given."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[Any, dict[str, Any]]] = {}

    def add_image(self, data: Any, *, name: str, **options: Any) -> None:
        self.layers[name] = data, options


def test_napari_gets_lazy_layers(stand: Any, run: Any, opened: Open) -> None:
    viewer = opened(stand.layout.data)[run.uid].to_napari(Viewer())
    assert list(viewer.layers) == ["cam_a", "cam_b"]
    data, options = viewer.layers["cam_b"]
    assert isinstance(data, dask.array.Array)
    assert len(options["scale"]) == 3
    low, high = options["contrast_limits"]
    assert low < high
    assert options["metadata"]["run_uid"] == run.uid


@pytest.mark.skipif(importlib.util.find_spec("napari") is not None, reason="napari is installed here")
def test_without_napari_it_says_what_to_do(stand: Any, run: Any, opened: Open) -> None:
    with pytest.raises(NapariMissingError, match="pip install 'napari"):
        opened(stand.layout.data)[run.uid].to_napari()


def test_a_notebook_shows_what_the_run_was(stand: Any, acquire: Any, opened: Open) -> None:
    """What comes from documents is escaped; pictures are inline; a failed run says why."""
    failed = acquire(
        stand.layout,
        ("cam_a", "cam_b"),
        planned=4,
        size=SIZE,
        metadata={"plan_name": "z_stack", "sample_id": "<script>alert(1)</script>", "plan_args": {"slices": 4}},
    )
    failed.expose(2)
    failed.stop("fail", "the disk <b>was</b> full")
    stand.courier.wait_for(f"run {failed.uid} delivered")
    source = opened(stand.layout.data)[failed.uid]._repr_html_()
    shown = html.unescape(source)
    for part in ("z_stack", failed.uid, "fail", "slices=4", "the disk <b>was", "cam_b", "2 × 16 × 24 uint16"):
        assert part in shown
    assert "<script" not in source
    assert "<b>was" not in source
    assert source.isascii()
    assert source.count("data:image/png;base64,") == 2
    assert "on this machine" in source


def test_the_card_comes_even_where_a_frame_is_lost(stand: Any, run: Any, opened: Open) -> None:
    (run.volume("cam_a") / "0" / "c" / "2" / "0" / "0").unlink()
    source = opened(stand.layout.data)[run.uid]._repr_html_()
    assert "frame 2 is missing" in source
    assert source.count("data:image/png;base64,") == 1


@pytest.mark.parametrize("shape", [(3, 16, 24), (2, 3, 8, 10)], ids=["three axes", "four axes"])
def test_a_registered_file_is_read_by_uid_like_any_run(
    stand: Any, opened: Open, shape: tuple[int, ...], volume_format: Format
) -> None:
    """R3.3 an external file by UID: in the catalog, from disk and through Tiled."""
    import tifffile
    import zarr

    from queuescope.server._register import Register, register

    pixels = np.random.default_rng(1).integers(0, 60000, shape, dtype="<u2")
    relative = f"results/{len(shape)}{SUFFIXES[volume_format]}"
    if volume_format == "ome-tiff":
        (stand.layout.data / "results").mkdir(exist_ok=True)
        described = {"axes": "TZYX"[-len(shape) :]}
        tifffile.imwrite(stand.layout.data / relative, pixels, ome=True, metadata=described, compression="zlib")
    else:
        chunks = (1,) * (len(shape) - 2) + shape[-2:]
        zarr.create_array(stand.layout.data / relative / "0", data=pixels, chunks=chunks, compressors=None)
    asked = Register(uri=f"data://DATA/{relative}", dataset="labels")
    uid, _ = register(stand.scope, stand.layout, asked, "admin")
    stand.courier.wait_for(f"run {uid} delivered")
    found = opened(stand.layout.data)[uid]
    assert found.path() == stand.layout.data / relative
    np.testing.assert_array_equal(found.frames("labels").compute(), pixels)
    np.testing.assert_array_equal(found["primary"]["labels"].read(), pixels)
    assert "register" in found._repr_html_()
