"""Which queue items may start: what people hold back stays in the queue, what they refused ends as failed, and what belongs to an
operation that has started, ended or moved on to another item does not start again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..config import Scope
from ..hardware import ArmedFile, LatchFile
from ..layout import Layout
from ..ledger import (
    READS_ONLY,
    Approval,
    ApprovalError,
    Approvals,
    Failure,
    Hold,
    Ledger,
    Operations,
    Waits,
    bell,
    meta_of,
    read_control,
    waits_for_approval,
)
from ..plans import ParameterError, Template
from ._space import Space


class Gate:
    """Asked by the manager before an item starts, and again by the worker, whatever way the item took."""

    def __init__(self, scope: Scope, layout: Layout, templates: Mapping[str, Template] | None = None) -> None:
        """``templates``: the plans whose frames are held against the disk's room; the worker needs none for what it asks."""
        self._scope, self._layout, ledger = scope, layout, Ledger(layout.ledger_db)
        self._approvals = Approvals(ledger)
        self.operations = Operations(ledger, bell(layout))
        self._templates = templates or {}
        self._space, self._waits = Space(scope, layout, self._templates), Waits(layout)

    def hold(self, item: Mapping[str, Any]) -> Hold | None:
        """Why this item waits; None where it may start, or has been refused."""
        if item.get("item_type", "plan") != "plan":
            return None
        released = LatchFile.released(self._layout).read()
        if released is not None:
            detail = f"released by {released.by}: {released.reason}"
            return Hold(reason="released", since=released.at, needs="queuescope reclaim", detail=detail)
        control = read_control(self._layout)
        if control.mode != "agents" and item.get("user_group") == "agent" and item.get("name") not in READS_ONLY:
            detail = f"{control.by} has the microscope ({control.mode}): {control.reason}"
            return Hold(reason="person", since=control.since, needs="queuescope control agents", detail=detail)
        approval = self._approval(item)
        if approval is None:
            return self._disarmed(item) or self._disk(item)
        if approval.state == "refused":
            return None
        needs = f"queuescope approve {approval.item_uid}"
        return Hold(reason="approval", since=approval.asked_at, needs=needs, detail=f"{approval.plan} needs approval")

    def _disarmed(self, item: Mapping[str, Any]) -> Hold | None:
        """An agent's plan with light waits until an operator arms. Hardware on another computer refuses the light itself."""
        armed = self._scope.safety.arm == "none" or ArmedFile(self._layout).until() is not None
        template = self._templates.get(str(item.get("name")))
        elsewhere = self._scope.services.hardware is not None
        if armed or elsewhere or template is None or item.get("user_group") != "agent":
            return None
        try:
            dose = template.estimate(template.check(item.get("kwargs") or {}), self._scope).dose
        except ParameterError:  # the plan's own check says so, better
            return None
        lights = ", ".join(sorted(light for light, used in dose.items() if used))
        if not lights:
            return None
        hold = Hold(reason="disarmed", needs="POST /api/scope/arm", detail=f"not armed for light ({lights})")
        return self._waits.put(item["item_uid"], hold)

    def _disk(self, item: Mapping[str, Any]) -> Hold | None:
        """A plan whose frames don't fit now would be refused by the recorder: it waits instead."""
        room = self._space.room(str(item.get("name")), item.get("kwargs") or {})
        if room is None or room.fits:
            self._waits.clear(item["item_uid"])
            return None
        return self._waits.tell(item["item_uid"], str(item["name"]), room)

    def anything_waits(self) -> bool:
        """Whether it is told of any item that it waits for room."""
        return bool(self._waits.told())

    def keep_waits(self, item_uids: Collection[str]) -> None:
        """Nothing but these is queued or runs: what others waited for is told no more."""
        self._waits.keep(item_uids)

    def refusal(self, item: Mapping[str, Any]) -> str | None:
        """Who refused this item and why, where somebody did."""
        approval = self._approval(item)
        if approval is None or approval.state != "refused":
            return None
        return f"ApprovalError: {approval.plan} was refused by {approval.decided_by}: {approval.reason}"

    def require(self, item: Mapping[str, Any]) -> None:
        """
        Raises
        ------
        ApprovalError
            Where the item has no approval and needs one. Nothing has moved.
        """
        approval = self._approval(item)
        if approval is None:
            return
        if approval.state == "refused":
            raise ApprovalError(f"{approval.plan} was refused by {approval.decided_by}: {approval.reason}")
        raise ApprovalError(
            f"{approval.plan} of the {approval.user_group} needs a person's approval (scope.yml: agents.approval), and has"
            f" none: queuescope approve {approval.item_uid}"
        )

    def record_refused(self, item: Mapping[str, Any], error: str) -> None:
        """A refused item ended as failed, without having started."""
        self.operations.refuse(item, Failure("approval_refused", error))

    def spent(self, item: Mapping[str, Any]) -> str | None:
        """Why this copy of a keyed item must not start, where its operation says so: the worker would refuse it."""
        key = op_key(item)
        operation = None if key is None else self.operations.by_key(key)
        if operation is None or operation.state == "accepted":
            return None
        if operation.item_uid == item["item_uid"] and operation.state == "queued":
            return None
        return f"operation {key} is {operation.state} as item {operation.item_uid}: item {item['item_uid']} doesn't run"

    def ended(self, item: Mapping[str, Any], exit_status: str, why: str, unclaimed_waits: bool) -> None:
        """The manager has an item's end. What its worker didn't tell is interrupted, what no worker claimed never started.

        Parameters
        ----------
        unclaimed_waits
            The worker is gone: what it hadn't claimed is dispatched again.
        """
        uid = item["item_uid"]
        self.operations.lost(uid, why or f"the worker was gone before it told how the plan ended ({exit_status})")
        if not unclaimed_waits:
            self.operations.not_started(uid, Failure("not_started", why or f"the plan did not start ({exit_status})"))

    def _approval(self, item: Mapping[str, Any]) -> Approval | None:
        return waits_for_approval(self._scope.agents, self._approvals, item)


def op_key(item: Mapping[str, Any]) -> str | None:
    """The operation key in an item's meta, or None for an unkeyed item."""
    key = meta_of(item).get("op_key")
    return key if isinstance(key, str) and key else None
