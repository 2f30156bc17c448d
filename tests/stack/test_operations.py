"""Operations on the whole stack: one acquisition for each key and attempt, whatever is edited, requeued or killed: R1, R2."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from queuescope.ledger import Ledger, Operations
from queuescope.startup._queueserver import valkey_address

SNAP = {"plan": "snap", "kwargs": {"camera": "overview"}, "session_id": "night", "sample_id": None}
LONG = {
    "plan": "z_stack",
    "kwargs": {"range_um": 100, "step_um": 0.1, "channels": [{"name": "gfp", "exposure_ms": 50}]},
}
"""Far longer than anything that the tests do to it."""


def until(true: Callable[[], Any], limit_s: float = 90) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)
    return found


class Agent:
    """A client with the agent's key."""

    def __init__(self, stack: Any, role: str = "agent") -> None:
        headers = {"Authorization": f"ApiKey {stack.key(role)}"}
        self.http = httpx.Client(base_url=stack.http, headers=headers, timeout=90, trust_env=False)

    def submit(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self.http.post("/api/ops", json=body, headers={"Idempotency-Key": key})
        assert reply.status_code == 201, reply.text
        return dict(reply.json())

    def get(self, key: str, wait: float = 0) -> dict[str, Any]:
        return dict(self.http.get(f"/api/ops/{key}", params={"wait": wait}).json())

    def ended(self, key: str) -> dict[str, Any]:
        return dict(until(lambda: (now := self.get(key, wait=30))["finished_at"] and now))

    def call(self, key: str, what: str) -> dict[str, Any]:
        reply = self.http.post(f"/api/ops/{key}/{what}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


@pytest.fixture
def stack(stack_no_catalog: Any) -> Any:
    return stack_no_catalog


@pytest.fixture
def agent(stack: Any) -> Iterator[Agent]:
    found = Agent(stack)
    yield found
    found.http.close()


@pytest.fixture
def stopped(stack: Any) -> Iterator[Any]:
    """The manager, with a queue that starts nothing."""
    manager = stack.manager()
    manager.queue_autostart(False)
    until(
        lambda: manager.status(reload=True)["manager_state"] == "idle"
    )  # a queue that runs goes on, without autostart too
    yield manager
    manager.queue_clear()
    manager.queue_autostart(True)


@pytest.fixture
def valkey(stack: Any) -> Iterator[redis.Redis]:
    with redis.Redis(**valkey_address(stack.scope, stack.layout), decode_responses=True) as client:
        yield client


QUEUE = "queuescope_plan_queue"


def starts(stack: Any, key: str) -> list[dict[str, Any]]:
    """The start documents of a key's runs: what was really begun, whoever says what of it."""
    found = []
    for log in stack.layout.documents.glob("*.jsonl"):
        with log.open() as file:
            doc = json.loads(file.readline())["doc"]
        if doc.get("op_key") == key:
            found.append(doc)
    return sorted(found, key=lambda doc: doc["time"])


def test_an_operation_runs_once_and_is_replayed(stack: Any, agent: Agent) -> None:
    """R1.2, R1.9, R1.10, R3.13: one run, its UID and its result from the first answer on, whoever asks how often."""
    key = "ops.once-1"
    with ThreadPoolExecutor(8) as pool:
        assert {reply["key"] for reply in pool.map(lambda _: agent.submit(key, SNAP), range(16))} == {key}
    ended = agent.ended(key)
    assert (ended["state"], ended["error"], ended["attempt"]) == ("succeeded", None, 1)
    (start,) = starts(stack, key)
    assert ended["run_uids"] == [start["uid"]]
    assert (start["item_uid"], start["user"], start["session_id"]) == (ended["item_uid"], "agent", "night")
    assert ended["result"]["run_uid"] == start["uid"]
    assert agent.submit(key, SNAP) == ended
    stack.wait(ended["item_uid"])  # queueserver's history comes later than our answer
    history = stack.manager().history_get()["items"]
    assert [item["item_uid"] for item in history if item.get("meta", {}).get("op_key") == key] == [ended["item_uid"]]
    stock = {
        "item_type": "plan",
        "name": "snap",
        "kwargs": SNAP["kwargs"],
        "meta": {"op_key": key, "session_id": "night"},
    }
    assert stack.manager().item_add(stock)["item"]["item_uid"] == ended["item_uid"], "R1.11: not queued again"
    assert len(starts(stack, key)) == 1


def test_refused_parameters_say_field_value_and_limit(stack: Any, agent: Agent) -> None:
    """R2.10: over the real manager; nothing is queued."""
    body = {"plan": "move_axis", "kwargs": {"axis": "piezo_a", "to": 201.0}}
    reply = agent.http.post("/api/ops", json=body, headers={"Idempotency-Key": "ops.refused-1"})
    assert (reply.status_code, reply.json()["code"]) == (422, "parameters_refused"), reply.text
    (error,) = reply.json()["errors"]
    assert (error["loc"], error["value"]) == (["kwargs", "to"], 201.0)
    assert "[-200.0, 200.0]" in reply.json()["detail"]
    unknown = agent.http.post("/api/ops", json={"plan": "levitate"}, headers={"Idempotency-Key": "ops.refused-2"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_plan")
    assert agent.http.get("/api/ops/ops.refused-1").status_code == 404
    assert stack.manager().status(reload=True)["items_in_queue"] == 0


def test_a_failure_replays_and_a_retry_is_an_attempt_of_its_own(stack: Any, agent: Agent) -> None:
    """R1.5, R1.7: the next one runs meanwhile."""
    key, body = "ops.failing-1", {"plan": "move_axis", "kwargs": {"axis": "f", "by": 399.0}}
    agent.submit(key, body)
    failed = agent.ended(key)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "outside_limits")
    assert agent.submit(key, body) == failed
    assert agent.call(key, "retry")["attempt"] == 2
    again = agent.ended(key)
    assert (again["attempt"], again["state"]) == (2, "failed")
    assert again["item_uid"] != failed["item_uid"]
    agent.submit("ops.failing-2", {"plan": "read_state"})
    assert agent.ended("ops.failing-2")["state"] == "succeeded"


def test_a_running_operation_is_cancelled_and_the_next_one_runs(stack: Any, agent: Agent) -> None:
    """R2.4: paused, aborted, with its run UID and a stop document; nothing else is. In the middle of a controller's volume, which
    a pause would wait for longer than a cancel does before it halts the microscope.
    """
    key = "ops.cancelled-1"
    small = {"x_px": 0, "y_px": 0, "width_px": 64, "height_px": 64}
    agent.submit(
        key, {"plan": "acquire_volume", "kwargs": {"slices": 1000, "step_um": 0.1, "views": "A", "roi": small}}
    )
    agent.submit("ops.cancelled-2", {"plan": "read_state"})
    until(lambda: agent.get(key)["progress"])
    assert agent.call(key, "cancel")["state"] in ("running", "cancelled")
    ended = agent.ended(key)
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
    assert "the plan itself: aborted" in ended["error"]["detail"]
    (start,) = starts(stack, key)
    assert ended["run_uids"] == [start["uid"]]
    stop = json.loads(stack.layout.document_log(start["uid"]).read_text().splitlines()[-1])["doc"]
    assert stop["exit_status"] == "abort"
    assert agent.ended("ops.cancelled-2")["state"] == "succeeded"


def test_cancelled_in_the_queue_it_is_gone(agent: Agent, stopped: Any) -> None:
    """R2.5: its item is removed."""
    queued = agent.submit("ops.unqueued-1", SNAP)
    assert (queued["state"], queued["hold"]["reason"]) == ("queued", "queue_stopped")
    assert agent.call("ops.unqueued-1", "cancel")["state"] == "cancelled"
    assert not any(item["item_uid"] == queued["item_uid"] for item in stopped.queue_get()["items"])


def test_what_a_stock_client_removes_or_clears_is_cancelled(agent: Agent, stopped: Any) -> None:
    """DESIGN, Dispatch."""
    keys = [f"ops.removed-{n}" for n in range(4)]
    uids = [agent.submit(key, SNAP)["item_uid"] for key in keys]
    stopped.item_remove(uid=uids[0])
    stopped.item_remove_batch(uids=[uids[1]])
    for key in keys[:2]:
        assert agent.get(key)["error"]["code"] == "removed_from_queue"
    assert agent.get(keys[2])["state"] == "queued"
    stopped.queue_clear()
    for key in keys:
        now = agent.get(key)
        assert (now["state"], now["error"]["code"]) == ("cancelled", "removed_from_queue")
        assert now["started_at"] is None


@pytest.mark.parametrize("replace", [False, True])
def test_what_a_stock_client_edits_does_not_run(stack: Any, agent: Agent, stopped: Any, replace: bool) -> None:
    """R1.3: the body that runs is the one that was recorded."""
    key = f"ops.edited-{replace}"
    uid = agent.submit(key, SNAP)["item_uid"]
    item = next(one for one in stopped.queue_get()["items"] if one["item_uid"] == uid)
    stopped.item_update({**item, "kwargs": {"camera": "overview", "n": 3}}, replace=replace)
    assert agent.get(key)["state"] == "queued"
    stopped.queue_autostart(True)
    ended = agent.ended(key)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "body_changed")
    assert starts(stack, key) == []


def test_the_terminal_lists_shows_and_cancels(stack: Any, agent: Agent) -> None:
    """DESIGN, CLI: `ops`, `show KEY`, `cancel KEY`; the same JSON as over REST."""
    key = "ops.terminal-1"
    agent.submit(key, LONG)
    until(lambda: agent.get(key)["run_uids"])
    cancelled = stack.command("cancel", key, "--json")
    assert cancelled.returncode == 0, cancelled.stderr
    ended = agent.get(key)
    assert json.loads(cancelled.stdout) == ended
    assert ended["state"] == "cancelled"
    listed = json.loads(stack.command("ops", "--json", "--last", "1", "--state", "cancelled").stdout)
    assert listed == [ended]
    shown = json.loads(stack.command("show", key, "--json").stdout)
    assert {name: shown[name] for name in ended} == ended
    assert [run["uid"] for run in shown["runs"]] == ended["run_uids"]
    assert key in stack.command("ops").stdout
    assert stack.command("cancel", "nobodys-1").returncode == 1


def test_copies_of_an_item_do_not_run(stack: Any, agent: Agent, valkey: redis.Redis) -> None:
    """R1.5: neither one that queueserver puts back under a new UID, nor one that a queue store brings back as it was."""
    key = "ops.copied-1"
    done = agent.submit(key, SNAP)
    ended = agent.ended(key)
    item = stack.wait(done["item_uid"])
    copy = {name: value for name, value in item.items() if name != "result"}
    stack.manager().queue_autostart(False)
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle")
    for uid in (done["item_uid"], "00000000-requeued"):
        valkey.rpush(QUEUE, json.dumps({**copy, "item_uid": uid}))
    kill_manager(stack)  # it reads the queue anew
    stack.manager().queue_autostart(True)
    until(lambda: stack.manager().status(reload=True)["items_in_queue"] == 0)
    agent.submit("ops.copied-2", {"plan": "read_state"})
    agent.ended("ops.copied-2")
    assert agent.get(key) == ended
    assert len(starts(stack, key)) == 1


def kill_manager(stack: Any) -> None:
    """kill -9; its watchdog starts it again."""
    old = stack.runtime["pids"]["manager"]
    os.kill(old, signal.SIGKILL)
    until(lambda: stack.runtime["pids"]["manager"] not in (None, old))

    def answers() -> bool:
        try:
            return bool(stack.manager().status(reload=True)["manager_state"] == "idle")
        except Exception:
            return False

    until(answers)


def test_what_the_queue_store_lost_is_queued_again_once(
    stack: Any, agent: Agent, stopped: Any, valkey: redis.Redis
) -> None:
    """R1.4: absent and claimed by nobody; what is there, and what has ended, stays as it is. After kill -9 of the manager."""
    lost, kept = agent.submit("ops.lost-1", SNAP), agent.submit("ops.lost-2", {"plan": "read_state"})
    for raw in valkey.lrange(QUEUE, 0, -1):
        if json.loads(raw)["item_uid"] == lost["item_uid"]:
            valkey.lrem(QUEUE, 0, raw)
    kill_manager(stack)
    keys = [item["meta"]["op_key"] for item in stack.manager().queue_get()["items"]]
    assert sorted(keys) == ["ops.lost-1", "ops.lost-2"]
    assert agent.get("ops.lost-2")["item_uid"] == kept["item_uid"]
    stack.manager().queue_autostart(True)
    assert agent.ended("ops.lost-1")["state"] == agent.ended("ops.lost-2")["state"] == "succeeded"
    assert len(starts(stack, "ops.lost-1")) == 1


def test_a_manager_that_is_killed_over_a_running_plan_loses_nothing(stack: Any, agent: Agent) -> None:
    """R1.4, R2.6: the plan goes on, and its end is told once."""
    key = "ops.manager-1"
    agent.submit(key, {**LONG, "kwargs": {**LONG["kwargs"], "range_um": 20, "step_um": 1}})
    until(lambda: agent.get(key)["run_uids"])
    os.kill(stack.runtime["pids"]["manager"], signal.SIGKILL)
    ended = agent.ended(key)
    (start,) = starts(stack, key)
    assert (ended["state"], ended["run_uids"]) == ("succeeded", [start["uid"]])
    until(lambda: http_ready(stack))


def test_a_worker_that_is_killed_leaves_its_operation_interrupted(stack: Any, agent: Agent) -> None:
    """R1.5: never run again by itself, its run UID kept; what waited behind it runs; a retry is a new attempt."""
    key = "ops.worker-1"
    agent.submit(key, LONG)
    waiting = agent.submit("ops.worker-2", {"plan": "read_state"})
    until(lambda: agent.get(key)["run_uids"])
    os.kill(stack.runtime["pids"]["worker"], signal.SIGKILL)
    ended = agent.ended(key)
    assert (ended["state"], ended["error"]["code"], len(ended["run_uids"])) == ("interrupted", "interrupted", 1)
    assert agent.submit(key, LONG) == ended
    behind = agent.ended("ops.worker-2")
    assert (behind["state"], behind["item_uid"]) == ("succeeded", waiting["item_uid"])
    assert len(starts(stack, key)) == 1, "nobody ran it again"
    assert agent.call(key, "retry")["attempt"] == 2
    until(lambda: len(starts(stack, key)) == 2)
    agent.call(key, "cancel")
    assert agent.ended(key)["attempt"] == 2
    assert [doc["attempt"] for doc in starts(stack, key)] == [1, 2]
    first = Operations(Ledger(stack.layout.ledger_db)).by_run(ended["run_uids"][0])
    assert first is not None
    assert (first.attempt, first.state) == (1, "interrupted")


def http_ready(stack: Any) -> bool:
    return bool(stack.get("/api/ready")[0] == 200)
