"""What is on disk, held against what was taken: every frame's bytes against the checksum made before it was written."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import Scope
from ..layout import Layout
from ..reading import FrameError, RunDataset, RunLog, RunLogError, UnknownRunError, Volume, VolumeError, open_volume
from ._read_back import checksum

READERS = 2
"""Threads: one reads while the other computes."""


@dataclass
class DatasetCheck:
    name: str
    path: str | None
    frames: int = 0
    """That count, and were read."""
    compared: bool = True
    """False for a registered file: no checksum was made when it was taken; that its frames can be read is all that is known."""
    bytes: int = 0
    bad: list[int] = field(default_factory=list)
    """Indices of frames that are missing, damaged or different."""
    problems: list[str] = field(default_factory=list)
    """Everything that is wrong, one sentence each; empty where all is well."""


@dataclass
class RunCheck:
    uid: str
    growing: bool = False
    """No stop document: the frames that count now were checked."""
    datasets: list[DatasetCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Of the run as a whole."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems and not any(dataset.problems for dataset in self.datasets)

    def as_json(self) -> dict[str, Any]:
        datasets = [vars(dataset) for dataset in self.datasets]
        return {"uid": self.uid, "ok": self.ok, **{**vars(self), "datasets": datasets}}


Tell = Callable[[str, int, int], None]
"""Called with the dataset's name, frames read, and frames that count."""


def run_uids(layout: Layout) -> list[str]:
    """All runs that have a document log, oldest first."""
    logs = [(path.stat().st_mtime, path.stem) for path in layout.documents.glob("*.jsonl")]
    return [uid for _, uid in sorted(logs)]


def verify(scope: Scope, layout: Layout, uid: str, tell: Tell = lambda name, done, total: None) -> RunCheck:
    """Read every frame of a run that counts and compare.

    Raises
    ------
    UnknownRunError
        Where no such run is known.
    """
    began = time.monotonic()
    check = RunCheck(uid)
    try:
        log = RunLog.read(layout, uid)
    except RunLogError as error:
        check.problems.append(str(error))
    else:
        check.growing = log.unfinished
        counts = (log.stop or {}).get("frames") or {}
        for dataset in {**log.datasets, **log.untold(scope, layout)}.values():
            check.datasets.append(_dataset(scope, layout, dataset, counts.get(dataset.name), tell))
    check.seconds = round(time.monotonic() - began, 3)
    return check


def _dataset(scope: Scope, layout: Layout, dataset: RunDataset, counted: int | None, tell: Tell) -> DatasetCheck:
    path = dataset.path(layout, scope, "tiled")
    check = DatasetCheck(dataset.name, None if path is None else str(path))
    if path is None:
        check.problems.append(f"{dataset.uri} lies in none of the scope's storage roots {sorted(scope.storage.roots)}")
        return check
    try:
        volume = open_volume(path)
        lines = [{"index": n} for n in range(volume.frames)] if dataset.registered else volume.lines()
    except VolumeError as error:
        check.problems.append(str(error))
        return check
    check.frames, check.bytes, check.compared = len(lines), len(lines) * volume.frame_bytes, not dataset.registered
    if counted is not None and counted != len(lines):
        check.problems.append(f"the stop document counts {counted} frames, {volume.frame_list.name} has {len(lines)}")
    if counted is not None and math.prod(volume.shape[:-2]) != len(lines):
        check.problems.append(f"its metadata say {volume.shape[0]} frames, {volume.frame_list.name} has {len(lines)}")
    for index, wrong in sorted(
        wrong_frames(volume, lines, check.compared, lambda done: tell(dataset.name, done, len(lines)))
    ):
        check.bad.append(index)
        check.problems.append(wrong)
    return check


def wrong_frames(
    volume: Volume, lines: list[dict[str, Any]], compared: bool, tell: Callable[[int], None]
) -> list[tuple[int, str]]:
    """Index of each frame that differs from its checksum or can't be read, and a sentence;
    ``tell`` is called with each number read."""
    found: list[tuple[int, str]] = []
    waiting: Iterator[dict[str, Any]] = iter(lines)
    lock = threading.Lock()
    done = 0

    def work() -> None:
        nonlocal done
        frame = np.empty(volume.frame_shape, volume.dtype)
        while True:
            with lock:
                line = next(waiting, None)
            if line is None:
                return
            wrong = _wrong(volume, line, frame, compared)
            with lock:
                done += 1
                if wrong is not None:
                    found.append((line["index"], wrong))
                tell(done)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _wrong(volume: Volume, line: dict[str, Any], frame: np.ndarray, compared: bool) -> str | None:
    index = line["index"]
    try:
        volume.frame(index, frame, from_disk=True)
        found, taken = checksum(frame), line.get("checksum")
    except FrameError as error:
        return str(error)
    except Exception as error:  # a frame that was not compared is not a good one
        return f"{volume.path.name}: frame {index} could not be compared: {error}"
    if taken is None and compared:
        return f"{volume.path.name}: frame {index} has no checksum in {volume.frame_list.name}"
    if compared and found != taken:
        return f"{volume.path.name}: frame {index} has checksum {found} on disk, {taken} was taken at the camera"
    return None


__all__ = ["DatasetCheck", "RunCheck", "UnknownRunError", "run_uids", "verify", "wrong_frames"]
