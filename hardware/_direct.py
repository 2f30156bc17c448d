"""Bytes to the disk: past the system's cache where that can be, in the ordinary way where not."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
from pathlib import Path

import numpy as np

from ..formats import pages

O_DIRECT = getattr(os, "O_DIRECT", 0)
NO_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP}
"""What a file system answers that takes no direct writes."""
_seeking = threading.Lock()


class DirectBuffer:
    """Page-aligned memory of one writer thread, reused: fresh memory costs more than the copy into it."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def holding(self, frame: np.ndarray) -> memoryview:
        """The frame's bytes at an aligned address, zeros behind them up to a whole page."""
        size = pages(frame.nbytes)
        if len(self._memory) < size:
            self._memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        copy = self._memory[: frame.nbytes]
        np.copyto(
            copy.view(frame.dtype).reshape(frame.shape), frame
        )  # lets other threads run, unlike a memoryview's copy
        self._memory[frame.nbytes : size] = 0
        return self._memory[:size].data


def write_all(descriptor: int, data: memoryview, path: Path) -> None:
    """Write from where the descriptor stands."""
    written = 0
    while written < len(data):
        written += _some(os.write(descriptor, data[written:]), path)


def write_at(descriptor: int, data: memoryview | bytes, offset: int, path: Path) -> None:
    """Write at an offset; several threads may."""
    view = memoryview(data)
    written = 0
    while written < len(view):
        if hasattr(os, "pwrite"):
            count = os.pwrite(descriptor, view[written:], offset + written)
        else:  # Windows
            with _seeking:
                os.lseek(descriptor, offset + written, os.SEEK_SET)
                count = os.write(descriptor, view[written:])
        written += _some(count, path)


def _some(count: int, path: Path) -> int:
    if count == 0:
        raise OSError(errno.ENOSPC, "nothing more could be written", str(path))
    return count


def reserve(descriptor: int, size: int) -> None:
    """Make a file this long; its room is set aside, and a disk without it says so now, where the file system can do that.

    ``posix_fallocate`` would write to every page where the file system can't; this leaves the file sparse then.

    Raises
    ------
    OSError
        Where there is no room.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(descriptor, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    os.ftruncate(descriptor, size)


def sync(descriptor: int) -> None:
    """Make a file's bytes durable."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_all(folder: Path) -> bool:
    """Make durable whatever was written to the file system of this folder, files and names, in one step (Linux).

    One commit of the journal for many files, where syncing each of them costs one flush of the disk a file. False where the
    system has no such call: then nothing was done.

    Raises
    ------
    OSError
        Where something could not be written.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
        return True
    finally:
        os.close(descriptor)
