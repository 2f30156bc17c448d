"""Whether an SQLite database has changed since somebody looked."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path


class DataVersion:
    """SQLite's ``data_version`` of a file: another number after any commit to it by another connection."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=0, check_same_thread=False)
        self._lock = threading.Lock()
        """Threads that step one connection's statement at once get each other's rows, or none."""

    def now(self) -> int | None:
        """None while somebody writes."""
        try:
            with self._lock:
                return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None

    def close(self) -> None:
        self._connection.close()
