"""Operations: every one exactly once (R1). Each step is one transaction: state and audit change together, or neither does.

An attempt goes ``accepted → queued → running → succeeded | failed | cancelled | interrupted``, and never back. Who writes what:
the router what it was asked for, the manager what is queued and what ended without its worker, the worker what it starts and how
that ends.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from ._bell import Ring
from ._body import Body
from ._items import meta_of
from ._ledger import Ledger
from ._left import Left
from ._operation import (
    ACTIVE,
    COLUMNS,
    ENDS,
    WAITING,
    Failure,
    Operation,
    OperationError,
    State,
    operation_of,
)

KEEP_S = 90 * 86400.0
"""How long results are kept."""


class Operations:
    """The operations of a data directory, in the ledger.

    Parameters
    ----------
    ring
        Called with the key after each change, outside the transaction.
    """

    def __init__(self, ledger: Ledger, ring: Ring = lambda key: None) -> None:
        self._ledger = ledger
        self._ring = ring

    # What is asked for ---------------------------------------------------------------------------------------------

    def accept(
        self, key: str, body: Body, note: str | None, user: str, user_group: str, restore: Left | None = None
    ) -> tuple[Operation, bool]:
        """Record an operation before anything else is done for it. True where it is new. ``restore``: where the microscope is
        brought first.

        Raises
        ------
        OperationError
            ``key_reused`` for another body, ``pruned`` where its result is not kept any more.
        """
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_key(connection, key)
            if row is None:
                row = _insert(connection, key, body, note, user, user_group, "accepted")
                new = True
                if restore is not None:
                    told = json.dumps(restore.told())
                    connection.execute("UPDATE operations SET restore = ? WHERE id = ?", (told, row["id"]))
                    row = _again(connection, row)
            else:
                _refuse_other(row, body, same=note == row["note"])
                new = False
        if new:
            self._ring(key)
        return operation_of(row), new

    def withdraw(self, key: str, detail: str) -> None:
        """It was refused before it was queued: the key is free again, the audit says why."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_key(connection, key)
            if row is None or row["state"] != "accepted":
                return
            if row["attempt"] > 1:  # an earlier attempt ran: the operation stays
                _end(connection, row, "failed", None, Failure("parameters_refused", detail))
            else:
                _tell(connection, row, {"state": "refused", "detail": detail})
                connection.execute("DELETE FROM attempts WHERE id = ?", (row["attempt_id"],))
                connection.execute("DELETE FROM operations WHERE id = ?", (row["id"],))
        self._ring(key)

    def ask_cancel(self, key: str, by: str) -> Operation | None:
        """Cancel it: what doesn't run yet has ended when this returns; what runs ends as cancelled, however it ends (R2.4)."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_key(connection, key)
            if row is None:
                return None
            if row["state"] in ACTIVE and row["cancel_asked_at"] is None:
                connection.execute(
                    "UPDATE attempts SET cancel_asked_at = ?, cancel_asked_by = ? WHERE id = ?",
                    (time.time(), by, row["attempt_id"]),
                )
                _tell(connection, row, {"cancel_asked_by": by})
                row = _again(connection, row)
                if row["state"] in WAITING:
                    row = _end(connection, row, "cancelled", None, None)
        self._ring(key)
        return operation_of(row)

    def retry(self, key: str, by: str, attempt: int | None = None) -> tuple[Operation, bool] | None:
        """One more attempt of what has ended without success. True where this call made it.

        Parameters
        ----------
        attempt
            Which one it will be: asked for twice it is made once.

        Raises
        ------
        OperationError
            ``not_retryable``, ``pruned``.
        """
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_key(connection, key)
            if row is None:
                return None
            if row["attempt"] == attempt:
                return operation_of(row), False
            if row["pruned_at"] is not None:
                raise _pruned(key)
            if row["state"] not in ENDS or row["state"] == "succeeded":
                raise OperationError(
                    "not_retryable", f"operation {key} is {row['state']}: only what ended without success is"
                )
            if attempt is not None and attempt != row["attempt"] + 1:
                raise OperationError(
                    "not_retryable", f"attempt {attempt} of {key} can't follow attempt {row['attempt']}"
                )
            connection.execute("UPDATE operations SET attempt = attempt + 1 WHERE id = ?", (row["id"],))
            connection.execute(
                "INSERT INTO attempts (operation, attempt, state) VALUES (?, ?, 'accepted')",
                (row["id"], row["attempt"] + 1),
            )
            row = _by_key(connection, key)
            assert row is not None
            _tell(connection, row, {"state": "accepted", "by": by})
        self._ring(key)
        return operation_of(row), True

    # The queue -----------------------------------------------------------------------------------------------------

    def queued(self, item: Mapping[str, Any]) -> tuple[Operation, bool]:
        """A keyed item is about to be queued: recorded, if nobody has (R1.11). False where it is known as queued, or further.

        Raises
        ------
        OperationError
            ``key_reused``, ``pruned``, and ``wrong_attempt`` where the item names another one than the operation's last.
        """
        key = _key_of(item)
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _fitting(connection, key, item)
            if row is None:
                row = _insert(connection, key, Body.of(item), None, *_whose(item), "queued", item["item_uid"])
            elif row["state"] != "accepted":
                return operation_of(row), False
            else:
                row = _set(connection, row, "queued", item_uid=item["item_uid"])
        self._ring(key)
        return operation_of(row), True

    def check(self, item: Mapping[str, Any]) -> None:
        """What `queued` would refuse, without recording anything."""
        with self._ledger.connect() as connection:
            _fitting(connection, _key_of(item), item)

    def moved_to(self, item_uid: str, new_uid: str) -> None:
        """A queued item has another UID now: it was edited, or is dispatched again."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item_uid)
            if row is not None and row["state"] == "queued" and new_uid != item_uid:
                _set(connection, row, "queued", item_uid=new_uid)

    def removed(self, item_uid: str, why: str = "it was removed from the queue") -> None:
        """A queued item is gone from the queue."""
        self._end_where(item_uid, ("queued",), "cancelled", Failure("removed_from_queue", why))

    def not_started(self, item_uid: str, failure: Failure) -> None:
        """A queued item ended without having been claimed."""
        self._end_where(item_uid, ("queued",), "failed", failure)

    def lost(self, item_uid: str, why: str) -> None:
        """It was claimed, and nobody knows how it ended (R1.5)."""
        self._end_where(item_uid, ("running",), "interrupted", Failure("interrupted", why))

    def refuse_accepted(self, key: str, failure: Failure) -> None:
        """What was accepted can't be queued: it has failed."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_key(connection, key)
            if row is not None and row["state"] == "accepted":
                _end(connection, row, "failed", None, failure)
        self._ring(key)

    def refuse(self, item: Mapping[str, Any], failure: Failure) -> None:
        """An item ends as failed without having started: keyed, unkeyed, recorded or not. What runs or has ended stays."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item["item_uid"])
            if row is None and (key := meta_of(item).get("op_key")) and _by_key(connection, key) is not None:
                return
            if row is None:
                row = _insert(
                    connection, _key_or_none(item), Body.of(item), None, *_whose(item), "queued", item["item_uid"]
                )
            if row["state"] in WAITING:
                row = _end(connection, row, "failed", None, failure)
        self._ring(row["key"])

    # The worker ----------------------------------------------------------------------------------------------------

    def claim(self, item: Mapping[str, Any]) -> Operation:
        """The worker starts this item now. For one key and attempt that is granted once, whatever the queue holds.

        Raises
        ------
        OperationError
            ``already_started``, ``cancelled``, ``body_changed`` (then the operation has failed). Nothing has moved.
        """
        uid, key, body = item["item_uid"], _key_or_none(item), Body.of(item)
        changed = False
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, uid) if key is None else _by_key(connection, key)
            if row is None:  # a way round the queue: it is recorded at the latest now
                row = _insert(connection, key, body, None, *_whose(item), "queued", uid)
            copied = _by_item(connection, uid)
            if copied is not None and copied["attempt_id"] != row["attempt_id"]:
                raise OperationError("already_started", f"item {uid} was attempt {copied['attempt']} of {_name(row)}")
            if row["item_uid"] != uid and not (row["state"] == "accepted" and row["item_uid"] is None):
                raise OperationError(
                    "already_started",
                    f"{_name(row)} is item {row['item_uid']} ({row['state']}), not {uid}: this copy doesn't run",
                )
            if row["state"] not in WAITING:
                code = "cancelled" if row["state"] == "cancelled" else "already_started"
                raise OperationError(code, f"{_name(row)} is {row['state']}: item {uid} doesn't run again")
            if row["body"] != body.digest:
                changed = True
                row = _end(connection, row, "failed", None, Failure("body_changed", _CHANGED))
            else:
                row = _set(connection, row, "running", item_uid=uid, started_at=time.time())
        self._ring(row["key"])
        if changed:
            raise OperationError("body_changed", f"{_name(row)}: {_CHANGED}")
        return operation_of(row)

    def add_run(self, item_uid: str, run_uid: str) -> None:
        """Record a run at its opening, so that it is known even if the worker dies in it."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item_uid)
            if row is None:
                return
            connection.execute("INSERT OR IGNORE INTO runs (attempt, uid) VALUES (?, ?)", (row["attempt_id"], run_uid))
            _tell(connection, row, {"state": row["state"], "run_uid": run_uid})
        self._ring(row["key"])

    def paused(self, item_uid: str, paused: bool) -> None:
        """A running plan is paused, or goes on."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item_uid)
            if row is None or row["state"] != "running":
                return
            connection.execute(
                "UPDATE attempts SET paused_at = ? WHERE id = ?", (time.time() if paused else None, row["attempt_id"])
            )
            _tell(connection, row, {"state": "running", "paused": paused})
        self._ring(row["key"])

    def say(self, item_uid: str, lines: list[str]) -> None:
        """What a running plan printed, for the audit."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item_uid)
            if row is None or row["state"] != "running":
                return
            _tell(connection, row, {"lines": lines}, "output")
        self._ring(row["key"])

    def finish(
        self,
        item_uid: str,
        state: State,
        result: Any = None,
        failure: Failure | None = None,
        exit_status: str | None = None,
        left: Left | None = None,
    ) -> Operation | None:
        """How a running plan ended; the first end stays. Once a cancel was asked for it is ``cancelled`` (R2.4).

        Parameters
        ----------
        exit_status
            What the plan itself came to, for the audit.
        left
            Where it left the microscope.
        """
        return self._end_where(item_uid, ("running",), state, failure, result, exit_status, left)

    # Reading -------------------------------------------------------------------------------------------------------

    def by_key(self, key: str) -> Operation | None:
        """With its last attempt."""
        with self._ledger.connect() as connection:
            return _or_none(_by_key(connection, key))

    def by_item(self, item_uid: str) -> Operation | None:
        """With the attempt that this item was."""
        with self._ledger.connect() as connection:
            return _or_none(_by_item(connection, item_uid))

    def by_run(self, run_uid: str) -> Operation | None:
        """With the attempt that made this run."""
        with self._ledger.connect() as connection:
            return _or_none(
                connection.execute(
                    f"SELECT {COLUMNS} FROM runs AS r JOIN attempts AS a ON a.id = r.attempt"
                    " JOIN operations AS o ON o.id = a.operation WHERE r.uid = ?",
                    (run_uid,),
                ).fetchone()
            )

    def page(self, after: int = 0, limit: int = 100, state: State | None = None) -> list[Operation]:
        """Operations in the order of their submission, after the one whose `Operation.id` is named."""
        only = "" if state is None else " AND a.state = :state AND a.operation > :after"
        with self._ledger.connect() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM operations AS o JOIN attempts AS a ON a.operation = o.id AND a.attempt = o.attempt"
                f" WHERE o.id > :after{only} ORDER BY o.id LIMIT :limit",
                {"after": after, "limit": limit, "state": state},
            )
            return [operation_of(row) for row in rows]

    def active(self) -> list[Operation]:
        """Everything that is accepted, queued or runs, oldest first."""
        marks = ", ".join("?" * len(ACTIVE))
        with self._ledger.connect() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM attempts AS a INDEXED BY attempts_by_state"
                " CROSS JOIN operations AS o ON a.operation = o.id AND a.attempt = o.attempt"
                f" WHERE a.state IN ({marks}) ORDER BY a.operation",
                ACTIVE,
            )
            return [operation_of(row) for row in rows]

    def prune(self, before: float) -> int:
        """Forget the results of what ended before then; key, runs and audit stay. Returns of how many."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute(
                "UPDATE operations SET pruned_at = :now WHERE pruned_at IS NULL AND EXISTS (SELECT 1 FROM attempts AS a WHERE"
                " a.operation = operations.id AND a.attempt = operations.attempt AND a.finished_at < :before) RETURNING id",
                {"now": time.time(), "before": before},
            ).fetchall()
            connection.executemany(
                "UPDATE attempts SET result = NULL WHERE operation = ?", [(row["id"],) for row in found]
            )
        return len(found)

    def _end_where(
        self,
        item_uid: str,
        states: tuple[State, ...],
        state: State,
        failure: Failure | None,
        result: Any = None,
        exit_status: str | None = None,
        left: Left | None = None,
    ) -> Operation | None:
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item_uid)
            if row is None:
                return None
            if row["state"] not in states:
                return operation_of(row)
            row = _end(connection, row, state, result, failure, exit_status)
            if left is not None:
                told = json.dumps(left.told())
                connection.execute("UPDATE attempts SET left_at = ? WHERE id = ?", (told, row["attempt_id"]))
        self._ring(row["key"])
        return operation_of(row)


