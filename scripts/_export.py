"""Runs in other formats: written beside, compared pixel by pixel, and only then given their name."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import Scope
from ..layout import Layout
from ..reading import (
    FrameError,
    RunDataset,
    RunLog,
    RunLogError,
    Stack,
    UnknownRunError,
    Volume,
    VolumeError,
    open_volume,
)
from ._read_back import checksum
from ._whole import TakenError, give_name, partial_folder, size_of, sync_tree

OVERHEAD = 1.02
"""Of the pixels' bytes, for headers."""
OVERHEAD_BYTES = 4_000_000


class ExportError(Exception):
    """Nothing was exported, or not all of it. Names the file and what to do."""


@dataclass(frozen=True)
class Source:
    """A dataset to be exported: its frames as they are on disk, each held against its checksum when it is read."""

    run_uid: str
    log: RunLog
    dataset: RunDataset
    volume: Volume
    stack: Stack
    lines: list[dict[str, Any]]

    @property
    def frames(self) -> int:
        return len(self.lines)

    def frame(self, index: int, out: np.ndarray | None = None) -> np.ndarray:
        """One frame (height, width), as it was taken.

        Raises
        ------
        ExportError
            Where it can't be read, or differs from what was taken.
        """
        try:
            frame = self.volume.frame(index, out)
        except FrameError as error:
            raise ExportError(f"{error}: not exported (queuescope verify {self.run_uid})") from None
        taken = self.lines[index].get("checksum")
        if taken is not None and checksum(frame) != taken:
            raise ExportError(
                f"{self.volume.path.name}: frame {index} differs from the one that was taken: not exported"
                f" (queuescope verify {self.run_uid})"
            )
        return frame


class Format(Protocol):
    """One way to write a dataset."""

    def name(self, source: Source) -> str:
        """Of the file or folder that is made."""
        ...

    def write(self, source: Source, folder: Path, tell: Callable[[], None]) -> Path:
        """Write it into a folder that is empty; returns what is to be given its name. ``tell`` after each frame."""
        ...

    def frames(self, path: Path) -> contextlib.AbstractContextManager[Iterator[np.ndarray]]:
        """The frames that another program finds in it, in order."""
        ...


@dataclass(frozen=True)
class Exported:
    dataset: str
    path: str
    frames: int
    shape: list[int]
    dtype: str
    bytes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Tell = Callable[[str, str, int, int], None]
"""Called with the dataset's name, what is done (``writing``, ``comparing``), frames done and frames in all."""


def export(scope: Scope, layout: Layout, uid: str, form: Format, to: Path, tell: Tell) -> list[Exported]:
    """Write every dataset of a run that has frames.

    Raises
    ------
    UnknownRunError
        Where no such run is known.
    ExportError
        Where the run still grows, a target exists, the disk has no room, a frame can't be read or is not what was taken, or
        what was written reads back differently. No target is there then but those that were complete before.
    """
    sources = _sources(scope, layout, uid)
    targets = [to / form.name(source) for source in sources]
    for target in targets:
        if target.exists():
            raise ExportError(
                f"{target} exists already: nothing is overwritten. Move it, or name another folder with --to"
            )
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{to} can't be made: {error}") from None
    _check_space(scope, layout, to, sum(source.frames * source.volume.frame_bytes for source in sources))
    return [_one(source, form, target, tell) for source, target in zip(sources, targets, strict=True)]


def _sources(scope: Scope, layout: Layout, uid: str) -> list[Source]:
    try:
        log = RunLog.read(layout, uid)
    except RunLogError as error:
        raise ExportError(str(error)) from None
    if log.unfinished:
        raise ExportError(
            f"run {uid} has no end yet: export it when it has one (a run whose process died gets it from 'up')"
        )
    found = []
    for dataset in {**log.datasets, **log.untold(scope, layout)}.values():
        path = dataset.path(layout, scope, "tiled")
        if path is None:
            raise ExportError(f"{dataset.uri} lies in none of the scope's storage roots {sorted(scope.storage.roots)}")
        try:
            volume = open_volume(path)
            lines = volume.lines() if volume.frame_list.exists() else [{"index": n} for n in range(volume.frames)]
        except VolumeError as error:
            raise ExportError(str(error)) from None
        if lines:
            found.append(Source(uid, log, dataset, volume, volume.stack(), lines))
    if not found:
        raise ExportError(f"run {uid} has no frames: there is nothing to export")
    return found


def _check_space(scope: Scope, layout: Layout, to: Path, pixels: int) -> None:
    """An export beside the volumes leaves the acquisitions what the scope reserves for them."""
    needed = int(pixels * OVERHEAD) + OVERHEAD_BYTES
    volumes = layout.root(scope, scope.storage.root, "tiled")
    same_disk = volumes.exists() and volumes.stat().st_dev == to.stat().st_dev
    reserve = int(scope.storage.min_free_gb * 1e9) if same_disk else 0
    free = shutil.disk_usage(to).free
    if free < needed + reserve:
        kept = f" and {reserve / 1e9:.2f} GB must stay free (scope file: storage.min_free_gb)" if reserve else ""
        raise ExportError(
            f"not enough space in {to}: the export needs {needed / 1e9:.2f} GB{kept}, {free / 1e9:.2f} GB are free: make room"
            " or name another disk with --to"
        )


def _one(source: Source, form: Format, target: Path, tell: Tell) -> Exported:
    name, count = source.dataset.name, source.frames
    done = 0

    def wrote() -> None:
        nonlocal done
        done += 1
        tell(name, "writing", done, count)

    try:
        with partial_folder(target) as folder:
            made = form.write(source, folder, wrote)
            sync_tree(made)
            _compare(source, form, made, lambda number: tell(name, "comparing", number, count))
            size = size_of(made)
            give_name(made, target)
    except TakenError as error:
        raise ExportError(str(error)) from None
    except OSError as error:
        raise ExportError(f"{target.name} could not be written: {error}") from None
    return Exported(name, str(target), count, list(source.stack.shape), source.volume.dtype.name, size)


def _compare(source: Source, form: Format, made: Path, tell: Callable[[int], None]) -> None:
    """Every pixel and the data type, read again by the format's own reader."""
    taken = np.empty(source.volume.frame_shape, source.volume.dtype)
    number = 0
    with form.frames(made) as frames:
        for number, found in enumerate(frames, start=1):
            if number > source.frames:
                break
            source.frame(number - 1, taken)
            if found.dtype.newbyteorder("<") != taken.dtype or not np.array_equal(found, taken):
                raise ExportError(
                    f"{made.name}: frame {number - 1} reads back differently ({found.shape} {found.dtype} instead of"
                    f" {taken.shape} {taken.dtype.name}): the export was removed"
                )
            tell(number)
    if number != source.frames:
        raise ExportError(
            f"{made.name} reads back with {number} frames instead of {source.frames}: the export was removed"
        )


def timed(work: Callable[[], list[Exported]]) -> tuple[list[Exported], float]:
    began = time.monotonic()
    return work(), round(time.monotonic() - began, 2)


__all__ = ["ExportError", "Exported", "Format", "Source", "UnknownRunError", "export", "timed"]
