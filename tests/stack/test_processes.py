"""Processes: the hardware in its own or in the worker, what survives whose death, what it all costs."""

import json
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from queuescope.scripts import _checks, _stack
from queuescope.scripts._probes import NoAnswer


def status(stack: Any) -> dict[str, Any]:
    answer = stack.command("status", "--json")
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout))


def test_worker_mode_needs_no_hardware_process(another_stack: Any) -> None:
    """R0.1 with ``process: worker`` plans run and no extra process or socket exists; no catalog, no address in it."""
    stack = another_stack
    stack.environ["QUEUESCOPE_MICROMANAGER__PROCESS"] = "worker"
    started = stack.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    assert [name for name, pid in stack.runtime["pids"].items() if pid is None] == ["tiled", "courier", "hardware"]
    assert stack.runtime["tiled"] is None
    assert "none (--no-catalog)" in started.stdout
    assert not stack.layout.hardware_socket.exists()
    assert not [p for p in stack.processes() if "queuescope.hardware" in " ".join(p.cmdline())]

    item = stack.run("acquire_volume", "worker.volume-1", slices=2, channels=[{"name": "gfp"}])
    assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
    code, run = stack.get(f"/api/runs/{item['result']['run_uids'][0]}")
    assert (code, run["status"]) == (200, "succeeded")
    assert [(dataset["frames_written"], dataset["tiled"]) for dataset in run["datasets"]] == [(2, None), (2, None)]
    code, scope = stack.get("/api/scope")
    assert (code, scope["mode"]) == (200, "worker")
    assert stack.get("/api/ready")[0] == 200


def test_a_plan_survives_the_http_server(stack: Any) -> None:
    """R0.2 killing the HTTP server mid-plan leaves the plan finishing; the server comes back."""
    item_uid = stack.submit("z_stack", "processes.http-1", range_um=30, step_um=1)
    deadline = time.monotonic() + 30
    while stack.manager().status(reload=True)["re_state"] != "running":
        assert time.monotonic() < deadline
    before = stack.runtime["pids"]["http"]
    psutil.Process(before).send_signal(signal.SIGKILL)
    item = stack.wait(item_uid)
    assert item["result"]["exit_status"] == "completed"
    while True:
        try:
            if stack.get("/api/ready")[0] == 200:
                break
        except NoAnswer:
            if time.monotonic() > deadline + 30:
                raise
        time.sleep(0.1)
    assert stack.runtime["pids"]["http"] not in (None, before)
    _, run = stack.get(f"/api/runs/{item['result']['run_uids'][0]}")
    assert run["datasets"][0]["frames_written"] == 31


def test_a_plan_survives_its_client(stack: Any) -> None:
    """R0.2 killing whoever submitted a plan and follows it leaves the plan finishing."""
    words = ("run", "z_stack", "range_um=30", "step_um=1", "--key", "processes.client-1")
    client = subprocess.Popen([sys.executable, "-m", "queuescope.scripts", *words], env=stack.environ)
    try:
        deadline = time.monotonic() + 60
        while stack.manager().status(reload=True)["re_state"] != "running":
            assert time.monotonic() < deadline
        item_uid = stack.manager().status(reload=True)["running_item_uid"]
    finally:
        client.kill()
        client.wait()
    item = stack.wait(item_uid)
    assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
    _, run = stack.get(f"/api/runs/{item['result']['run_uids'][0]}")
    assert run["datasets"][0]["frames_written"] == 31


def test_the_idle_stack_takes_less_than_1500_mb(stack: Any) -> None:
    resident = {
        name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in stack.runtime["pids"].items() if pid
    }
    assert set(resident) == set(stack.runtime["pids"])
    assert sum(resident.values()) < 1500, resident


@pytest.mark.parametrize("name", ["hardware", "worker", "manager", "http", "tiled", "courier", "valkey", "supervisor"])
def test_status_tells_of_every_process(stack: Any, name: str) -> None:
    text = json.dumps(status(stack))
    assert f'"{name}"' in text
    assert str(stack.runtime["pids"][name]) in text


def test_a_frozen_courier_is_told(stack: Any) -> None:
    """R2.6: by `GET /api/ready` at once and by `status`; the supervisor, which asks the same, kills it after a while."""
    parts = _stack.parts(stack.scope, stack.layout, _checks.ports(stack.scope))
    (courier,) = [part for part in parts if part.name == "courier"]
    assert courier.alive is not None
    courier.alive()
    process = psutil.Process(stack.runtime["pids"]["courier"])
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NoAnswer, match="courier: timed out"):
            courier.alive()
        catalog = stack.get("/api/ready")[1]["components"]["catalog"]
        assert (catalog["ok"], catalog["detail"]) == (
            False,
            "the courier does not answer: runs wait in the document log",
        )
        assert status(stack)["catalog"] is False
    finally:
        process.send_signal(signal.SIGCONT)
    courier.alive()
