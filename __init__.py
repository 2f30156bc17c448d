"""queuescope: a Bluesky queueserver plugin package that makes Micro-Manager microscopes safe for agents.

`queuescope.catalog` opens the catalog of runs (it is `queuescope.agents.catalog`).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # By name and on demand: every process imports this file, and only a client may load the client's part.
    if name == "catalog":
        return import_module(".agents", __name__).catalog
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
