"""Decisions over REST: what is asked, who may answer, what is refused. R4 Adaptive, DESIGN section 3."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from queuescope.ledger import Control, Decision, Decisions, Ledger, Operations, Question, bell, write_control

PATIENCE_S = 30
QUESTION = Question(
    words="which places go on?",
    answers={
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "interval_s": {"type": "number", "minimum": 1, "maximum": 3600},
            "stop": {"type": "array", "items": {"enum": ["p1", "p2"]}},
        },
    },
    default={},
    facts={"next_round": 1, "places": ["p1", "p2"]},
)


@pytest.fixture(scope="module")
def server(start_for_module: Callable[..., Any], data_folder: Callable[[str], Any]) -> Any:
    return start_for_module(data_folder("decisions"))


@pytest.fixture(scope="module")
def ledger(server: Any) -> Ledger:
    return Ledger(server.layout.ledger_db)


@pytest.fixture
def decisions(server: Any, ledger: Ledger) -> Decisions:
    """As the worker writes them."""
    return Decisions(ledger, bell(server.layout))


@pytest.fixture
def ask(server: Any, ledger: Ledger, decisions: Decisions) -> Callable[..., Decision]:
    """A plan that runs, and asks."""

    def asking(key: str, user: str = "agent", wait_s: float = 60.0) -> Decision:
        item = {"name": "adaptive_time_lapse", "item_uid": f"item-{key}", "kwargs": {}, "meta": {"op_key": key}}
        Operations(ledger, bell(server.layout)).claim({**item, "user": user, "user_group": user})
        found = decisions.ask(f"item-{key}", QUESTION, wait_s)
        assert found is not None
        return found

    return asking


def post(client: httpx.Client, key: str, round_: int, answer: Any) -> httpx.Response:
    return client.post(f"/api/ops/{key}/decisions/{round_}", json={"answer": answer})


def refused(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    return dict(reply.json())


def test_what_is_asked_is_held_answered_and_replayed(
    server: Any, decisions: Decisions, ask: Callable[..., Decision]
) -> None:
    key = "decisions.one-1"
    asked = ask(key)
    operation = server["observer"].get(f"/api/ops/{key}").json()
    assert operation["hold"] == {
        "reason": "decision",
        "since": asked.asked_at,
        "needs": f"POST /api/ops/{key}/decisions/1",
        "deadline": asked.deadline,
        "default": "{}",
        "detail": "which places go on?",
    }
    told = server["observer"].get(f"/api/ops/{key}/decisions/1").json()
    assert (told["state"], told["answers"], told["facts"]) == ("open", QUESTION.answers, QUESTION.facts)
    assert post(server["observer"], key, 1, {}).status_code == 403

    first = post(server["agent"], key, 1, {"stop": ["p2"]})
    assert first.status_code == 200, first.text
    assert "idempotency-replayed" not in first.headers
    assert (first.json()["state"], first.json()["by"], first.json()["answer"]) == (
        "answered",
        "agent",
        {"stop": ["p2"]},
    )
    again = post(server["agent"], key, 1, {"stop": ["p2"]})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    refused(post(server["operator"], key, 1, {"stop": ["p1"]}), 409, "decided_already")
    assert server["observer"].get(f"/api/ops/{key}").json()["hold"] is None, "it only goes on"

    assert decisions.use(asked.id).answer == {"stop": ["p2"]}
    after = post(server["agent"], key, 1, {"stop": ["p2"]})
    assert (after.status_code, after.json()["state"], after.headers["idempotency-replayed"]) == (200, "used", "true")


def test_a_wrong_answer_names_field_value_and_limit(server: Any, ask: Callable[..., Decision]) -> None:
    key = "decisions.wrong-1"
    ask(key)
    body = refused(post(server["agent"], key, 1, {"interval_s": 0.1, "stop": ["p3"]}), 422, "answer_refused")
    assert [(one["loc"], one["value"], one["limit"]) for one in body["errors"]] == [
        ("interval_s", 0.1, 1),
        ("stop.0", "p3", ["p1", "p2"]),
    ]
    content = b'{"answer": {"interval_s": NaN}}'
    headers = {"content-type": "application/json"}
    nan = server["agent"].post(f"/api/ops/{key}/decisions/1", content=content, headers=headers)
    refused(nan, 422, "not_finite")
    refused(post(server["agent"], key, 1, {"stop": ["p" * 70_000]}), 413, "too_large")
    refused(server["agent"].post(f"/api/ops/{key}/decisions/1", json={"answers": {}}), 400, "invalid_body")
    assert post(server["agent"], key, 1, {}).status_code == 200, "it was still open"


def test_too_late_is_told(server: Any, decisions: Decisions, ask: Callable[..., Decision]) -> None:
    asked = ask("decisions.late-1")
    decisions.use(asked.id)
    body = refused(post(server["agent"], "decisions.late-1", 1, {"stop": ["p1"]}), 409, "decision_closed")
    assert body["detail"].endswith("the plan goes on with {}")
    assert server["agent"].get("/api/ops/decisions.late-1/decisions/1").json()["by"] == "default"
    ask("decisions.late-2", wait_s=-1.0)
    refused(post(server["agent"], "decisions.late-2", 1, {}), 409, "decision_closed")


def test_an_agent_answers_its_own_operations_and_not_while_a_person_has_the_microscope(
    server: Any, ask: Callable[..., Decision]
) -> None:
    ask("decisions.others-1", user="operator")
    refused(post(server["agent"], "decisions.others-1", 1, {}), 403, "forbidden")
    ask("decisions.mine-1")
    write_control(server.layout, Control(mode="person", by="ada", reason="looks", since=1.0), {})
    try:
        refused(post(server["agent"], "decisions.mine-1", 1, {}), 423, "person_in_control")
        assert post(server["operator"], "decisions.mine-1", 1, {}).json()["by"] == "operator"
    finally:
        write_control(server.layout, Control(mode="agents", by="ada", reason="", since=2.0), {})


def test_what_was_not_asked_is_unknown(server: Any, ask: Callable[..., Decision]) -> None:
    ask("decisions.unknown-1")
    refused(server["observer"].get("/api/ops/decisions.unknown-1/decisions/2"), 404, "unknown_decision")
    refused(post(server["agent"], "decisions.unknown-1", 2, {}), 404, "unknown_decision")
    refused(server["observer"].get("/api/ops/decisions.nobody/decisions/1"), 404, "unknown_operation")
    assert server["observer"].get("/api/ops/decisions.unknown-1/decisions/0").status_code == 400


def test_an_event_says_what_is_asked(server: Any, ask: Callable[..., Decision]) -> None:
    """R2.2: a client that follows the operation knows at once what to answer, and by when."""
    key = "decisions.event-1"
    headers = {"Authorization": f"ApiKey {server.layout.key('observer')}"}
    address = f"{server.url.replace('http', 'ws')}/api/ops/ws?key={key}&cursor=0"
    with connect(address, additional_headers=headers, proxy=None) as events:
        asked = ask(key)
        while (event := json.loads(events.recv(timeout=PATIENCE_S)))["type"] != "decision":
            pass
        assert event["data"] == {
            "decision": "open",
            "round": 1,
            "words": "which places go on?",
            "default": {},
            "deadline": asked.deadline,
        }
        post(server["agent"], key, 1, {"stop": ["p1"]})
        assert json.loads(events.recv(timeout=PATIENCE_S))["data"]["decision"] == "answered"
