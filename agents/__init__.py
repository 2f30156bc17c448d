"""What runs in the client: an agent's script, a notebook. `Scope` runs plans, each once; `catalog` opens runs, each a `Run`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._bar import Bar
    from ._catalog import CatalogNotFoundError, catalog
    from ._errors import (
        KeyFileError,
        NotPairedError,
        OperationCancelledError,
        OperationError,
        OperationFailedError,
        OtherServerError,
        RefusedError,
        ScopeError,
        ServerLostError,
        StepError,
    )
    from ._job import AsyncJob
    from ._keys import keygen
    from ._operation import Event, Failure, Operation, Progress
    from ._pairing import pair
    from ._run import NapariMissingError, NoSuchDatasetError, NoSuchRunError, NotOnThisMachineError, Run
    from ._scope import AsyncScope
    from ._servers import Server, fingerprint
    from ._sync import Job, Scope

_WHERE = {
    "_bar": ("Bar",),
    "_catalog": ("CatalogNotFoundError", "catalog"),
    "_errors": (
        *("KeyFileError", "NotPairedError", "OperationCancelledError", "OperationError", "OperationFailedError"),
        *("OtherServerError", "RefusedError", "ScopeError", "ServerLostError", "StepError"),
    ),
    "_job": ("AsyncJob",),
    "_keys": ("keygen",),
    "_operation": ("Event", "Failure", "Operation", "Progress"),
    "_pairing": ("pair",),
    "_run": ("NapariMissingError", "NoSuchDatasetError", "NoSuchRunError", "NotOnThisMachineError", "Run"),
    "_scope": ("AsyncScope",),
    "_servers": ("Server", "fingerprint"),
    "_sync": ("Job", "Scope"),
}
"""On demand: `Run` needs Tiled's client, `Scope` an HTTP client, and who wants one of them needn't wait for the other."""

__all__ = [
    "AsyncJob",
    "AsyncScope",
    "Bar",
    "CatalogNotFoundError",
    "Event",
    "Failure",
    "Job",
    "KeyFileError",
    "NapariMissingError",
    "NoSuchDatasetError",
    "NoSuchRunError",
    "NotOnThisMachineError",
    "NotPairedError",
    "Operation",
    "OperationCancelledError",
    "OperationError",
    "OperationFailedError",
    "OtherServerError",
    "Progress",
    "RefusedError",
    "Run",
    "Scope",
    "ScopeError",
    "Server",
    "ServerLostError",
    "StepError",
    "catalog",
    "fingerprint",
    "keygen",
    "pair",
]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
