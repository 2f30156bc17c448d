"""Keeps what ophyd has for EPICS detectors out of the queue server's processes until somebody's device needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..lean import deferring, is_named, loaded

_PARTS = ("areadetector", "mca", "quadem")


@contextmanager
def lean() -> Iterator[None]:
    """Import ophyd under this.

    ``import ophyd`` makes 900 classes for AreaDetector and imports networkx for them: 0.4 s of CPU, and so would queueserver's
    question ``isinstance(device, ADBase)``. What `ophyd` has of its parts it still has: asked for, it loads them.
    """
    with deferring(*(f"ophyd.{part}" for part in _PARTS)):
        import ophyd

        detectors: Any = import_module("ophyd.areadetector")
        detectors.ADBase = detectors.ADBase  # named, whoever imports it, until the part is loaded
        yield
    for name in [name for name, value in vars(ophyd).items() if is_named(value)]:
        delattr(ophyd, name)

    def of_a_part(name: str) -> Any:
        if not name.startswith("__"):
            for part in _PARTS:
                module = loaded(f"ophyd.{part}")
                if name in vars(module):
                    return vars(module)[name]
        raise AttributeError(f"module 'ophyd' has no attribute {name!r}")

    ophyd.__getattr__ = of_a_part
