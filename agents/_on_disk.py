"""A catalog whose runs open from this machine's files, and ask the server only for what the files don't tell."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from bluesky_tiled_plugins import CatalogOfBlueskyRuns
from bluesky_tiled_plugins.clients._common import IPYTHON_METHODS
from tiled.utils import DictView

from ._run import NoSuchRunError, Run
from ._where import Whereabouts


class RunOnDisk(Run):
    """A run whose document log is on this machine: the server is asked when something is wanted that only Tiled's client has.

    So metadata, frames, paths and previews take what reading the files takes, also while the server is away or hasn't heard of
    the run; ``run["primary"]`` then is a `NoSuchRunError`.
    """

    def __new__(cls, uid: str, context: Any, connect: Callable[[], Run]) -> RunOnDisk:
        return object.__new__(cls)

    def __init__(self, uid: str, context: Any, connect: Callable[[], Run]) -> None:
        self._uid, self._context, self._connect = uid, context, connect

    @property
    def uid(self) -> str:
        return self._uid

    @property
    def metadata(self) -> DictView[str, Any]:
        """Start document and, once the run has ended, stop document: as they stand in the log now, whatever Tiled has of them."""
        log = self._log()
        if log is None:  # it was there when the run was opened
            return super().metadata
        documents = {"start": log.start, "stop": log.stop}
        return DictView({name: doc for name, doc in documents.items() if doc is not None})

    def __repr__(self) -> str:
        start = self.metadata["start"]
        began = datetime.fromtimestamp(start["time"]).isoformat(sep=" ", timespec="minutes")
        return f"<BlueskyRun {start.get('plan_name')} {set(self.datasets) or '{}'} uid={self.uid[:8]!r} {began}>"

    def __getitem__(self, key: Any) -> Any:
        self._ask_once()  # first of all: Tiled's client takes any KeyError for a stream that it hasn't
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__
        if "_item" in found or "_connect" not in found or name in IPYTHON_METHODS:
            return super().__getattr__(name)
        self._ask_once()
        return getattr(self, name)

    def _ask_once(self) -> None:
        """Become Tiled's client of the run; `NoSuchRunError` where Tiled hasn't the run yet."""
        if "_item" not in self.__dict__:
            self.__dict__.update(self._connect().__dict__)


class Catalog(CatalogOfBlueskyRuns):
    """Tiled's catalog of runs; one whose document log is on this machine is opened from there."""

    where: Whereabouts
    run_on_disk: type[RunOnDisk]

    def __getitem__(self, key: Any) -> Any:
        whole = isinstance(key, str) and len(key) == 36 and not self._queries
        if whole and self.where.log(key) is not None:
            return self.run_on_disk(key, self.context, lambda: self._of_tiled(key))
        return self._of_tiled(key)

    def _of_tiled(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except KeyError as error:
            if not isinstance(key, str) or isinstance(error, NoSuchRunError):
                raise
            raise NoSuchRunError(self._not_there(key)) from None

    def _not_there(self, uid: str) -> str:
        """Why there is no run of this uid (or beginning of one), and what to do."""
        layout = self.where.layout
        if self._queries:
            return f"this search found no run {uid}: the whole catalog may have it"
        if layout is None:
            return (
                f"the catalog {self.uri} has no run {uid}: check the uid (catalog[-1] is the newest run); one that has just begun"
                " is there as soon as the microscope's courier has delivered it, within seconds"
            )
        if self.where.log(uid) is None:
            return (
                f"no run {uid}: neither the catalog {self.uri} nor {layout.documents} has it: check the uid (catalog[-1] is the"
                " newest run)"
            )
        return (
            f"the catalog {self.uri} has no run {uid} yet, only {layout.document_log(uid)} has it: metadata, frames(), path(),"
            " preview() and table(dataset) come from the files; streams follow when the courier has delivered them, within"
            " seconds where it runs (`queuescope status`)"
        )


def client_classes(where: Whereabouts) -> dict[str, type]:
    """Classes of a catalog and its runs that know what this machine sees, by Tiled's names for them."""
    on_disk = type("Run", (RunOnDisk,), {"where": where})
    return {
        "CatalogOfBlueskyRuns": type("Catalog", (Catalog,), {"where": where, "run_on_disk": on_disk}),
        "BlueskyRun": type("Run", (Run,), {"where": where}),
    }
