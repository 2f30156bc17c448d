"""Decisions: what a running plan asks of its client, by when, and what counts where nobody answers (R4 Adaptive).

A decision goes ``open → answered → used``, or ``open → used`` with its default, or ``withdrawn`` where the plan ended before. Who
writes what: the worker asks and uses, the router answers. Each step is one transaction with its line in the audit.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ._bell import Ring
from ._holds import Hold
from ._ledger import Ledger
from ._operation import OperationError
from ._operations import _by_item, _by_key, _tell

BY_DEFAULT = "default"
"""Who has decided where nobody did in time."""

DecisionState = Literal["open", "answered", "used", "withdrawn"]

_LIMITS = (
    *("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "maxItems", "minItems", "maxProperties"),
    *("minProperties", "maxLength", "minLength", "pattern", "enum", "const", "type"),
)


@dataclass(frozen=True)
class Question:
    """What a plan asks, as it goes into the ledger; plain data only."""

    words: str
    """For people, and for an agent that reads them."""
    answers: Mapping[str, Any]
    """JSON Schema (2020-12) of every answer that is allowed now, limits included: nobody needs the plan to check one."""
    default: Any
    """What counts where nobody answers in time. Nothing may move by it that wouldn't move anyhow."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What helps to decide: run, round, places."""


@dataclass(frozen=True)
class Decision:
    id: int
    key: str
    attempt: int
    round: int
    """1, 2 … in the order in which this attempt asked."""
    question: Question
    asked_at: float
    """Seconds since the epoch, as all times."""
    deadline: float
    state: DecisionState
    answer: Any
    """What counts, or will; None while nobody has answered."""
    by: str | None
    """Whose answer it is: a role, or `BY_DEFAULT`."""
    answered_at: float | None
    closed_at: float | None
    """When the plan used it, or ended without."""

    def hold(self) -> Hold:
        """Why the operation waits."""
        return Hold(
            reason="decision",
            since=self.asked_at,
            needs=f"POST /api/ops/{self.key}/decisions/{self.round}",
            deadline=self.deadline,
            default=json.dumps(self.question.default),
            detail=self.question.words,
        )


@dataclass(frozen=True)
class WrongPart:
    """What is wrong with a part of an answer."""

    loc: str
    msg: str
    value: Any
    limit: Any


class WrongAnswerError(ValueError):
    """An answer that the question doesn't allow; ``parts`` has an entry for each thing that is wrong."""

    def __init__(self, parts: list[WrongPart]) -> None:
        self.parts = parts
        super().__init__("; ".join(f"{part.loc or 'answer'}: {part.msg}" for part in parts))


