"""What runs in the client: an agent's script, a notebook. `catalog` opens the runs, each a `Run`."""

from typing import TYPE_CHECKING, Any

from ._catalog import CatalogNotFoundError, catalog

if TYPE_CHECKING:
    from ._run import NapariMissingError, NoSuchDatasetError, NotOnThisMachineError, Run

__all__ = [
    "CatalogNotFoundError",
    "NapariMissingError",
    "NoSuchDatasetError",
    "NotOnThisMachineError",
    "Run",
    "catalog",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on demand: it needs Tiled's client
        from . import _run

        return getattr(_run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
