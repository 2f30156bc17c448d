"""`POST /api/ops/check` and `queuescope run --check`: what a plan would do, while nothing moves (issue 5, item 3)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest


def until(true: Callable[[], Any], limit_s: float = 60) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture
def stack(stack_no_catalog: Any) -> Any:
    return stack_no_catalog


def check(stack: Any, plan: str, role: str = "agent", **kwargs: Any) -> tuple[int, dict[str, Any]]:
    status, body = stack.post("/api/ops/check", {"plan": plan, "kwargs": kwargs}, role)
    return status, body


def test_it_says_what_a_plan_would_do_and_nothing_happens(stack: Any) -> None:
    """R2, DESIGN's REST table; what is queued, known or written stays as it was."""
    here = stack.get("/api/scope")[1]["devices"]["piezo_a"]["position"]
    before = (stack.get("/api/ops?limit=500")[1], sorted(stack.layout.documents.iterdir()))
    status, good = check(stack, "z_stack", range_um=10, step_um=1, camera="overview", channels=[{"name": "gfp"}])
    assert (status, good["ok"], good["problems"]) == (200, True, [])
    assert (good["frames"], good["moves"]) == ({"overview": 11}, 12)
    assert good["dose"] == {"l488": pytest.approx(11 * 0.010 * 2)}
    _, bad = check(stack, "move_axis", axis="piezo_a", by=399.0)
    (problem,) = bad["problems"]
    assert (bad["ok"], problem["loc"], problem["limit"]) == (False, ["kwargs", "piezo_a"], [-200.0, 200.0])
    assert problem["value"] == here + 399.0
    _, refused = check(stack, "acquire_volume", slices=0)
    assert [problem["loc"] for problem in refused["problems"]] == [["kwargs", "slices"]]
    assert (stack.get("/api/ops?limit=500")[1], sorted(stack.layout.documents.iterdir())) == before


def test_who_may_ask_for_what(stack: Any) -> None:
    """A plan that agents may not submit is unknown to them here too."""
    assert check(stack, "levitate")[1]["code"] == "unknown_plan"
    status, body = check(stack, "home", axis="z")
    assert (status, body["code"]) == (422, "unknown_plan")
    assert check(stack, "home", role="operator", axis="z")[1]["ok"]
    assert check(stack, "read_state", role="observer")[0] == 403


def test_the_open_sample_s_budget_counts(stack: Any) -> None:
    """R5.6: held before anything is queued."""
    assert stack.post("/api/samples", {"id": "check-worm", "dose_budget": {"l488": 0.1}})[0] == 200
    try:
        _, found = check(stack, "set_light", light="l488", on=True, power_pct=2.0, max_s=1.0)
        assert [(problem["loc"], problem["limit"]) for problem in found["problems"]] == [(["kwargs", "dose"], 0.1)]
        other = {"plan": "read_state", "kwargs": {}, "sample_id": "another"}
        _, named = stack.post("/api/ops/check", other, "agent")
        assert [problem["loc"] for problem in named["problems"]] == [["sample_id"]]
    finally:
        stack.post("/api/samples", {"id": "check-worm", "open": False})


def _checker(stack: Any) -> psutil.Process:
    """Not those that it forks to answer, which have its name and may be about to end."""
    named = [p for p in stack.processes() if psutil.pid_exists(p.pid) and p.name() == "qs-checker"]
    (found,) = [p for p in named if p.ppid() not in {other.pid for other in named}]
    return found


def test_it_answers_while_a_plan_runs_and_after_the_checker_was_killed(stack: Any) -> None:
    key = "check.running-1"
    body = {"plan": "set_light", "kwargs": {"light": "led", "on": True, "max_s": 60.0}}
    uid = stack.submit(body["plan"], key, **body["kwargs"])
    try:
        until(lambda: stack.get(f"/api/ops/{key}")[1]["run_uids"])
        assert check(stack, "move_z", z_um=1.0)[1]["ok"]
        os.kill(_checker(stack).pid, signal.SIGKILL)
        until(lambda: check(stack, "move_z", z_um=1.0)[0] == 200)
        assert stack.get(f"/api/ops/{key}")[1]["state"] == "running"
    finally:
        stack.post(f"/api/ops/{key}/cancel", {})
        stack.wait(uid)


def test_a_protocol_is_gone_through_as_a_whole(stack: Any) -> None:
    """Each step from where the one before ends."""
    by = {"plan": "move_axis", "kwargs": {"axis": "piezo_b", "by": 150.0}}
    assert check(stack, "protocol", steps=[by])[1]["ok"]
    found = check(stack, "protocol", steps=[by, by])[1]
    assert [problem["loc"] for problem in found["problems"]] == [["kwargs", "piezo_b"]]


def test_the_terminal_checks_too(stack: Any) -> None:
    done = stack.command("run", "z_stack", "range_um=4", "step_um=1", "camera=overview", "--check", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == {"overview": 5}
    refused = stack.command("run", "move_axis", "axis=f", "by=399", "--check")
    assert refused.returncode == 1
    assert "outside [-200" in refused.stderr