_CHANGED = "the item in the queue was edited after its operation was recorded: submit it under a key of its own"


def _by_key(connection: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        f"SELECT {COLUMNS} FROM operations AS o JOIN attempts AS a ON a.operation = o.id AND a.attempt = o.attempt"
        " WHERE o.key = ?",
        (key,),
    ).fetchone()
    return row


def _by_item(connection: sqlite3.Connection, item_uid: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        f"SELECT {COLUMNS} FROM attempts AS a JOIN operations AS o ON o.id = a.operation WHERE a.item_uid = ?",
        (item_uid,),
    ).fetchone()
    return row


def _again(connection: sqlite3.Connection, row: sqlite3.Row) -> sqlite3.Row:
    found: sqlite3.Row = connection.execute(
        f"SELECT {COLUMNS} FROM attempts AS a JOIN operations AS o ON o.id = a.operation WHERE a.id = ?",
        (row["attempt_id"],),
    ).fetchone()
    return found


def _insert(
    connection: sqlite3.Connection,
    key: str | None,
    body: Body,
    note: str | None,
    user: str,
    user_group: str,
    state: State,
    item_uid: str | None = None,
) -> sqlite3.Row:
    operation = connection.execute(
        "INSERT INTO operations (key, body, plan, args, kwargs, sample_id, session_id, note, user, user_group, attempt,"
        " submitted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
        (
            *(key, body.digest, body.plan, json.dumps(body.args, default=str), json.dumps(body.kwargs, default=str)),
            *(body.sample_id, body.session_id, note, user, user_group, time.time()),
        ),
    ).lastrowid
    connection.execute(
        "INSERT INTO attempts (operation, attempt, state, item_uid) VALUES (?, 1, ?, ?)", (operation, state, item_uid)
    )
    row: sqlite3.Row = connection.execute(
        f"SELECT {COLUMNS} FROM operations AS o JOIN attempts AS a ON a.operation = o.id WHERE o.id = ?", (operation,)
    ).fetchone()
    _tell(
        connection,
        row,
        {"state": state, "item_uid": item_uid, "plan": body.plan, "user": user, "user_group": user_group},
    )
    return row