class Decisions:
    """The decisions of a data directory, in the ledger.

    Parameters
    ----------
    ring
        Called with the operation's key after each change, outside the transaction.
    """

    def __init__(self, ledger: Ledger, ring: Ring = lambda key: None) -> None:
        self._ledger, self._ring = ledger, ring

    # The worker ----------------------------------------------------------------------------------------------------

    def ask(self, item_uid: str, question: Question, wait_s: float) -> Decision | None:
        """Open a decision for the plan that runs as this item; None where nobody could answer: it has no key, or doesn't run."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = _by_item(connection, item_uid)
            if row is None or row["key"] is None or row["state"] != "running":
                return None
            (last,) = connection.execute(
                "SELECT coalesce(max(round), 0) FROM decisions WHERE attempt = ?", (row["attempt_id"],)
            ).fetchone()
            now = time.time()
            id_ = connection.execute(
                "INSERT INTO decisions (attempt, round, words, answers, fallback, facts, asked_at, deadline)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row["attempt_id"], last + 1, question.words, json.dumps(question.answers)),
                    *(json.dumps(question.default), json.dumps(question.facts), now, now + wait_s),
                ),
            ).lastrowid
            asked = _by_id(connection, int(id_ or 0))
            told = {"decision": "open", "round": asked.round, "words": question.words, "default": question.default}
            _tell(connection, row, {**told, "deadline": asked.deadline}, "decision")
        self._ring(asked.key)
        return asked

    def answered(self, id_: int) -> bool:
        """Whether there is an answer to be used."""
        with self._ledger.connect() as connection:
            return _by_id(connection, id_).state == "answered"

    def use(self, id_: int) -> Decision:
        """The plan goes on with the answer, or with the default. From now on no other counts; asked again it is the same."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            decision = _by_id(connection, id_)
            if decision.closed_at is not None:
                return decision
            if decision.by is None:
                connection.execute(
                    "UPDATE decisions SET answer = fallback, answered_by = ? WHERE id = ?", (BY_DEFAULT, id_)
                )
            connection.execute("UPDATE decisions SET closed_at = ?, used = 1 WHERE id = ?", (time.time(), id_))
            used = _by_id(connection, id_)
            _tell_decision(connection, used, {"decision": "used", "by": used.by, "answer": used.answer})
        self._ring(used.key)
        return used

    def withdraw(self, id_: int) -> None:
        """The plan ended without it; one that was used stays so."""
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            decision = _by_id(connection, id_)
            if decision.closed_at is not None:
                return
            connection.execute("UPDATE decisions SET closed_at = ? WHERE id = ?", (time.time(), id_))
            _tell_decision(connection, decision, {"decision": "withdrawn"})
        self._ring(decision.key)

    # Who answers ---------------------------------------------------------------------------------------------------

    def answer(self, key: str, round_: int, answer: Any, by: str) -> tuple[Decision, bool] | None:
        """Record an answer; the first one stays. True where this call recorded it; None where nothing was asked.

        Raises
        ------
        WrongAnswerError
            Where the question doesn't allow it; the decision stays open.
        OperationError
            ``decided_already`` where there is another answer, ``decision_closed`` where it is too late for any.
        """
        decision = self.read(key, round_)
        if decision is None:
            return None
        if decision.state == "open" and (wrong := wrong_parts(decision.question.answers, answer)):
            raise WrongAnswerError(wrong)  # before the transaction: checking takes its time
        with self._ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            decision = _by_id(connection, decision.id)
            name = f"decision {round_} of operation {key}"
            if decision.by not in (None, BY_DEFAULT):
                if _same(decision.answer, answer):
                    return decision, False
                raise OperationError("decided_already", f"{name} was answered by {decision.by}: its first answer stays")
            if decision.state == "withdrawn":
                raise OperationError("decision_closed", f"{name} is not asked any more: its plan has ended")
            if decision.state == "used" or time.time() > decision.deadline:
                default = json.dumps(decision.question.default)
                late = time.time() - decision.deadline
                when = f"{late:.1f} s after its deadline" if late > 0 else "after the plan went on"
                raise OperationError("decision_closed", f"{name} came {when}: the plan goes on with {default}")
            connection.execute(
                "UPDATE decisions SET answer = ?, answered_by = ?, answered_at = ? WHERE id = ?",
                (json.dumps(answer), by, time.time(), decision.id),
            )
            answered = _by_id(connection, decision.id)
            _tell_decision(connection, answered, {"decision": "answered", "by": by, "answer": answer})
        self._ring(key)
        return answered, True

    # Reading -------------------------------------------------------------------------------------------------------

    def read(self, key: str, round_: int) -> Decision | None:
        """Of the operation's last attempt."""
        with self._ledger.connect() as connection:
            operation = _by_key(connection, key)
            if operation is None:
                return None
            row = connection.execute(
                f"{_SELECT} WHERE d.attempt = ? AND d.round = ?", (operation["attempt_id"], round_)
            ).fetchone()
        return None if row is None else _decision(row)

    def waiting(self) -> dict[str, Decision]:
        """What is asked now, by the item that runs. A plan that died asks nothing."""
        with self._ledger.connect() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE d.closed_at IS NULL AND d.answered_at IS NULL AND a.state = 'running'"
            ).fetchall()
        return {row["item_uid"]: _decision(row) for row in rows}


def wrong_parts(schema: Mapping[str, Any], answer: Any) -> list[WrongPart]:
    """What is wrong with an answer, part by part; nothing where the schema allows it."""
    from jsonschema import Draft202012Validator  # costs every command of the terminal otherwise
    from jsonschema.exceptions import best_match

    errors = sorted(Draft202012Validator(schema).iter_errors(answer), key=lambda error: list(map(str, error.path)))
    return [_wrong(best_match([error]) or error) for error in errors]


def _wrong(error: Any) -> WrongPart:
    limit = error.validator_value if error.validator in _LIMITS else None
    hint = error.schema.get("description") if isinstance(error.schema, dict) else None
    value = error.instance if len(json.dumps(error.instance)) < 200 else f"{json.dumps(error.instance)[:200]}…"
    message = error.message if len(error.message) < 300 else f"{error.message[:300]}…"
    return WrongPart(".".join(map(str, error.absolute_path)), f"{message} ({hint})" if hint else message, value, limit)


_SELECT = """
SELECT d.*, a.attempt AS number, a.item_uid, a.state, o.key FROM decisions AS d
    JOIN attempts AS a ON a.id = d.attempt JOIN operations AS o ON o.id = a.operation
"""


def _by_id(connection: sqlite3.Connection, id_: int) -> Decision:
    return _decision(connection.execute(f"{_SELECT} WHERE d.id = ?", (id_,)).fetchone())


def _decision(row: sqlite3.Row) -> Decision:
    state: DecisionState = "open" if row["answered_by"] is None else "answered"
    if row["used"]:
        state = "used"
    elif row["closed_at"] is not None or row["state"] != "running":  # halted or killed, a plan says nothing more
        state = "withdrawn"
    return Decision(
        id=row["id"],
        key=row["key"],
        attempt=row["number"],
        round=row["round"],
        question=Question(
            row["words"], json.loads(row["answers"]), json.loads(row["fallback"]), json.loads(row["facts"])
        ),
        asked_at=row["asked_at"],
        deadline=row["deadline"],
        state=state,
        answer=None if row["answer"] is None else json.loads(row["answer"]),
        by=row["answered_by"],
        answered_at=row["answered_at"],
        closed_at=row["closed_at"],
    )


def _tell_decision(connection: sqlite3.Connection, decision: Decision, told: dict[str, Any]) -> None:
    row = _by_key(connection, decision.key)
    assert row is not None
    _tell(connection, row, {**told, "round": decision.round}, "decision")


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
