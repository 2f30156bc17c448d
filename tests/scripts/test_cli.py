"""The command on a running stack: facts as JSON, exit code 0 only where it worked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

PIDS = {"supervisor", "valkey", "tiled", "watchdog", "manager", "worker", "http", "courier", "hardware"}


def facts(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def queue_length(stack: Any) -> int:
    return int(stack.manager().status(reload=True)["items_in_queue"])


def test_runtime_json_is_the_contract_and_every_pid_is_alive(stack: Any) -> None:
    runtime = stack.runtime
    assert set(runtime) == {"http", "tiled", "zmq", "scope", "server_id", "pids"}
    assert set(runtime["zmq"]) == {"control", "info"}
    assert runtime["scope"] == "demo-dispim"
    assert set(runtime["pids"]) == PIDS
    assert all(psutil.pid_exists(pid) for pid in runtime["pids"].values())
    for name in ("manager", "worker"):
        assert psutil.Process(runtime["pids"][name]).ppid() == runtime["pids"]["watchdog"]
    listening = {c.laddr for c in psutil.Process(runtime["pids"]["manager"]).net_connections("unix")}
    assert runtime["zmq"]["control"].removeprefix("ipc://") in listening


def test_status_tells_processes_memory_readiness_queue_and_catalog(stack: Any) -> None:
    """The whole idle stack stays below 1.5 GB resident."""
    found = facts(stack.command("status", "--json"))
    assert found["ready"] is True
    assert found["catalog"] is True
    assert found["queue"]["queue_autostart_enabled"] is True
    assert set(found["processes"]) == PIDS
    assert all(p["pid"] and p["rss"] and p["pss"] for p in found["processes"].values())
    assert found["total"]["pss"] <= found["total"]["rss"] < 1.5e9
    table = stack.command("status").stdout
    assert "courier" in table
    assert "ready: a submitted plan would run" in table


def test_ready_says_so(stack_no_catalog: Any) -> None:
    assert facts(stack_no_catalog.command("ready", "--json")) == {
        "ready": True,
        "reasons": [],
        "holds": [],
    }


def test_a_second_up_is_refused_with_the_pid_of_the_first(stack_no_catalog: Any) -> None:
    before = stack_no_catalog.runtime
    second = stack_no_catalog.command("up", "--http-port", "0")
    assert second.returncode == 1
    assert f"(pid {before['pids']['supervisor']})" in second.stderr
    assert stack_no_catalog.runtime == before


def test_plans_shows_parameters_and_limits(stack_no_catalog: Any) -> None:
    plans = facts(stack_no_catalog.command("plans", "--json"))
    assert {"snap", "z_stack", "acquire_volume", "move_axis", "read_state"} <= set(plans)
    page = stack_no_catalog.command("plans", "acquire_volume").stdout
    assert "slices" in page
    assert "A | B | both" in page
    unknown = stack_no_catalog.command("plans", "levitate")
    assert unknown.returncode == 1
    assert "no plan 'levitate': there are acquire_volume" in unknown.stderr


def test_run_follows_a_plan_and_show_finds_it_by_uid_and_by_key(stack_no_catalog: Any) -> None:
    """R3.13 the plan's result is returned too."""
    stack = stack_no_catalog
    words = ("run", "snap", "camera=overview", "n=2", "--key", "cli-test-1", "--json")
    found = facts(stack.command(*words))
    assert (found["state"], found["replayed"]) == ("succeeded", False)
    [run] = found["runs"]
    [dataset] = run["datasets"]
    assert (dataset["frames_written"], dataset["shape"]) == (2, [2, 1024, 1024])
    assert Path(dataset["path"]).is_dir()
    again = facts(stack.command(*words))
    assert (again["runs"], again["replayed"]) == (found["runs"], True), "R1.10"
    assert facts(stack.command("show", run["uid"], "--json"))["uid"] == run["uid"]
    by_key = facts(stack.command("show", "cli-test-1", "--json"))
    assert by_key["run_uids"] == [run["uid"]]
    assert by_key["result"] == found["result"] == {"run_uid": run["uid"], "datasets": {"overview": 2}}
    shown = stack.command("show", run["uid"]).stdout
    assert "2 frames, 2 × 1024 × 1024" in shown
    missing = stack.command("show", "no-such-run-or-key")
    assert missing.returncode == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("levitate",), "levitate"),
        (("move_axis", "axis=piezo_a", "to=201"), "[-200.0, 200.0]"),
        (("move_axis", "axis=piezo_a", "to=NaN"), "not JSON compliant"),
        (("snap", "wobble=1"), "wobble"),
        (("snap", "camera"), "'camera' is not NAME=VALUE"),
    ],
)
def test_run_says_what_the_server_refuses_and_queues_nothing(
    stack_no_catalog: Any, words: tuple[str, ...], said: str
) -> None:
    """R2.10 the server's error text reaches the person; nothing is queued."""
    before = stack_no_catalog.manager().status(reload=True)["plan_queue_uid"]
    done = stack_no_catalog.command("run", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert stack_no_catalog.manager().status(reload=True)["plan_queue_uid"] == before
    assert queue_length(stack_no_catalog) == 0


def test_run_ends_with_a_code_when_the_plan_fails(stack_no_catalog: Any) -> None:
    done = stack_no_catalog.command("run", "move_axis", "axis=f", "by=399")
    assert done.returncode == 1
    assert "move_axis failed" in done.stderr
    assert "f 399.0 um is outside [-200.0, 200.0]" in done.stderr


def test_ctrl_c_aborts_the_running_plan(stack_no_catalog: Any) -> None:
    stack = stack_no_catalog
    command = [sys.executable, "-m", "queuescope.scripts", "run", "acquire_volume", "slices=300"]
    command += [
        "channels=[{name: gfp, exposure_ms: 100.0}]",
        "--key",
        "cli-test-ctrl-c",
    ]  # no disk is too slow for that
    manager = stack.manager()
    with subprocess.Popen(command, env=stack.environ, stderr=subprocess.PIPE, text=True) as run:
        while manager.status(reload=True)["re_state"] != "running":
            assert run.poll() is None, run.communicate()
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "acquire_volume cancelled: cancelled by operator; the plan itself: aborted" in stderr
    manager.wait_for_idle(timeout=30)
    [item] = [i for i in manager.history_get()["items"] if i.get("meta", {}).get("op_key") == "cli-test-ctrl-c"]
    assert item["result"]["exit_status"] == "aborted"


def test_demo_uses_the_stack_that_runs_and_leaves_it(stack: Any) -> None:
    """Two cameras, read back from the catalog by UID, equal to what was taken; ends with the line that programs read."""
    before = stack.runtime
    done = stack.command("demo", "--json")
    found = facts(done)
    assert set(found) == {"run_uid", "datasets", "png", "seconds"}
    assert [d["name"] for d in found["datasets"]] == ["cam_a", "cam_b"]
    assert all(d["frames_written"] == 20 for d in found["datasets"])
    assert Path(found["png"]).read_bytes().startswith(b"\x89PNG")
    assert "40 frames from the catalog by UID" in done.stdout
    assert stack.runtime == before
    status, run = stack.get(f"/api/runs/{found['run_uid']}")
    assert status == 200
    assert run["datasets"] == found["datasets"]


def test_commands_without_a_stack_say_so(tmp_path: Path) -> None:
    for words in (("status",), ("ready",), ("plans",), ("run", "snap"), ("show", "x")):
        command = [sys.executable, "-m", "queuescope.scripts", *words, "--data", str(tmp_path / "nothing")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert "no running stack" in done.stdout or "no stack runs on" in done.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "name",
    ["up", "down", "status", "ready", "plans", "run", "show", "verify", "export", "demo", "init", "doctor", "bench"],
)
def test_every_command_has_a_help_text(name: str) -> None:
    command = [sys.executable, "-m", "queuescope.scripts", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: queuescope " in done.stdout or f"Usage: python -m queuescope.scripts {name}" in done.stdout
