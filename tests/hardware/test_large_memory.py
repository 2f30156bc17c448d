"""What MMCore's buffer gives back goes to the system, and recordings leave no heaps behind: 300 MB beyond the buffer at most."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator only")

HEAD = """
import contextlib, ctypes, threading
from queuescope.hardware._large_memory import mapped_apart, share_heaps
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
def piece(mb=4):
    at = libc.malloc(mb * 2**20)
    ctypes.memset(at, 1, mb * 2**20)
    return at
libc.free(piece())  # from now on glibc takes such pieces from its heap
before = resident_mb()
"""
BUFFER = """
with (mapped_apart if {guarded} else contextlib.nullcontext)():
    pieces = [piece() for _ in range(50)]
kept = piece(2)  # above them
for at in pieces:
    libc.free(at)
print(resident_mb() - before)
"""
THREADS = """
if {guarded}:
    share_heaps()
gate = threading.Barrier(8)
def run():
    at = piece(1)
    gate.wait()
threads = [threading.Thread(target=run) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
stream = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, stream)
libc.fflush(None)
"""


def printed(body: str, guarded: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + body.format(guarded=guarded)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_buffer_that_was_freed_is_gone() -> None:
    assert float(printed(BUFFER, guarded=True)) < 40
    assert float(printed(BUFFER, guarded=False)) > 150, "without, one small object keeps all of it"


def test_threads_share_their_heaps() -> None:
    assert printed(THREADS, guarded=True).count("<heap nr") == 2
    assert printed(THREADS, guarded=False).count("<heap nr") == 9
