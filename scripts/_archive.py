"""Runs that make room: moved to another storage root, compressed, or both. What may be moved, and whether it fits."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import Scope
from ..formats import format_of
from ..layout import Layout, Moved, named_place, resolve_uri
from ..reading import RunDataset, RunLog, RunLogError, UnknownRunError, VolumeError, open_volume
from ._compress import CompressionError, choose, is_raw
from ._relocate import Relocation, RelocationError, Tell, finish, list_of, relocate
from ._verify import run_uids
from ._whole import locked, size_of

OVERHEAD_BYTES = 4_000_000
"""Beside the bytes of the files: folders and metadata."""
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([mhdw])")


class ArchiveError(Exception):
    """A run that was not moved, or not all of it. Names it and says what to do; all of it can be read."""


class NothingToDoError(ArchiveError):
    """All of it is where and as it shall be."""


@dataclass
class Moving:
    """What becomes of a dataset."""

    name: str
    uri: str
    """Never changes."""
    path: str
    """Where it lies when that is done, as this machine sees it."""
    root: str
    frames: int
    bytes_before: int
    bytes: int
    """On disk afterwards; the same as before while nothing was compressed."""
    codec: str | None
    """How its frames are encoded from now on; None: nothing changed."""
    note: str = ""
    """Why it stays as it is, where it does."""


@dataclass
class RunResult:
    uid: str
    datasets: list[Moving] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.error is None

    def as_json(self) -> dict[str, Any]:
        return {"uid": self.uid, "ok": self.ok, **{**vars(self), "datasets": [vars(one) for one in self.datasets]}}


def age_s(text: str) -> float:
    """Seconds of ``30d``, ``12h``, ``90m``, ``2w``.

    Raises
    ------
    ArchiveError
        Where it is anything else.
    """
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ArchiveError(
            f"{text!r} is no duration: a number and m, h, d or w (minutes, hours, days, weeks), as in 30d"
        )
    return float(match[1]) * _UNITS[match[2]]


def older_than(layout: Layout, seconds: float) -> list[str]:
    """Runs with files that ended longer ago than this, oldest first; none without an end, or with a damaged log."""
    before, found = time.time() - seconds, []
    for uid in run_uids(layout):
        with contextlib.suppress(UnknownRunError, RunLogError):
            log = RunLog.read(layout, uid)
            ended = (log.stop or {}).get("time")
            has_files = log.datasets or any(((log.stop or {}).get("frames") or {}).values())
            if isinstance(ended, int | float) and ended < before and has_files:
                found.append(uid)
    return found


@contextlib.contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """One at a time on a data directory.

    Raises
    ------
    ArchiveError
        Where another process archives or compresses there.
    """
    layout.services.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (layout.services / "archive.lock").open("a") as lock:
        if not locked(lock):
            raise ArchiveError(f"another archive or compress works on {layout.data}: wait for its end")
        yield


def check_root(scope: Scope, layout: Layout, root: str) -> None:
    """
    Raises
    ------
    ArchiveError
        Where there is no such storage root, or its folder isn't there.
    """
    if root not in scope.storage.roots:
        raise ArchiveError(
            f"no storage root {root!r}: the scope has {', '.join(sorted(scope.storage.roots))} (scope.yml: storage.roots)"
        )
    folder = layout.root(scope, root, "tiled")
    if not folder.is_dir():  # made by us it could be an empty mount point, on the wrong disk
        raise ArchiveError(
            f"{folder}, the folder of the storage root {root}, is not there: mount or make it (scope.yml: storage.roots.{root})"
        )


def move(
    scope: Scope, layout: Layout, uid: str, to: str | None, compress: bool, tell: Tell, dry_run: bool = False
) -> RunResult:
    """Move a run's datasets to a storage root (None: leave them where they are), compressed where that is asked for.

    Finishes first what an attempt that was killed has left. With ``dry_run`` everything is checked and nothing is changed.

    Raises
    ------
    UnknownRunError
        Where no such run is known.
    ArchiveError
        Where it can't be moved, or some of it couldn't.
    """
    began, result = time.monotonic(), RunResult(uid)
    if to is not None:
        check_root(scope, layout, to)
    datasets = _datasets(scope, layout, uid)
    try:
        finished = [one.name for one in datasets if not dry_run and finish(scope, layout, one, tell)]
        jobs = [_job(scope, layout, uid, dataset, to, compress) for dataset in datasets]
        todo = [job for job in jobs if isinstance(job, Relocation)]
        if not todo and not finished:
            raise NothingToDoError(_nothing(uid, to, [job for job in jobs if isinstance(job, Moving)]))
        _check_space(scope, layout, todo, to)
        for job in jobs:
            if isinstance(job, Moving):
                result.datasets.append(job)
                continue
            if not dry_run:
                relocate(scope, layout, job, tell)
            result.datasets.append(_told(scope, layout, job, dry_run))
    except (RelocationError, ValueError) as error:
        raise ArchiveError(str(error)) from None
    result.seconds = round(time.monotonic() - began, 2)
    return result


def _nothing(uid: str, to: str | None, stays: list[Moving]) -> str:
    if to is not None:
        return f"run {uid} is in {to} already: nothing to move"
    return f"run {uid}: nothing to compress: " + "; ".join(f"{one.name} {one.note}" for one in stays)


def _datasets(scope: Scope, layout: Layout, uid: str) -> list[RunDataset]:
    try:
        log = RunLog.read(layout, uid)
    except RunLogError as error:
        raise ArchiveError(str(error)) from None
    if log.unfinished:
        raise ArchiveError(
            f"run {uid} still grows: move it when it has an end (a run whose process died gets it from 'queuescope up')"
        )
    datasets = list({**log.datasets, **log.untold(scope, layout)}.values())
    if not datasets:
        raise ArchiveError(f"run {uid} has no files: there is nothing to move")
    return datasets


def _job(
    scope: Scope, layout: Layout, uid: str, dataset: RunDataset, to: str | None, compress: bool
) -> Relocation | Moving:
    """What is to be done with a dataset, or where it stays."""
    try:
        here = resolve_uri(layout, scope, dataset.uri, "tiled")
        moved = Moved.read(layout, dataset.uri)
    except ValueError as error:
        raise ArchiveError(str(error)) from None
    source = dataset.uri if moved is None else moved.places[-1].uri
    root, _, relative = dataset.uri.partition("://")[2].partition("/")
    target = source if to is None else f"data://{to}/{relative}"
    if (layout.services / "unfinished" / here.name).exists():
        raise ArchiveError(f"{here.name} was left unfinished by a dead process: 'queuescope up' finishes it first")
    if not here.exists():
        raise ArchiveError(
            f"{here} is not there: mount its storage root, or see what became of it (queuescope verify {uid})"
        )
    root = source.partition("://")[2].partition("/")[0]
    size, frames = size_of(here), _frames(here)
    stays = Moving(dataset.name, dataset.uri, str(here), root, frames, size, size, None)
    if target == source and to is not None:
        stays.note = f"is in {to} already"
        return stays
    codec = None
    if compress:
        codec, stays.note = _codec(uid, here, dataset)
        if codec is None and to is None:
            return stays
    return Relocation(uid, dataset, source, target, frames, size, codec)


def _codec(uid: str, here: Path, dataset: RunDataset) -> tuple[Any, str]:
    """The codec, or why the dataset is left as it is."""
    if dataset.registered or not list_of(here).exists():
        return None, "was registered: its files are somebody else's, and have no checksums"
    if format_of(here) != "ome-zarr":
        return None, "is a TIFF: only OME-Zarr is compressed (queuescope export writes compressed files)"
    try:
        if not is_raw(here):
            return None, "is compressed already"
        codec = choose(open_volume(here))
    except CompressionError as error:
        return None, str(error)
    except VolumeError as error:
        raise ArchiveError(f"{error}: nothing was removed (queuescope verify {uid})") from None
    return codec, "" if codec else "doesn't get smaller"


def _frames(here: Path) -> int:
    try:
        return open_volume(here).frames
    except VolumeError as error:
        raise ArchiveError(str(error)) from None


def _check_space(scope: Scope, layout: Layout, jobs: list[Relocation], to: str | None) -> None:
    """Both copies are there until the old one is removed; in place, one dataset at a time."""
    if not jobs:
        return
    folder = (
        layout.root(scope, to, "tiled")
        if to is not None
        else named_place(layout, scope, jobs[0].target, "tiled").parent
    )
    sizes = [job.bytes for job in jobs]
    needed = (max(sizes) if to is None else sum(sizes)) + OVERHEAD_BYTES
    volumes = layout.root(scope, scope.storage.root, "tiled")
    same_disk = volumes.exists() and volumes.stat().st_dev == folder.stat().st_dev
    reserve = int(scope.storage.min_free_gb * 1e9) if same_disk else 0
    free = shutil.disk_usage(folder).free
    if free < needed + reserve:
        kept = f" and {reserve / 1e9:.2f} GB must stay free (scope file: storage.min_free_gb)" if reserve else ""
        what = "the largest dataset needs" if to is None else "the run needs"
        raise ArchiveError(
            f"not enough space in {folder}: {what} {needed / 1e9:.2f} GB{kept}, {free / 1e9:.2f} GB are free: make room there, or"
            " name another root with --to"
        )


def _told(scope: Scope, layout: Layout, job: Relocation, dry_run: bool) -> Moving:
    path = named_place(layout, scope, job.target, "tiled")
    return Moving(
        name=job.dataset.name,
        uri=job.dataset.uri,
        path=str(path),
        root=job.target.partition("://")[2].partition("/")[0],
        frames=job.frames,
        bytes_before=job.bytes,
        bytes=job.bytes if dry_run else size_of(path),
        codec=None if job.codec is None else job.codec.name,
        note="exists already: compared first" if dry_run and path.exists() and job.source != job.target else "",
    )


__all__ = [
    "ArchiveError",
    "Moving",
    "NothingToDoError",
    "RunResult",
    "UnknownRunError",
    "age_s",
    "alone",
    "check_root",
    "move",
    "older_than",
]
