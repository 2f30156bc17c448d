"""Issue 3, "Done when": random faults over plans leave nothing behind that is on, astray, unended or miscounted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr

from queuescope.benchmarks import _fault_checks as checks
from queuescope.benchmarks._witness import Witnessed, World
from queuescope.config import load_scope


def test_a_handful_of_faults_leaves_nothing_behind() -> None:
    """R0.3, R3.9, R3.12: a kill, a segfault, a hung adapter and a cut link, each over a plan. `bench faults --faults 200` is
    the whole campaign.
    """
    command = [sys.executable, "-m", "queuescope.scripts", "bench", "faults", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    ratios = result["ratios"]
    assert {name: value for name, value in ratios.items() if name.startswith("violations")} == dict.fromkeys(
        (f"violations: {name}" for name in (*checks.INVARIANTS, "hang")), 0.0
    )
    n = {row["case"]: row["n"] for row in result["rows"] if row["metric"] == "seconds to ready"}
    assert n == {"kill": 1, "segfault": 1, "hang": 1, "cut link": 1}


class Adapter:
    """MMCore's writing functions, for a witness to watch."""

    def setProperty(self, *_: Any) -> None:
        pass

    def setShutterOpen(self, *_: Any) -> None:
        pass

    def setXYPosition(self, *_: Any) -> None:
        pass


class DeadAdapter(Adapter):
    def setProperty(self, *_: Any) -> None:
        raise RuntimeError("no answer")


def test_the_witness_remembers_what_a_dead_process_left_on(tmp_path: Path) -> None:
    """R3.9: a light counts as on from the moment it was about to be, and as off when its adapter took it."""
    scope = load_scope("demo-dispim")
    gate, file = scope.lights["l488"].gate, tmp_path / "witness"
    world = World(file, scope)
    Witnessed(DeadAdapter(), file)
    with pytest.raises(RuntimeError):
        Witnessed(DeadAdapter(), file).setProperty(gate.label, gate.property, gate.on)
    world.look()
    assert set(world.lit) == {"l488"}
    with pytest.raises(RuntimeError):
        Witnessed(DeadAdapter(), file).setProperty(gate.label, gate.property, gate.off)
    world.look()
    assert set(world.lit) == {"l488"}
    Witnessed(Adapter(), file).setProperty(gate.label, gate.property, gate.off)
    world.look()
    assert not world.lit
    assert world.dark_at > 0


def test_the_witness_tells_of_an_axis_that_was_sent_astray(tmp_path: Path) -> None:
    """R3.8: whoever sent it, and wherever it stands now."""
    scope = load_scope("demo-dispim")
    world = World(tmp_path / "witness", scope)
    label, high = scope.axes()["xy.y"].label, scope.axes()["xy.y"].limits[1]
    core = Witnessed(Adapter(), tmp_path / "witness")
    core.setXYPosition(label, 0.0, high)
    core.setXYPosition(label, 0.0, high + 0.001)
    world.look()
    assert len(world.strayed) == 1
    assert f"xy.y was sent to {high + 0.001}" in world.strayed[0]


def test_counts_are_held_against_frames_that_read_back(tmp_path: Path) -> None:
    """R3.12: a line without its frame, a frame that was changed, and an array of another length are each told."""
    import numpy as np
    import xxhash

    volume = tmp_path / "run_cam.ome.zarr"
    frames = np.arange(3 * 4, dtype="uint16").reshape(3, 2, 2)
    array = zarr.create_array(f"{volume}/0", shape=(3, 2, 2), chunks=(1, 2, 2), dtype="uint16", compressors=None)
    array[:] = frames
    lines = [
        json.dumps({"index": i, "checksum": "xxh3_128:" + xxhash.xxh3_128_hexdigest(frames[i].tobytes())}) + "\n"
        for i in range(3)
    ]
    frame_list = tmp_path / "run_cam.frames.jsonl"
    frame_list.write_text("".join(lines))
    assert checks.readable_frames(volume) == (3, None)
    frame_list.write_text("".join(lines[:2]))
    assert checks.readable_frames(volume) == (2, "its array has 3 frames, its list 2")
    frame_list.write_text("".join(lines))
    array[1] = 7
    assert checks.readable_frames(volume) == (1, "frame 1 reads otherwise than the camera gave it")
