"""What a person has approved or refused of that which asks for it (R5.5): kept, and bound to the very body that was shown."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..config import Agents
from ._items import meta_of
from ._ledger import Ledger

NO_KIND = frozenset(("protocol",))
"""Plans of several others: that one was approved says nothing of the next (`first_of_kind`)."""
READS_ONLY = frozenset(("read_state",))
"""Plans that move nothing and need no light: nobody asks a person for them."""


class ApprovalError(RuntimeError):
    """A plan that needs a person's approval has none, or was refused. Nothing moved."""


@dataclass(frozen=True)
class Approval:
    """One body of one queue item."""

    item_uid: str
    body: str
    """Digest of plan, parameters and sample: an item that is edited afterwards is another one."""
    op_key: str | None
    plan: str
    kwargs: dict[str, Any]
    sample_id: str | None
    user_group: str
    asked_at: float
    state: Literal["pending", "approved", "refused"]
    decided_by: str | None
    reason: str | None
    decided_at: float | None


class Approvals:
    """Approvals of a data directory, in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def asked(self, item: Mapping[str, Any]) -> Approval:
        """The approval of a queue item as it is now; asked for from now on, where it is new."""
        found = self._one(item["item_uid"], body_of(item))
        if found is not None:
            return found
        meta = meta_of(item)
        with self._ledger.connect() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO approvals (item_uid, body, op_key, plan, kwargs, sample_id, user_group, asked_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    item["item_uid"],
                    body_of(item),
                    meta.get("op_key"),
                    item["name"],
                    json.dumps(item.get("kwargs") or {}),
                    meta.get("sample_id"),
                    item.get("user_group") or "",
                    time.time(),
                ),
            )
        asked = self._one(item["item_uid"], body_of(item))
        assert asked is not None
        return asked

    def decide(self, approval: Approval, approved: bool, by: str, reason: str) -> Approval:
        """What a person decided; the first decision stays."""
        with self._ledger.connect() as connection:
            connection.execute(
                "UPDATE approvals SET state = ?, decided_by = ?, reason = ?, decided_at = ?"
                " WHERE item_uid = ? AND body = ? AND state = 'pending'",
                (
                    "approved" if approved else "refused",
                    by,
                    reason,
                    time.time(),
                    approval.item_uid,
                    approval.body,
                ),
            )
        decided = self._one(approval.item_uid, approval.body)
        assert decided is not None
        return decided

    def of_item(self, item_uid: str) -> list[Approval]:
        """Everything that was asked for an item, oldest first."""
        with self._ledger.connect() as connection:
            rows = connection.execute("SELECT * FROM approvals WHERE item_uid = ? ORDER BY asked_at", (item_uid,))
            return [_approval(row) for row in rows]

    def kind_approved(self, approval: Approval) -> bool:
        """Whether the same `kind_of` plan was approved before, for the same group and sample; never so for `NO_KIND`."""
        if approval.plan in NO_KIND:
            return False
        with self._ledger.connect() as connection:
            rows = connection.execute(
                "SELECT kwargs FROM approvals WHERE user_group = ? AND plan = ? AND sample_id IS ? AND state = 'approved'",
                (approval.user_group, approval.plan, approval.sample_id),
            )
            kind = kind_of(approval.plan, approval.kwargs)
            return any(kind_of(approval.plan, json.loads(row["kwargs"])) == kind for row in rows)

    def _one(self, item_uid: str, body: str) -> Approval | None:
        with self._ledger.connect() as connection:
            row = connection.execute(
                "SELECT * FROM approvals WHERE item_uid = ? AND body = ?", (item_uid, body)
            ).fetchone()
        return None if row is None else _approval(row)


def waits_for_approval(agents: Agents, approvals: Approvals, item: Mapping[str, Any]) -> Approval | None:
    """The approval that keeps a queue item from starting: pending or refused; None where it may start."""
    asks = agents.approval_of(str(item.get("user_group") or ""))
    if asks == "none" or item.get("item_type", "plan") != "plan" or item.get("name") in READS_ONLY:
        return None
    approval = approvals.asked(item)
    if approval.state == "approved":
        return None
    if approval.state == "pending" and asks == "first_of_kind" and approvals.kind_approved(approval):
        return None
    return approval


def kind_of(plan: str, kwargs: Any) -> tuple[str, ...]:
    """The plan, what it repeats (its ``do``), what that repeats, and so on: ``("time_lapse", "multi_position", "snap")``."""
    do = kwargs.get("do") if isinstance(kwargs, Mapping) else None
    if not isinstance(do, Mapping):
        return (plan,)
    return (plan, *kind_of(str(do.get("plan")), do.get("kwargs")))


def body_of(item: Mapping[str, Any]) -> str:
    """Digest of what a person approves: plan, parameters, sample, and whose it is."""
    body = [
        item["name"],
        item.get("args") or [],
        item.get("kwargs") or {},
        meta_of(item).get("sample_id"),
        item.get("user_group") or "",
    ]
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _approval(row: sqlite3.Row) -> Approval:
    return Approval(**{**dict(row), "kwargs": json.loads(row["kwargs"])})
