"""What happens to operations, over a WebSocket: R2."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from queuescope.ledger import Ledger, Operations, bell
from queuescope.server._tickets import LIFE_S, MOST, Tickets

PATIENCE_S = 30


@pytest.fixture(scope="module")
def server(start_for_module: Callable[..., Any], data_folder: Callable[[str], Any]) -> Any:
    return start_for_module(data_folder("events"))


@pytest.fixture
def operations(server: Any) -> Operations:
    """As the worker and the manager write them."""
    return Operations(Ledger(server.layout.ledger_db), bell(server.layout))


def follow(server: Any, role: str | None = "observer", **query: Any) -> ClientConnection:
    headers = {"Authorization": f"ApiKey {server.layout.key(role)}"} if role else {}
    words = "&".join(f"{name}={value}" for name, value in query.items())
    return connect(f"{server.url.replace('http', 'ws')}/api/ops/ws?{words}", additional_headers=headers, proxy=None)


def run(operations: Operations, key: str) -> None:
    item = {"name": "snap", "item_uid": f"item-{key}", "kwargs": {}, "meta": {"op_key": key}, "user": "agent"}
    operations.queued(item)
    operations.claim(item)
    operations.add_run(item["item_uid"], f"run-{key}")
    operations.finish(item["item_uid"], "succeeded", exit_status="completed")


def until_ended(events: ClientConnection) -> list[dict[str, Any]]:
    found = []
    while not found or found[-1]["data"].get("error", 0) == 0:
        found.append(json.loads(events.recv(timeout=PATIENCE_S)))
    return found


def states(events: list[dict[str, Any]]) -> list[str]:
    return [event["data"]["state"] for event in events]


def test_subscribed_before_submitting_nothing_is_missed(server: Any, operations: Operations) -> None:
    """R2.1, R2.2, R2.11: only this key's, in order, with one terminal event, however fast it ends; foreign ones don't end it."""
    with follow(server, key="events.mine-1", cursor=0) as mine:
        run(operations, "events.other-1")
        run(operations, "events.mine-1")
        found = until_ended(mine)
        assert states(found) == ["queued", "running", "running", "succeeded"]
        assert {event["key"] for event in found} == {"events.mine-1"}
        assert set(found[0]) == {"cursor", "server_id", "key", "attempt", "type", "time", "data"}
        assert found[2]["data"]["run_uid"] == "run-events.mine-1"
        run(operations, "events.other-2")
        with pytest.raises(TimeoutError):
            mine.recv(timeout=0.3)


def test_a_lost_connection_goes_on_at_its_cursor(server: Any, operations: Operations) -> None:
    """R2.6: nothing twice, nothing missed; without a cursor it begins now."""
    with follow(server, key="events.lost-1", cursor=0) as first:
        run(operations, "events.lost-1")
        before = [json.loads(first.recv(timeout=PATIENCE_S)) for _ in range(2)]
    with follow(server, key="events.lost-1", cursor=before[-1]["cursor"]) as second:
        after = until_ended(second)
    assert states([*before, *after]) == ["queued", "running", "running", "succeeded"]
    with follow(server) as everything:
        assert everything.ping().wait(PATIENCE_S)
        run(operations, "events.lost-2")
        assert {event["key"] for event in until_ended(everything)} == {"events.lost-2"}


def test_a_ticket_opens_one_websocket_once(server: Any, operations: Operations) -> None:
    """A browser can't send the header: no key stands in a URL."""
    reply = server["observer"].post("/api/tickets")
    assert reply.status_code == 201, reply.text
    ticket = reply.json()["ticket"]
    run(operations, "events.ticket-1")
    with follow(server, role=None, ticket=ticket, key="events.ticket-1", cursor=0) as events:
        assert states(until_ended(events))[-1] == "succeeded"
    for words in (ticket, "0" * 64, ""):
        with pytest.raises(InvalidStatus) as refused:
            follow(server, role=None, ticket=words)
        assert refused.value.response.status_code == 401
    another = server["observer"].post("/api/tickets").json()["ticket"]
    assert server[""].get(f"/api/ops?ticket={another}").status_code == 401, "no other route"
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server.url.replace('http', 'ws')}/api/status/ws?ticket={another}", proxy=None)
    assert refused.value.response.status_code == 401


def test_a_cursor_that_is_none_closes(server: Any) -> None:
    with follow(server, cursor="x") as events, pytest.raises(ConnectionClosed, match="whole number"):
        events.recv(timeout=PATIENCE_S)


def test_tickets_end_and_are_not_hoarded() -> None:
    now = [0.0]
    made: Tickets[str] = Tickets(lambda: now[0])
    late, until = made.issue("agent")
    assert until == LIFE_S
    now[0] = LIFE_S
    assert made.redeem(late) is None
    first, _ = made.issue("agent")
    kept = [made.issue("agent")[0] for _ in range(MOST)]
    assert made.redeem(first) is None
    assert made.redeem(kept[-1]) == "agent"
    assert made.redeem(kept[-1]) is None
