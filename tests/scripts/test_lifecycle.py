"""A stack's life: bad beginnings, crashes, orderly and disorderly ends. Nothing is ever left running."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from queuescope.config import SCOPES

UNHURRIED = [{"name": "gfp", "exposure_ms": 100.0}]
"""So that no disk is too slow for a long volume, which would end it."""


def until(condition: Callable[[], Any], what: str, deadline_s: float = 60) -> Any:
    give_up = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < give_up, f"{what} within {deadline_s} s"
        time.sleep(0.05)
    return answer


def gone(pids: list[int], timeout_s: float = 30) -> None:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, left = psutil.wait_procs(processes, timeout=timeout_s)
    assert left == []


def edited(folder: Path, scope: Callable[[str], str] = str, config: Callable[[str], str] = str) -> Path:
    """A copy of the demo scope with something changed."""
    shutil.copytree(SCOPES / "demo-dispim", folder)
    for name, change in (("scope.yml", scope), ("mm.cfg", config)):
        path = folder / name
        path.write_text(change(path.read_text()))
    return folder / "scope.yml"


def refused(stack: Any, scope: Path) -> str:
    done = stack.command("up", "--http-port", "0", "--scope", str(scope))
    assert done.returncode == 1
    assert stack.processes() == []
    assert stack.layout.runtime() is None
    return str(done.stderr)


def test_a_scope_that_cannot_be_used_starts_nothing(another_stack: Any, tmp_path: Path) -> None:
    scope = edited(tmp_path / "key", lambda text: text + "colour: red\n")
    assert "colour is not a known entry" in refused(another_stack, scope)
    scope = edited(tmp_path / "limit", lambda text: text.replace("limits: [-50, 250], ", ""))
    assert "devices.z.limits is missing: every axis must state its limits" in refused(another_stack, scope)
    assert not another_stack.data.exists()


def test_a_label_that_the_configuration_does_not_have_is_named(another_stack: Any, tmp_path: Path) -> None:
    scope = edited(tmp_path / "scope", lambda text: text.replace("label: HamCam2, kind", "label: NoSuchCam, kind"))
    text = refused(another_stack, scope)
    assert "error: hardware did not start: " in text
    assert "'NoSuchCam'" in text
    assert "ZStage:V:37" in text  # not an emoji
    assert str(another_stack.layout.logs / "hardware.log") in text


def test_an_adapter_that_is_missing_is_named_with_where_it_was_looked_for(another_stack: Any, tmp_path: Path) -> None:
    scope = edited(tmp_path / "scope", config=lambda text: text.replace("Bottom,DemoCamera", "Bottom,NoSuchAdapter"))
    text = refused(another_stack, scope)
    assert "'NoSuchAdapter'" in text
    assert "looked in" in text


def test_down_ends_a_running_plan_in_good_order(another_stack: Any) -> None:
    """The run gets its stop document; a data directory with a long path works; the queue is empty at the next start."""
    stack = type(another_stack)(another_stack.data.joinpath(*["a-rather-long-folder-name"] * 8))
    assert stack.up("--no-catalog").returncode == 0
    stack.submit("acquire_volume", "lifecycle-down", slices=300, channels=UNHURRIED)
    until(lambda: list(stack.layout.volumes.glob("*.frames.jsonl")), "frames arrive")
    stack.release()
    done = stack.command("down")
    assert done.returncode == 0, done.stderr
    assert stack.processes() == []
    assert not stack.layout.sockets.exists()
    [log] = stack.layout.documents.iterdir()
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["name"], last["doc"]["exit_status"]) == ("stop", "abort"), last

    assert stack.up("--no-catalog").returncode == 0
    status = stack.manager().status(reload=True)
    assert (status["items_in_queue"], status["queue_autostart_enabled"]) == (0, True)
    stack.down()


def test_what_dies_comes_back_and_kill_9_of_the_supervisor_leaves_nothing(another_stack: Any) -> None:
    stack = another_stack
    assert stack.up("--no-wait-catalog").returncode == 0
    server_id = stack.runtime["server_id"]

    # the worker: queueserver does not notice, we do; the unkeyed plan is back in the queue and must not run by itself
    stack.submit("acquire_volume", slices=300, channels=UNHURRIED)
    until(lambda: list(stack.layout.volumes.glob("*.frames.jsonl")), "frames arrive")
    worker = stack.runtime["pids"]["worker"]
    os.kill(worker, signal.SIGKILL)
    until(lambda: stack.runtime["pids"]["worker"] not in (None, worker), "there is a new worker")
    until(lambda: "autostart is off" in str(stack.get("/api/ready")[1]["reasons"]), "the queue waits for a person")
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle", "the new environment is open")
    assert stack.manager().status(reload=True)["items_in_queue"] == 1
    stack.manager().queue_clear()
    stack.manager().queue_autostart(True)

    # the HTTP server and the hardware: back under a new pid, and a plan runs
    for name in ("http", "hardware"):
        before = stack.runtime["pids"][name]
        os.kill(before, signal.SIGKILL)
        until(lambda name=name, before=before: stack.runtime["pids"][name] not in (None, before), f"{name} is back")
    until(lambda: stack.command("ready").returncode == 0, "ready again")
    # the worker may learn of the new hardware process by a call that fails
    until(lambda: stack.run("read_state", secrets.token_hex(4))["result"]["exit_status"] == "completed", "a plan runs")
    found = json.loads(stack.command("status", "--json").stdout)
    assert found["processes"]["http"]["restarts"] == 1
    stack.release()

    pids = [pid for pid in stack.runtime["pids"].values() if pid]
    os.kill(stack.runtime["pids"]["supervisor"], signal.SIGKILL)
    again = stack.up("--no-wait-catalog")  # waits for the first one's processes to end
    assert again.returncode == 0, again.stderr
    gone(pids, timeout_s=0.1)
    assert stack.runtime["server_id"] == server_id
    stack.down()


def test_ctrl_c_in_the_foreground_stops_everything(another_stack: Any) -> None:
    """R0.1, R0.7: with MMCore inside the worker, without a hardware process."""
    scope = edited(another_stack.data.parent / "scope", lambda text: text.replace("process: own", "process: worker"))
    command = [sys.executable, "-m", "queuescope.scripts", "up", "--http-port", "0", "--foreground", "--json"]
    command += ["--no-catalog", "--scope", str(scope)]
    with subprocess.Popen(
        command, env=another_stack.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as up:
        assert up.stdout is not None
        facts = json.loads(up.stdout.readline())
        assert facts["pids"]["hardware"] is None
        assert facts["pids"]["supervisor"] == up.pid
        assert not another_stack.layout.hardware_socket.exists()
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert another_stack.processes() == []


@pytest.mark.parametrize("when", ["starting hardware", "starting environment"])
def test_ctrl_c_while_starting_stops_what_has_started(another_stack: Any, when: str) -> None:
    command = [sys.executable, "-m", "queuescope.scripts", "up", "--http-port", "0"]
    with subprocess.Popen(command, env=another_stack.environ, stderr=subprocess.PIPE, text=True) as up:
        log = another_stack.layout.logs / "supervisor.log"
        words = '"part": "{}"'.format(when.partition(" ")[2])
        until(lambda: log.exists() and words in log.read_text(), when)
        up.send_signal(signal.SIGINT)
        _, stderr = up.communicate(timeout=60)
    assert up.returncode == 130
    assert "everything that had started is stopped again" in stderr
    assert another_stack.processes() == []
