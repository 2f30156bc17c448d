"""The audit: what happened to every operation, in order, for ever. A row's id is the cursor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ._ledger import Ledger


@dataclass(frozen=True)
class Event:
    cursor: int
    time: float
    """Seconds since the epoch."""
    key: str | None
    attempt: int | None
    type: str
    """``state decision output``; ``progress`` is told and not kept."""
    data: dict[str, Any]


class Events:
    """Of a data directory, in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def after(self, cursor: int = 0, key: str | None = None, limit: int = 1000) -> list[Event]:
        """Events after a cursor, oldest first; of one operation, or of all."""
        only = "" if key is None else " AND key = :key"
        with self._ledger.connect() as connection:
            rows = connection.execute(
                f"SELECT id, time, key, attempt, type, data FROM events WHERE id > :cursor{only} ORDER BY id LIMIT :limit",
                {"cursor": cursor, "key": key, "limit": limit},
            )
            return [
                Event(row["id"], row["time"], row["key"], row["attempt"], row["type"], json.loads(row["data"]))
                for row in rows
            ]

    def last(self) -> int:
        """The newest cursor; 0 where nothing has happened yet."""
        with self._ledger.connect() as connection:
            (found,) = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
        return int(found)
