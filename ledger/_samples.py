"""What people say of a sample. Its dose and whether it is open are the hardware's to tell."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from ._ledger import Ledger


@dataclass(frozen=True)
class SampleRecord:
    id: str
    facts: dict[str, Any]
    """Strain, stain, mount, medium, refractive index: what was given."""
    opened_by: str
    opened_at: float
    """The last time; seconds since the epoch."""
    closed_by: str | None
    closed_at: float | None


class Samples:
    """Samples of a data directory, in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def opened(self, sample_id: str, facts: dict[str, Any], by: str) -> None:
        """Opened now; facts given earlier stay unless they are given anew."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute("SELECT facts FROM samples WHERE id = ?", (sample_id,)).fetchone()
            known = {} if row is None else json.loads(row["facts"])
            connection.execute(
                "INSERT INTO samples (id, facts, opened_by, opened_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " facts = excluded.facts, opened_by = excluded.opened_by, opened_at = excluded.opened_at,"
                " closed_by = NULL, closed_at = NULL",
                (sample_id, json.dumps({**known, **facts}), by, time.time()),
            )

    def closed(self, sample_id: str, by: str) -> None:
        with self._ledger.connect() as connection:
            connection.execute(
                "UPDATE samples SET closed_by = ?, closed_at = ? WHERE id = ? AND closed_at IS NULL",
                (by, time.time(), sample_id),
            )

    def get(self, sample_id: str) -> SampleRecord | None:
        with self._ledger.connect() as connection:
            row = connection.execute("SELECT * FROM samples WHERE id = ?", (sample_id,)).fetchone()
        return None if row is None else SampleRecord(**{**dict(row), "facts": json.loads(row["facts"])})
