"""The ledger: one SQLite file, written by the router, the manager and the worker, read by everybody.

It survives every restart and doesn't depend on queueserver's history, which loses what this keeps: results of plans and the runs
of a plan whose worker died. What is in it is on disk when the call that wrote it returns (WAL, synchronous FULL).
"""

from __future__ import annotations

import contextlib
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._body import digest_of_columns
from ._schema import STEPS, statements

SCHEMA_VERSION = len(STEPS)

_KEPT = 4
"""Connections that stay open for the next caller. The last one to close would write the whole log back."""


class Ledger:
    """Opens the file, making it where there is none. Safe to use from several processes and threads, not over a fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        weakref.finalize(self, _close, self._idle)
        with self.connect() as connection:
            if _version(connection) < SCHEMA_VERSION:
                connection.execute("PRAGMA journal_mode = WAL")  # kept in the file
                connection.create_function("body_of", 2, digest_of_columns, deterministic=True)
                connection.execute("BEGIN IMMEDIATE")
                for step in STEPS[_version(connection) :]:  # none where another process was first
                    for statement in statements(step):
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {max(SCHEMA_VERSION, _version(connection))}")
            if (version := _version(connection)) != SCHEMA_VERSION:
                raise RuntimeError(
                    f"{path} has ledger schema {version}, this version of queuescope reads {SCHEMA_VERSION}:"
                    " install the version that wrote it"
                )

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection whose work is committed at the end, on disk when that returns; undone where an error comes out."""
        connection = self._idle.pop() if self._idle else self._open()
        try:
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close what is open; it opens again by itself."""
        _close(self._idle)

    def next_scan_id(self) -> int:
        """The next run number: 1, 2, 3 … over all restarts."""
        with self.connect() as connection:
            (value,) = connection.execute(
                "INSERT INTO counters VALUES ('scan_id', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value"
            ).fetchone()
        return int(value)


def _close(connections: list[sqlite3.Connection]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
