"""A run whose files were moved or compressed, read by UID through Tiled and by the client, also in a catalog built anew."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import queuescope
from queuescope.config import load_scope
from queuescope.scripts._archive import move
from queuescope.scripts._read_back import checksum


@pytest.fixture(scope="module")
def stand(make_stand: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Tiled and the courier with a second storage root, whose path has a space in it."""
    folder: Path = tmp_path_factory.mktemp("two roots")
    (folder / "the archive").mkdir()
    with contextlib.closing(make_stand(folder / "data")) as stand:
        root = dict.fromkeys(("hardware", "tiled", "clients"), str(folder / "the archive"))
        stand.environment["QUEUESCOPE_STORAGE__ROOTS"] = json.dumps({"DATA": {}, "ARCHIVE": root})
        stand.scope = load_scope("demo-dispim", stand.environment)
        stand.archive = folder / "the archive"
        stand.have()
        stand.courier.wait_for("connected to Tiled")
        yield stand


@pytest.fixture
def run(stand: Any, acquire: Any) -> Any:
    """Delivered; its frame lists hold the true checksums."""
    run = acquire(stand.layout, ("cam_a",), planned=3, size=(32, 40))
    run._random = Dim()
    run.expose(3)
    lines = [json.loads(line) for line in run.frame_list("cam_a").read_text().splitlines()]
    told = [{**line, "checksum": checksum(run.frames["cam_a"][line["index"]])} for line in lines]
    run.frame_list("cam_a").write_text("".join(json.dumps(line) + "\n" for line in told))
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered")
    return run


class Dim:
    """Pixels that can be compressed."""

    def integers(self, low: int, high: int, size: Any) -> np.ndarray:
        return np.random.default_rng().integers(100, 116, size)


def quietly(name: str, doing: str, done: int, total: int) -> None:
    pass


def check_read(stand: Any, run: Any, folder: Path) -> None:
    through_tiled = queuescope.catalog(stand.url, stand.layout.key("agent"))
    on_disk = queuescope.catalog(stand.layout.data)
    try:
        found = through_tiled[run.uid]
        np.testing.assert_array_equal(found["primary"]["cam_a"].read(), run.acquired())
        np.testing.assert_array_equal(found["primary"]["cam_a"][1, ::2], run.acquired()[1, ::2])
        here = on_disk[run.uid]
        assert here.path("cam_a") == folder / "volumes" / run.volume("cam_a").name
        np.testing.assert_array_equal(here.frames("cam_a").compute(), run.acquired())
        assert len(here.table("cam_a")) == 3
    finally:
        for client in (through_tiled, on_disk):
            client.context.http_client.close()


def test_an_archived_run_is_read_through_tiled(stand: Any, run: Any) -> None:
    """Issue 4, item 9: repointed, with the catalog's entry untouched; and back."""
    check_read(stand, run, stand.layout.data)
    move(stand.scope, stand.layout, run.uid, "ARCHIVE", False, quietly)
    assert not run.volume("cam_a").exists()
    check_read(stand, run, stand.archive)
    roots = {"ARCHIVE": stand.archive}
    elsewhere = queuescope.catalog(stand.url, stand.layout.key("agent"), roots=roots)  # another machine with a mount
    assert elsewhere[run.uid].path("cam_a") == stand.archive / "volumes" / run.volume("cam_a").name
    elsewhere.context.http_client.close()
    move(stand.scope, stand.layout, run.uid, "DATA", False, quietly)
    check_read(stand, run, stand.layout.data)


def test_a_compressed_run_is_read_through_tiled(stand: Any, run: Any) -> None:
    """Issue 4, item 2: Tiled, zarr and the client read it unchanged."""
    size = sum(file.stat().st_size for file in run.volume("cam_a").rglob("0"))
    move(stand.scope, stand.layout, run.uid, None, True, quietly)
    assert sum(file.stat().st_size for file in run.volume("cam_a").rglob("0")) < size
    check_read(stand, run, stand.layout.data)


def test_a_catalog_built_anew_finds_an_archived_run(stand: Any, run: Any) -> None:
    """The logs are the truth and say where it was acquired; where it lies now stands in the data directory as well."""
    move(stand.scope, stand.layout, run.uid, "ARCHIVE", True, quietly)
    stand.have(tiled=False, courier=False)
    for file in stand.layout.data.glob("catalog.db*"):
        file.unlink()
    stand.have()
    stand.courier.wait_for(f"run {run.uid} delivered")
    check_read(stand, run, stand.archive)
