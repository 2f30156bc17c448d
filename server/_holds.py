"""What waits, and for whom: the holds of `GET /api/ready`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from anyio import to_thread

from ..hardware import HardwareError, LatchFile
from ..ledger import Hold, Waits, read_control
from ._approving import waiting
from ._context import Context
from ._deciding import decisions_of
from ._models import Component
from ._problems import Problem
from ._queue import QueueUnreachable, ask

ASK_S = 0.15
"""Asked a second time, after it has not said that it is well: it touches no adapter."""


async def holds(context: Context, status: dict[str, Any], hardware: Component) -> list[Hold]:
    """From what is on disk, what the queue server's status says, and how the hardware answered."""
    found = [*people_hold(context), *_queue(status)]
    if context.scope.micromanager.process == "own" and hardware.ok is False:
        found += await _hardware(context, hardware)
    elif context.scope.micromanager.process == "worker":
        found += _released(context)
    if status.get("items_in_queue"):
        with contextlib.suppress(Problem):  # the queue server's own component says so
            found += [one.hold for one in await waiting(context)]
    if status.get("running_item_uid"):
        found += await to_thread.run_sync(_decisions, context, status["running_item_uid"])
    return found + await _disk(context, status)


def people_hold(context: Context) -> Iterator[Hold]:
    """What people hold back: halted, an interlock, a person in control."""
    for reason, latch in (
        ("halted", LatchFile.halt(context.layout).read()),
        ("interlock", LatchFile.interlock(context.layout).read()),
    ):
        if latch is not None:
            yield Hold.model_validate(
                {
                    "reason": reason,
                    "since": latch.at,
                    "needs": "queuescope rearm --resume-queue",
                    "detail": f"{latch.by}: {latch.reason}",
                }
            )
    control = read_control(context.layout)
    if control.mode != "agents":
        yield Hold(
            reason="person",
            since=control.since,
            needs="queuescope control agents --reason …",
            detail=f"{control.by} has the microscope ({control.mode}): {control.reason}",
        )


async def _disk(context: Context, status: dict[str, Any]) -> list[Hold]:
    """What waits for room; where nothing does and the disk is below its mark, whatever comes next."""
    waits = Waits(context.layout).told()
    if waits:
        there = {status.get("running_item_uid")}
        if status.get("items_in_queue"):
            with contextlib.suppress(QueueUnreachable):  # the queue server's own component says so
                there |= {item["item_uid"] for item in (await ask(context.control, "queue_get")).get("items", ())}
        waits = {uid: hold for uid, hold in waits.items() if uid in there}
    if waits:
        return list(waits.values())
    try:
        room = await context.room.ask(ASK_S)
    except TimeoutError:
        return []
    return [] if room is None or room.fits else [room.hold("what records frames", None)]


def _decisions(context: Context, item_uid: str) -> list[Hold]:
    """What the plan that runs asks its client."""
    decision = decisions_of(context.layout.ledger_db).waiting().get(item_uid)
    return [] if decision is None else [decision.hold()]


def _queue(status: dict[str, Any]) -> Iterator[Hold]:
    if status.get("manager_state") == "paused":
        yield Hold(reason="paused", needs="resume, stop or abort the plan", detail="a plan is paused")
    elif status and not status.get("queue_autostart_enabled"):
        yield Hold(reason="queue_stopped", needs="switch autostart on", detail="autostart is off")


def _released(context: Context) -> list[Hold]:
    hold = released_hold(context)
    return [] if hold is None else [hold]


def released_hold(context: Context) -> Hold | None:
    """Another program has cameras and ports."""
    latch = LatchFile.released(context.layout).read()
    if latch is None:
        return None
    detail = f"released by {latch.by}: {latch.reason}"
    return Hold(reason="released", since=latch.at, needs="queuescope reclaim", detail=detail)


async def _hardware(context: Context, hardware: Component) -> list[Hold]:
    """The process is released, waits for a person, loads, or is gone and comes back; a plan whose turn it is waits with it."""
    try:
        info = await context.hardware_info.ask(ASK_S)
    except (HardwareError, TimeoutError):
        return [Hold(reason="restarting", detail=hardware.detail)]
    if info.stage == "released":
        return _released(context) or [Hold(reason="released", needs="queuescope reclaim", detail=str(info.waits))]
    if info.stage == "ready":
        return []
    needs = "queuescope rearm" if info.waits else None
    return [Hold(reason="restarting", since=info.started_at, needs=needs, detail=hardware.detail)]
