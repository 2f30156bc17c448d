"""Every document on disk before anybody else sees it: ``documents/{run_uid}.jsonl``, the source of truth of a run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

DURABLE = frozenset({"start", "descriptor", "stop"})
"""Documents that are forced to the disk at once; the others reach it with the next of these, or with the page cache."""


class DocumentLog:
    """A RunEngine subscription that appends each document as one line ``{"name", "doc"}``.

    While a run is open its log is locked (``flock``): the courier closes an orphan only after taking that lock.
    A document that can't be written raises, which fails the run: no run goes on unrecorded.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._run_of: dict[str, str] = {}
        """Run UID by the UID of a descriptor or stream_resource."""

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        run_uid = self._run_uid(name, doc)
        if name == "start":
            self._files[run_uid] = (self._folder / f"{run_uid}.jsonl").open("xb")
            fcntl.flock(self._files[run_uid], fcntl.LOCK_EX | fcntl.LOCK_NB)
        file = self._files[run_uid]
        file.write(document_line(name, doc))
        file.flush()
        if name in DURABLE:
            os.fsync(file.fileno())
        if name == "stop":
            del self._files[run_uid]
            self._run_of = {uid: run for uid, run in self._run_of.items() if run != run_uid}
            file.close()

    def _run_uid(self, name: str, doc: Mapping[str, Any]) -> str:
        match name:
            case "start":
                return str(doc["uid"])
            case "descriptor" | "stream_resource":
                self._run_of[doc["uid"]] = doc["run_start"]
                return str(doc["run_start"])
            case "stop":
                return str(doc["run_start"])
            case "event" | "event_page" | "stream_datum":
                return self._run_of[doc["descriptor"]]
        raise ValueError(f"the document log doesn't know documents of the kind {name!r}")


def document_line(name: str, doc: Mapping[str, Any]) -> bytes:
    """One line of a document log. NumPy values become plain ones; NaN stays NaN (Python's JSON)."""
    return json.dumps({"name": name, "doc": doc}, default=_plain, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"a document holds {value!r} of type {type(value).__name__}, which has no JSON form")
