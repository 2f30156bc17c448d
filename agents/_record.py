"""What a durable script read and decided: kept beside its key file, so that it takes the same branch when it runs again."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TABLE = """
CREATE TABLE IF NOT EXISTS record (
    server TEXT NOT NULL, namespace TEXT NOT NULL, step TEXT NOT NULL, value TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (server, namespace, step))
"""


class Record:
    """A SQLite file, ``exec.key.record`` for ``exec.key``: of several processes that write one step, the first one counts.

    On this machine, not on the server: a decision may be about several microscopes, and stands when none of them answers.
    """

    def __init__(self, keyfile: str | os.PathLike[str]) -> None:
        self._path = Path(f"{os.fspath(keyfile)}.record")

    def read(self, server: str, namespace: str, step: str) -> tuple[Any] | None:
        """What was recorded, or None where nothing was (None itself may have been)."""
        if not self._path.exists():
            return None
        with self._connect() as connection:
            found = connection.execute(
                "SELECT value FROM record WHERE server = ? AND namespace = ? AND step = ?", (server, namespace, step)
            ).fetchone()
        return None if found is None else (json.loads(found[0]),)

    def write(self, server: str, namespace: str, step: str, value: Any) -> Any:
        """Record a value, on disk when this returns. Returns what is recorded, as JSON gives it back.

        Raises
        ------
        TypeError, ValueError
            Where the value has no JSON form: it could not be replayed.
        """
        told = json.dumps(value, allow_nan=False)
        if not self._path.exists():
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
        with self._connect() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?, ?)", (server, namespace, step, told, time.time())
            )
        found = self.read(server, namespace, step)
        assert found is not None
        return found[0]

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                connection.execute(_TABLE)
                yield connection
        finally:
            connection.close()
