"""A z-stack of 100 slices through plan, queue and hardware process, beside pymmcore-plus's ``mda.run`` of the same sequence.

Both move the same stage, snap the same camera (10 ms) and have every byte on the disk when their clock stops: ours from the
start document to the stop document, theirs from the call until the files are synced. Cases alternate.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

from ._record_peers import WRITERS
from ._record_stack import CAMERAS, RecordStack, delete_volumes, peer, record_stack
from ._result import Result, Tell, row

EXPOSURE_MS = 10.0
GOAL = 1.0


def measure(quick: bool, tell: Tell) -> Result:
    """2048² uint16, 100 slices, 5 repetitions; where ``quick`` 512², 20 slices, once, and one of the writers."""
    size, slices, repetitions = (512, 20, 1) if quick else (2048, 100, 5)
    writers = WRITERS[:1] if quick else WRITERS
    with record_stack(size, buffer_mb=1000) as stack:
        cases: dict[str, Callable[[], float]] = {"queuescope, z_stack": lambda: ours(stack, slices)}
        for writer in writers:
            cases[f"mda.run, {writer}"] = lambda writer=writer: theirs(stack, slices, writer)  # type: ignore[misc]
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for repetition in range(repetitions):
            for case, take in cases.items():
                tell(f"stack: {case}, {repetition + 1} of {repetitions}")
                seconds[case].append(take())
                os.sync()
    rows = [row(case, "seconds", values) for case, values in seconds.items()]
    best = min((case for case in cases if case.startswith("mda")), key=lambda case: statistics.median(seconds[case]))
    ratio = statistics.median(seconds["queuescope, z_stack"]) / statistics.median(seconds[best])
    return Result("stack", rows, {f"z_stack / {best} (goal {GOAL:g})": ratio})


def ours(stack: RecordStack, slices: int) -> float:
    """Seconds of a queued plan's run."""
    kwargs = {
        "camera": "one",
        "axis": "z",
        "centre_um": 0.0,
        "range_um": float(slices - 1),
        "step_um": 1.0,
        "channels": [{"name": "bright", "exposure_ms": EXPOSURE_MS}],
    }
    result, begin, end = stack.run("z_stack", kwargs)
    if result["datasets"] != {"one": slices}:
        raise RuntimeError(f"z_stack took {result['datasets']}, not {slices} frames")
    delete_volumes(stack.layout, begin["uid"])
    return float(end["time"] - begin["time"])


def theirs(stack: RecordStack, slices: int, writer: str) -> float:
    """Seconds of the same in pymmcore-plus's engine."""
    told = peer(
        stack,
        case=writer,
        cameras=[CAMERAS["one"]],
        frames=slices,
        exposure_ms=EXPOSURE_MS,
        step_um=1.0,
        shutter="Lamp",
    )
    if told["frames"] != slices:
        raise RuntimeError(f"mda.run, {writer} took {told['frames']}, not {slices} frames")
    return float(told["seconds"])
