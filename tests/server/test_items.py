"""What an agent may do with the queue: the rules alone, then against a real queue server (DESIGN, Roles)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.http import REManagerAPI

from queuescope.server._items import (
    check_added,
    check_added_batch,
    parse_object,
    refuse_others,
    touched_by_remove,
    touched_by_remove_batch,
)
from queuescope.server._problems import Problem

KEYED = {"item_type": "plan", "name": "rest", "meta": {"op_key": "step-0001"}}


def code_of(call: Any, *args: Any) -> str | None:
    try:
        call(*args)
    except Problem as problem:
        return problem.code
    return None


# The rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"text"', b"null", b"{", b"\xff", b'{"a": "\\ud800"}', b"[" * 100000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    assert code_of(parse_object, body) == "invalid_body"


def test_a_body_nested_without_end_is_refused() -> None:
    assert code_of(parse_object, b'{"a":' * 70 + b"1" + b"}" * 70) == "invalid_body"


def test_no_body_is_an_empty_object() -> None:
    assert parse_object(b"") == parse_object(b" \n") == {}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused_with_their_place(number: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_object(b'{"item": {"kwargs": {"targets": [0.0, %s]}}}' % number.encode())
    assert refused.value.code == "not_finite"
    assert refused.value.status == 422
    assert refused.value.fields["errors"][0]["loc"] == ["item", "kwargs", "targets", 1]
    json.loads(refused.value.body(), parse_constant=pytest.fail)


@pytest.mark.parametrize("meta", [None, {}, [], [{}], {"op_key": None}])
def test_an_agents_plan_needs_a_key(meta: Any) -> None:
    item = {"item_type": "plan", "name": "rest", "meta": meta}
    assert code_of(check_added, {"item": item}, True) == "key_missing"
    assert code_of(check_added_batch, {"items": [KEYED, item]}, True) == "key_missing"
    assert code_of(check_added, {"item": item}, False) is None, "scope.yml: agents.require_key: false"


@pytest.mark.parametrize("key", ["short", "x" * 129, "with space", "ä" * 10, "line\nbreak", 12345678, ["step-0001"]])
def test_an_agents_key_has_a_form(key: Any) -> None:
    assert code_of(check_added, {"item": {**KEYED, "meta": {"op_key": key}}}, False) == "key_invalid"


def test_of_a_list_of_metas_the_first_key_counts_as_in_queueserver() -> None:
    bad_first = [{"op_key": "no"}, {"op_key": "step-0001"}]
    assert code_of(check_added, {"item": {**KEYED, "meta": bad_first}}, True) == "key_invalid"
    assert code_of(check_added, {"item": {**KEYED, "meta": bad_first[::-1]}}, True) is None


@pytest.mark.parametrize("where", [{"pos": "front"}, {"pos": 0}, {"pos": -1}, {"before_uid": "x"}, {"after_uid": "x"}])
def test_an_agent_adds_at_the_back(where: dict[str, Any]) -> None:
    assert code_of(check_added, {"item": KEYED, **where}, True) == "forbidden"
    assert code_of(check_added_batch, {"items": [KEYED], **where}, True) == "forbidden"
    assert code_of(check_added, {"item": KEYED, "pos": "back", "before_uid": None}, True) is None


@pytest.mark.parametrize("kind", ["instruction", "function", None, 1])
def test_an_agent_queues_plans_only(kind: Any) -> None:
    assert code_of(check_added, {"item": {**KEYED, "item_type": kind}}, True) == "forbidden"


@pytest.mark.parametrize("payload", [{}, {"item": None}, {"item": [KEYED]}, {"items": [KEYED]}])
def test_an_agents_request_without_an_item_is_refused(payload: dict[str, Any]) -> None:
    assert code_of(check_added, payload, True) == "invalid_body"


def test_an_agent_removes_by_uid() -> None:
    assert code_of(touched_by_remove, {"pos": "back"}) == "forbidden"
    assert code_of(touched_by_remove, {"uid": "u", "pos": "back"}) == "forbidden"
    for payload in ({}, {"uid": None}, {"uid": ["u"]}):
        assert code_of(touched_by_remove, payload) == "invalid_body"
    assert code_of(touched_by_remove_batch, {"uids": "u"}) == "invalid_body"
    assert touched_by_remove_batch({"uids": ["u", "v"]}) == ["u", "v"]


@pytest.mark.parametrize(
    ("user", "group"), [("operator", "operator"), ("agent", "primary"), ("somebody", "agent"), (None, None)]
)
def test_one_item_of_somebody_else_refuses_the_whole(user: str | None, group: str | None) -> None:
    queue = [
        {"item_uid": "mine", "user": "agent", "user_group": "agent"},
        {"item_uid": "x", "user": user, "user_group": group},
    ]
    assert code_of(refuse_others, ["mine", "x"], queue, "agent") == "forbidden"
    assert code_of(refuse_others, ["mine", "nowhere"], queue, "agent") is None


# Against a real queue server ----------------------------------------------------------------------------------------


def plan(**changes: Any) -> dict[str, Any]:
    return {
        "item_type": "plan",
        "name": "rest",
        "kwargs": {},
        "meta": {"op_key": f"test-{secrets.token_hex(6)}"},
        **changes,
    }


@pytest.fixture
def queue(stack: Any) -> Iterator[Any]:
    """The stack with an empty queue that nobody starts."""
    stack.ask("queue_clear")
    yield stack
    stack.ask("queue_clear")


def add(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    reply = client.post("/api/queue/item/add", json={"item": plan(**changes)}).json()
    assert reply["success"], reply
    return reply["item"]


def waiting(queue: Any) -> list[dict[str, Any]]:
    return queue.ask("queue_get")["items"]


def test_items_carry_the_role_as_user_and_group(queue: Any) -> None:
    for role in ("agent", "operator", "admin"):
        item = add(queue[role])
        assert (item["user"], item["user_group"]) == (role, role)
    claimed = (
        queue["agent"].post("/api/queue/item/add", json={"item": plan(), "user": "admin", "user_group": "root"}).json()
    )
    assert (claimed["item"]["user"], claimed["item"]["user_group"]) == ("agent", "agent")


def test_a_keyless_plan_of_an_agent_never_reaches_the_queue(queue: Any) -> None:
    """DESIGN, scope file: a keyless agent item is refused at submission: key_missing."""
    for path, body in (("add", {"item": plan(meta={})}), ("add/batch", {"items": [plan(), plan(meta={})]})):
        reply = queue["agent"].post(f"/api/queue/item/{path}", json=body)
        assert (reply.status_code, reply.json()["code"]) == (400, "key_missing")
        assert reply.headers["content-type"] == "application/problem+json"
    assert waiting(queue) == []
    assert add(queue["operator"], meta={})["item_uid"], "people may submit without a key"


@pytest.mark.parametrize("role", ["agent", "operator", "admin"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_nan_never_reaches_the_queue(queue: Any, role: str, number: str) -> None:
    """queueserver queues it and answers 500 (issue 2: NaN gives a clear error and changes nothing)."""
    body = json.dumps({"item": plan(kwargs={"x_um": "@"})}).replace('"@"', number)
    for path, sent in (("add", body), ("execute", body), ("add/batch", f'{{"items": [{json.dumps(plan())}, {body}]}}')):
        if (role, path) == ("agent", "execute"):
            continue
        headers = {"Content-Type": "application/json"}
        reply = queue[role].post(f"/api/queue/item/{path}", content=sent, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (422, "not_finite")
    assert waiting(queue) == []


def test_an_agent_edits_and_removes_its_own_items(queue: Any) -> None:
    item = add(queue["agent"])
    changed = queue["agent"].post("/api/queue/item/update", json={"item": {**item, "kwargs": {"x_um": 2.0}}}).json()
    assert changed["success"]
    assert waiting(queue)[0]["kwargs"] == {"x_um": 2.0}
    keyless = queue["agent"].post("/api/queue/item/update", json={"item": {**item, "meta": {}}})
    assert keyless.json()["code"] == "key_missing"
    others = [add(queue["agent"])["item_uid"] for _ in range(2)]
    assert queue["agent"].post("/api/queue/item/remove", json={"uid": item["item_uid"]}).json()["success"]
    assert queue["agent"].post("/api/queue/item/remove/batch", json={"uids": others}).json()["success"]
    assert waiting(queue) == []


@pytest.mark.parametrize("owner", ["operator", "owner of the machine"])
def test_an_agent_cannot_touch_items_of_others(queue: Any, owner: str) -> None:
    if owner == "operator":
        theirs = add(queue["operator"])
    else:
        theirs = queue.ask("queue_item_add", item=plan(), user="agent", user_group="primary")["item"]
    own = add(queue["agent"])
    uid, before = theirs["item_uid"], waiting(queue)
    attempts: dict[str, dict[str, Any]] = {
        "item/update": {"item": {**theirs, "kwargs": {"x_um": 9.0}}},
        "item/update ": {"item": {**theirs, "kwargs": {"x_um": 9.0}}, "replace": True},
        "item/remove": {"uid": uid},
        "item/remove ": {"pos": "front"},
        "item/remove/batch": {"uids": [own["item_uid"], uid]},
        "item/remove/batch ": {"uids": [own["item_uid"], uid], "ignore_missing": True},
        "item/move": {"uid": own["item_uid"], "pos_dest": "front"},
        "item/move/batch": {"uids": [own["item_uid"]], "pos_dest": "front"},
        "item/add": {"item": plan(), "pos": "front"},
        "item/add ": {"item": {"item_type": "instruction", "name": "queue_stop"}},
        "clear": {},
        "mode/set": {"mode": {"loop": True}},
        "autostart": {"enable": True},
        "start": {},
    }
    for path, body in attempts.items():
        reply = queue["agent"].post(f"/api/queue/{path.strip()}", json=body)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), path
    assert waiting(queue) == before


def test_an_operator_edits_everybodys_items(queue: Any) -> None:
    item = add(queue["agent"])
    assert (
        queue["operator"]
        .post("/api/queue/item/update", json={"item": {**item, "kwargs": {"x_um": 1.0}}})
        .json()["success"]
    )
    assert waiting(queue)[0]["user"] == "operator", "whose it is from then on"
    assert queue["agent"].post("/api/queue/item/remove", json={"uid": item["item_uid"]}).status_code == 403
    assert queue["operator"].post("/api/queue/item/remove", json={"uid": item["item_uid"]}).json()["success"]


def test_what_the_queue_does_not_hold_is_answered_by_the_queue_server(queue: Any) -> None:
    reply = queue["agent"].post("/api/queue/item/remove", json={"uid": "nowhere"})
    assert reply.status_code == 200
    assert reply.json()["success"] is False
    assert "nowhere" in reply.json()["msg"]


def test_bodies_of_any_kind_pass_through_unchanged(queue: Any) -> None:
    """What the guard passes on is the same JSON, whatever the request's framing."""
    kept = {
        "op_key": "test-unicode",
        "note": 'µm ✓ \u2028 \\ "',
        "numbers": [0.1, 1e-300, 2**53 + 1, -0.0],
        "none": None,
    }
    body = json.dumps({"item": plan(meta=kept)}, ensure_ascii=False).encode()
    chunked = queue["agent"].post(
        "/api/queue/item/add", content=iter([body[:10], body[10:]]), headers={"Content-Type": "application/json"}
    )
    assert chunked.json()["success"], chunked.text
    assert waiting(queue)[0]["meta"] == kept


