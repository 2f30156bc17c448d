"""The stack that faults are thrown at: the bundled one, with a witness in its hardware process and a link that can be cut.

``python -m queuescope.benchmarks._fault_stack --scope SCOPE --data DIR`` starts it in the background and returns when
plans would run. It is the product's own supervisor; only the catalog's server is left out where nobody asks it, and a part's
deaths are forgotten after half a minute, because here they come one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import SCOPES, Scope, load_scope
from ..hardware.simulated import attach
from ..layout import DATA_ENV, SCOPE_ENV, Layout, process_arguments
from ..scripts import _stack, _supervisor
from ..scripts._up import start, stop
from ._witness import WITNESS_ENV, World

CATALOG_ENV = "QUEUESCOPE_BENCH_CATALOG"
"""Set: Tiled is started, too."""
FORGET_S = 30.0
HERE = "127.0.0.2"
"""This machine, by an address for which the supervisor starts no hardware process: that one is "on another host"."""


def fault_scope(bundled: str, folder: Path, trigger: str) -> Scope:
    """A copy of a bundled scope with small sensors and a short call deadline; ``trigger`` paces its volumes."""
    shutil.copytree(SCOPES / bundled, folder)
    for name, pattern, replacement in (
        ("scope.yml", r"call_timeout_s: \d+", "call_timeout_s: 2"),
        ("scope.yml", r"min_free_gb: \d+", "min_free_gb: 0"),
        ("scope.yml", r"(?m)^(volume:.*\n  trigger:) \w+", rf"\1 {trigger}"),
        ("mm.cfg", r"(OnCameraCCD[XY]Size),\d+", r"\1,256"),
        ("mm.cfg", r"(TigerCommHub,SerialPort),.*", r"\1,process"),  # it fires on when the hardware process has died
    ):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(re.sub(pattern, replacement, text), encoding="utf-8")
    return load_scope(folder)


class FaultStack:
    """One start of the stack on a data directory; ``remote``: its hardware process is on the other end of a `Cable`;
    ``catalog``: with Tiled.
    """

    def __init__(self, scope: Scope, layout: Layout, remote: bool = False, catalog: bool = False) -> None:
        self.layout, self.remote = layout, remote
        self._witness = layout.data.with_name(f"{layout.data.name}.witness")
        self.environ = {
            **os.environ,
            SCOPE_ENV: str(scope.path),
            DATA_ENV: str(layout.data),
            WITNESS_ENV: str(self._witness),
            "QUEUESCOPE_SERVICES__HTTP__PORT": "0",
            "QUEUESCOPE_MICROMANAGER__PROCESS": "own",
        }
        if catalog:
            self.environ[CATALOG_ENV] = "1"
        self.cable: Cable | None = None
        self._hardware: subprocess.Popen[bytes] | None = None
        if remote:
            self.cable = Cable()
            self.environ["QUEUESCOPE_SERVICES__HARDWARE"] = f"tcp://{HERE}:{self.cable.near}"
        ours = {name: value for name, value in self.environ.items() if name.startswith("QUEUESCOPE_")}
        self.scope = load_scope(str(scope.path), environ=ours)
        self.world = World(self._witness, self.scope)

    def up(self) -> None:
        """
        Raises
        ------
        RuntimeError
            Where it does not start.
        """
        if self.cable is not None:
            far = {**self.environ, "QUEUESCOPE_SERVICES__HARDWARE": f"tcp://{HERE}:{self.cable.far}"}
            self.layout.create()
            with (self.layout.logs / "hardware.log").open("ab") as log:
                command = [sys.executable, "-m", "queuescope.benchmarks._witness"]
                self._hardware = subprocess.Popen(command, env=far, stdout=log, stderr=log)
        words = ["--scope", str(self.scope.path), "--data", str(self.layout.data)]
        done = subprocess.run(
            [sys.executable, "-m", "queuescope.benchmarks._fault_stack", *words],
            env=self.environ,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    def down(self) -> None:
        stop(self.layout)
        if self._hardware is not None:
            self._hardware.terminate()
            self._hardware.wait(30)
        with contextlib.suppress(ConnectionError):
            attach(self.layout.services).end()
        if self.cable is not None:
            self.cable.close()

    @property
    def runtime(self) -> dict[str, Any]:
        return self.layout.runtime() or {"pids": {}}


class Cable:
    """A TCP link between the stack and its hardware that can be cut: two pairs of ports, for calls and for urgent calls."""

    def __init__(self) -> None:
        self.near, self.far = _two_ports(), _two_ports()
        self._cut = False
        self._closed = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listeners = [socket.create_server((HERE, self.near + n)) for n in (0, 1)]
        for listener, port in zip(self._listeners, (self.far, self.far + 1), strict=True):
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()

    def cut(self) -> None:
        """Every connection ends, at both ends, and no new one comes about."""
        with self._lock:
            self._cut = True
            ended, self._sockets = self._sockets, set()
        for one in ended:
            _shut(one)

    def mend(self) -> None:
        with self._lock:
            self._cut = False

    def close(self) -> None:
        self._closed = True
        for listener in self._listeners:
            _shut(listener)
        self.cut()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while not self._closed:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((HERE, port), timeout=5)
            except OSError:
                _shut(near)
                continue
            far.settimeout(None)
            with self._lock:
                cut = self._cut
                if not cut:
                    self._sockets |= {near, far}
            if cut:
                _shut(near)
                _shut(far)
                continue
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with self._lock:
            self._sockets -= {source, sink}
        _shut(source)
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _two_ports() -> int:
    """A free port whose next one is free, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((HERE, 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind((HERE, port + 1))
                return port


@contextlib.contextmanager
def running(scope: Scope, layout: Layout, remote: bool, catalog: bool = False) -> Iterator[FaultStack]:
    stack = FaultStack(scope, layout, remote, catalog)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def main() -> None:
    scope, layout = process_arguments(str(__doc__))
    _supervisor.RESTARTS_WINDOW_S = FORGET_S
    made = _stack.parts

    def parts(*args: Any) -> list[_supervisor.Part]:
        found = []
        for part in made(*args):
            if part.name == "hardware" and part.service is not None:
                command = (sys.executable, "-P", "-m", "queuescope.benchmarks._witness")
                part = dataclasses.replace(part, service=dataclasses.replace(part.service, command=command))
            if part.name != "tiled" or CATALOG_ENV in os.environ:
                found.append(part)
        return found

    _stack.parts = parts  # type: ignore[assignment]
    began = time.monotonic()
    start(scope, layout, lambda event, facts: None)
    print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
