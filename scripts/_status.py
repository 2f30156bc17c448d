"""What runs and how it does: the facts behind ``queuescope status``."""

from __future__ import annotations

import json
import time
from typing import Any

from ..layout import Layout
from . import _probes
from ._checks import alive, holder
from ._probes import NoAnswer, QueueServer
from ._runtime import PIDS, memory

_QUEUE = (
    "manager_state",
    "re_state",
    "items_in_queue",
    "running_item_uid",
    "queue_autostart_enabled",
    "worker_environment_exists",
)


def status(layout: Layout) -> dict[str, Any]:
    """``{running, data, scope, phase, uptime_s, ready, reasons, catalog, queue, processes, total}``; times in s, sizes in bytes.

    ``rss`` counts pages that processes share in each of them; ``pss`` divides them up, so only its total is memory in use.
    """
    pid = holder(layout)
    runtime = layout.runtime() if pid is not None else None
    if runtime is None:
        return {"running": pid is not None, "data": str(layout.data), "ready": False, "reasons": ["nothing runs"]}
    state = _state(layout)
    parts = state.get("parts", {})
    processes: dict[str, Any] = {}
    for name in PIDS:
        used = memory(runtime["pids"][name]) if runtime["pids"].get(name) else None
        part = parts.get(name, {})
        processes[name] = {
            "pid": runtime["pids"].get(name) if used else None,
            "state": _truth(part.get("state"), used is not None),
            "restarts": part.get("restarts", 0),
            "detail": part.get("detail"),
            "rss": used[0] if used else 0,
            "pss": used[1] if used else 0,
        }
    ready, reasons = _probes.ready(runtime["http"], layout.key("operator"))
    return {
        "running": True,
        "data": str(layout.data),
        "scope": runtime["scope"],
        "phase": state.get("phase") if alive(pid) else "killed, its processes are being ended,",
        "uptime_s": round(time.time() - state["started_at"], 1) if "started_at" in state else None,
        "ready": ready,
        "reasons": reasons,
        "holds": _probes.holds(runtime["http"], layout.key("operator")),
        "http": runtime["http"],
        "tiled": runtime["tiled"],
        "catalog": _catalog(runtime["tiled"], layout),
        "queue": _queue(runtime["zmq"]["control"]),
        "processes": processes,
        "total": {kind: sum(p[kind] for p in processes.values()) for kind in ("rss", "pss")},
    }


def _truth(state: str | None, alive: bool) -> str | None:
    """The supervisor's word, unless the process has gone since (or the supervisor itself has)."""
    if alive:
        return state or "running"
    return "gone" if state in ("starting", "running") else state


def _state(layout: Layout) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((layout.services / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _catalog(url: str | None, layout: Layout) -> bool:
    """Whether runs come into it."""
    if url is None:
        return False
    try:
        _probes.ask_courier(layout)
        return _probes.http_request(url.removesuffix("/api/v1") + "/healthz", timeout_s=5)[0] == 200
    except NoAnswer:
        return False


def _queue(control: str) -> dict[str, Any] | None:
    try:
        answer = QueueServer(control).status(timeout_s=2)
    except NoAnswer:
        return None
    return {name: answer.get(name) for name in _QUEUE}
