"""A data directory with its Tiled server and courier, as the supervisor starts them, for `bench catalog`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ..layout import DATA_ENV, DEFAULT_SCOPE, SCOPE_ENV, Layout
from ..scripts._probes import NoAnswer, http_request

START_S = 180.0


class Stand:
    """Started by ``with``, stopped at its end; `restart` in between."""

    def __init__(self, data: Path) -> None:
        self.layout = Layout(data)
        self.layout.create()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._environ = {
            **os.environ,
            DATA_ENV: str(data),
            SCOPE_ENV: DEFAULT_SCOPE,
            "QUEUESCOPE_SERVICES__TILED": f"{{host: 127.0.0.1, port: {port}}}",
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Tiled and the courier; returns when Tiled answers."""
        for name, module in (("tiled", "tiled_server"), ("courier", "__main__")):
            with (self.layout.logs / f"{name}.log").open("ab") as log:
                command = [sys.executable, "-m", f"queuescope.tiled_config.{module}"]
                self._processes.append(subprocess.Popen(command, env=self._environ, stdout=log, stderr=log))
        deadline = time.monotonic() + START_S
        while True:
            try:
                http_request(f"{self.url}/healthz")
                return
            except NoAnswer:
                if time.monotonic() > deadline or self._processes[0].poll() is not None:
                    raise RuntimeError(f"Tiled did not start: see {self.layout.logs}") from None
            time.sleep(0.1)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
