"""What is known of a run, from its document log and its frame logs alone.

The document log is the truth: it is there before Tiled hears of the run and while Tiled is away. Both logs grow while they
are read; a last line without its newline is not yet written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..config import Scope
from ..layout import Layout, frames_on_disk, resolve_uri
from ._models import Dataset, Run
from ._problems import Problem

_UID = re.compile(r"[A-Za-z0-9-]{8,64}")
_FREQUENT = tuple(
    f'{{"name":{space}"{name}"'.encode() for name in ("event", "event_page", "stream_datum") for space in ("", " ")
)
"""How lines begin that say nothing about a run as a whole; there may be 10^5 of them."""
_STATUS: dict[str, Literal["succeeded", "failed", "aborted"]] = {
    "success": "succeeded",
    "fail": "failed",
    "abort": "aborted",
}


def read_run(scope: Scope, layout: Layout, uid: str, tiled: str | None) -> Run:
    """The run as it is now.

    Parameters
    ----------
    tiled
        Address of Tiled's API, ``http://host:port/api/v1``; None where it isn't known.

    Raises
    ------
    Problem
        ``unknown_run`` for a uid without a document log, ``unreadable_run`` for a log that is damaged.
    """
    if not _UID.fullmatch(uid):
        raise Problem("unknown_run", f"{uid[:80]!r} is no run's uid (8 to 64 letters, digits and hyphens)")
    try:
        with layout.document_log(uid).open("rb") as file:
            documents = _Documents(file)
            writing = documents.unfinished and _is_held(file)
            if documents.unfinished and not writing:  # its writer may have ended it since it was read
                file.seek(0)
                documents = _Documents(file)
    except FileNotFoundError:
        raise Problem("unknown_run", f"no run {uid} is known here") from None
    start, stop = documents.start, documents.stop
    if start is None:
        raise Problem("unknown_run", f"run {uid} has not begun: its document log is empty")
    return Run(
        uid=uid,
        status=_status(stop, writing),
        plan=_text(start.get("plan_name")),
        session_id=_text(start.get("session_id")),
        sample_id=_text(start.get("sample_id")),
        datasets=[_dataset(scope, layout, uid, documents, name, writing, tiled) for name in documents.resources],
    )


def _status(
    stop: dict[str, Any] | None, writing: bool
) -> Literal["running", "succeeded", "failed", "aborted", "interrupted"]:
    """A run whose worker died is `interrupted`, before and after the courier closed its log."""
    if stop is None:
        return "running" if writing else "interrupted"
    return "interrupted" if stop.get("interrupted") else _STATUS.get(stop.get("exit_status", ""), "failed")


class _Documents:
    """The few documents of a log that say what a run is."""

    def __init__(self, file: BinaryIO) -> None:
        self.start: dict[str, Any] | None = None
        self.stop: dict[str, Any] | None = None
        self.resources: dict[str, dict[str, Any]] = {}
        """The stream_resource of each dataset, by data key."""
        self.data_keys: dict[str, tuple[str, dict[str, Any]]] = {}
        """By data key: the name of its stream and what the descriptor says of it."""
        for number, line in enumerate(_complete_lines(file), start=1):
            if line.startswith(_FREQUENT):
                continue
            try:
                entry = json.loads(line)
                self._take(entry["name"], entry["doc"])
            except (ValueError, KeyError, TypeError) as error:
                name = Path(file.name).name
                raise Problem("unreadable_run", f"documents/{name}, line {number}: not a document ({error})") from None

    @property
    def unfinished(self) -> bool:
        """Begun and not stopped. The writer's lock counts from the start document on: before it may not be taken yet."""
        return self.start is not None and self.stop is None

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self.start = doc
        elif name == "stop":
            self.stop = doc
        elif name == "stream_resource":
            self.resources[doc["data_key"]] = doc
        elif name == "descriptor":
            for key, described in doc["data_keys"].items():
                self.data_keys[key] = (doc.get("name", "primary"), described)


def _complete_lines(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))


def _is_held(file: BinaryIO) -> bool:
    """Whether a writer holds the log: the RE worker locks it from open to stop."""
    try:
        import fcntl
    except ImportError:  # Windows, where no RE worker runs
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _dataset(
    scope: Scope, layout: Layout, uid: str, documents: _Documents, name: str, writing: bool, tiled: str | None
) -> Dataset:
    resource = documents.resources[name]
    parameters = resource.get("parameters", {})
    stream, described = documents.data_keys.get(name, ("primary", {}))
    uri = parameters.get("uri_client", resource.get("uri", ""))
    volume = _seen_from(scope, layout, uri, "tiled")  # Tiled runs on this machine
    clients = _seen_from(scope, layout, uri, "clients")
    written = None if volume is None else frames_on_disk(volume)
    return Dataset(
        name=name,
        uri=uri,
        path=None if clients is None else str(clients),
        shape=[parameters.get("frames_planned") if writing else written, *described.get("shape", [])[-2:]],
        dtype=_dtype_name(described.get("dtype_numpy", "")),
        frames_written=written,
        tiled=f"{tiled}/metadata/{uid}/{stream}/{name}" if tiled else None,
    )


def _seen_from(scope: Scope, layout: Layout, uri: str, view: str) -> Path | None:
    try:
        return resolve_uri(layout, scope, uri, view)
    except ValueError:  # outside the storage roots, or under one that the scope no longer has
        return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _dtype_name(described: str) -> str:
    """``<u2`` → ``uint16``, without importing NumPy."""
    match = re.fullmatch(r"[<>|=]?([uif])(\d+)", described)
    if match is None:
        return described
    return {"u": "uint", "i": "int", "f": "float"}[match[1]] + str(8 * int(match[2]))
