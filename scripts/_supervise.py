"""The supervisor's work in its process: check, start, stay, stop. Imports nothing heavy: it lives as long as the stack."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from typing import Any

from ..config import Scope
from ..layout import Layout
from . import _checks, _stack
from ._children import Reaper, StartError
from ._probes import zmq_addresses
from ._runtime import PIDS, QueueserverPids, server_id, write_atomically
from ._supervisor import Listener, Supervisor


def supervise(scope: Scope, layout: Layout, listener: Listener, wait_catalog: bool = True, catalog: bool = True) -> int:
    """Run the stack in this process until SIGTERM or Ctrl-C. Returns the exit code. Call it from the main thread.

    Every event goes to ``listener``; a start that fails ends with the event ``error`` and everything stopped again.
    """
    try:
        _checks.create(layout)
        lock = _checks.lock(layout)
    except StartError as error:
        listener("error", {"message": str(error)})
        return 1
    try:
        try:
            _checks.room(scope, layout)
            ports = _checks.ports(scope)
            parts = _stack.parts(scope, layout, ports, catalog)
        except StartError as error:
            listener("error", {"message": str(error)})
            return 1
        reaper = Reaper(layout.runtime_json, lock)
        try:
            return asyncio.run(_run(scope, layout, ports, parts, listener, reaper, wait_catalog))
        finally:
            layout.runtime_json.unlink(missing_ok=True)
            shutil.rmtree(layout.sockets, ignore_errors=True)
            reaper.close()
    finally:
        os.close(lock)


async def _run(
    scope: Scope,
    layout: Layout,
    ports: _checks.Ports,
    parts: list[_stack.Part],
    listener: Listener,
    reaper: Reaper,
    wait_catalog: bool,
) -> int:
    supervisor = Supervisor(parts, listener, reaper, wait_catalog)
    supervisor.changed = _Account(scope, layout, ports, supervisor).write
    supervisor.changed()
    return await supervisor.run()


class _Account:
    """Writes ``runtime.json`` when a pid changed, and ``services/state.json`` when a part's state did."""

    def __init__(self, scope: Scope, layout: Layout, ports: _checks.Ports, supervisor: Supervisor) -> None:
        addresses = zmq_addresses(scope, layout)
        urls: dict[str, str | None] = {**_stack.urls(ports)}
        if all(part.name != "tiled" for part in supervisor.parts):
            urls["tiled"] = None
        self._scope_file = str(scope.path)
        self._layout = layout
        self._supervisor = supervisor
        self._queueserver = QueueserverPids(addresses["control"])
        self._head = {**urls, "zmq": addresses, "scope": scope.name, "server_id": server_id(layout)}
        self._started_at = time.time()
        self._runtime: Any = None
        self._state: Any = None

    def write(self) -> None:
        supervisor = self._supervisor
        pids: dict[str, int | None] = dict.fromkeys(PIDS)
        pids["supervisor"] = os.getpid()
        for name, child in supervisor.children.items():
            pids[name] = child.pid if child.running else None
        pids["manager"], pids["worker"] = self._queueserver.pids(pids["watchdog"])
        runtime = {**self._head, "pids": pids}
        if runtime != self._runtime:
            write_atomically(self._layout.runtime_json, runtime)
            self._runtime = runtime
        state = {
            "phase": supervisor.phase,
            "started_at": self._started_at,
            "scope_file": self._scope_file,
            "parts": {
                name: {"state": s.state, "seconds": s.seconds, "restarts": s.restarts, "detail": s.detail}
                for name, s in supervisor.states.items()
            },
        }
        if state != self._state:
            write_atomically(self._layout.services / "state.json", state)
            self._state = state
