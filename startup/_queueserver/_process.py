"""A process of the queue server."""

from __future__ import annotations

import ctypes
import signal
import sys

ENDING = "ending"
"""How a manager tells its worker to pause a plan that will be ended."""


def die_with_parent(name: str) -> None:
    """End this process with its parent, and show ``name`` in process lists (Linux only)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
