"""Checks of where data go: writable, room enough, and fast enough for the cameras."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config import Scope
from ._doctor import Check, Finding, Patient

WRITE_MB = 100
FRAME_BYTES = 2 * 2048 * 2048
"""A camera's frame where nothing better is known: 2048 × 2048 pixels of 16 bit."""
MAX_RATE_HZ = 100.0
"""What such a camera reads out at most."""


def nearest(folder: Path) -> Path:
    """The folder, or the closest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def data_directory(who: Patient) -> Iterator[Finding]:
    data = who.layout.data
    folder = nearest(data)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".queuescope-"):
            pass
    except OSError as error:
        yield Finding(
            "problem",
            "data directory",
            f"{folder} can't be written: {error.strerror}",
            str(data),
            remedy="choose another with --data, or make it writable",
        )
        return
    yield Finding("ok", "data directory", f"{data} is writable" if folder == data else f"{data} can be made")


def free_space(who: Patient) -> Iterator[Finding]:
    if who.scope is None:
        return
    folder = nearest(who.layout.root(who.scope, who.scope.storage.root, "hardware"))
    yield space_finding(folder, shutil.disk_usage(folder).free / 1e9, who.scope.storage.min_free_gb)


def space_finding(folder: Path, free_gb: float, least_gb: float) -> Finding:
    value, limit = f"{free_gb:.0f} GB", f"{least_gb:g} GB"
    if free_gb < least_gb:
        remedy = "free some space, or choose another disk with --data"
        return Finding("problem", "free space", f"{folder} has {free_gb:.1f} GB free", value, limit, remedy)
    return Finding("ok", "free space", f"{value} free ({limit} needed)", value, limit)


def disk_speed(who: Patient, frame_bytes: Mapping[str, int] | None = None) -> Iterator[Finding]:
    if who.scope is None:
        return
    folder = nearest(who.layout.root(who.scope, who.scope.storage.root, "hardware"))
    if shutil.disk_usage(folder).free < 3e6 * WRITE_MB:
        return
    try:
        speed, direct = write_speed(folder)
    except OSError:
        return  # the check of the data directory says so
    yield speed_finding(speed, camera_rate(who.scope, frame_bytes), direct, known=frame_bytes is not None)


def write_speed(folder: Path, megabytes: int = WRITE_MB) -> tuple[float, bool]:
    """Bytes per second written to a temporary file in the folder, past the page cache where that can be done (and whether)."""
    block = mmap.mmap(-1, 8 << 20)  # page-aligned, as a direct write needs it
    block.write(os.urandom(1 << 20) * 8)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".queuescope-speed-")
    try:
        direct = _reopened_direct(name)
        target = handle if direct is None else direct
        count = max(1, (megabytes * 1_000_000) >> 23)
        began = time.perf_counter()
        try:
            for _ in range(count):
                os.write(target, block)
        except OSError as error:
            if direct is None or error.errno != errno.EINVAL:
                raise
            target = handle  # this file system takes the flag, but no direct write
            began = time.perf_counter()
            for _ in range(count):
                os.write(target, block)
        os.fsync(target)
        seconds = time.perf_counter() - began
        if direct is not None:
            os.close(direct)
        return count * len(block) / seconds, target is direct
    finally:
        os.close(handle)
        os.unlink(name)
        block.close()


def _reopened_direct(name: str) -> int | None:
    flag = getattr(os, "O_DIRECT", 0)
    try:
        return os.open(name, os.O_WRONLY | flag) if flag else None
    except OSError:
        return None


def camera_rate(scope: Scope, frame_bytes: Mapping[str, int] | None = None) -> float:
    """Bytes per second that the cameras make at most: those of the views together, or the fastest other one alone.

    Frame sizes are `FRAME_BYTES` unless given; exposures the shortest of a channel, else of the camera.
    """
    stored = [channel.exposure_ms for channel in scope.channels.values()]
    rates: dict[str, float] = {}
    for name, camera in scope.of_kind("camera").items():
        exposure_ms = max(camera.exposure_ms[0], min(stored, default=camera.exposure_ms[0]))
        size = (frame_bytes or {}).get(name, FRAME_BYTES)
        rates[name] = size * min(MAX_RATE_HZ, 1000 / exposure_ms)
    views = {name for name, camera in scope.of_kind("camera").items() if camera.view is not None}
    together = sum(rate for name, rate in rates.items() if name in views)
    return max([together, *rates.values()], default=0.0)


def speed_finding(speed: float, needed: float, direct: bool = True, known: bool = False) -> Finding:
    value, limit = f"{speed / 1e6:.0f} MB/s", f"{needed / 1e6:.0f} MB/s"
    how = "" if direct else " (through the page cache: this file system takes no direct writes)"
    size = "" if known else ", with frames of 2048 × 2048"
    if speed < needed:
        return Finding(
            "warning",
            "disk speed",
            f"the disk writes {value}{how}; the cameras make up to {limit}{size}",
            value,
            limit,
            "use a faster disk for the data, longer exposures, or a smaller ROI: frames are never dropped, plans get slower",
        )
    return Finding("ok", "disk speed", f"{value}{how}; the cameras make up to {limit}{size}", value, limit)


CHECKS: list[Check] = [data_directory, free_space, disk_speed]
