"""What died or hangs is told within 2 s, ended, and started again; what it did is interrupted, never repeated: R1.5, R2.6."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from queuescope.scripts._probes import NoAnswer
from queuescope.startup._queueserver import valkey_address

from .test_operations import LONG, QUEUE, Agent, starts, until

TOLD_S = 2.0
BUSY_S = 1.5
"""Granted to the tests' own questions, on a machine that does other things as well."""


@pytest.fixture(scope="module")
def stack(make_stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One of its own: a part that dies too often is left down."""
    found = make_stack(tmp_path_factory.mktemp("liveness") / "data")
    started = found.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    yield found
    found.down()


@pytest.fixture
def agent(stack: Any) -> Iterator[Agent]:
    found = Agent(stack)
    until(lambda: ready(stack) == [])
    yield found
    found.http.close()
    until(lambda: ready(stack) == [])


def ready(stack: Any) -> list[str]:
    """Why no plan would run."""
    try:
        code, body = stack.get("/api/ready")
    except NoAnswer as error:
        return [str(error)]
    return [] if code == 200 else list(body["reasons"])


def within(limit_s: float, true: Callable[[], Any]) -> Any:
    return until(true, limit_s + BUSY_S)


def running(agent: Agent, key: str) -> dict[str, Any]:
    agent.submit(key, LONG)
    return dict(until(lambda: (now := agent.get(key))["run_uids"] and now))


def test_a_frozen_worker_is_told_and_ended_with_its_lights_off(stack: Any, agent: Agent) -> None:
    """R0.3, R1.5, R2.6: SIGSTOP over a plan. Everybody says that it doesn't answer, then it is ended; the next one runs."""
    key = "live.frozen-1"
    run_uids = running(agent, key)["run_uids"]
    behind = agent.submit("live.frozen-2", {"plan": "read_state"})
    worker = stack.runtime["pids"]["worker"]
    os.kill(worker, signal.SIGSTOP)
    (why,) = within(TOLD_S, lambda: [r for r in ready(stack) if "environment: the RE worker has not answered" in r])
    assert "limit 5 s" in why
    hold = agent.get(key)["hold"]
    assert (hold["reason"], "has not answered" in hold["detail"]) == ("restarting", True)
    status = stack.manager().status(reload=True)
    assert (status["worker_environment_state"], status["re_state"]) == ("unresponsive", None)
    ended = agent.ended(key)
    assert (ended["state"], ended["run_uids"]) == ("interrupted", run_uids)
    assert "has not answered" in ended["error"]["detail"]
    assert all(not light.on for light in stack.hardware().state().lights.values())
    assert agent.ended("live.frozen-2")["state"] == "succeeded"
    assert agent.get("live.frozen-2")["item_uid"] == behind["item_uid"]
    assert len(starts(stack, key)) == 1
    assert stack.runtime["pids"]["worker"] != worker


def test_a_dead_worker_is_told_at_once(stack: Any, agent: Agent) -> None:
    """R1.5: its operation has ended as interrupted two seconds later, with its run; nothing of it is in the queue."""
    key = "live.dead-1"
    run_uids = running(agent, key)["run_uids"]
    worker = stack.runtime["pids"]["worker"]
    os.kill(worker, signal.SIGKILL)
    ended = within(TOLD_S, lambda: (now := agent.get(key))["finished_at"] and now)
    assert (ended["state"], ended["run_uids"], ended["error"]["detail"]) == (
        "interrupted",
        run_uids,
        "the RE worker died",
    )
    assert any("environment" in reason for reason in ready(stack)), "not reopened yet"
    assert stack.manager().queue_get()["items"] == []
    assert stack.manager().status(reload=True)["queue_autostart_enabled"] is False
    opening = until(lambda: (pid := stack.runtime["pids"]["worker"]) != worker and pid)
    os.kill(opening, signal.SIGKILL)  # queueserver would wait for it for ever
    until(lambda: stack.runtime["pids"]["worker"] not in (None, worker, opening))
    until(lambda: ready(stack) == [])
    assert stack.manager().status(reload=True)["queue_autostart_enabled"] is True


def test_worker_and_manager_dead_at_once_come_back(stack: Any, agent: Agent) -> None:
    """R1.5: nobody is left who saw the worker die."""
    key = "live.both-1"
    running(agent, key)
    for name in ("manager", "worker"):
        os.kill(stack.runtime["pids"][name], signal.SIGKILL)
    assert agent.ended(key)["state"] == "interrupted"
    until(lambda: ready(stack) == [])
    assert len(starts(stack, key)) == 1


def test_a_frozen_http_server_is_started_again(stack: Any, agent: Agent) -> None:
    """R2.6: the plan that runs meanwhile ends."""
    name, key = "http", "live.http-1"
    agent.submit(key, {**LONG, "kwargs": {**LONG["kwargs"], "range_um": 20, "step_um": 1}})
    before = stack.runtime["pids"][name]
    os.kill(before, signal.SIGSTOP)
    until(lambda: stack.runtime["pids"][name] not in (None, before))
    until(lambda: ready(stack) == [])
    assert agent.ended(key)["state"] == "succeeded"


def test_a_frozen_queue_store_at_the_end_of_a_plan(stack: Any, agent: Agent) -> None:
    """R2.6: it is started again, and the plan's end is told then: queueserver alone would wait for ever."""
    key = "live.store-1"
    agent.submit(key, {**LONG, "kwargs": {**LONG["kwargs"], "range_um": 10, "step_um": 1}})
    until(lambda: agent.get(key)["run_uids"])
    before = stack.runtime["pids"]["valkey"]
    os.kill(before, signal.SIGSTOP)
    assert agent.ended(key)["state"] == "succeeded", "the ledger needs no queue store"
    until(lambda: stack.runtime["pids"]["valkey"] not in (None, before))
    until(lambda: ready(stack) == [])
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle")
    agent.submit("live.store-2", {"plan": "read_state"})
    assert agent.ended("live.store-2")["state"] == "succeeded"


def test_what_a_killed_queue_store_had_not_written_is_queued_again(stack: Any, agent: Agent) -> None:
    """R1.4, R2.6: Valkey writes up to a second after it has answered; the ledger has the operation. What is there twice, since
    it was sent again, or although it runs, goes.
    """
    running(agent, "live.lost-1")
    agent.submit("live.lost-2", {"plan": "read_state"})
    agent.submit("live.lost-3", {"plan": "read_state"})
    before = stack.runtime["pids"]["valkey"]
    with redis.Redis(**valkey_address(stack.scope, stack.layout)) as store:
        kept = store.rpop(QUEUE)
        store.delete(QUEUE)
        store.rpush(QUEUE, kept, store.get(QUEUE.replace("plan_queue", "running_plan")), kept)
        os.kill(before, signal.SIGKILL)
    until(lambda: stack.runtime["pids"]["valkey"] not in (None, before))
    agent.call("live.lost-1", "cancel")
    assert agent.ended("live.lost-2")["state"] == agent.ended("live.lost-3")["state"] == "succeeded"
    until(lambda: stack.manager().status(reload=True)["items_in_queue"] == 0)
    assert len(starts(stack, "live.lost-1")) == 1


def test_there_is_one_queue_server_for_a_data_directory(stack: Any, agent: Agent) -> None:
    """A second manager would take the first one's plan for lost; it doesn't start, and the plan goes on."""
    key = "live.second-1"
    running(agent, key)
    command = [sys.executable, "-m", "queuescope.startup", "--data", str(stack.data)]
    second = subprocess.run(command, env=stack.environ, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "a queue server runs on" in second.stderr
    assert agent.get(key)["state"] == "running"
    agent.call(key, "cancel")
    assert agent.ended(key)["state"] == "cancelled"


def test_quick_plans_back_to_back_all_run(stack: Any, agent: Agent) -> None:
    """R1.2: shorter than queueserver's own 20 ms pause after a start; each one runs, and runs once."""
    keys = [f"live.quick-{number}" for number in range(40)]
    began = time.monotonic()
    for key in keys:
        agent.submit(key, {"plan": "read_state"})
    ended = [agent.ended(key) for key in keys]
    assert {one["state"] for one in ended} == {"succeeded"}, [one["error"] for one in ended]
    assert time.monotonic() - began < 0.5 * len(keys), "as slow as queueserver's polls"
