"""Whatever is killed, and whenever: each run is in the catalog once, with every frame."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import event_model
import numpy as np
import pyarrow
import pytest
from tiled.queries import Key

from queuescope.tiled_config._documents import (
    ORPHAN_REASON,
    DocumentLog,
    DocumentLogError,
    abandoned,
    close_orphan,
    is_complete,
)

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")


def assert_there_once(stand: Any, run: Any) -> None:
    """All frames, all scalars, no row twice, one entry."""
    client = stand.client()
    assert list(client.search(Key("start.uid") == run.uid)) == [run.uid]
    n = len(run.acquired())
    for dataset in run.frames:
        np.testing.assert_array_equal(client[run.uid]["primary"][dataset].read(), run.acquired(dataset))
    np.testing.assert_array_equal(client[run.uid]["primary"]["piezo_a"].read(), np.arange(float(n)))
    np.testing.assert_array_equal(client[run.uid]["primary/internal"].read()["seq_num"], np.arange(n) + 1)


def entry_of(stand: Any, run: Any) -> int:
    """Tiled's number for what the run's first dataset is in the catalog; another one where the entry was made anew."""
    return int(stand.client()[run.uid]["primary"]["cam_a"].data_sources()[0].id)


def test_tiled_killed_in_the_middle_of_a_run(shaky: Any, acquire: Any) -> None:
    shaky.have()
    run = acquire(shaky.layout, ("cam_a", "cam_b"), planned=10)
    run.expose(3)
    shaky.wait_announced(run, 3)
    entry = entry_of(shaky, run)
    shaky.have(tiled=False)
    run.expose(4)
    shaky.courier.wait_for("Tiled can't be reached")
    shaky.have()
    shaky.wait_announced(run, 7)
    assert entry_of(shaky, run) == entry, "the entry was made anew"
    run.expose(1)
    run.stop()
    shaky.courier.wait_for(f"run {run.uid} delivered: .* success")
    assert_there_once(shaky, run)


def test_who_listens_to_a_run_hears_on_when_the_courier_is_killed(shaky: Any, acquire: Any) -> None:
    """R3.4: the next courier goes on inside the entry; nobody has to subscribe again, and nothing comes twice."""
    shaky.have()
    run = acquire(shaky.layout, ("cam_a", "cam_b"), planned=10)
    run.expose(3)
    shaky.wait_announced(run, 3)
    entry = entry_of(shaky, run)
    with shaky.subscribed(run) as lengths:
        heard = [lengths.get(timeout=60)]
        for more in (2, 1):
            shaky.have(courier=False)
            run.expose(more)
            shaky.have()
            while heard[-1] < len(run.acquired()):
                heard.append(lengths.get(timeout=60))
        run.stop()
        shaky.courier.wait_for(f"run {run.uid} delivered: .* success")
    assert heard == sorted(heard)
    assert entry_of(shaky, run) == entry, "the entry was made anew"
    assert_there_once(shaky, run)


def test_an_entry_that_differs_from_the_log_is_made_anew(shaky: Any, acquire: Any) -> None:
    """The log is the truth, whatever the catalog holds of the run."""
    shaky.have()
    run = acquire(shaky.layout, ("cam_a", "cam_b"), planned=10)
    run.expose(3)
    shaky.wait_announced(run, 3)
    shaky.have(courier=False)
    table = shaky.client("courier")[run.uid]["primary/internal"]
    table.append_partition(0, pyarrow.Table.from_pandas(table.read().head(1), preserve_index=False))
    run.expose(2)
    shaky.have()
    shaky.courier.wait_for(f"run {run.uid} is delivered anew: the catalog has 1 rows that are not")
    run.stop()
    shaky.courier.wait_for(f"run {run.uid} delivered: .* success")
    assert_there_once(shaky, run)


def test_runs_acquired_while_tiled_is_away_and_a_lost_catalog(shaky: Any, acquire: Any) -> None:
    """The RunEngine never waits for Tiled, and truth is, in order: document log first, Tiled last."""
    shaky.have()
    before = acquire(shaky.layout)
    before.expose(2)
    before.stop()
    shaky.courier.wait_for(f"run {before.uid} delivered")
    shaky.have(tiled=False, courier=False)
    for path in shaky.layout.data.glob("catalog*.db*"):
        path.unlink()
    during = acquire(shaky.layout)
    during.expose(4)
    during.stop()
    shaky.have(tiled=False)
    shaky.courier.wait_for("Tiled can't be reached")
    shaky.have()
    for run in (before, during):
        shaky.courier.wait_for(f"run {run.uid} delivered")
        assert_there_once(shaky, run)


def test_an_hour_of_runs_without_tiled_arrives_in_order(shaky: Any, acquire: Any) -> None:
    """Tiled is away before the courier starts and all the while, and the courier is killed too: whole runs, an orphan, and one
    that still grows.
    """
    shaky.have(tiled=False, courier=False)
    runs = []
    for number in range(16):
        if number in (0, 10):
            shaky.have(tiled=False, courier=False)
            shaky.have(tiled=False)
        runs.append(acquire(shaky.layout))
        runs[-1].expose(2)
        if number < 14:
            runs[-1].stop()
    *whole, orphan, growing = runs
    orphan.die()
    shaky.courier.wait_for("Tiled can't be reached")
    shaky.have()
    for run in whole:
        shaky.courier.wait_for(f"run {run.uid} delivered: .* success")
    shaky.courier.wait_for(f"run {orphan.uid} delivered: .* fail")
    shaky.wait_announced(growing, 2)
    growing.stop()
    shaky.courier.wait_for(f"run {growing.uid} delivered: .* success")
    mine = {run.uid for run in runs}
    assert [uid for uid in shaky.client() if uid in mine] == [run.uid for run in runs]
    for run in (whole[0], whole[10], orphan, growing):
        assert_there_once(shaky, run)


def test_a_run_whose_worker_died_is_closed_and_says_why(shaky: Any, acquire: Any) -> None:
    """A run without a stop document gets one, in the log and in the catalog; half a line is dropped."""
    shaky.have()
    run = acquire(shaky.layout, ("cam_a",), planned=10)
    run.expose(3)
    run.write_fragment(b'{"name": "event", "doc": {"da')
    shaky.wait_announced(run, 3)
    assert close_orphan(run.log, shaky.layout.volumes) is None, "the log is still being written"
    run.die()
    shaky.courier.wait_for(f"run {run.uid} delivered: .* 3 frames, fail")
    stop = shaky.client()[run.uid].metadata["stop"]
    assert (stop["exit_status"], stop["reason"], stop["num_events"]) == ("fail", ORPHAN_REASON, {"primary": 3})
    name, document = list(DocumentLog(run.log))[-1]
    assert (name, document["uid"]) == ("stop", stop["uid"])
    event_model.schema_validators[event_model.DocumentNames.stop].validate(document)
    assert_there_once(shaky, run)


def test_a_run_that_tiled_refuses_keeps_nobody_waiting(shaky: Any, acquire: Any) -> None:
    shaky.have()
    (shaky.layout.documents / "notes.jsonl").write_text("this is no log\n")
    (shaky.layout.documents / "copy.jsonl").write_text('{"name": "start", "doc": {"uid": "another", "time": 1}}\n')
    (shaky.layout.documents / "odd.jsonl").write_text(
        '{"name": "start", "doc": {"uid": "odd", "time": 1}}\n{"name": "event", "doc": {}}\n'
    )
    bad = acquire(shaky.layout)
    bad.write("event", {"no": "such event"})
    bad.stop()
    good = acquire(shaky.layout)
    good.expose(1)
    good.stop()
    shaky.courier.wait_for("notes.jsonl is not a run's log")
    shaky.courier.wait_for("copy.jsonl is not a run's log: .*begins with the start document of run another")
    shaky.courier.wait_for("run odd: its log can't be closed")
    shaky.courier.wait_for(f"run {bad.uid} can't be delivered")
    shaky.courier.wait_for(f"run {good.uid} delivered")
    assert_there_once(shaky, good)


def test_sigterm_ends_the_courier_and_the_next_one_goes_on(shaky: Any, acquire: Any) -> None:
    shaky.have()
    done, going = acquire(shaky.layout), acquire(shaky.layout)
    done.expose(2)
    done.stop()
    going.expose(2)
    shaky.wait_announced(going, 2)
    shaky.courier.wait_for(f"run {done.uid} delivered")
    code, shaky.courier = shaky.courier.end(), None
    assert code == 0
    going.stop()
    shaky.have()
    shaky.courier.wait_for(f"run {going.uid} delivered")
    assert not any(done.uid in line for line in shaky.courier.lines)
    assert_there_once(shaky, done)
    assert_there_once(shaky, going)


def test_a_second_courier_is_refused(shaky: Any) -> None:
    shaky.have()
    shaky.courier.wait_for("connected to Tiled")
    second = subprocess.run(
        [sys.executable, "-m", "queuescope.tiled_config"],
        env={**os.environ, **shaky.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert f"pid {shaky.courier.pid}" in second.stderr


def test_sigterm_ends_a_courier_that_waits_for_a_tiled_that_hangs(shaky: Any) -> None:
    shaky.have(tiled=False, courier=False)
    with socket.create_server(("127.0.0.1", shaky.port)) as deaf:
        shaky.have(tiled=False)
        connection, _ = deaf.accept()
        with connection:
            began = time.monotonic()
            code, shaky.courier = shaky.courier.end(), None
    assert code == 0
    assert time.monotonic() - began < 10  # it says 2 s; a request would wait for 30


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"name": "start", "doc": {"uid": "u"}}\n{"name": "stop", "d')
    log = DocumentLog(path)
    assert [name for name, _ in log] == ["start"]
    assert not is_complete(path)
    with path.open("a") as file:
        file.write('oc": {"exit_status": "success"}}\n')
    assert [name for name, _ in log] == ["stop"]
    assert list(log) == []
    assert is_complete(path)


def test_a_complete_line_that_is_no_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"name": "start", "doc": {"uid": "u"}}\nrubbish\n')
    with pytest.raises(DocumentLogError, match=r"run\.jsonl, line 2"):
        list(DocumentLog(path))


def test_a_long_stop_document_is_found(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    stop = {"name": "stop", "doc": {"exit_status": "success", "note": "x" * 200_000}}
    path.write_text('{"name": "start", "doc": {}}\n' + json.dumps(stop) + "\n")
    assert is_complete(path)


def test_an_empty_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()
    assert not is_complete(path)
    assert close_orphan(path, tmp_path) is None
    assert path.read_bytes() == b""


def test_frames_that_no_document_tells_of_are_counted(tmp_path: Path) -> None:
    """R3.12: the worker was killed after the first frames were on disk and before its first event."""
    path = tmp_path / "run-1.jsonl"
    path.write_text('{"name": "start", "doc": {"uid": "run-1"}}\n')
    for name in ("run-1_cam_a", "run-1_cam_b", "run-10_cam_a"):
        (tmp_path / f"{name}.ome.zarr").mkdir()
    (tmp_path / "run-1_cam_a.frames.jsonl").write_text("{}\n{}\n{}\n")
    (tmp_path / "run-1_cam_c.ome.tiff").touch()
    (tmp_path / "run-1_cam_c.frames.jsonl").write_text("{}\n{}\n")
    (tmp_path / "run-10_cam_a.frames.jsonl").write_text("{}\n")
    assert abandoned(path, tmp_path) == {"cam_a": 3, "cam_b": 0, "cam_c": 2}
    stop = close_orphan(path, tmp_path)
    assert stop is not None
    assert stop["frames"] == {"cam_a": 3, "cam_b": 0, "cam_c": 2}
    assert is_complete(path)
