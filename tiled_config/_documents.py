"""Document logs: one file a run, one document a line, written by the worker under a lock, read here.

A document counts when its line is complete. The log is complete when its last line is the stop document.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..formats import SUFFIXES, volume_of
from ..layout import frames_on_disk

Document = dict[str, Any]

ORPHAN_REASON = "the process that acquired this run ended without a stop document (crash, kill or power failure)"
_TAIL = 65536


class DocumentLogError(ValueError):
    """A complete line that is not a document. Names the file and the line."""


class DocumentLog:
    """Reads one run's log from where it stopped reading before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.lines = 0

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        """The complete lines not read yet, as (name, document). A half line at the end stays for the next time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                document = self._parse(line)
                self.offset += len(line)
                self.lines += 1
                yield document

    def _parse(self, line: bytes) -> tuple[str, Document]:
        try:
            record = json.loads(line)
            return record["name"], record["doc"]
        except (ValueError, KeyError, TypeError) as error:
            raise DocumentLogError(
                f'{self.path}, line {self.lines + 1}: not a document ({error!r}); expected {{"name": …, "doc": …}}'
            ) from error


def is_complete(path: Path) -> bool:
    """Whether the log's last complete line is a stop document (reads the file's end only)."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL)
        file.seek(start)
        tail = file.read()
        if start and tail.count(b"\n") < 2:  # one very long line
            file.seek(0)
            tail = file.read()
    lines = tail.split(b"\n")
    if len(lines) < 2:
        return False
    try:
        record = json.loads(lines[-2])
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("name") == "stop"


def abandoned(path: Path, volumes: Path) -> dict[str, int | None] | None:
    """Frames on disk, by dataset, of a run whose log nobody holds; None where somebody does.

    ``volumes`` is the folder where runs' volumes lie: one may have frames before any document tells of it.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        told = [document for name, document in DocumentLog(path) if name == "stream_resource"]
        return _frames(path.stem, told, volumes)


def _frames(run_uid: str, told: list[Document], volumes: Path) -> dict[str, int | None]:
    """Frames on disk of the datasets that documents tell of, and of those that lie there without."""
    frames = {document["data_key"]: frames_on_disk(volume_of(document["uri"])) for document in told}
    for suffix in SUFFIXES.values():
        for volume in sorted(volumes.glob(f"{run_uid}_*{suffix}")):
            dataset = volume.name.removeprefix(f"{run_uid}_").removesuffix(suffix)
            frames.setdefault(dataset, frames_on_disk(volume))
    return frames


def close_orphan(path: Path, volumes: Path) -> Document | None:
    """Append a stop document to a log that nobody writes any more; return it, or None where there is nothing to close.

    The lock decides: whoever writes a log holds it from before the first line. A half line at the end is dropped.
    """
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        log = DocumentLog(path)
        start: Document | None = None
        stream_names: dict[str, str] = {}
        num_events: dict[str, int] = {}
        told: list[Document] = []
        for name, document in log:
            if name == "start":
                start = document
            elif name == "descriptor":
                stream_names[document["uid"]] = document["name"]
                num_events.setdefault(document["name"], 0)
            elif name in ("event", "event_page", "stream_datum"):
                stream = stream_names.get(document["descriptor"])
                if stream is None:
                    raise DocumentLogError(f"{path}, line {log.lines}: a {name} before its descriptor")
                num_events[stream] = max(num_events[stream], _last_seq_num(name, document))
            elif name == "stream_resource":
                told.append(document)
            elif name == "stop":
                return None
        if start is None:
            return None
        stop = {
            "uid": str(uuid.uuid4()),
            "time": time.time(),
            "run_start": start["uid"],
            "exit_status": "fail",
            "reason": ORPHAN_REASON,
            "num_events": num_events,
            "frames": _frames(path.stem, told, volumes),
            "interrupted": True,
        }
        _append(file, log.offset, {"name": "stop", "doc": stop})
        return stop


def _last_seq_num(name: str, document: Document) -> int:
    if name == "stream_datum":
        return int(document["seq_nums"]["stop"]) - 1
    if name == "event_page":
        return int(max(document["seq_num"], default=0))
    return int(document["seq_num"])


def _append(file: BinaryIO, offset: int, record: Document) -> None:
    file.truncate(offset)
    file.seek(offset)
    file.write(json.dumps(record).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
