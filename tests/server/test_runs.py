"""`GET /api/runs/{uid}`: read from logs written here as the RE worker and the hardware process write them."""

from __future__ import annotations

import fcntl
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope, load_scope
from queuescope.layout import Layout
from queuescope.server._models import Run
from queuescope.server._problems import Problem
from queuescope.server._runs import read_run

TILED = "http://127.0.0.1:8000/api/v1"


class WrittenRun:
    """A run in the making: its document log, held as its writer holds it, and its frame logs."""

    def __init__(self, layout: Layout, separators: tuple[str, str] = (",", ":")) -> None:
        self.uid = str(uuid.uuid4())
        self.layout = layout
        self._separators = separators
        self._file = layout.document_log(self.uid).open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, name: str, doc: dict[str, Any]) -> None:
        self._file.write(json.dumps({"name": name, "doc": doc}, separators=self._separators).encode() + b"\n")
        self._file.flush()

    def write_part(self, text: bytes) -> None:
        self._file.write(text)
        self._file.flush()

    def start(self, **extra: Any) -> None:
        start = {"uid": self.uid, "time": 1.0, "plan_name": "acquire_volume", "session_id": "s1", "sample_id": "e1"}
        self.write("start", start | extra)

    def dataset(self, name: str, planned: int | None, shape: tuple[int, int] = (64, 48), dtype: str = "<u2") -> None:
        uri = f"data://DATA/volumes/{self.uid}_{name}.ome.zarr"
        key = {"dtype": "array", "dtype_numpy": dtype, "shape": list(shape), "external": "STREAM:"}
        self.write(
            "descriptor", {"uid": f"d-{name}", "run_start": self.uid, "name": "primary", "data_keys": {name: key}}
        )
        self.write(
            "stream_resource",
            {
                "uid": f"r-{name}",
                "run_start": self.uid,
                "data_key": name,
                "uri": "file://localhost/somewhere/0",
                "parameters": {"chunk_shape": [1, *shape], "uri_client": uri, "frames_planned": planned},
            },
        )

    def frames(self, name: str, count: int, tail: bytes = b"") -> None:
        log = self.layout.volumes / f"{self.uid}_{name}.frames.jsonl"
        log.write_bytes(b'{"index": 0, "time": 1.0, "position": null, "checksum": "x"}\n' * count + tail)

    def stop(self, status: str) -> None:
        self.write("stop", {"run_start": self.uid, "exit_status": status, "num_events": {}})

    def let_go(self) -> None:
        """The writer ends, or dies."""
        self._file.close()


@pytest.fixture
def scope() -> Scope:
    return load_scope("demo-dispim", environ={})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.volumes.mkdir(parents=True)
    layout.documents.mkdir()
    return layout


@pytest.fixture
def written(layout: Layout) -> Iterator[WrittenRun]:
    run = WrittenRun(layout)
    yield run
    run.let_go()


@pytest.fixture
def read(scope: Scope, layout: Layout) -> Callable[[str], Run]:
    return lambda uid: read_run(scope, layout, uid, TILED)


def test_a_growing_run_tells_planned_shape_and_frames_on_disk(written: WrittenRun, read: Callable[[str], Run]) -> None:
    """R3.2 Answers carry uid, path, shape, dtype, session_id only; frames are never in them."""
    written.start()
    written.dataset("cam_a", 50)
    written.frames("cam_a", 7, tail=b'{"index": 7, "ti')
    run = read(written.uid)
    assert (run.uid, run.status, run.plan) == (written.uid, "running", "acquire_volume")
    assert (run.session_id, run.sample_id) == ("s1", "e1")
    (dataset,) = run.datasets
    assert dataset.model_dump() == {
        "name": "cam_a",
        "uri": f"data://DATA/volumes/{written.uid}_cam_a.ome.zarr",
        "path": str(written.layout.volumes / f"{written.uid}_cam_a.ome.zarr"),
        "shape": [50, 64, 48],
        "dtype": "uint16",
        "frames_written": 7,
        "tiled": f"{TILED}/metadata/{written.uid}/primary/cam_a",
    }


