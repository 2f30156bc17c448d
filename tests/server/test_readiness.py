"""`GET /api/ready` and `GET /api/scope` with a real Valkey, queue server and hardware process behind them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.ledger import Waits, room_for
from queuescope.tiled_config.__main__ import Answers

PATIENCE_S = 60


@pytest.fixture
def ready(stack: Any) -> Iterator[Any]:
    """The stack in the state in which a submitted plan would run, and again afterwards."""
    stack.ask("queue_autostart", enable=True)
    assert ready_within_patience(stack)
    yield stack
    stack.layout.runtime_json.unlink(missing_ok=True)
    stack.ask("queue_autostart", enable=False)


def ready_within_patience(stack: Any) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while (reply := stack["observer"].get("/api/ready")).status_code != 200:
        assert time.monotonic() < end, reply.text
    return reply.json()


def not_ready(stack: Any, component: str) -> str:
    """The reason that names a component; the answer has both forms, a problem and the facts."""
    reply = stack["observer"].get("/api/ready")
    body = reply.json()
    assert (reply.status_code, body["code"], body["ready"]) == (503, "not_ready", False)
    assert reply.headers["content-type"] == "application/problem+json"
    assert body["components"][component]["ok"] is False
    (reason,) = [reason for reason in body["reasons"] if reason.startswith(f"{component}: ")]
    assert reason in body["detail"]
    return reason


def test_ready_means_that_a_submitted_plan_runs(ready: Any) -> None:
    answer = ready_within_patience(ready)
    assert (answer["ready"], answer["reasons"]) == (True, [])
    parts = answer["components"]
    assert set(parts) == {"valkey", "manager", "environment", "queue", "hardware", "http", "catalog"}
    assert [name for name, part in parts.items() if part["ok"] is not True] == ["catalog"]
    assert parts["catalog"]["ok"] is None, "reported, and no part of ready"
    assert parts["queue"]["autostart"] is True
    assert ready["observer"].head("/api/ready").status_code == 200
    item = {"item_type": "plan", "name": "rest", "kwargs": {}, "meta": {"op_key": "test-ready-1"}}
    uid = ready["agent"].post("/api/queue/item/add", json={"item": item}).json()["item"]["item_uid"]
    end = time.monotonic() + PATIENCE_S
    while not any(done["item_uid"] == uid for done in ready.ask("history_get")["items"]):
        assert time.monotonic() < end


def test_autostart_off_is_a_reason(ready: Any) -> None:
    ready.ask("queue_autostart", enable=False)
    assert "autostart is off" in not_ready(ready, "queue")


def test_a_locked_queue_is_a_reason(ready: Any) -> None:
    ready.ask("lock", queue=True, lock_key="test-lock", user="test")
    try:
        assert "is locked" in not_ready(ready, "queue")
    finally:
        ready.ask("unlock", lock_key="test-lock")


def test_a_closed_environment_is_a_reason(ready: Any) -> None:
    ready.ask("queue_autostart", enable=False)
    assert ready.ask("environment_close")["success"]
    while ready.ask("status")["worker_environment_exists"]:
        pass
    assert "not open" in not_ready(ready, "environment")
    assert ready.ask("environment_open")["success"]
    ready.ask("queue_autostart", enable=True)
    ready_within_patience(ready)


def test_a_dead_worker_is_a_reason(ready: Any) -> None:
    """The queue server itself never notices; the supervisor writes the worker's pid. A zombie counts as dead."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # ended, and not buried
    try:
        ready.layout.runtime_json.write_text(json.dumps({"pids": {"worker": dead.pid}}))
        assert f"pid {dead.pid}) died" in not_ready(ready, "environment")
    finally:
        dead.wait()
    assert f"pid {dead.pid}) died" in not_ready(ready, "environment")
    ready.layout.runtime_json.write_text(json.dumps({"pids": {"worker": None}}))
    assert "died" in not_ready(ready, "environment")
    ready.layout.runtime_json.write_text(json.dumps({"pids": {"worker": os.getpid()}}))
    assert ready_within_patience(ready)["components"]["environment"]["ok"] is True


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    while any((t / "stat").read_text().rpartition(")")[2].split()[0] != "T" for t in threads.iterdir()):
        time.sleep(0.001)  # a thread that still runs could answer
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_hung_hardware_process_is_a_reason_and_holds_nothing_up(ready: Any) -> None:
    threads = Path(f"/proc/{ready.server.process.pid}/task")
    with stopped(ready.hardware.pid):
        started = time.monotonic()
        assert "no answer within" in not_ready(ready, "hardware")
        took = time.monotonic() - started
        before = len(list(threads.iterdir())) if threads.exists() else 0
        for _ in range(3):
            assert "no answer within" in not_ready(ready, "hardware")
        if threads.exists():
            assert len(list(threads.iterdir())) <= before, "each look must not keep one more thread"
    assert took < 12, "about a second; the hung call itself would take fifteen"
    assert ready_within_patience(ready)["components"]["hardware"]["ok"] is True


