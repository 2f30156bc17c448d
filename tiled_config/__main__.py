"""The courier: ``python -m queuescope.tiled_config --scope NAME|PATH --data DIR``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from ..config import Scope
from ..layout import Layout, process_arguments
from ..lean import no_collection
from ._lean import lean
from ._logging import log_to_stderr
from ._prepare import COURIER, tiled_url

LAST_CALL_S = 1.5
"""A request to a Tiled that hangs is given up this long after SIGTERM; the run is replayed at the next start."""


def main() -> None:
    """Deliver until SIGTERM or Ctrl-C; exit code 0."""
    scope, layout = process_arguments("The courier: delivers document logs to Tiled.")
    layout.create()
    lock = _only_one(layout.services / "courier.lock")
    answers = Answers(layout.courier_socket)
    with no_collection(), lean("sqlalchemy", "sqlalchemy.pool"):
        from ._courier import Courier, logger

    log_to_stderr(logger)
    volumes = layout.root(scope, scope.storage.root, "tiled") / "volumes"
    courier = Courier(layout.documents, lambda: _catalog(scope, layout), volumes)

    answers.stuck = courier.stuck

    def stop(number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, LAST_CALL_S)
        courier.stop()

    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    courier.run()
    signal.setitimer(
        signal.ITIMER_REAL, 0
    )  # Python gives signals their defaults back while it ends: it would be killed
    lock.close()


def _only_one(path: Path) -> IO[str]:
    """Two couriers would deliver every run twice: the second one ends here."""
    file = path.open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        sys.exit(f"a courier with pid {file.read().strip() or '?'} delivers these documents already ({path})")
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


class Answers:
    """Answers whoever connects with one byte, and with none while deliveries are stuck: by that the supervisor tells a courier
    that is frozen from one that has nothing to do.
    """

    def __init__(self, path: Path) -> None:
        self.stuck: Callable[[], bool] = lambda: False
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen()
        threading.Thread(target=self._answer, name="answers", daemon=True).start()

    def _answer(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):  # who asked has gone
                connection.sendall(b"" if self.stuck() else b".")


def _catalog(scope: Scope, layout: Layout) -> Any:
    import stamina
    from httpx import Timeout
    from tiled.client import from_uri

    from ._courier import TiledNotThere

    stamina.set_active(False)  # the courier has its own patience
    url = tiled_url(scope, layout)
    if url is None:
        raise TiledNotThere(
            "no address: set services.tiled {host, port} in the scope, or start it with `queuescope up`"
        )
    where = urlsplit(url)
    try:  # before an HTTP client is made, for 40 ms of CPU: a Tiled that starts is asked a few times
        socket.create_connection((where.hostname or "", where.port or 80), timeout=3).close()
    except OSError as error:
        raise TiledNotThere(f"{where.netloc}: {error}") from None
    options = {"api_key": layout.key(COURIER), "timeout": Timeout(30, connect=3), "show_progress": False}
    # Bluesky's writer wants the data source of what it updates, and would ask for it each time.
    return from_uri(url, include_data_sources=True, **options)


if __name__ == "__main__":
    main()
