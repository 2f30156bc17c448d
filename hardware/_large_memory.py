"""How memory is asked for where frames of megabytes come and go: MMCore's buffer in mappings, a frame in hand from the heap.

Only glibc (Linux) needs telling; elsewhere these do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
_MAPPED_FROM = 2**20
_HEAP_UP_TO = 2**25
"""The largest threshold that glibc takes."""
_ARENAS = 2


def share_heaps() -> None:
    """For a process that records, before it starts threads: every recording has new ones, and glibc would give each a heap of its
    own, up to eight for each core, all of which keep the frames' room that they once had (450 MB with frames of 8 MB).
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


@contextlib.contextmanager
def mapped_apart() -> Iterator[None]:
    """What is allocated inside lies in mappings of its own, which are unmapped when it is freed.

    Else glibc cuts pieces of a frame's size from its heap (it raises its threshold to the largest piece ever freed), where one
    small object above them keeps a freed buffer: a second one beside it was seen to cost 1.5 GB. Outside, pieces up to 32 MB do
    come from the heap: an image of 8 MB that is mapped anew for each frame costs 2,048 page faults.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_UP_TO)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _HEAP_UP_TO)


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None
