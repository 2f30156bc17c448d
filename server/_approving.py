"""What waits for a person's approval, and what a person decides (R5.5)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from anyio import to_thread
from pydantic import ConfigDict

from ..described import Described
from ..ledger import Approval, Approvals, Hold, Ledger, waits_for_approval
from ._context import Context
from ._control import LOCK_KEY
from ._problems import Problem
from ._queue import QueueUnreachable, ask


class Waiting(Described):
    """A queue item that doesn't start until a person approves it."""

    model_config = ConfigDict(extra="forbid")

    item_uid: str
    body: str
    """Stands for plan and parameters as they are now; send it along, so that you approve what you saw."""
    op_key: str | None
    plan: str
    kwargs: dict[str, Any]
    sample_id: str | None
    user: str | None
    user_group: str
    hold: Hold


class Decision(Described):
    """What a person decided."""

    model_config = ConfigDict(extra="forbid")

    item_uid: str
    approved: bool
    by: str
    reason: str
    at: float
    problems: list[str]
    """What could not be done with the queue; a refused plan never starts in any case."""


def approval_hold(approval: Approval) -> Hold:
    needs = f"queuescope approve {approval.item_uid}"
    detail = f"{approval.plan} of the {approval.user_group} waits for a person's approval"
    return Hold(reason="approval", since=approval.asked_at, needs=needs, detail=detail)


async def waiting(context: Context) -> list[Waiting]:
    """Every item in the queue that waits, in the queue's order.

    Raises
    ------
    Problem
        ``queue_unreachable``.
    """
    if not _asks_anybody(context):
        return []
    return [found for item in await _queue(context) if (found := await to_thread.run_sync(_waiting, context, item))]


def _asks_anybody(context: Context) -> bool:
    return any(context.scope.agents.approval_of(role) != "none" for role in ("agent", "operator", "admin"))


def _waiting(context: Context, item: dict[str, Any]) -> Waiting | None:
    approval = waits_for_approval(context.scope.agents, _approvals(context.layout.ledger_db), item)
    if approval is None or approval.state != "pending":
        return None
    return Waiting(
        item_uid=approval.item_uid,
        body=approval.body,
        op_key=approval.op_key,
        plan=approval.plan,
        kwargs=approval.kwargs,
        sample_id=approval.sample_id,
        user=item.get("user"),
        user_group=approval.user_group,
        hold=approval_hold(approval),
    )


async def decide(context: Context, item_uid: str, approved: bool, reason: str, by: str, body: str | None) -> Decision:
    """Approve an item, or refuse it: then it ends as failed, with the reason.

    Raises
    ------
    Problem
        ``nothing_to_approve``, ``body_changed``, ``decided_already``, ``queue_unreachable``.
    """
    approvals = _approvals(context.layout.ledger_db)
    item = next((one for one in await _queue(context) if one.get("item_uid") == item_uid), None)
    approval = None
    if item is not None:
        approval = await to_thread.run_sync(waits_for_approval, context.scope.agents, approvals, item)
    if approval is None:
        past = await to_thread.run_sync(approvals.of_item, item_uid)
        approval = next((one for one in reversed(past) if one.state != "pending"), None)
        if approval is None:
            raise Problem(
                "nothing_to_approve", f"no item {item_uid!r} waits for an approval: see GET /api/scope/approvals"
            )
    if body is not None and body != approval.body:
        raise Problem("body_changed", f"item {item_uid} was edited since you looked at it: look again")
    decided = await to_thread.run_sync(approvals.decide, approval, approved, by, reason)
    if decided.state != ("approved" if approved else "refused"):
        raise Problem(
            "decided_already", f"item {item_uid} was {decided.state} by {decided.decided_by}: {decided.reason}"
        )
    problems: list[str] = []
    if not approved and item is not None:
        await _take_out(context, item_uid, problems)
    return Decision(
        item_uid=item_uid,
        approved=approved,
        by=str(decided.decided_by),
        reason=str(decided.reason),
        at=float(decided.decided_at or 0),
        problems=problems,
    )


async def _take_out(context: Context, item_uid: str, problems: list[str]) -> None:
    """The queue ends a refused item as failed when it is removed; until then it is held back."""
    params = {"uid": item_uid, "lock_key": context.layout.key(LOCK_KEY)}
    try:
        reply = await ask(context.control, "queue_item_remove", params)
        if not reply.get("success"):
            problems.append(f"queue_item_remove: {reply.get('msg')}")
    except QueueUnreachable as error:
        problems.append(str(error))


async def _queue(context: Context) -> list[dict[str, Any]]:
    try:
        return list((await ask(context.control, "queue_get")).get("items", ()))
    except QueueUnreachable as error:
        raise Problem("queue_unreachable", str(error)) from None


@cache
def _approvals(path: Path) -> Approvals:
    return Approvals(Ledger(path))