def _set(connection: sqlite3.Connection, row: sqlite3.Row, state: State, **more: Any) -> sqlite3.Row:
    names = "".join(f", {name} = :{name}" for name in more)
    connection.execute(
        f"UPDATE attempts SET state = :state{names} WHERE id = :id", {**more, "state": state, "id": row["attempt_id"]}
    )
    _tell(connection, row, {"state": state, **more})
    return _again(connection, row)


def _end(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    state: State,
    result: Any,
    failure: Failure | None,
    exit_status: str | None = None,
) -> sqlite3.Row:
    """The end of an attempt. A cancel that was asked for wins; what the plan came to is said in its words."""
    if row["cancel_asked_at"] is not None:
        came_to = exit_status or {"cancelled": None}.get(state, state)
        words = f"cancelled by {row['cancel_asked_by']}" + (f"; the plan itself: {came_to}" if came_to else "")
        failure = Failure("cancelled", words + (f", {failure.detail}" if failure is not None else ""))
        state = "cancelled"
    elif state == "cancelled" and failure is None:
        failure = Failure("cancelled", f"the plan was {exit_status or 'cancelled'}")
    connection.execute(
        "UPDATE attempts SET state = ?, result = ?, error_code = ?, error = ?, finished_at = ?, paused_at = NULL WHERE id = ?",
        (
            state,
            None if result is None else json.dumps(result),
            None if failure is None else failure.code,
            None if failure is None else failure.detail,
            time.time(),
            row["attempt_id"],
        ),
    )
    error = None if failure is None else {"code": failure.code, "detail": failure.detail}
    ended = _again(connection, row)
    _tell(
        connection,
        row,
        {"state": state, "error": error, "run_uids": json.loads(ended["run_uids"]), "exit_status": exit_status},
    )
    return ended