def test_a_body_too_large_is_refused(queue: Any) -> None:
    reply = queue["agent"].post(
        "/api/queue/item/add", json={"item": plan(meta={"op_key": "test-large", "x": "x" * 9_000_000})}
    )
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


def test_the_stock_http_client_works_with_an_agents_key(queue: Any) -> None:
    """R1.11 The key travels in the item's meta, with bluesky-queueserver-api unchanged."""
    client = REManagerAPI(http_server_uri=queue.server.url)
    try:
        client.set_authorization_key(api_key=queue.layout.key("agent"))
        assert client.status()["worker_environment_exists"]
        plan_with_key = BPlan("rest", x_um=1.0)
        plan_with_key.meta = {"op_key": "test-client-1"}
        added = client.item_add(plan_with_key)
        assert client.queue_get()["items"][0]["item_uid"] == added["item"]["item_uid"]
        assert client.item_get(uid=added["item"]["item_uid"])["item"]["meta"] == {"op_key": "test-client-1"}
        assert "rest" in client.plans_allowed()["plans_allowed"]
        assert client.item_remove(uid=added["item"]["item_uid"])["success"]
    finally:
        client.close()


def test_an_unanswered_question_about_owners_changes_nothing(start_and_stop: Any, data_folder: Any) -> None:
    """With no queue server there is no telling whose item it is: refused, not passed on."""
    server = start_and_stop(data_folder("unanswered"))
    reply = server["agent"].post("/api/queue/item/remove", json={"uid": "x"})
    assert (reply.status_code, reply.json()["code"]) == (503, "queue_unreachable")
