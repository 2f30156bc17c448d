"""A plan in the worker asks over REST, and keeps its clock where nobody answers. R4 Adaptive; issue 5, item 5."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

LAPSE: dict[str, Any] = {
    "plan": "adaptive_time_lapse",
    "kwargs": {
        "positions": [{"x_um": 10, "y_um": 0}, {"x_um": 20, "y_um": 0}],
        "do": {"plan": "snap", "kwargs": {"camera": "overview", "binning": 4, "channels": [{"name": "gfp"}]}},
        "interval_s": 30.0,
        "min_interval_s": 0.5,
        "rounds": 2,
        "max_positions": 3,
        "on_late": "run",
    },
}


@pytest.fixture
def agent(stack_no_catalog: Any) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"ApiKey {stack_no_catalog.key('agent')}"}
    with httpx.Client(base_url=stack_no_catalog.http, headers=headers, timeout=90, trust_env=False) as client:
        yield client


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 90
    while not (found := true()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)
    return found


def test_a_running_plan_asks_is_answered_and_goes_on(stack_no_catalog: Any, agent: httpx.Client) -> None:
    """Twice the same plan: one is answered, after a wrong answer was refused; of the other nobody takes notice."""
    for key, interval_s in (("decide.one", 30.0), ("decide.two", 5.0)):
        body = {**LAPSE, "kwargs": {**LAPSE["kwargs"], "interval_s": interval_s}}
        reply = agent.post("/api/ops", json=body, headers={"Idempotency-Key": key})
        assert reply.status_code == 201, reply.text

    hold = until(lambda: agent.get("/api/ops/decide.one").json()["hold"])
    assert hold["reason"] == "decision", hold
    assert hold in agent.get("/api/ready").json()["holds"], "whoever looks sees what it waits for"
    method, path = hold["needs"].split(" ")
    asked = agent.get(path).json()
    assert (asked["state"], asked["default"], asked["facts"]["next_round"]) == ("open", {}, 1)
    wrong = agent.post(path, json={"answer": {"power_pct": {"gfp": 99}}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "answer_refused")
    assert wrong.json()["errors"][0]["limit"] == 2
    answer = {"stop": ["p1"], "add": [{"x_um": 30, "y_um": 0}], "power_pct": {"gfp": 1}, "interval_s": 0.5}
    reply = agent.request(method, path, json={"answer": answer})
    assert reply.status_code == 200, reply.text

    answered, left_alone = (
        until(lambda key=key: (now := agent.get(f"/api/ops/{key}?wait=30").json())["finished_at"] and now)
        for key in ("decide.one", "decide.two")
    )
    assert (answered["state"], left_alone["state"]) == ("succeeded", "succeeded")
    assert answered["result"]["datasets"] == {"overview_p1": 1, "overview_p2": 2, "overview_p3": 1}
    assert left_alone["result"]["datasets"] == {"overview_p1": 2, "overview_p2": 2}
    assert agent.get("/api/ops/decide.two/decisions/1").json()["by"] == "default"
    log = stack_no_catalog.layout.document_log(answered["run_uids"][0]).read_text().splitlines()
    (event,) = (
        doc["data"]
        for doc in (json.loads(line)["doc"] for line in log)
        if "outcome" in doc.get("data", {}) and "by" in doc["data"]
    )
    assert (event["by"], event["outcome"]) == ("agent", "p1 stopped; gfp at 1 %; p3 added; every 0.5 s")
