"""Keeps a library out of memory that our two processes never use."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def leave_out_sparse() -> None:
    """Let Tiled and dask find an empty `sparse`: the real one brings numba and LLVM (58 MB and 0.4 s a process).

    Tiled and dask only name its classes at import; no run holds a sparse array. Call it before Tiled is imported.
    """
    sparse = ModuleType("sparse", "Left out by queuescope: no run holds sparse arrays.")
    sparse.__spec__ = ModuleSpec("sparse", None)
    sparse.__version__ = "0"  # type: ignore[attr-defined]
    for name in ("SparseArray", "COO"):
        setattr(sparse, name, type(name, (), {}))
    sys.modules.setdefault("sparse", sparse)
