"""What must be true before anything is started: one stack a data directory, room on the disk, free ports."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from ..layout import Layout
from ._children import StartError
from ._reaper import GRACE_S

if TYPE_CHECKING:
    from ..config import Scope

_GOING_DOWN_S = GRACE_S + 3
"""How long a killed stack may need until the last of its processes is gone."""


def create(layout: Layout) -> None:
    """Make the data directory.

    Raises
    ------
    StartError
        Where it can't be written.
    """
    try:
        layout.create()
        probe = layout.services / ".writable"
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        where = error.filename or layout.data
        raise StartError(
            f"the data directory {layout.data} can't be used: {where}: {error.strerror or error}:"
            " choose another with --data, or make this one writable"
        ) from None


def lock(layout: Layout) -> int:
    """Take the data directory for this process; the descriptor holds the lock until every copy of it is closed.

    Raises
    ------
    StartError
        Where another stack has it: names that one's pid.
    """
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _GOING_DOWN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A dead holder's children are about to be ended by its reaper; a look at the lock by `status` lasts microseconds.
            pid = holder(layout)
            if not alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(descriptor)
            raise StartError(
                f"a stack already runs on {layout.data} (pid {pid}): use it, or stop it with"
                f" 'queuescope down --data {layout.data}'"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor


def holder(layout: Layout) -> int | None:
    """Pid of the supervisor that holds the data directory, None where nobody does.

    After a ``kill -9`` of the supervisor it is held, under the dead process's pid, until the reaper has ended its children.
    """
    try:
        descriptor = os.open(layout.lock, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(descriptor, 32, 0).decode().strip()
        return int(text) if text else -1
    else:
        return None
    finally:
        os.close(descriptor)


def room(scope: Scope, layout: Layout) -> None:
    """There must be `storage.min_free_gb` free where volumes go.

    Raises
    ------
    StartError
        Otherwise: says how much is free and how much is needed.
    """
    folder = layout.root(scope, scope.storage.root, "clients")
    folder = folder if folder.is_dir() else layout.data
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < scope.storage.min_free_gb:
        raise StartError(
            f"{folder} has {free_gb:.1f} GB free, less than the {scope.storage.min_free_gb:.10g} GB needed"
            " (scope.yml: storage.min_free_gb): free some space, choose another disk with --data, or lower the limit"
        )


@dataclass(frozen=True)
class Ports:
    """Where the two servers will listen."""

    http_host: str
    http: int
    tiled_host: str
    tiled: int

    def environ(self) -> dict[str, str]:
        """Overrides that make `load_scope` in every child process agree."""
        return {
            "QUEUESCOPE_SERVICES__HTTP__PORT": str(self.http),
            "QUEUESCOPE_SERVICES__TILED": f"{{host: {self.tiled_host}, port: {self.tiled}}}",
        }


def ports(scope: Scope) -> Ports:
    """Check that the ports are free, and find free ones where the scope says 0.

    Raises
    ------
    StartError
        Names the port, the process that has it where that can be seen, and the remedy.
    """
    from ..config import TiledService  # `holder` and `alive` are asked by commands that have no scope

    http = scope.services.http
    tiled = scope.services.tiled if isinstance(scope.services.tiled, TiledService) else TiledService()
    with ExitStack() as stack:  # both are held until both are known, so that they differ
        found = [
            _free(stack, http.host, http.port, "services.http.port", "--http-port 0 takes any free one"),
            _free(stack, tiled.host, tiled.port, "services.tiled.port", "0 takes any free one"),
        ]
        for name in ("control", "info"):
            address = getattr(scope.services.zmq, name)
            if address and address.startswith("tcp://"):
                host, _, port = address.removeprefix("tcp://").rpartition(":")
                host = "0.0.0.0" if host == "*" else host
                _free(stack, host, int(port), f"services.zmq.{name}", "leave it out to use a unix socket")
    return Ports(http.host, found[0], tiled.host, found[1])


def _free(stack: ExitStack, host: str, port: int, entry: str, remedy: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # as the servers do: an old connection is no hindrance
    try:
        listener.bind((host, port))
        listener.listen(1)
    except OSError as error:
        who = _listener(port) if port else ""
        reason = f"is in use{who}" if who or "in use" in str(error) else f"can't be used: {error.strerror}"
        raise StartError(
            f"port {port} of {host} {reason} (scope.yml: {entry}): stop that process or choose another port ({remedy})"
        ) from None
    return int(listener.getsockname()[1])


def _listener(port: int) -> str:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows other processes' sockets to root only
        return ""
    for connection in connections:
        if (
            connection.laddr
            and connection.laddr.port == port
            and connection.status == psutil.CONN_LISTEN
            and connection.pid
        ):
            try:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def wait_until_free(layout: Layout, timeout_s: float) -> bool:
    """Wait until nobody holds the data directory."""
    deadline = time.monotonic() + timeout_s
    while holder(layout) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int | None) -> bool:
    """A process of this pid exists and is not a zombie."""
    if not pid or pid < 0:
        return False
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
