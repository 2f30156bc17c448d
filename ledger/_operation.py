"""An operation as the ledger knows it: what was asked for, and what became of its last attempt."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ._body import Body
from ._left import Left

State = Literal["accepted", "queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
WAITING: tuple[State, ...] = ("accepted", "queued")
ACTIVE: tuple[State, ...] = (*WAITING, "running")
ENDS: tuple[State, ...] = tuple(state for state in get_args(State) if state not in ACTIVE)

Retry = Literal["same_key", "after_fix", "ask_person"]

FAILURES: Mapping[str, Retry] = {
    "plan_failed": "after_fix",
    "fit_refused": "after_fix",
    "outside_limits": "after_fix",
    "parameters_refused": "after_fix",
    "body_changed": "after_fix",
    "not_started": "same_key",
    "removed_from_queue": "ask_person",
    "cancelled": "same_key",
    "interrupted": "ask_person",
    "approval_refused": "ask_person",
    "approval_missing": "ask_person",
    "interlock_open": "ask_person",
    "halted": "ask_person",
    "disarmed": "ask_person",
    "released": "ask_person",
    "reference_lost": "ask_person",
    "dose_refused": "ask_person",
    "recording_failed": "same_key",
    "hardware_gone": "same_key",
    "hardware_failed": "ask_person",
}
"""Codes of an operation's ``error``, and what helps: `same_key` is a retry of it, `after_fix` a new operation."""


@dataclass(frozen=True)
class Failure:
    """Why an operation didn't succeed."""

    code: str
    """One of `FAILURES`."""
    detail: str


@dataclass(frozen=True)
class Operation:
    """With its last attempt, or with the one that was asked for."""

    id: int
    """Order of submission; a cursor for pages."""
    key: str | None
    """None for what was started without a key."""
    body: Body
    note: str | None
    user: str
    user_group: str
    attempt: int
    state: State
    item_uid: str | None
    run_uids: tuple[str, ...]
    result: Any
    error: Failure | None
    submitted_at: float
    """Seconds since the epoch, as all times."""
    started_at: float | None
    finished_at: float | None
    paused_at: float | None
    cancel_asked_at: float | None
    pruned_at: float | None
    """Its result is not kept any more."""
    left: Left | None = None
    """Where its last attempt left the microscope."""
    restore: Left | None = None
    """Where the microscope is brought before it runs."""

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    def item(self) -> dict[str, Any]:
        """The queue item that carries it out, as clients send one."""
        meta = {
            "op_key": self.key,
            "attempt": self.attempt,
            "session_id": self.body.session_id,
            "sample_id": self.body.sample_id,
        }
        return {
            "item_type": "plan",
            "name": self.body.plan,
            "args": list(self.body.args),
            "kwargs": dict(self.body.kwargs),
            "meta": {name: value for name, value in meta.items() if value is not None},
        }


class OperationError(RuntimeError):
    """Something that an operation doesn't allow. Nothing moved, nothing was queued.

    Parameters
    ----------
    code
        Stable, as in the REST contract.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


COLUMNS = """
    o.id, o.key, o.body, o.plan, o.args, o.kwargs, o.sample_id, o.session_id, o.note, o.user, o.user_group, o.submitted_at,
    o.pruned_at, a.id AS attempt_id, a.attempt, a.item_uid, a.state, a.result, a.error_code, a.error, a.started_at,
    a.finished_at, a.paused_at, a.cancel_asked_at, a.cancel_asked_by, a.left_at, o.restore,
    (SELECT json_group_array(uid) FROM (SELECT uid FROM runs WHERE runs.attempt = a.id ORDER BY runs.id)) AS run_uids
"""


def operation_of(row: sqlite3.Row) -> Operation:
    return Operation(
        id=row["id"],
        key=row["key"],
        body=Body(
            plan=row["plan"],
            kwargs=json.loads(row["kwargs"]),
            args=tuple(json.loads(row["args"])),
            sample_id=row["sample_id"],
            session_id=row["session_id"],
        ),
        note=row["note"],
        user=row["user"],
        user_group=row["user_group"],
        attempt=row["attempt"],
        state=row["state"],
        item_uid=row["item_uid"],
        run_uids=tuple(json.loads(row["run_uids"])),
        result=None if row["result"] is None else json.loads(row["result"]),
        error=None if row["error_code"] is None else Failure(row["error_code"], row["error"] or ""),
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        paused_at=row["paused_at"],
        cancel_asked_at=row["cancel_asked_at"],
        pruned_at=row["pruned_at"],
        left=None if row["left_at"] is None else Left.of(json.loads(row["left_at"])),
        restore=None if row["restore"] is None else Left.of(json.loads(row["restore"])),
    )
