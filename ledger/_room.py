"""Room for frames on the acquisitions' disk, and what waits for it: told in one way by whoever refuses, holds or reports."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..config import Scope
from ..layout import Layout
from ._holds import Hold

REFRESH_S = 10.0
"""How old the numbers in a hold may be."""


@dataclass(frozen=True)
class Room:
    """What is there, and what is wanted of it, in bytes."""

    path: Path
    """Folder of the storage root that frames are written to, as this machine sees it."""
    needed: int
    reserve: int
    """What stays free (scope.yml: storage.min_free_gb)."""
    free: int
    remedy: str
    """As a command, or in words."""

    @property
    def fits(self) -> bool:
        return self.needed + self.reserve <= self.free

    def __str__(self) -> str:
        needs = f"{_gb(self.needed)} are needed and " if self.needed else ""
        return (
            f"{needs}{_gb(self.reserve)} must stay free (scope.yml: storage.min_free_gb), {_gb(self.free)} are free in"
            f" {self.path}"
        )

    def hold(self, what: str, since: float | None) -> Hold:
        """Why ``what`` waits."""
        return Hold(reason="disk", since=since, needs=self.remedy, detail=f"{what} waits for room on the disk: {self}")


def room_for(scope: Scope, layout: Layout, needed: int = 0) -> Room | None:
    """Room for this many bytes of frames; None where this machine doesn't see the disk that they go to.

    The hardware process may be another computer: then what counts is the folder through which this one sees the same disk.
    """
    folder = layout.root(scope, scope.storage.root, "tiled")
    if scope.services.hardware is None:  # the recorder makes the folders that are missing
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    others = sorted(set(scope.storage.roots) - {scope.storage.root})
    remedy = f"queuescope archive --older-than 30d --to {others[0]}" if others else f"make room in {folder}"
    return Room(folder, needed, int(scope.storage.min_free_gb * 1e9), free, remedy)


class Waits:
    """What waits for room, or to be armed, now, by queue item: a small file each, in ``services/waits``.

    Written by the manager for items in the queue, and by the worker for a plan that waits between two rounds. A file of an item
    that neither runs nor is queued says nothing: a process that was killed has left it.
    """

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.services / "waits"

    def told(self) -> dict[str, Hold]:
        """By item UID."""
        found = {}
        for file in self._folder.glob("*.json"):
            try:
                found[file.stem] = Hold.model_validate(json.loads(file.read_bytes()))
            except (OSError, ValueError, ValidationError):
                continue  # gone meanwhile
        return found

    def tell(self, item_uid: str, what: str, room: Room) -> Hold:
        """It waits for room: since it was first told."""
        return self.put(item_uid, room.hold(what, None))

    def put(self, item_uid: str, hold: Hold) -> Hold:
        """It waits, for whatever the hold says: since that was first told."""
        file, since, told_at = self._file(item_uid), time.time(), 0.0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(file.read_bytes())
            if told["reason"] == hold.reason:
                since, told_at = float(told["since"]), file.stat().st_mtime
        hold = hold.model_copy(update={"since": since})
        if time.time() - told_at > REFRESH_S:
            with contextlib.suppress(OSError):  # no room even for this: it waits all the same
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
                draft.write_text(hold.model_dump_json(), encoding="utf-8")
                os.replace(draft, file)
        return hold

    def clear(self, item_uid: str) -> None:
        """It waits no more."""
        self._file(item_uid).unlink(missing_ok=True)

    def keep(self, item_uids: Collection[str]) -> None:
        """Nothing but these is queued or runs."""
        for file in self._folder.glob("*.json"):
            if file.stem not in item_uids:
                file.unlink(missing_ok=True)

    def _file(self, item_uid: str) -> Path:
        if "/" in item_uid or item_uid.startswith("."):
            raise ValueError(f"{item_uid!r} is no item's UID")
        return self._folder / f"{item_uid}.json"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