def test_a_hung_queue_server_is_a_reason_and_holds_nothing_up(ready: Any) -> None:
    psutil = pytest.importorskip("psutil")
    processes = [psutil.Process(ready.queue.pid), *psutil.Process(ready.queue.pid).children(recursive=True)]
    with contextlib.ExitStack() as all_stopped:
        for process in processes:
            all_stopped.enter_context(stopped(process.pid))
        assert "did not answer status" in not_ready(ready, "manager")
        for part in ("environment", "queue"):
            assert "unknown" in not_ready(ready, part)
    ready_within_patience(ready)


def test_a_refusing_valkey_is_a_reason(ready: Any) -> None:
    key = ready.layout.key_file("valkey")
    kept = key.read_text()
    key.write_text("0" * 64)
    try:
        assert "refuses" in not_ready(ready, "valkey")
    finally:
        key.write_text(kept)


def test_nothing_running_is_told_part_by_part(guarded: Any, data_folder: Callable[[str], Path]) -> None:
    server, _ = guarded
    body = server["observer"].get("/api/ready").json()
    assert {reason.split(":")[0] for reason in body["reasons"]} >= {"valkey", "hardware"}
    assert "queuescope.hardware" in body["components"]["hardware"]["detail"], "how to start it"


def test_the_catalog_is_asked_and_does_not_count(ready: Any) -> None:
    class Tiled(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def do_GET(self) -> None:
            self.asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    tiled = HTTPServer(("127.0.0.1", 0), Tiled)
    threading.Thread(target=tiled.serve_forever, daemon=True).start()
    ready.layout.runtime_json.write_text(json.dumps({"tiled": f"http://127.0.0.1:{tiled.server_port}/api/v1"}))

    def catalog() -> dict[str, Any]:
        return dict(ready_within_patience(ready)["components"]["catalog"])

    try:
        assert (catalog()["ok"], "the courier does not answer" in catalog()["detail"]) == (False, True)
        answers = Answers(ready.layout.courier_socket)
        assert catalog()["ok"] is True
        answers.stuck = lambda: True
        assert catalog()["ok"] is False
        answers.stuck = lambda: False
        assert Tiled.asked[0] == "/healthz"
    finally:
        tiled.shutdown()
        tiled.server_close()
    answer = ready_within_patience(ready)
    assert (answer["ready"], answer["components"]["catalog"]["ok"]) == (True, False)


def test_killing_the_http_server_leaves_the_queue_and_the_hardware_as_they_are(
    ready: Any, start_and_stop: Callable[..., Any]
) -> None:
    """R0.2 Killing the HTTP server mid-plan leaves the plan finishing: nothing but HTTP hangs on it."""
    second = start_and_stop(ready.layout.data)
    assert second["observer"].get("/api/ready").status_code == 200
    second.process.stop(signal.SIGKILL)
    assert ready_within_patience(ready)["ready"] is True


# GET /api/scope -----------------------------------------------------------------------------------------------------


def test_the_scope_tells_every_device_with_units_limits_and_position(stack: Any) -> None:
    """R3.1 One device layer, seen as it is now."""
    scope = load_scope("demo-dispim", environ={})
    view = stack["agent"].get("/api/scope").json()
    assert (view["name"], view["mode"], view["server_id"]) == ("demo-dispim", "own", None)
    assert view["errors"] == {}
    assert set(view["devices"]) == set(scope.devices)
    z, xy = view["devices"]["z"], view["devices"]["xy"]
    assert (z["kind"], z["units"], z["limits"], z["label"]) == ("stage", "um", [-50, 250], "ZStage:Z:32")
    assert -50 <= z["position"] <= 250
    assert set(xy["position"]) == {"x", "y"}
    assert xy["limits"] == {"x": [-2252, 983], "y": [-1678, 587]}
    assert view["devices"]["emission"]["current"]
    assert set(view["lights"]) == set(scope.lights)
    for light in view["lights"].values():
        assert light["state"]["state"] in ("verified", "assumed")
        assert light["limits_pct"][0] == 0
    assert set(view["channels"]) == set(scope.channels)
    assert set(view["objectives"]) == set(scope.objectives)
    assert set(view["cameras"]) == {"cam_a", "cam_b", "overview"}
    assert view["cameras"]["cam_a"]["width"] == 2048
    assert list(view["temperature"]) == ["chamber"]


def test_the_scope_is_live(stack: Any) -> None:
    from queuescope.hardware import connect

    hardware = connect(load_scope("demo-dispim", environ={}), stack.layout)
    try:
        for target_um in (12.5, -3.0):
            hardware.move({"z": target_um})
            assert stack["observer"].get("/api/scope").json()["devices"]["z"]["position"] == pytest.approx(
                target_um, abs=0.5
            )
    finally:
        hardware.close()


def test_the_servers_identity_is_the_supervisors(stack: Any) -> None:
    stack.layout.runtime_json.write_text(json.dumps({"server_id": "5d4f"}))
    try:
        assert stack["observer"].get("/api/scope").json()["server_id"] == "5d4f"
    finally:
        stack.layout.runtime_json.unlink()


def test_without_hardware_the_scope_is_a_problem_with_the_remedy(guarded: Any) -> None:
    reply = guarded[0]["observer"].get("/api/scope")
    assert (reply.status_code, reply.json()["code"]) == (503, "hardware_unreachable")
    assert "python -m queuescope.hardware" in reply.json()["detail"]


def test_a_restarted_hardware_process_is_found_again(
    start_and_stop: Callable[..., Any], data_folder: Callable[[str], Path], start_hardware: Callable[..., Any]
) -> None:
    layout = Layout(data_folder("restart"))
    server = start_and_stop(layout.data)
    pids = set()
    for _ in range(2):
        hardware = start_hardware(layout)
        detail = server["observer"].get("/api/ready").json()["components"]["hardware"]
        assert detail == {"ok": True, "detail": f"pid {hardware.pid}"}
        pids.add(detail["detail"])
        assert server["observer"].get("/api/scope").status_code == 200
        hardware.stop(signal.SIGKILL)
        assert server["observer"].get("/api/scope").json()["code"] == "hardware_unreachable"
    assert len(pids) == 2


def test_in_mode_worker_the_re_worker_is_asked(stack: Any, start_and_stop: Callable[..., Any]) -> None:
    """R0.1 With `process: worker` there is no hardware process: its part of `ready` is the environment's."""
    server = start_and_stop(stack.layout.data, QUEUESCOPE_MICROMANAGER__PROCESS="worker")
    view = server["observer"].get("/api/scope").json()
    assert view["mode"] == "worker"
    assert view["devices"]["z"]["position"] == 3.0
    assert (view["lights"]["l488"]["state"], view["lights"]["l488"]["error"]) == (None, "no answer")
    hardware = server["observer"].get("/api/ready").json()["components"]["hardware"]
    assert hardware == {"ok": True, "detail": "inside the RE worker"}


def test_a_disk_below_its_mark_is_a_hold(
    start_and_stop: Callable[..., Any], data_folder: Callable[[str], Path]
) -> None:
    """Issue 4, item 9: before anything waits for it; what does wait is told while it is queued or runs."""
    layout = Layout(data_folder("low disk"))
    server = start_and_stop(layout.data, QUEUESCOPE_STORAGE__MIN_FREE_GB="1e6")
    [hold] = [hold for hold in server["observer"].get("/api/ready").json()["holds"] if hold["reason"] == "disk"]
    assert (hold["since"], hold["needs"]) == (None, f"make room in {layout.data}")
    assert hold["detail"].startswith("what records frames waits for room on the disk: 1000000.00 GB must stay free")
    room = room_for(load_scope("demo-dispim", environ={}), layout, 10**18)
    assert room is not None
    Waits(layout).tell("item-of-a-killed-worker", "snap", room)
    assert "snap waits" not in server["observer"].get("/api/ready").text
