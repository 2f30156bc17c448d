"""The microscope goes to the Micro-Manager GUI and comes back (R5.7), with the queue stopped meanwhile."""

from __future__ import annotations

import time

from ..hardware import HardwareError, HardwareInfo, Latch, LatchFile
from ._by_hand import by_hand
from ._context import Context
from ._problems import Problem
from ._queue import QueueUnreachable, ask

_NO_PLAN = ("idle", "closing_environment", "creating_environment", "destroying_environment")


async def release(context: Context, by: str, reason: str) -> tuple[HardwareInfo, list[str]]:
    """Stop the queue, then let the hardware go; returns its state, and what could not be done with the queue.

    Raises
    ------
    Problem
        ``busy`` while a plan runs or is paused, or a recording is open. The queue is as it was then.
    """
    problems: list[str] = []
    autostart = False
    try:
        autostart = bool((await _refuse_running(context)).get("queue_autostart_enabled"))
        await ask(context.control, "queue_autostart", {"enable": False})
        await _refuse_running(context, again=autostart)  # one may have begun before that was heard
    except QueueUnreachable as error:
        problems.append(f"{error}: nothing was done with the queue")
    try:
        info = await by_hand(context, HardwareInfo, "release", by=by, reason=reason)
    except Problem:
        await _autostart(context, autostart, problems)
        raise
    _mark(context, by, reason)
    return info, problems


async def reclaim(context: Context, by: str, resume_queue: bool) -> tuple[HardwareInfo, list[str]]:
    """Have the hardware load everything again; the queue stays stopped unless ``resume_queue``."""
    info = await by_hand(context, HardwareInfo, "reclaim", by=by)
    problems: list[str] = []
    if info.stage == "ready":
        LatchFile.released(context.layout).clear()
        await _autostart(context, resume_queue, problems)
    return info, problems


async def note_reclaimed(context: Context) -> None:
    """After a rearm: the hardware may have loaded the rest, wherever it keeps its own mark."""
    file = LatchFile.released(context.layout)
    if not file.exists() or context.scope.micromanager.process != "own":
        return
    try:
        if (await context.hardware_info.ask(2.0)).stage == "ready":
            file.clear()
    except (HardwareError, TimeoutError):
        return


async def _refuse_running(context: Context, again: bool = False) -> dict[str, object]:
    status = await ask(context.control, "status")
    state = str(status.get("manager_state"))
    if status.get("worker_environment_exists") and state not in _NO_PLAN:
        await _autostart(context, again, [])
        raise Problem("busy", f"a plan is there (the queue server is {state}): wait for its end, or abort it first")
    return status


async def _autostart(context: Context, enable: bool, problems: list[str]) -> None:
    if not enable:
        return
    try:
        reply = await ask(context.control, "queue_autostart", {"enable": True})
        if not reply.get("success"):
            problems.append(f"queue_autostart: {reply.get('msg')}")
    except QueueUnreachable as error:
        problems.append(str(error))


def _mark(context: Context, by: str, reason: str) -> None:
    """Where the hardware has a data directory of its own, this one must know as well."""
    file = LatchFile.released(context.layout)
    if not file.exists():
        file.write(Latch(by=by, reason=reason, at=time.time()))