def test_the_next_look_sees_what_came_meanwhile(written: WrittenRun, read: Callable[[str], Run]) -> None:
    written.start()
    assert read(written.uid).datasets == []
    written.dataset("cam_a", None)
    written.frames("cam_a", 1)
    assert [(d.shape, d.frames_written) for d in read(written.uid).datasets] == [([None, 64, 48], 1)]
    written.frames("cam_a", 2)
    assert read(written.uid).datasets[0].frames_written == 2
    written.stop("success")
    assert [(d.shape, d.frames_written) for d in read(written.uid).datasets] == [([2, 64, 48], 2)]


@pytest.mark.parametrize(
    ("exit_status", "status"), [("success", "succeeded"), ("fail", "failed"), ("abort", "aborted")]
)
def test_an_ended_run_tells_how(written: WrittenRun, read: Callable[[str], Run], exit_status: str, status: str) -> None:
    """R3.12 The frames that exist are counted: the shape of an ended run is what was written."""
    written.start()
    written.dataset("cam_a", 50)
    written.dataset("cam_b", 50, shape=(10, 20), dtype="|u1")
    written.frames("cam_a", 12)
    written.stop(exit_status)
    for _ in range(2):  # the same before and after its writer lets go
        run = read(written.uid)
        assert run.status == status
        assert [(d.shape, d.dtype, d.frames_written) for d in run.datasets] == [
            ([12, 64, 48], "uint16", 12),
            ([0, 10, 20], "uint8", 0),
        ]
        written.let_go()


def test_a_run_whose_writer_died_is_interrupted(written: WrittenRun, read: Callable[[str], Run]) -> None:
    written.start()
    written.dataset("cam_a", 50)
    written.frames("cam_a", 3)
    written.write_part(b'{"name":"stop","doc":{"exit_status":"succ')
    assert read(written.uid).status == "running"
    written.let_go()
    run = read(written.uid)
    assert run.status == "interrupted"
    assert run.datasets[0].shape == [3, 64, 48]


def test_frames_of_which_only_the_stop_document_tells_are_listed(
    written: WrittenRun, read: Callable[[str], Run], layout: Layout
) -> None:
    """R3.12: the run failed, or its worker was killed, before any other document told of them."""
    written.start()
    volume = layout.volumes / f"{written.uid}_cam_a.ome.zarr"
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, 64, 48],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 64, 48]}},
    }
    (volume / "0").mkdir(parents=True)
    (volume / "0" / "zarr.json").write_text(json.dumps(array))
    volume.with_name(f"{written.uid}_cam_a.frames.jsonl").write_text("{}\n" * 3)
    written.write("stop", {"run_start": written.uid, "exit_status": "fail", "frames": {"cam_a": 3, "cam_b": 0}})
    [found] = read(written.uid).datasets
    assert (found.name, found.frames_written, found.shape, found.dtype) == ("cam_a", 3, [3, 64, 48], "uint16")
    assert found.uri == f"data://DATA/volumes/{volume.name}"
    assert found.tiled is None, "Tiled was not told of it"


def test_reading_never_takes_the_writers_lock(written: WrittenRun, read: Callable[[str], Run], layout: Layout) -> None:
    written.start()
    read(written.uid)
    written.let_go()
    read(written.uid)
    with layout.document_log(written.uid).open("rb") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_many_events_do_not_matter(layout: Layout, read: Callable[[str], Run], separators: tuple[str, str]) -> None:
    """Event and stream_datum lines are passed over unread: even one that is no JSON changes nothing."""
    written = WrittenRun(layout, separators)
    written.start()
    written.dataset("cam_a", None)
    for name in ("event", "event_page", "stream_datum"):
        written.write_part(f'{{"name":{separators[1][1:]}"{name}",{separators[0][1:]}"doc": …}}\n'.encode())
    written.stop("success")
    written.let_go()
    assert read(written.uid).status == "succeeded"


