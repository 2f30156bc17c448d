"""What is said of an operation: the ledger's record, why it waits, and how far it is."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from ..ledger import READS_ONLY, WAITING, Approvals, Decisions, Hold, Operation, Waits, waits_for_approval
from ._approving import approval_hold
from ._context import Context
from ._holds import people_hold, released_hold
from ._op_models import OperationFailure, OperationProgress, OperationView
from ._problems import Problem
from ._queue import QueueUnreachable, ask
from ._runs import read_run

ASK_S = 0.3
"""A queue server that is silent costs an answer its hold, not its truth."""


@dataclass(frozen=True)
class Facts:
    """What holds back more than one operation, read once for all of them."""

    people: list[Hold]
    released: Hold | None
    disk: dict[str, Hold]
    decisions: dict[str, Hold]
    status: dict[str, Any]
    """Of the queue server; empty where it doesn't answer."""


async def views(
    context: Context,
    approvals: Approvals,
    decisions: Decisions,
    operations: list[Operation],
    status: dict[str, Any] | None = None,
) -> list[OperationView]:
    """Each as clients see it. What has ended costs no question to anybody; ``status``: what the queue server said just now."""
    if status is None and not all(operation.ended for operation in operations):
        status = await _status(context)

    def look() -> list[OperationView]:
        facts = None if status is None else _facts(context, decisions, status)
        return [_view(context, approvals, facts, operation) for operation in operations]

    return await to_thread.run_sync(look)


def view_of_ended(context: Context, approvals: Approvals, operation: Operation) -> OperationView:
    """The same of one operation that has ended, for a thread."""
    return _view(context, approvals, None, operation)


async def _status(context: Context) -> dict[str, Any]:
    with contextlib.suppress(QueueUnreachable):
        return await ask(context.control, "status", deadline_s=ASK_S)
    return {}


def _facts(context: Context, decisions: Decisions, status: dict[str, Any]) -> Facts:
    return Facts(
        list(people_hold(context)),
        released_hold(context),
        Waits(context.layout).told(),
        {uid: decision.hold() for uid, decision in decisions.waiting().items()},
        status,
    )


def _view(context: Context, approvals: Approvals, facts: Facts | None, operation: Operation) -> OperationView:
    return OperationView(
        key=operation.key,
        attempt=operation.attempt,
        state=operation.state,
        hold=None if facts is None or operation.ended else _hold(context, approvals, facts, operation),
        plan=operation.body.plan,
        kwargs=dict(operation.body.kwargs),
        sample_id=operation.body.sample_id,
        session_id=operation.body.session_id,
        user=operation.user,
        item_uid=operation.item_uid,
        run_uids=list(operation.run_uids),
        result=operation.result,
        error=None
        if operation.error is None
        else OperationFailure(code=operation.error.code, detail=operation.error.detail),
        progress=_progress(context, operation),
        submitted_at=operation.submitted_at,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
    )


def _hold(context: Context, approvals: Approvals, facts: Facts, operation: Operation) -> Hold | None:
    if operation.state not in WAITING:
        if operation.paused_at is not None:
            needs = "resume, stop or abort the plan"
            return Hold(reason="paused", since=operation.paused_at, needs=needs, detail="the plan is paused")
        if silent := facts.status.get("worker_silent"):
            return Hold(reason="restarting", detail=str(silent))
        uid = str(operation.item_uid)
        return facts.disk.get(uid) or facts.decisions.get(uid)
    agents = operation.user_group == "agent" and operation.body.plan not in READS_ONLY
    for hold in facts.people:
        if hold.reason != "person" or agents:
            return hold
    if facts.released is not None:
        return facts.released
    if operation.item_uid is not None:
        item = {**operation.item(), "item_uid": operation.item_uid, "user_group": operation.user_group}
        approval = waits_for_approval(context.scope.agents, approvals, item)
        if approval is not None and approval.state == "pending":
            return approval_hold(approval)
        if operation.item_uid in facts.disk:
            return facts.disk[operation.item_uid]
    return _queue(facts.status)


def _queue(status: dict[str, Any]) -> Hold | None:
    if status.get("manager_state") == "paused":
        needs = "resume, stop or abort the plan"
        return Hold(reason="paused", needs=needs, detail="the plan before it is paused")
    if status and not status.get("queue_autostart_enabled"):
        return Hold(reason="queue_stopped", needs="switch autostart on", detail="autostart is off")
    return None


def _progress(context: Context, operation: Operation) -> OperationProgress | None:
    if operation.state != "running" or not operation.run_uids:
        return None
    try:
        datasets = read_run(context.scope, context.layout, operation.run_uids[-1], None).datasets
    except Problem:  # its start document is not on disk yet
        return None
    total = sum(dataset.shape[0] or 0 for dataset in datasets)
    return (
        OperationProgress(done=sum(dataset.frames_written or 0 for dataset in datasets), total=total) if total else None
    )
