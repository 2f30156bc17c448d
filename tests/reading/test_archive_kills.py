"""Archive and compress killed with SIGKILL at every step: the run is read as before, and the same call again finishes the job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queuescope.config import Scope, load_scope
from queuescope.layout import Layout
from queuescope.reading import RunLog, open_volume
from queuescope.scripts._archive import NothingToDoError, move
from queuescope.scripts._verify import verify

ROOTS = json.dumps({"DATA": {}, "ARCHIVE": dict.fromkeys(("hardware", "tiled", "clients"), "archive")})

SCRIPT = """
import json, os, signal, sys
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.scripts._archive import move

def tell(name, doing, done, total):
    global seen
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)
    seen += 1
    points.append(f"{doing} {done} of {total}")

scope = load_scope("demo-dispim")
for line in sys.stdin:
    data, uid, to, compress, at = json.loads(line)
    layout, seen, points = Layout(data), 0, []
    child = os.fork()
    if child == 0:
        move(scope, layout, uid, to, compress, tell)
        print(json.dumps(points), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(json.dumps(status), flush=True)
"""
"""Carries out what its standard input says, each in a process of its own that kills itself before step ``at``."""


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> Scope:
    """Its second root lies in the data directory, so that both are copied together."""
    monkeypatch.setenv("QUEUESCOPE_STORAGE__ROOTS", ROOTS)
    return load_scope("demo-dispim")


def quietly(name: str, doing: str, done: int, total: int) -> None:
    pass


def check_whole(scope: Scope, layout: Layout, run: Any) -> Path:
    """Every frame is there, by the run's UID, and is the one that was taken; returns the folder that it lies in."""
    checked = verify(scope, layout, run.uid)
    assert checked.ok, checked
    path = RunLog.read(layout, run.uid).datasets["cam_a"].path(layout, scope, "tiled")
    assert path is not None
    np.testing.assert_array_equal(np.asarray(open_volume(path).stack()), np.array(run.frames["cam_a"]))
    return path.parent


@pytest.mark.parametrize(
    ("before", "to", "compress", "every"),
    [
        (None, "ARCHIVE", False, 1),
        (None, "ARCHIVE", True, 3),
        ("ARCHIVE", "DATA", False, 3),
        (None, None, True, 1),
        ("ARCHIVE", None, True, 3),
    ],
    ids=["archive", "archive, compressed", "back again", "in place", "in place, in the archive"],
)
def test_a_kill_at_any_step_costs_nothing(
    scope: Scope,
    tmp_path: Path,
    write_run: Callable[..., Any],
    before: str | None,
    to: str | None,
    compress: bool,
    every: int,
) -> None:
    """Issue 4, item 9: safe at any kill. What only combines the others is killed at every third step."""
    layout = Layout(tmp_path / "data")
    run = write_run(layout, brightest=40)
    run.dataset("cam_a", frames=2, shape=(64, 64))
    run.end()
    (layout.data / "archive").mkdir()
    if before is not None:
        move(scope, layout, run.uid, before, False, quietly)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "QUEUESCOPE_STORAGE__ROOTS": ROOTS},
    ) as process:

        def move_until(data: Path, at: int) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([str(data), run.uid, to, compress, at]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        def copy(number: int) -> Layout:
            shutil.copytree(layout.data, tmp_path / str(number))
            return Layout(tmp_path / str(number))

        whole = copy(1000)
        points = move_until(whole.data, -1)
        assert len(points) > 15
        end = check_whole(scope, whole, run)
        finished = files(whole)
        for at, point in list(enumerate(points))[::every]:
            killed = copy(at)
            assert move_until(killed.data, at) == 9, point
            check_whole(scope, killed, run)
            try:
                move(scope, killed, run.uid, to, compress, quietly)
            except NothingToDoError:  # it was killed when all was done
                assert point == points[-1]
            folder = check_whole(scope, killed, run)
            assert folder.relative_to(killed.data) == end.relative_to(whole.data), point
            assert files(killed) == finished, point
        process.stdin.close()  # type: ignore[union-attr]


def files(layout: Layout) -> set[str]:
    """Everything that is there but locks: no copy, no half of one, no pointer too many."""
    found = (path.relative_to(layout.data) for path in layout.data.rglob("*") if path.is_file())
    return {str(path) for path in found if path.name != "archive.lock"}
