"""What runs now, for everybody: ``runtime.json``, and the supervisor's own account for `queuescope status`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import uuid
from pathlib import Path
from typing import Any

import psutil

from ..layout import Layout

CHECKER = "qs-checker"
"""Process name of what checks plans (`startup`)."""
PIDS = ("supervisor", "valkey", "tiled", "watchdog", "manager", "worker", "http", "courier", "hardware")


def write_atomically(path: Path, tree: Any) -> None:
    """Replace a JSON file at once: a reader sees the old one or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    draft.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def server_id(layout: Layout) -> str:
    """UUID of this data directory, made once: a client recognises its server by it."""
    path = layout.services / "server_id"
    if not path.is_file():
        draft = path.with_name(f".server_id.{secrets.token_hex(4)}")
        draft.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        os.replace(draft, path)
    return path.read_text(encoding="ascii").strip()


class QueueserverPids:
    """Finds queueserver's manager and worker: forked children of the watchdog, told apart by the control socket. The checker of
    plans, another one, has its name (Linux).
    """

    def __init__(self, control: str) -> None:
        self._control = control
        self._known: tuple[frozenset[tuple[int, str]], int | None, int | None] = (frozenset(), None, None)

    def pids(self, watchdog: int | None) -> tuple[int | None, int | None]:
        """Pids of manager and worker, None where there is none."""
        try:
            process = psutil.Process(watchdog) if watchdog else None
            same = process.cmdline() if process else []
            children = [p for p in process.children() if _command(p) == same] if process else []
        except psutil.NoSuchProcess:
            children = []
        found: dict[psutil.Process, str] = {}
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found[child] = child.name()
        here = frozenset((p.pid, name) for p, name in found.items())
        known, manager, worker = self._known
        if here != known or manager is None:
            manager = next((p.pid for p in found if self._listens(p)), None)
            others = [p for p, name in found.items() if p.pid != manager and name != CHECKER]
            worker = max(others, key=lambda p: p.create_time()).pid if manager and others else None
            self._known = (here, manager, worker)
        return manager, worker

    def _listens(self, process: psutil.Process) -> bool:
        kind, _, address = self._control.partition("://")
        try:
            if kind == "ipc":
                return any(c.laddr == address for c in process.net_connections("unix"))
            port = int(address.rpartition(":")[2])
            return any(
                c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN
                for c in process.net_connections("tcp")
            )
        except psutil.NoSuchProcess:
            return False


def _command(process: psutil.Process) -> list[str] | None:
    """None for one that is gone, or that is dead and not buried yet."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return None


def memory(pid: int) -> tuple[int, int] | None:
    """Resident bytes of a process, and its proportional share (pages shared after a fork counted once); None when gone.

    Where the system can't tell the share (macOS), both are the resident bytes.
    """
    try:
        process = psutil.Process(pid)
        rss = process.memory_info().rss
        try:
            return rss, getattr(process.memory_full_info(), "pss", rss)
        except psutil.AccessDenied:
            return rss, rss
    except psutil.NoSuchProcess:
        return None
