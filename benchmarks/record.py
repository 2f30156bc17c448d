"""Frames to the disk: this recorder through a queued plan, beside pymmcore-plus's writers, the camera alone, and the disk.

Cases alternate, each with the same camera, frames, buffer and durability: a clock stops when every byte is on the disk. The
recorder's clock runs from the first exposure (``recorder``), and for the whole plan, from its start document to its stop
document (``plan``), which is what a peer's ``mda.run`` is held against. The disk: the same bytes in one file, one direct write a
frame, one after the other.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from ._record_peers import CAMERA_ALONE, WRITERS, peak_mb
from ._record_stack import CAMERAS, RecordStack, child, delete_volumes, peer, record_stack
from ._result import Result, Row, Tell, row

EXPOSURES_MS = (10, 0)
ENGINE = "RunEngine"
Numbers = dict[str, dict[str, list[float]]]
"""By case: the metric's values."""


def measure(quick: bool, tell: Tell) -> Result:
    """2048² uint16, 300 frames, 3 repetitions; where ``quick`` 512², 40 frames at 0 ms, once, and one of the writers."""
    size, frames, repetitions = (512, 40, 1) if quick else (2048, 300, 3)
    writers = WRITERS[:1] if quick else WRITERS
    frame_mb = size * size * 2 / 2**20
    buffer_mb = int(2 * frames * frame_mb) + 32
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    problems: list[str] = []
    with record_stack(size, buffer_mb) as stack:
        for exposure_ms in EXPOSURES_MS[-1:] if quick else EXPOSURES_MS:
            found: Numbers = {}
            for repetition in range(repetitions):
                for case, take in cases(stack, frames, size, exposure_ms, writers).items():
                    tell(f"record: {exposure_ms} ms, {case}, {repetition + 1} of {repetitions}")
                    for metric, value in take().items():
                        found.setdefault(case, {}).setdefault(metric, []).append(value)
                    os.sync()  # what was deleted is not written back into the next case's time
            label = f"{exposure_ms} ms exposure, "
            rows += [row(label + c, metric, v) for c, metrics in found.items() for metric, v in metrics.items()]
            ratios |= _ratios(label, found, exposure_ms, writers, buffer_mb)
            problems += [
                f"{label}{case}: {max(metrics['dropped']):g} frames dropped"
                for case, metrics in found.items()
                if case.startswith("queuescope") and max(metrics["dropped"])
            ]
    return Result("record", rows, ratios, problems)


def cases(
    stack: RecordStack, frames: int, size: int, exposure_ms: int, writers: tuple[str, ...]
) -> dict[str, Callable[[], dict[str, float]]]:
    """What is measured, in the order of one round."""

    def ours(*cameras: str) -> dict[str, float]:
        return recorder(stack, cameras, frames, exposure_ms)

    def of_peer(case: str, *cameras: str) -> dict[str, float]:
        labels = [CAMERAS[camera] for camera in cameras]
        told = peer(stack, case=case, cameras=labels, frames=frames, exposure_ms=exposure_ms)
        total = frames * len(labels)
        return {
            "frames_per_s": told["frames"] / told["seconds"],
            "dropped": total - told["frames"],
            "peak_mb": told["peak_mb"],
        }

    found: dict[str, Callable[[], dict[str, float]]] = {
        "disk": lambda: {"frames_per_s": disk(stack.layout.volumes, frames, size * size * 2)},
        CAMERA_ALONE: lambda: of_peer(CAMERA_ALONE, "one"),
        "queuescope": lambda: ours("one"),
    }
    for writer in writers:
        found[f"mda.run, {writer}"] = lambda writer=writer: of_peer(writer, "one")  # type: ignore[misc]
    found[ENGINE] = lambda: engine(stack, frames, exposure_ms)
    found["two cameras alone"] = lambda: of_peer(CAMERA_ALONE, "one", "two")
    found["queuescope, two cameras"] = lambda: ours("one", "two")
    return found


def recorder(stack: RecordStack, cameras: tuple[str, ...], frames: int, exposure_ms: float) -> dict[str, float]:
    """A queued burst."""
    pid = stack.pid("hardware")
    _forget_peak(pid)
    worker = psutil.Process(stack.pid("worker"))
    before = sum(worker.cpu_times()[:2])
    kwargs = {
        "frames": frames,
        "cameras": list(cameras),
        "channels": [{"name": "bright", "exposure_ms": float(exposure_ms)}],
    }
    result, begin, end = stack.run("burst", kwargs)
    total = sum(result["datasets"].values())
    spent_s = sum(worker.cpu_times()[:2]) - before
    delete_volumes(stack.layout, begin["uid"])
    return {
        "frames_per_s": total / result["seconds"],
        "plan_frames_per_s": total / (end["time"] - begin["time"]),
        "dropped": frames * len(cameras) - total,
        "peak_mb": peak_mb(pid),
        "worker_cpu_ms_per_frame": 1000 * spent_s / total,
    }


def engine(stack: RecordStack, frames: int, exposure_ms: float) -> dict[str, float]:
    """What a burst costs the RunEngine's thread, in a session of its own (`_record_engine`)."""
    with tempfile.TemporaryDirectory(prefix="session-", dir=stack.layout.data) as data:
        scope = str(stack.scope.path.parent)
        return child("_record_engine", scope=scope, data=data, frames=frames, exposure_ms=exposure_ms)


def _forget_peak(pid: int) -> None:
    """Let the system forget the most memory that a process has had (Linux)."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return


def disk(folder: Path, frames: int, frame_bytes: int) -> float:
    """Frames a second of direct sequential writes into one new file, synced."""
    with mmap.mmap(-1, frame_bytes) as memory:
        memory.write(os.urandom(frame_bytes))
        path = folder / "sequential"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_DIRECT", 0))
        try:
            began = time.perf_counter()
            for _ in range(frames):
                if os.write(descriptor, memory) != frame_bytes:
                    raise OSError(f"{path}: a write was cut short")
            os.fsync(descriptor)
            return frames / (time.perf_counter() - began)
        finally:
            os.close(descriptor)
            path.unlink()


def _ratios(label: str, found: Numbers, exposure_ms: int, writers: tuple[str, ...], buffer_mb: int) -> dict[str, float]:
    def median(case: str, metric: str = "frames_per_s") -> float:
        return statistics.median(found[case][metric])

    best = max(median(f"mda.run, {writer}") for writer in writers)
    both = "queuescope, two cameras"
    memory = max(max(found[case]["peak_mb"]) for case in ("queuescope", both)) - buffer_mb
    ratios = {
        f"{label}recorder / camera alone{' (goal 0.97)' if exposure_ms else ''}": median("queuescope")
        / median(CAMERA_ALONE),
        f"{label}plan / best writer of mda.run{'' if exposure_ms else ' (goal 3)'}": median(
            "queuescope", "plan_frames_per_s"
        )
        / best,
        f"{label}recorder / disk{'' if exposure_ms else ' (goal 0.9)'}": median("queuescope") / median("disk"),
        f"{label}recorder of two cameras / disk{'' if exposure_ms else ' (goal 0.9)'}": median(both) / median("disk"),
        f"{label}RunEngine, ms of CPU a frame (goal 0.2)": median(ENGINE, "engine_cpu_ms_per_frame"),
        f"{label}peak memory beyond MMCore's buffer, MB (goal 300)": memory,
    }
    return ratios
