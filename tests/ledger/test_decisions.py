"""Decisions: asked once, answered once, used once; too late is too late. R4 Adaptive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from queuescope.ledger import (
    BY_DEFAULT,
    Decision,
    Decisions,
    Events,
    Ledger,
    OperationError,
    Operations,
    Question,
    WrongAnswerError,
)

KEY = "night-3.adaptive-1"
QUESTION = Question(
    words="where to go on?",
    answers={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "power_pct": {"type": "number", "minimum": 0, "maximum": 6, "description": "l488"},
            "stop": {"type": "array", "items": {"enum": ["p1", "p2"]}, "uniqueItems": True},
        },
    },
    default={},
    facts={"next_round": 3},
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
def decisions(ledger: Ledger) -> Decisions:
    return Decisions(ledger)


@pytest.fixture
def start(ledger: Ledger) -> Callable[..., str]:
    """Starts a plan; returns its item's UID."""

    def begin(key: str | None = KEY, uid: str = "item-1") -> str:
        Operations(ledger).claim(
            {"name": "adaptive_time_lapse", "item_uid": uid, "kwargs": {}, "meta": {"op_key": key}, "user": "agent"}
        )
        return uid

    return begin


def asked(decisions: Decisions, item: str, wait_s: float = 60.0) -> Decision:
    found = decisions.ask(item, QUESTION, wait_s)
    assert found is not None
    return found


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(OperationError) as error:
        call()
    return error.value.code


def test_an_answer_is_recorded_once_and_used(ledger: Ledger, decisions: Decisions, start: Callable[..., str]) -> None:
    """The same answer again changes nothing, before and after it is used; another one is refused. All of it is audited."""
    decision = asked(decisions, start())
    assert (decision.round, decision.state, decision.by) == (1, "open", None)
    assert not decisions.answered(decision.id)
    answer = {"stop": ["p1"], "power_pct": 2.5}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: decisions.answer(KEY, 1, answer, "agent"), range(8)))
    assert sorted(one[1] for one in found if one) == [False] * 7 + [True]
    assert decisions.answered(decision.id)
    assert code(lambda: decisions.answer(KEY, 1, {"stop": ["p2"]}, "agent")) == "decided_already"
    used = decisions.use(decision.id)
    assert (used.state, used.answer, used.by) == ("used", answer, "agent")
    assert decisions.use(decision.id) == used, "asked again after a pause it is the same"
    again = decisions.answer(KEY, 1, {"power_pct": 2.5, "stop": ["p1"]}, "agent")
    assert again is not None
    assert again[1] is False
    told = [event for event in Events(ledger).after(key=KEY) if event.type == "decision"]
    assert [event.data["decision"] for event in told] == ["open", "answered", "used"]
    assert {event.data["round"] for event in told} == {1}
    assert told[-1].data | {"by": "agent", "answer": answer} == told[-1].data


def test_where_nobody_answers_the_default_counts(
    ledger: Ledger, decisions: Decisions, start: Callable[..., str]
) -> None:
    decision = asked(decisions, start())
    used = decisions.use(decision.id)
    assert (used.answer, used.by, used.answered_at) == ({}, BY_DEFAULT, None)
    assert code(lambda: decisions.answer(KEY, 1, {"stop": ["p1"]}, "agent")) == "decision_closed"
    assert code(lambda: decisions.answer(KEY, 1, {}, "agent")) == "decision_closed", "nobody gave this answer"
    assert asked(decisions, "item-1").round == 2
    told = [event.data for event in Events(ledger).after(key=KEY) if event.type == "decision"]
    assert told[1] == {"decision": "used", "by": "default", "answer": {}, "round": 1}


def test_after_its_deadline_nobody_answers(decisions: Decisions, start: Callable[..., str]) -> None:
    """Also where the plan, paused, hasn't gone on yet."""
    asked(decisions, start(), wait_s=-1.0)
    assert code(lambda: decisions.answer(KEY, 1, {}, "agent")) == "decision_closed"


def test_a_wrong_answer_says_what_is_wrong_and_leaves_it_open(decisions: Decisions, start: Callable[..., str]) -> None:
    decision = asked(decisions, start())
    with pytest.raises(WrongAnswerError) as error:
        decisions.answer(KEY, 1, {"power_pct": 7.5, "stop": ["p1", "p9"], "move": 1}, "agent")
    parts = {part.loc: part for part in error.value.parts}
    assert (parts["power_pct"].value, parts["power_pct"].limit) == (7.5, 6)
    assert parts["power_pct"].msg == "7.5 is greater than the maximum of 6 (l488)"
    assert (parts["stop.1"].value, parts["stop.1"].limit) == ("p9", ["p1", "p2"])
    assert "'move' was unexpected" in parts[""].msg
    with pytest.raises(WrongAnswerError, match="True is not of type 'number'"):
        decisions.answer(KEY, 1, {"power_pct": True}, "agent")
    assert decisions.waiting() == {"item-1": decision}
    assert decisions.answer(KEY, 1, {}, "agent") is not None


def test_who_has_no_key_is_not_asked(decisions: Decisions, start: Callable[..., str]) -> None:
    assert decisions.ask(start(None, "item-2"), QUESTION, 60) is None
    assert decisions.ask("item-nobody-knows", QUESTION, 60) is None


def test_a_plan_that_ended_asks_nothing(ledger: Ledger, decisions: Decisions, start: Callable[..., str]) -> None:
    """Aborted it says so itself; where its worker died the ledger knows."""
    first = asked(decisions, start())
    decisions.withdraw(first.id)
    assert decisions.waiting() == {}
    found = decisions.read(KEY, 1)
    assert found is not None
    assert found.state == "withdrawn"
    assert code(lambda: decisions.answer(KEY, 1, {}, "agent")) == "decision_closed"
    asked(decisions, "item-1")
    Operations(ledger).lost("item-1", "the worker died")
    assert decisions.waiting() == {}
    lost = decisions.read(KEY, 2)
    assert lost is not None
    assert lost.state == "withdrawn"
    assert code(lambda: decisions.answer(KEY, 2, {}, "agent")) == "decision_closed"


def test_another_attempt_asks_anew(ledger: Ledger, decisions: Decisions, start: Callable[..., str]) -> None:
    asked(decisions, start())
    operations = Operations(ledger)
    operations.finish("item-1", "failed")
    operations.retry(KEY, "agent")
    item = {"name": "adaptive_time_lapse", "item_uid": "item-2", "kwargs": {}, "meta": {"op_key": KEY}, "user": "agent"}
    operations.queued(item)
    operations.claim(item)
    assert decisions.read(KEY, 1) is None
    assert asked(decisions, "item-2").round == 1


def test_the_hold_says_what_to_do(decisions: Decisions, start: Callable[..., str]) -> None:
    decision = asked(decisions, start())
    hold = decision.hold()
    assert hold.reason == "decision"
    assert hold.needs == f"POST /api/ops/{KEY}/decisions/1"
    assert (hold.since, hold.deadline, hold.default) == (decision.asked_at, decision.deadline, "{}")
