"""Who has the microscope: one named holder, kept in the data directory, on queueserver's lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Literal

from ..hardware import log_safety
from ..layout import Layout
from ..ledger import READS_ONLY, Control, before_control, read_control, write_control
from ._context import Context
from ._problems import Problem
from ._queue import QueueUnreachable, ask

Mode = Literal["agents", "person", "maintenance"]
LOCK_KEY = "control"
"""Name of the secret that the queue is locked with (``keys/control``)."""


async def hand_over(context: Context, mode: Mode, reason: str, by: str) -> tuple[Control, list[str]]:
    """Give the microscope to somebody; returns that, and what could not be done with the queue.

    Taken by a person: the queue is locked and starts nothing, a running plan pauses at its next checkpoint. Handed to the
    agents: unlocked, a plan that paused for this goes on, autostart as it was.
    """
    layout = context.layout
    now = read_control(layout)
    control = Control(mode=mode, by=by, reason=reason, since=time.time())
    before = before_control(layout)
    if mode != "agents" and now.mode == "agents":
        before = {}
    write_control(layout, control, before)  # the guard refuses agents from here on
    log_safety(layout, "control", mode=mode, by=by, reason=reason, was=now.mode)
    problems: list[str] = []
    try:
        if mode == "agents":
            await _give_back(context, before, problems)
        else:
            before = await _take(context, before, control, problems)
            write_control(layout, control, before)
    except QueueUnreachable as error:
        problems.append(str(error))
    return control, problems


async def _take(context: Context, before: dict[str, Any], control: Control, problems: list[str]) -> dict[str, Any]:
    status = await _settled(context)
    before.setdefault("autostart", bool(status.get("queue_autostart_enabled")))
    before.setdefault("paused", status.get("manager_state") == "executing_queue")
    lock = {
        "lock_key": context.layout.key(LOCK_KEY),
        "user": control.by,
        "note": f"{control.mode}: {control.reason}",
        "queue": True,
        "environment": False,
    }
    await _do(context, "queue_autostart", {"enable": False}, problems)
    await _do(context, "lock", lock, problems)
    if status.get("manager_state") == "executing_queue":
        await _do(context, "re_pause", {"option": "deferred"}, problems)
    return before


async def _settled(context: Context) -> dict[str, Any]:
    """The queue server's status once it isn't about to start a plan: that plan must be paused, too."""
    deadline = time.monotonic() + STARTING_S
    while True:
        status = await ask(context.control, "status")
        if status.get("manager_state") != "starting_queue" or time.monotonic() > deadline:
            return status
        await asyncio.sleep(0.02)


async def _give_back(context: Context, before: dict[str, Any], problems: list[str]) -> None:
    await _do(context, "unlock", {"lock_key": context.layout.key(LOCK_KEY)}, problems)
    status = await ask(context.control, "status")
    if before.get("paused") and status.get("manager_state") == "paused":
        await _do(context, "re_resume", {}, problems)
    if before.get("autostart"):
        await _do(context, "queue_autostart", {"enable": True}, problems)


async def _do(context: Context, method: str, params: dict[str, Any], problems: list[str]) -> None:
    reply = await ask(context.control, method, params)
    if not reply.get("success"):
        problems.append(f"{method}: {reply.get('msg')}")


def agents_may(layout: Layout, route: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent's change of the queue needs beside its body: the lock's key, while a person has the microscope.

    Raises
    ------
    Problem
        ``person_in_control`` where it would queue a plan that moves meanwhile.
    """
    control = read_control(layout)
    if control.mode == "agents":
        return {}
    if route in _QUEUES:
        items = payload.get("items") or [payload.get("item")]
        names = [item.get("name") for item in items if isinstance(item, dict)]
        moving = [name for name in names if name not in READS_ONLY]
        if moving:
            raise Problem(
                "person_in_control",
                f"{moving[0]} would move the microscope, which {control.by} has taken ({control.mode}: {control.reason}): wait"
                " until it is handed back (GET /api/scope, control)",
            )
    return {"lock_key": layout.key(LOCK_KEY)}


_QUEUES = frozenset(("/api/queue/item/add", "/api/queue/item/add/batch", "/api/queue/item/update"))

STARTING_S = 2.0
"""A plan starts faster."""

STOP_QUEUE_S = 120.0
"""How long a queue server that is silent is asked again after a halt."""


async def stop_queue(context: Context) -> None:
    """Switch autostart off, as soon as the queue server hears it: the halt itself has not waited for this."""
    deadline = time.monotonic() + STOP_QUEUE_S
    while time.monotonic() < deadline:
        try:
            if (await ask(context.control, "queue_autostart", {"enable": False})).get("success"):
                return
        except QueueUnreachable:
            pass
        await asyncio.sleep(0.5)
    log_safety(context.layout, "the queue could not be stopped after a halt")
