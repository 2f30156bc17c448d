"""A file that is there already becomes a run by UID (R3.3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from queuescope.config import Scope, load_scope
from queuescope.layout import Layout
from queuescope.reading import RunLog, open_volume
from queuescope.scripts.cli import complete_app
from queuescope.server._image import read_image
from queuescope.server._problems import Problem
from queuescope.server._register import Lineage, Register, register
from queuescope.server._runs import read_run

PIXELS = np.random.default_rng(3).integers(0, 60000, (3, 16, 24), dtype="<u2")


@pytest.fixture
def scope() -> Scope:
    return load_scope("demo-dispim", environ={})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.volumes.mkdir(parents=True)
    layout.documents.mkdir()
    return layout


def store(layout: Layout, relative: str = "results/masks.ome.zarr", pixels: np.ndarray = PIXELS, **options: Any) -> str:
    """Write a volume as another program would; its uri."""
    chunks = (1,) * (pixels.ndim - 2) + pixels.shape[-2:]
    zarr.create_array(layout.data / relative / "0", data=pixels, **{"chunks": chunks, "compressors": None} | options)
    return f"data://DATA/{relative}"


def store_tiff(layout: Layout, relative: str = "results/masks.ome.tif", pixels: np.ndarray = PIXELS) -> str:
    """Write a TIFF as another program would; its uri."""
    path = layout.data / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata={"axes": "TZYX"[-pixels.ndim :]})
    return f"data://DATA/{relative}"


def test_a_tiff_becomes_a_run(scope: Scope, layout: Layout) -> None:
    """R3.3, issue 4 item 2: an OME-TIFF of another program by UID, read like any run."""
    uid, new = register(scope, layout, Register(uri=store_tiff(layout), dataset="masks"), "admin")
    assert new
    (dataset,) = read_run(scope, layout, uid, None).datasets
    assert (dataset.shape, dataset.dtype, dataset.frames_written) == ([3, 16, 24], "uint16", 3)
    assert dataset.path == str(layout.data / "results/masks.ome.tif")
    assert read_image(scope, layout, uid, None, "1", None, 1)[1]["Preview-Frames"] == "1:2"
    resource = next(
        line["doc"]
        for line in map(json.loads, layout.document_log(uid).read_text().splitlines())
        if line["name"] == "stream_resource"
    )
    assert (resource["mimetype"], resource["uri"][-26:]) == ("image/tiff", "data/results/masks.ome.tif")


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_file_becomes_a_run_and_stays_where_it_is(scope: Scope, layout: Layout) -> None:
    """R3.3 an external file can be registered by UID; its uri never changes."""
    uri = store(layout)
    before = files(layout.data / "results")
    uid, new = register(scope, layout, Register(uri=uri, dataset="masks", sample_id="e1", session_id="s1"), "admin")
    assert new
    assert files(layout.data / "results") == before
    run = read_run(scope, layout, uid, None)
    assert (run.status, run.plan, run.sample_id, run.session_id) == ("succeeded", "register", "e1", "s1")
    [dataset] = run.datasets
    assert (dataset.name, dataset.uri, dataset.path) == ("masks", uri, str(layout.data / "results/masks.ome.zarr"))
    assert (dataset.shape, dataset.dtype, dataset.frames_written) == ([3, 16, 24], "uint16", 3)
    shown, headers = read_image(scope, layout, uid, "masks", "1", None, 1)
    assert (shown.first, headers["Preview-Frames-Written"]) == (1, "3")


def test_its_documents_are_valid_and_hold_the_lineage(
    scope: Scope, layout: Layout, write_run: Callable[..., Any]
) -> None:
    """R3.3 … and keeps its lineage."""
    parent = write_run(layout)
    parent.dataset()
    parent.end()
    asked = Register(uri=store(layout), lineage=Lineage(parents=[parent.uid], origin="cellpose 4", note="nuclei"))
    uid, _ = register(scope, layout, asked, "admin")
    entries = [json.loads(line) for line in layout.document_log(uid).read_text().splitlines()]
    assert [entry["name"] for entry in entries] == ["start", "descriptor", "stream_resource", "stream_datum", "stop"]
    for entry in entries:
        event_model.schema_validators[event_model.DocumentNames[entry["name"]]].validate(entry["doc"])
    start = RunLog.read(layout, uid).start
    assert start is not None
    assert start["lineage"] == {"parents": [parent.uid], "origin": "cellpose 4", "note": "nuclei"}
    assert start["user"] == "admin"


def test_the_same_request_again_finds_the_same_run(scope: Scope, layout: Layout) -> None:
    asked = Register(uri=store(layout), lineage=Lineage(note="first"))
    uid, new = register(scope, layout, asked, "admin")
    log = layout.document_log(uid).read_bytes()
    assert register(scope, layout, asked, "admin") == (uid, False)
    with pytest.raises(Problem, match="already, with other facts") as refused:
        register(scope, layout, asked.model_copy(update={"lineage": Lineage(note="second")}), "admin")
    assert (new, refused.value.code, refused.value.fields) == (True, "already_registered", {"run_uid": uid})
    assert layout.document_log(uid).read_bytes() == log
    assert [path.name for path in layout.documents.iterdir()] == [f"{uid}.jsonl"]


def test_four_axes_and_compressed_files_are_runs_too(scope: Scope, layout: Layout) -> None:
    pixels = np.arange(2 * 3 * 8 * 10, dtype="<f4").reshape(2, 3, 8, 10)
    uid, _ = register(scope, layout, Register(uri=store(layout, pixels=pixels, compressors="auto")), "admin")
    [dataset] = read_run(scope, layout, uid, None).datasets
    assert (dataset.shape, dataset.dtype, dataset.frames_written) == ([2, 3, 8, 10], "float32", 6)


def test_a_run_whose_file_has_gone_has_no_frames_to_count(scope: Scope, layout: Layout) -> None:
    uid, _ = register(scope, layout, Register(uri=store(layout)), "admin")
    (layout.data / "results").rename(layout.data / "gone")
    assert read_run(scope, layout, uid, None).datasets[0].frames_written is None


def refused(scope: Scope, layout: Layout, code: str, said: str, **asked: Any) -> None:
    before = sorted(layout.documents.iterdir())
    with pytest.raises(Problem, match=said) as problem:
        register(scope, layout, Register(**asked), "admin")
    assert problem.value.code == code
    assert sorted(layout.documents.iterdir()) == before


def test_only_files_inside_a_storage_root(scope: Scope, layout: Layout, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "outside.ome.zarr" / "0", data=PIXELS, chunks=(1, 16, 24), compressors=None)
    store(layout)
    (layout.data / "linked").symlink_to(tmp_path, target_is_directory=True)
    (layout.data / "inner").symlink_to(layout.data / "results", target_is_directory=True)
    for uri, said in (
        (f"file://{tmp_path}/outside.ome.zarr", "not data://ROOT/path"),
        ("data://OTHER/x.ome.zarr", r"ROOT one of \['DATA'\]"),
        ("data://DATA/../outside.ome.zarr", "leaves the storage root"),
        ("data://DATA/linked/outside.ome.zarr", "leaves the storage root"),
        ("data://DATA/inner/masks.ome.zarr", "register 'data://DATA/results/masks.ome.zarr'"),
        ("data://DATA/results/../results/masks.ome.zarr", "register 'data://DATA/results/masks"),
        (store(layout, "keys/sly.ome.zarr"), "the catalog serves files from there only"),
        ("data://DATA//results/masks.ome.zarr", "leaves the storage root"),
    ):
        refused(scope, layout, "outside_roots", said, uri=uri)


def test_what_is_no_volume_is_refused(scope: Scope, layout: Layout, tmp_path: Path) -> None:
    refused(scope, layout, "unsupported_file", "is not there", uri="data://DATA/volumes/nothing.ome.zarr")
    (layout.data / "results").mkdir()
    (layout.data / "results" / "image.tiff").write_bytes(b"II*\0")
    refused(scope, layout, "unsupported_file", r"OME-Zarr 0\.5", uri="data://DATA/results/image.tiff")
    refused(scope, layout, "unsupported_file", "2 axes", uri=store(layout, "results/flat.ome.zarr", PIXELS[0]))
    uri = store(layout, "results/sly.ome.zarr")
    chunk = layout.data / "results/sly.ome.zarr/0/c/2/0/0"
    chunk.unlink()
    (tmp_path / "secret").write_bytes(bytes(768))
    chunk.symlink_to(tmp_path / "secret")
    refused(scope, layout, "unsupported_file", "0/c/2/0/0 is a symbolic link", uri=uri)


def test_parents_must_be_known(scope: Scope, layout: Layout) -> None:
    refused(
        scope, layout, "unknown_run", "no run 00000000-dead", uri=store(layout), lineage={"parents": ["00000000-dead"]}
    )


def test_what_a_run_has_written_is_its_own(scope: Scope, layout: Layout, write_run: Callable[..., Any]) -> None:
    run = write_run(layout)
    run.dataset()
    run.end()
    uri = f"data://DATA/volumes/{run.volume().name}"
    refused(scope, layout, "already_registered", f"belongs to run {run.uid}", uri=uri)


def test_it_can_be_verified_and_exported(
    scope: Scope, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no checksums: verify says that, and which frames can't be read."""
    monkeypatch.setenv("QUEUESCOPE_DATA", str(layout.data))
    uid, _ = register(scope, layout, Register(uri=store(layout)), "admin")
    command = CliRunner().invoke
    assert "3 of 3 frames readable (registered: no checksums" in command(complete_app(), ["verify", uid]).stdout
    exported = command(complete_app(), ["export", uid, "--format", "ome-zarr", "--to", str(tmp_path / "out")])
    assert exported.exit_code == 0, exported.stderr
    np.testing.assert_array_equal(open_volume(tmp_path / "out" / f"{uid}_image.ome.zarr").stack()[...], PIXELS)
    (layout.data / "results/masks.ome.zarr/0/c/1/0/0").unlink()
    damaged = command(complete_app(), ["verify", uid])
    assert damaged.exit_code == 1
    assert "frame 1 is missing" in damaged.stdout
