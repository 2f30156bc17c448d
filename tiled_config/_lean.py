"""Keeps libraries out of our two processes that they never use, or only for what few runs hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

from ..lean import deferring, without
from ._graph import MODULE as GRAPH

_DEFERRED = (
    *(
        "awkward",
        "blosc2",
        "dask.array",
        "dask.dataframe",
        "mako.exceptions",
        "mako.template",
        "pandas",
        "ragged",
        "redis",
    ),
    *(GRAPH, "redis.asyncio", "redis.asyncio.sentinel", "xarray", "zarr", "zarr.storage"),
)
"""What Tiled 0.2.20, bluesky_tiled_plugins 2.0.12 and alembic name at their top, and use when somebody asks for a table of
readings, an array, a compression or a stream."""


@contextmanager
def lean(*more: str) -> Iterator[None]:
    """Import Tiled under this; ``more`` modules are deferred where only its server needs them."""
    _leave_out_sparse()
    with deferring(*_DEFERRED, *more, alone=("ragged._typing",)), without("httpx._main"):
        yield


def _leave_out_sparse() -> None:
    """Let Tiled and dask find an empty `sparse`: the real one brings numba and LLVM (58 MB and 0.4 s a process).

    Tiled and dask only name its classes at import; no run holds a sparse array.
    """
    sparse = ModuleType("sparse", "Left out by queuescope: no run holds sparse arrays.")
    sparse.__spec__ = ModuleSpec("sparse", None)
    sparse.__version__ = "0"  # type: ignore[attr-defined]
    for name in ("SparseArray", "COO"):
        setattr(sparse, name, type(name, (), {}))
    sys.modules.setdefault("sparse", sparse)
