"""Frames by run UID, beside opening the file directly, beside Tiled, and beside frames as JSON; and the bytes of an answer.

One volume of two cameras (2048 × 2048 uint16) is acquired by a queued plan. Cases alternate, each from what a notebook has: the
catalog is open, the run is not. All read what the system still has in memory: disks don't decide between them.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..agents import catalog
from ..config import load_scope
from ..layout import DEFAULT_SCOPE, Layout
from ..scripts._operation import connect
from ..scripts._rest import Rest
from ..scripts._up import stop
from ._result import Result, Tell, row

GOAL = 1.2
"""Time by UID over time from the file."""
CATALOG_S = 120.0

Case = Callable[[], Any]


def measure(quick: bool, tell: Tell) -> Result:
    """Milliseconds; 20 slices and 3 repetitions where ``quick``, else 100 and 9."""
    slices, repetitions = (20, 3) if quick else (100, 9)
    os.environ["QUEUESCOPE_SERVICES__HTTP__PORT"] = "0"
    scope = load_scope(DEFAULT_SCOPE)
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        layout = Layout(Path(folder) / "data")
        tell("read: starting")
        _bring_up(scope.path, layout)
        try:
            return _measured(layout, slices, repetitions, tell)
        finally:
            stop(layout)


def _bring_up(scope: Path, layout: Layout) -> None:
    """A whole stack; in a process of its own, since the supervisor is a fork."""
    command = [sys.executable, "-m", "queuescope.scripts", "up", "--scope", str(scope), "--data", str(layout.data)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _measured(layout: Layout, slices: int, repetitions: int, tell: Tell) -> Result:
    runtime = layout.runtime()
    assert runtime is not None
    rest = Rest.of(layout, runtime)
    tell(f"read: acquiring 2 × {slices} frames")
    with connect(layout) as scope:
        uid = scope.run("acquire_volume", slices=slices, progress=False).run_uids[-1]
    answer = _answer_bytes(rest.url, layout.key("observer"), uid)
    runs = catalog(layout.data)
    _wait_for(runs, uid)
    rows = []
    medians = {}
    for what, count in (("first frame", 1), (f"{slices} frames", slices)):
        cases = _cases(layout, runs, uid, count)
        expected = cases["from the file"]()
        values: dict[str, list[float]] = {case: [] for case in cases}
        for number in range(repetitions):
            tell(f"read: {what}, {number + 1} of {repetitions}")
            for case, read in cases.items():
                if case == "as JSON over HTTP" and (count > 1 or number > 2):
                    continue
                began = time.perf_counter()
                found = read()
                values[case].append(1000 * (time.perf_counter() - began))
                if not np.array_equal(found, expected):
                    raise RuntimeError(f"{what} {case}: other pixels than in the file")
        rows += [row(f"{what}, {case}", "ms", found) for case, found in values.items() if found]
        medians[what] = {case: statistics.median(found) for case, found in values.items() if found}
    rows.append(row("answer about the volume", "bytes", [answer]))
    ratios = {
        f"{what}, {case} / from the file (goal {GOAL:g})": times[case] / times["from the file"]
        for what, times in medians.items()
        for case in ("by UID, run open", "by UID")
    }
    return Result("read", rows, ratios)


def _cases(layout: Layout, runs: Any, uid: str, count: int) -> dict[str, Case]:
    import zarr

    path = layout.volumes / f"{uid}_cam_a.ome.zarr" / "0"
    run = runs[uid]
    run.frames("cam_a")

    def by_json() -> np.ndarray:
        link = runs[uid]["primary"]["cam_a"].item["links"]["full"]
        reply = runs.context.http_client.get(
            link.partition("{")[0], params={"slice": f"0:{count}", "format": "application/json"}
        )
        return np.array(reply.raise_for_status().json(), "<u2")

    return {
        "from the file": lambda: zarr.open_array(path, mode="r")[:count],
        "by UID, run open": lambda: run.frames("cam_a")[:count].compute(),
        "by UID": lambda: runs[uid].frames("cam_a")[:count].compute(),
        "through Tiled": lambda: runs[uid]["primary"]["cam_a"][:count],
        "as JSON over HTTP": by_json,
    }


def _answer_bytes(url: str, key: str, uid: str) -> int:
    """Head and body of ``GET /api/runs/{uid}``."""
    import httpx

    reply = httpx.get(f"{url}/api/runs/{uid}", headers={"Authorization": f"ApiKey {key}"}, trust_env=False)
    head = sum(len(name) + len(value) + 4 for name, value in reply.raise_for_status().headers.raw)
    return head + len(reply.content)


def _wait_for(runs: Any, uid: str) -> None:
    """Until the courier has brought the whole run."""
    deadline = time.monotonic() + CATALOG_S
    while True:
        try:
            if runs[uid].base.metadata.get("stop"):  # as Tiled has it: the files tell before
                return
        except KeyError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"the catalog has no complete run {uid} after {CATALOG_S:g} s")
        time.sleep(0.2)
