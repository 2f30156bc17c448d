"""A catalog whose runs open from this machine's files, and ask the server only for what the files don't tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bluesky_tiled_plugins import CatalogOfBlueskyRuns
from bluesky_tiled_plugins.clients._common import IPYTHON_METHODS

from ._run import Run
from ._where import Whereabouts


class RunOnDisk(Run):
    """A run whose document log is on this machine: the server is asked when something is wanted that only Tiled's client has.

    So frames, paths and previews take what reading the files takes, also while the server is away or hasn't heard of the run;
    ``run["primary"]`` then raises what it always would.
    """

    def __new__(cls, uid: str, connect: Callable[[], Run]) -> RunOnDisk:
        return object.__new__(cls)

    def __init__(self, uid: str, connect: Callable[[], Run]) -> None:
        self._uid, self._connect = uid, connect

    @property
    def uid(self) -> str:
        return self._uid

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__
        if "_item" in found or "_connect" not in found or name in IPYTHON_METHODS:
            return super().__getattr__(name)
        found.update(found["_connect"]().__dict__)
        return getattr(self, name)


class Catalog(CatalogOfBlueskyRuns):
    """Tiled's catalog of runs; one whose document log is on this machine is opened from there."""

    where: Whereabouts
    run_on_disk: type[RunOnDisk]

    def __getitem__(self, key: Any) -> Any:
        whole = isinstance(key, str) and len(key) == 36 and not self._queries
        if whole and self.where.log(key) is not None:
            return self.run_on_disk(key, lambda: super(Catalog, self).__getitem__(key))
        return super().__getitem__(key)


def client_classes(where: Whereabouts) -> dict[str, type]:
    """Classes of a catalog and its runs that know what this machine sees, by Tiled's names for them."""
    on_disk = type("Run", (RunOnDisk,), {"where": where})
    return {
        "CatalogOfBlueskyRuns": type("Catalog", (Catalog,), {"where": where, "run_on_disk": on_disk}),
        "BlueskyRun": type("Run", (Run,), {"where": where}),
    }
