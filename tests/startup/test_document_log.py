"""Documents are on disk, in order, before anybody else sees them."""

import errno
import fcntl
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from ophyd.sim import SynAxis

from queuescope.startup._document_log import DocumentLog


def documents(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_document_in_order(tmp_path: Path) -> None:
    seen: list[tuple[str, Any]] = []
    run_engine = RunEngine({})
    run_engine.subscribe(DocumentLog(tmp_path))
    run_engine.subscribe(lambda name, doc: seen.append((name, doc)))
    axis = SynAxis(name="axis")

    def plan() -> Any:
        yield from bps.open_run({"purpose": "test"})
        for target in range(3):
            yield from bps.mv(axis, target)
            yield from bps.trigger_and_read([axis])
        yield from bps.close_run()

    (run_uid,) = run_engine(plan())
    logged = documents(tmp_path / f"{run_uid}.jsonl")
    assert [entry["name"] for entry in logged] == [name for name, _ in seen]
    assert [entry["doc"]["uid"] for entry in logged] == [doc["uid"] for _, doc in seen]
    assert logged[-1]["name"] == "stop"


def test_numpy_and_nan_survive(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    log("start", {"uid": "run-1", "time": np.float64(1.5), "array": np.arange(3), "nothing": math.nan, "set": {1}})
    log("stop", {"uid": "stop-1", "run_start": "run-1"})
    start = documents(tmp_path / "run-1.jsonl")[0]["doc"]
    assert (start["time"], start["array"], start["set"]) == (1.5, [0, 1, 2], [1])
    assert math.isnan(start["nothing"])


def test_the_log_of_an_open_run_is_locked(tmp_path: Path) -> None:
    """The courier closes an orphan only after taking the lock that the worker holds while it writes."""
    log = DocumentLog(tmp_path)
    log("start", {"uid": "run-1"})
    with (tmp_path / "run-1.jsonl").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        log("stop", {"uid": "stop-1", "run_start": "run-1"})
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_that_cant_be_logged_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk stops the plan: no run goes on unrecorded."""
    run_engine = RunEngine({})
    log = DocumentLog(tmp_path)
    run_engine.subscribe(log)

    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

    def plan() -> Any:
        run_uid = yield from bps.open_run()
        log._files[run_uid].close()
        log._files[run_uid] = Full()  # type: ignore[assignment]
        yield from bps.create("primary")
        yield from bps.read(SynAxis(name="axis"))
        yield from bps.save()

    with pytest.raises(OSError, match="No space left"):
        run_engine(plan())
