"""A run's document log, as far as it says what the run is and where its frames are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..layout import Layout, found_uri, resolve_uri

if TYPE_CHECKING:  # clients have no scope file
    from ..config import Scope

RUN_UID = re.compile(r"[A-Za-z0-9-]{8,64}")
_FREQUENT = tuple(
    f'{{"name":{space}"{name}"'.encode() for name in ("event", "event_page", "stream_datum") for space in ("", " ")
)
"""How lines begin that say nothing about a run as a whole; there may be 10^5 of them."""


class UnknownRunError(LookupError):
    """No run of this uid has begun here."""


class RunLogError(ValueError):
    """A complete line that is not a document. Names the file and the line."""


@dataclass(frozen=True)
class RunDataset:
    """One array of a run."""

    name: str
    stream: str
    uri: str
    """``data://ROOT/relative``."""
    recorded_path: str | None
    """The ``file://`` uri of its array as Tiled saw it when it was acquired."""
    described: dict[str, Any] = field(default_factory=dict)
    """Its data key in the descriptor."""
    planned: int | None = None
    """Frames that the plan asked for."""
    registered: bool = False
    """It was there before the run: nobody counted its frames or made checksums of them."""

    def path(self, layout: Layout, scope: Scope, view: str) -> Path | None:
        """Where ``hardware``, ``tiled`` or ``clients`` see it; None outside the storage roots, or under one that is gone."""
        try:
            return resolve_uri(layout, scope, self.uri, view)
        except ValueError:
            return None


class RunLog:
    """The documents of a log that say what a run is. It may still grow: a last line without its newline is not yet written."""

    def __init__(self, file: BinaryIO) -> None:
        self.start: dict[str, Any] | None = None
        self.stop: dict[str, Any] | None = None
        self.configuration: dict[str, dict[str, Any]] = {}
        """What each stream's descriptor says of the devices' settings, by stream."""
        self._resources: dict[str, dict[str, Any]] = {}
        self._data_keys: dict[str, tuple[str, dict[str, Any]]] = {}
        for number, line in enumerate(_complete_lines(file), start=1):
            if line.startswith(_FREQUENT):
                continue
            try:
                entry = json.loads(line)
                self._take(entry["name"], entry["doc"])
            except (ValueError, KeyError, TypeError) as error:
                name = Path(file.name).name
                raise RunLogError(f"documents/{name}, line {number}: not a document ({error})") from None

    @classmethod
    def read(cls, layout: Layout, uid: str) -> RunLog:
        """The log of a run that has begun.

        Raises
        ------
        UnknownRunError
            Where there is none.
        RunLogError
            Where it is damaged.
        """
        check_uid(uid)
        try:
            with layout.document_log(uid).open("rb") as file:
                log = cls(file)
        except FileNotFoundError:
            raise UnknownRunError(f"no run {uid} is known here ({layout.documents})") from None
        if log.start is None:
            raise UnknownRunError(f"run {uid} has not begun: its document log is empty")
        return log

    @property
    def unfinished(self) -> bool:
        """Begun and not stopped. The writer's lock counts from the start document on: before it may not be taken yet."""
        return self.start is not None and self.stop is None

    @property
    def datasets(self) -> dict[str, RunDataset]:
        """The arrays that documents tell of, by name, in their order."""
        found = {}
        registered = bool((self.start or {}).get("registered"))
        for name, resource in self._resources.items():
            stream, described = self._data_keys.get(name, ("primary", {}))
            parameters = resource.get("parameters", {})
            uri = parameters.get("uri_client", resource.get("uri", ""))
            recorded = resource.get("uri")
            planned = parameters.get("frames_planned")
            found[name] = RunDataset(name, stream, uri, recorded, described, planned, registered)
        return found

    @property
    def announced(self) -> dict[str, str]:
        """The arrays that descriptors name, each with its stream: before the first frame no other document has them."""
        return {name: stream for name, (stream, described) in self._data_keys.items() if "external" in described}

    def untold(self, scope: Scope, layout: Layout) -> dict[str, RunDataset]:
        """Arrays that the stop document counts and no other document tells of: the run failed before."""
        uid = (self.start or {}).get("uid", "")
        counts = (self.stop or {}).get("frames") or {}
        names = [name for name, count in counts.items() if count and name not in self._resources]
        return {name: RunDataset(name, "primary", found_uri(layout, scope, uid, name), None) for name in names}

    def saturation(self, name: str, dtype: str) -> int:
        """Grey value at which a dataset's camera saturates: by its bit depth where that was recorded, else its data type."""
        for settings in self.configuration.values():
            depth = settings.get(f"{name}_bit_depth")
            if isinstance(depth, int) and depth > 0:
                return int((1 << depth) - 1)
        return {"uint8": 255, "uint16": 65535}.get(dtype, 65535)

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self.start = doc
        elif name == "stop":
            self.stop = doc
        elif name == "stream_resource":
            self._resources[doc["data_key"]] = doc
        elif name == "descriptor":
            stream = doc.get("name", "primary")
            for key, described in doc["data_keys"].items():
                self._data_keys[key] = (stream, described)
            for device in (doc.get("configuration") or {}).values():
                self.configuration.setdefault(stream, {}).update(device.get("data") or {})


def check_uid(uid: str) -> None:
    """Refuse what can't be a run's uid before it becomes part of a path."""
    if not RUN_UID.fullmatch(uid):
        raise UnknownRunError(f"{uid[:80]!r} is no run's uid (8 to 64 letters, digits and hyphens)")


def _complete_lines(file: BinaryIO) -> Iterator[bytes]:
    return (line for line in file if line.endswith(b"\n"))
