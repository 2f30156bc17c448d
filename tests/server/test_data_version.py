"""Whether the key database has changed is asked by many threads at once."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from queuescope.server._data_version import DataVersion


def test_many_threads_see_it_while_it_is_written(tmp_path: Path) -> None:
    """A number or None, whoever else asks at the same time: anything else answered requests with 500."""
    path = tmp_path / "keys.db"
    writer = sqlite3.connect(path, check_same_thread=False)
    writer.execute("CREATE TABLE written (x)")
    writer.commit()
    version, ended = DataVersion(path), threading.Event()

    def write() -> None:
        while not ended.is_set():
            writer.execute("INSERT INTO written VALUES (1)")
            writer.commit()

    def ask(_: int) -> set[type]:
        return {type(version.now()) for _ in range(5000)}

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with ThreadPoolExecutor(6) as askers:
            seen = set[type]().union(*askers.map(ask, range(6)))
    finally:
        ended.set()
        writing.join()
        writer.close()
        version.close()
    assert int in seen
    assert seen <= {int, type(None)}