def test_a_damaged_line_is_named(written: WrittenRun, read: Callable[[str], Run]) -> None:
    written.start()
    written.write_part(b'{"name":"descriptor","doc":nothing}\n')
    with pytest.raises(Problem, match=rf"documents/{written.uid}\.jsonl, line 2") as refused:
        read(written.uid)
    assert refused.value.code == "unreadable_run"


def test_a_run_that_has_not_begun_is_unknown(written: WrittenRun, read: Callable[[str], Run]) -> None:
    for part in (b"", b'{"name":"start",'):
        written.write_part(part)
        with pytest.raises(Problem) as refused:
            read(written.uid)
        assert refused.value.code == "unknown_run"


@pytest.mark.parametrize(
    "uid", ["", "..", "../../keys/admin", "short", "a" * 65, "00000000-0000\n", "0000000/0000", "0" * 8]
)
def test_what_is_no_runs_uid_is_unknown(read: Callable[[str], Run], uid: str) -> None:
    with pytest.raises(Problem) as refused:
        read(uid)
    assert (refused.value.code, refused.value.status) == ("unknown_run", 404)


def test_a_file_outside_the_storage_roots_has_no_path(written: WrittenRun, read: Callable[[str], Run]) -> None:
    written.start()
    parameters = {"uri_client": "data://GONE/volumes/x.ome.zarr"}
    written.write(
        "stream_resource", {"uid": "r", "run_start": written.uid, "data_key": "cam_a", "parameters": parameters}
    )
    (dataset,) = read(written.uid).datasets
    assert (dataset.uri, dataset.path, dataset.frames_written) == ("data://GONE/volumes/x.ome.zarr", None, None)


def test_clients_see_their_own_path(written: WrittenRun, layout: Layout, tmp_path: Path) -> None:
    """DESIGN, Files: hardware PC, Tiled server and clients may see three different paths."""
    environ = {"QUEUESCOPE_STORAGE__ROOTS__DATA__CLIENTS": str(tmp_path / "mounted")}
    written.start()
    written.dataset("cam_a", 5)
    written.frames("cam_a", 5)
    (dataset,) = read_run(load_scope("demo-dispim", environ), layout, written.uid, None).datasets
    assert dataset.path == str(tmp_path / "mounted" / "volumes" / f"{written.uid}_cam_a.ome.zarr")
    assert dataset.frames_written == 5
    assert dataset.tiled is None


def test_the_answer_over_http_is_small_whatever_the_volume(guarded: Any) -> None:
    """DESIGN, REST: at most 4 kB whatever the volume's size. HEAD too."""
    server, _ = guarded
    written = WrittenRun(server.layout)
    written.start()
    for name in ("cam_a", "cam_b"):
        written.dataset(name, 100_000, shape=(2048, 2048))
        written.frames(name, 100_000)
    for index in range(10_000):
        datum = {"uid": f"u/{index}", "descriptor": "d", "indices": {"start": index, "stop": index + 1}}
        written.write("stream_datum", datum)
    written.stop("success")
    written.let_go()
    reply = server["observer"].get(f"/api/runs/{written.uid}")
    assert reply.status_code == 200
    assert len(reply.content) <= 4096
    assert [d["frames_written"] for d in reply.json()["datasets"]] == [100_000, 100_000]
    head = server["observer"].head(f"/api/runs/{written.uid}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(reply.content)))
    assert server["observer"].head("/api/runs/00000000-0000").status_code == 404
    unknown = server["observer"].get("/api/runs/00000000-0000")
    assert unknown.headers["content-type"] == "application/problem+json"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_run")


def test_tileds_address_comes_from_the_scope_or_from_runtime_json(guarded: Any) -> None:
    server, _ = guarded
    written = WrittenRun(server.layout)
    written.start()
    written.dataset("cam_a", 1)
    written.let_go()
    path = f"/api/runs/{written.uid}"
    assert server["agent"].get(path).json()["datasets"][0]["tiled"] is None
    server.layout.runtime_json.write_text(json.dumps({"tiled": TILED}))
    try:
        assert server["agent"].get(path).json()["datasets"][0]["tiled"].startswith(f"{TILED}/metadata/{written.uid}/")
    finally:
        server.layout.runtime_json.unlink()