def _tell(connection: sqlite3.Connection, row: sqlite3.Row, data: dict[str, Any], kind: str = "state") -> None:
    """One line of the audit."""
    connection.execute(
        "INSERT INTO events (time, operation, key, attempt, type, data) VALUES (?, ?, ?, ?, ?, ?)",
        (time.time(), row["id"], row["key"], row["attempt"], kind, json.dumps(data)),
    )


def _refuse_other(row: sqlite3.Row, body: Body, same: bool = True) -> None:
    if row["pruned_at"] is not None:
        raise _pruned(row["key"])
    if row["body"] != body.digest or not same:
        raise OperationError(
            "key_reused",
            f"key {row['key']} stands for another request, {row['plan']} of {row['user']}: give each operation a key of its own",
        )


def _fitting(connection: sqlite3.Connection, key: str, item: Mapping[str, Any]) -> sqlite3.Row | None:
    """The operation that an item to be queued belongs to."""
    row, asked = _by_key(connection, key), meta_of(item).get("attempt")
    if row is not None:
        _refuse_other(row, Body.of(item))
    last = 1 if row is None else row["attempt"]
    if asked not in (None, last):
        detail = f"attempt {asked!r} of {key} is not its last, {last}: only POST /api/ops/{key}/retry makes another one"
        raise OperationError("wrong_attempt", detail)
    return row


def _pruned(key: str) -> OperationError:
    return OperationError(
        "pruned", f"operation {key} ended long ago, and its result is not kept: submit it under a new key"
    )


def _name(row: sqlite3.Row) -> str:
    return f"operation {row['key']}, attempt {row['attempt']}" if row["key"] else f"the plan of item {row['item_uid']}"


def _key_or_none(item: Mapping[str, Any]) -> str | None:
    key = meta_of(item).get("op_key")
    return key if isinstance(key, str) and key else None


def _key_of(item: Mapping[str, Any]) -> str:
    key = _key_or_none(item)
    if key is None:
        raise ValueError(f"item {item.get('item_uid')} has no operation key")
    return key


def _whose(item: Mapping[str, Any]) -> tuple[str, str]:
    return item.get("user") or "", item.get("user_group") or ""


def _or_none(row: sqlite3.Row | None) -> Operation | None:
    return None if row is None else operation_of(row)
