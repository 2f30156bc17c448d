"""What is known of a run, from its document log and its frame logs alone.

The document log is the truth: it is there before Tiled hears of the run and while Tiled is away. Both logs grow while they
are read; a last line without its newline is not yet written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..config import Scope
from ..layout import Layout, frames_on_disk
from ..reading import RunDataset, RunLog, RunLogError, UnknownRunError, VolumeError, check_uid, open_volume
from ._models import Dataset, Run
from ._problems import Problem

_STATUS: dict[str, Literal["succeeded", "failed", "aborted"]] = {
    "success": "succeeded",
    "fail": "failed",
    "abort": "aborted",
}


def read_run(scope: Scope, layout: Layout, uid: str, tiled: str | None) -> Run:
    """The run as it is now.

    Parameters
    ----------
    tiled
        Address of Tiled's API, ``http://host:port/api/v1``; None where it isn't known.

    Raises
    ------
    Problem
        ``unknown_run`` for a uid without a document log, ``unreadable_run`` for a log that is damaged.
    """
    try:
        check_uid(uid)
        with layout.document_log(uid).open("rb") as file:
            documents = RunLog(file)
            writing = documents.unfinished and _is_held(file)
            if documents.unfinished and not writing:  # its writer may have ended it since it was read
                file.seek(0)
                documents = RunLog(file)
    except FileNotFoundError:
        raise Problem("unknown_run", f"no run {uid} is known here") from None
    except UnknownRunError as error:
        raise Problem("unknown_run", str(error)) from None
    except RunLogError as error:
        raise Problem("unreadable_run", str(error)) from None
    start, stop = documents.start, documents.stop
    if start is None:
        raise Problem("unknown_run", f"run {uid} has not begun: its document log is empty")
    return Run(
        uid=uid,
        status=_status(stop, writing),
        plan=_text(start.get("plan_name")),
        session_id=_text(start.get("session_id")),
        sample_id=_text(start.get("sample_id")),
        datasets=[
            *(_dataset(scope, layout, uid, dataset, writing, tiled) for dataset in documents.datasets.values()),
            *(_untold(scope, layout, uid, dataset) for dataset in documents.untold(scope, layout).values()),
        ],
    )


def _status(
    stop: dict[str, Any] | None, writing: bool
) -> Literal["running", "succeeded", "failed", "aborted", "interrupted"]:
    """A run whose worker died is `interrupted`, before and after the courier closed its log."""
    if stop is None:
        return "running" if writing else "interrupted"
    return "interrupted" if stop.get("interrupted") else _STATUS.get(stop.get("exit_status", ""), "failed")


def _is_held(file: BinaryIO) -> bool:
    """Whether a writer holds the log: the RE worker locks it from open to stop."""
    try:
        import fcntl
    except ImportError:  # Windows, where no RE worker runs
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _dataset(scope: Scope, layout: Layout, uid: str, found: RunDataset, writing: bool, tiled: str | None) -> Dataset:
    volume = found.path(layout, scope, "tiled")  # Tiled runs on this machine
    clients = found.path(layout, scope, "clients")
    written = None if volume is None else _written(volume, found)
    *counting, height, width = found.described.get("shape") or (None, None)
    rows = written if written is None else written // max(1, math.prod(counting))
    return Dataset(
        name=found.name,
        uri=found.uri,
        path=None if clients is None else str(clients),
        shape=[found.planned if writing else rows, *counting, height, width],
        dtype=_dtype_name(found.described.get("dtype_numpy", "")),
        frames_written=written,
        tiled=f"{tiled}/metadata/{uid}/{found.stream}/{found.name}" if tiled else None,
    )


def _untold(scope: Scope, layout: Layout, uid: str, found: RunDataset) -> Dataset:
    """A dataset of which only the stop document tells: its file says what it is, and Tiled doesn't know it."""
    described: dict[str, Any] = {}
    path = found.path(layout, scope, "tiled")
    with contextlib.suppress(VolumeError):
        if path is not None:
            volume = open_volume(path)
            described = {"shape": list(volume.frame_shape), "dtype_numpy": volume.dtype.str}
    return _dataset(scope, layout, uid, dataclasses.replace(found, described=described), False, None)


def _written(volume: Path, found: RunDataset) -> int | None:
    """Frames on disk. A file that was registered has no frame list: all of it is there, where it is there."""
    if not found.registered:
        return frames_on_disk(volume)
    try:
        return open_volume(volume).frames
    except VolumeError:
        return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _dtype_name(described: str) -> str:
    """``<u2`` → ``uint16``, without importing NumPy."""
    match = re.fullmatch(r"[<>|=]?([uif])(\d+)", described)
    if match is None:
        return described
    return {"u": "uint", "i": "int", "f": "float"}[match[1]] + str(8 * int(match[2]))
