"""Executions in SQLite: written by the worker before a plan starts and when it ends, read by everybody.

The file survives every restart and doesn't depend on queueserver's history, which loses what this keeps: results of plans
and the runs of a plan whose worker died.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIRST = """
CREATE TABLE executions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    item_uid TEXT NOT NULL UNIQUE,
    op_key TEXT,
    attempt INTEGER NOT NULL,
    plan TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    user TEXT NOT NULL,
    user_group TEXT NOT NULL,
    state TEXT NOT NULL,
    run_uids TEXT NOT NULL DEFAULT '[]',
    result TEXT,
    error TEXT,
    started_at REAL NOT NULL,
    finished_at REAL
);
CREATE INDEX executions_by_key ON executions (op_key);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_PEOPLE = """
CREATE TABLE approvals (
    item_uid TEXT NOT NULL,
    body TEXT NOT NULL,
    op_key TEXT,
    plan TEXT NOT NULL,
    kwargs TEXT NOT NULL,
    sample_id TEXT,
    user_group TEXT NOT NULL,
    asked_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    decided_by TEXT,
    reason TEXT,
    decided_at REAL,
    PRIMARY KEY (item_uid, body)
);
CREATE INDEX approvals_by_kind ON approvals (user_group, plan, state);
CREATE TABLE samples (
    id TEXT PRIMARY KEY,
    facts TEXT NOT NULL,
    opened_by TEXT NOT NULL,
    opened_at REAL NOT NULL,
    closed_by TEXT,
    closed_at REAL
);
"""
_STEPS = (_FIRST, _PEOPLE)
"""What makes each version of the file out of the one before."""
SCHEMA_VERSION = len(_STEPS)


@dataclass(frozen=True)
class Execution:
    """One start of a plan."""

    item_uid: str
    op_key: str | None
    attempt: int
    plan: str
    kwargs: dict[str, Any]
    user: str
    user_group: str
    state: str
    """``running paused succeeded failed cancelled interrupted``."""
    run_uids: tuple[str, ...]
    result: Any
    error: str | None
    started_at: float
    finished_at: float | None


class Ledger:
    """Opens the file, making it where there is none. Safe to use from several processes and threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.connect() as connection:
            if _version(connection) < SCHEMA_VERSION:
                connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
                connection.execute("BEGIN IMMEDIATE")
                for step in _STEPS[_version(connection) :]:  # none where another process was first
                    for statement in step.split(";"):
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {max(SCHEMA_VERSION, _version(connection))}")
            if (version := _version(connection)) != SCHEMA_VERSION:
                raise RuntimeError(
                    f"{path} has ledger schema {version}, this version of queuescope reads {SCHEMA_VERSION}:"
                    " install the version that wrote it"
                )

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection whose work is committed at the end, on disk when that returns."""
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")
        finally:
            connection.close()

    def start(
        self,
        *,
        item_uid: str,
        op_key: str | None,
        attempt: int,
        plan: str,
        kwargs: dict[str, Any],
        user: str,
        user_group: str,
    ) -> None:
        """Record that a plan starts now."""
        with self.connect() as connection:
            connection.execute(
                "INSERT INTO executions (item_uid, op_key, attempt, plan, kwargs, user, user_group, state, started_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 'running', ?)",
                (item_uid, op_key, attempt, plan, json.dumps(kwargs), user, user_group, time.time()),
            )

    def add_run(self, item_uid: str, run_uid: str) -> None:
        """Record a run at its opening, so that it is known even if the worker dies in it."""
        with self.connect() as connection:
            connection.execute(
                "UPDATE executions SET run_uids = json_insert(run_uids, '$[#]', ?) WHERE item_uid = ?",
                (run_uid, item_uid),
            )

    def set_state(self, item_uid: str, state: str, *, result: Any = None, error: str | None = None) -> None:
        """Record ``running``, ``paused`` or an end; an end carries the plan's result or the error."""
        finished = None if state in ("running", "paused") else time.time()
        with self.connect() as connection:
            connection.execute(
                "UPDATE executions SET state = ?, result = ?, error = ?, finished_at = ? WHERE item_uid = ?",
                (state, None if result is None else json.dumps(result), error, finished, item_uid),
            )

    def by_item(self, item_uid: str) -> Execution | None:
        return self._one("item_uid = ?", item_uid)

    def by_key(self, op_key: str) -> Execution | None:
        """The last attempt of an operation."""
        return self._one("op_key = ?", op_key)

    def by_run(self, run_uid: str) -> Execution | None:
        return self._one("EXISTS (SELECT 1 FROM json_each(run_uids) WHERE value = ?)", run_uid)

    def _one(self, condition: str, value: str) -> Execution | None:
        with self.connect() as connection:
            row = connection.execute(
                f"SELECT * FROM executions WHERE {condition} ORDER BY id DESC LIMIT 1",
                (value,),
            ).fetchone()
        return None if row is None else _execution(row)

    def next_scan_id(self) -> int:
        """The next run number: 1, 2, 3 … over all restarts."""
        with self.connect() as connection:
            (value,) = connection.execute(
                "INSERT INTO counters VALUES ('scan_id', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value"
            ).fetchone()
        return int(value)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _execution(row: sqlite3.Row) -> Execution:
    return Execution(
        item_uid=row["item_uid"],
        op_key=row["op_key"],
        attempt=row["attempt"],
        plan=row["plan"],
        kwargs=json.loads(row["kwargs"]),
        user=row["user"],
        user_group=row["user_group"],
        state=row["state"],
        run_uids=tuple(json.loads(row["run_uids"])),
        result=None if row["result"] is None else json.loads(row["result"]),
        error=row["error"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
