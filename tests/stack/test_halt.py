"""People in charge of the whole stack: halt, interlock, control, approvals, release: R3.11, R5.1 to R5.3, R5.5, R5.7."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from queuescope.config import SCOPES
from queuescope.hardware import LatchFile
from queuescope.ledger import Ledger, Operations
from queuescope.scripts._probes import NoAnswer


def until(true: Callable[[], Any], limit_s: float = 60) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.05)
    return found


def with_a_door(folder: Path) -> Path:
    """The demo scope with a shutter that plays the door's switch; ``handle`` opens and closes it."""
    shutil.copytree(SCOPES / "demo-dispim", folder)
    for name, old, new in (
        (
            "mm.cfg",
            "Device,LaserLine,",
            "Device,Door,DemoCamera,DShutter\nDevice,Stick,DemoCamera,DStateDevice\nDevice,LaserLine,",
        ),
        (
            "scope.yml",
            "  laser_line:",
            '  door: {label: Door, kind: property, property: State, choices: ["0", "1"]}\n'
            '  handle: {label: Door, kind: property, property: State, choices: ["0", "1"]}\n'
            '  stick: {label: Stick, kind: property, property: State, choices: ["0", "1"]}\n'
            "  laser_line:",
        ),
        (
            "scope.yml",
            "storage:",
            'safety: {interlocks: [{device: door, open: "1", kind: door}],'
            " joysticks: [{label: Stick, property: Label, on: State-1, off: State-0}]}\nstorage:",
        ),
        ("scope.yml", "approval: none", "approval: {agent: first_of_kind}"),
        ("scope.yml", "on_failure: continue", "on_failure: wait"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
    return folder / "scope.yml"


@pytest.fixture(scope="module")
def halted_stack(tmp_path_factory: pytest.TempPathFactory, make_stack: Callable[..., Any]) -> Iterator[Any]:
    """A stack of this module's own, with a door."""
    folder = tmp_path_factory.mktemp("halt")
    found = make_stack(folder / "data", str(with_a_door(folder / "scope")))
    started = found.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    yield found
    found.down()


@pytest.fixture
def stack(halted_stack: Any) -> Iterator[Any]:
    """As it was: rearmed, the agents in control, the queue empty and running."""
    yield halted_stack
    if "released" in str(halted_stack.get("/api/ready")[1]["reasons"]):
        # a test that failed keeps no other from its microscope
        halted_stack.command("reclaim")
    halted_stack.post("/api/scope/control", {"mode": "agents", "reason": "the test ends"})
    until(lambda: halted_stack.get("/api/scope")[0] == 200)
    if halted_stack.hardware().safety().halted is None:
        halted_stack.hardware().set_value("handle", "0")
        until(lambda: halted_stack.hardware().safety().interlocks["door"].closed)
    halted_stack.post("/api/scope/rearm", {"resume_queue": False})
    halted_stack.manager().queue_clear()
    assert halted_stack.post("/api/scope/rearm", {"resume_queue": True})[0] == 200


def running(stack: Any, frames: int = 2) -> str:
    """The UID of the running plan's run, once it has some frames."""

    def found() -> str | None:
        runs = stack.get("/api/re/runs/active")[1]["run_list"]
        if not runs:
            return None
        uid = str(runs[-1]["uid"])
        code, run = stack.get(f"/api/runs/{uid}")
        ready = (
            code == 200
            and run["status"] == "running"
            and run["datasets"]
            and (run["datasets"][0]["frames_written"] or 0) >= frames
        )
        return uid if ready else None

    return str(until(found))


def halt(stack: Any, role: str = "agent", reason: str = "it bleaches") -> dict[str, Any]:
    code, outcome = stack.post("/api/scope/halt", {"reason": reason}, role)
    assert code == 200, outcome
    assert outcome["confirmed"], outcome
    return dict(outcome)


def stop_document(stack: Any, uid: str) -> dict[str, Any]:
    lines = stack.layout.document_log(uid).read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["name"] == "stop"
    return dict(last["doc"])


@pytest.mark.parametrize(
    ("plan", "kwargs"),
    [
        ("snap", {"camera": "cam_a", "n": 200, "channels": [{"name": "gfp", "exposure_ms": 100}]}),
        ("acquire_volume", {"slices": 150, "channels": [{"name": "gfp", "exposure_ms": 20}]}),
    ],
)
def test_a_halt_ends_the_running_plan_and_stops_the_queue(stack: Any, plan: str, kwargs: dict[str, Any]) -> None:
    """R3.11, R5.3: history and stop document say who halted and why, the frames count, the next plan waits."""
    stack.hardware().set_value("stick", "1")
    item = stack.submit(plan, f"halt.{plan}-1", **kwargs)
    waiting = stack.submit("read_state", f"halt.{plan}-2")
    uid = running(stack)
    assert stack.hardware().value("stick") == "0", "R5.7: the joystick rests during a plan"
    outcome = halt(stack)
    assert not outcome["killed"]
    ended = stack.wait(item)
    assert ended["result"]["exit_status"] == "failed"
    assert "halted by agent" in ended["result"]["msg"]
    stop = stop_document(stack, uid)
    assert stop["exit_status"] == "fail"
    assert "halted by agent" in stop["reason"]
    assert "it bleaches" in stop["reason"]
    assert "HaltedError" in stop["reason"]
    _, run = stack.get(f"/api/runs/{uid}")
    assert run["status"] == "failed"
    assert run["datasets"][0]["frames_written"] >= 2
    until(lambda: stack.hardware().value("stick") == "1")
    assert [one["item_uid"] for one in stack.manager().queue_get(reload=True)["items"]] == [waiting]
    until(lambda: not stack.manager().status(reload=True)["queue_autostart_enabled"])
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle")
    assert stack.post("/api/scope/rearm", {"resume_queue": True})[0] == 200
    assert stack.wait(waiting)["result"]["exit_status"] == "completed"


def test_a_halt_works_without_the_worker(stack: Any) -> None:
    """R3.11, R5.7: killed in the middle of a volume, which the hardware carries on; reopened, nothing starts by itself."""
    stack.hardware().set_value("stick", "1")
    stack.submit("acquire_volume", "halt.worker-1", slices=150, channels=[{"name": "gfp", "exposure_ms": 20}])
    running(stack)
    assert stack.hardware().value("stick") == "0"
    worker = stack.runtime["pids"]["worker"]
    psutil.Process(worker).send_signal(signal.SIGKILL)
    outcome = halt(stack, "observer", "the worker is gone")
    assert outcome["seconds"] < 5
    lights = stack.hardware().state().lights
    assert not any(light.on or light.emission for light in lights.values())
    until(lambda: stack.runtime["pids"]["worker"] not in (None, worker))
    until(lambda: stack.manager().status(reload=True)["worker_environment_exists"])
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle")
    until(lambda: stack.hardware().value("stick") == "1")
    code, ready = stack.get("/api/ready")
    assert code == 503
    assert any("halted by observer: the worker is gone" in reason for reason in ready["reasons"])
    assert not stack.manager().status(reload=True)["queue_autostart_enabled"]


def test_after_a_lost_worker_the_queue_waits_for_a_person(stack: Any) -> None:
    """R1.5: `queue.on_failure: wait`, and an operation was lost: the environment is open again, autostart is not on."""

    def restarts() -> int:
        state = json.loads((stack.layout.services / "state.json").read_text())
        return int(state["parts"]["environment"]["restarts"])

    before = restarts()
    stack.submit("snap", "halt.lost-1", camera="cam_a", n=200, channels=[{"name": "gfp", "exposure_ms": 100}])
    waiting = stack.submit("read_state", "halt.lost-2")
    running(stack)
    psutil.Process(stack.runtime["pids"]["worker"]).send_signal(signal.SIGKILL)
    until(lambda: restarts() > before)
    lost = Operations(Ledger(stack.layout.ledger_db)).by_key("halt.lost-1")
    assert (lost.state, lost.error.detail) == ("interrupted", "the RE worker died")
    assert [one["item_uid"] for one in stack.manager().queue_get(reload=True)["items"]] == [waiting]
    code, ready = stack.get("/api/ready")
    assert (code, ready["reasons"]) == (503, ["queue: autostart is off: switch it on"])
    stack.manager().queue_autostart(True)
    assert stack.wait(waiting)["result"]["exit_status"] == "completed"


def test_an_open_door_ends_the_running_plan(stack: Any) -> None:
    """The plan is told which interlock; closed and rearmed the next one runs."""
    item = stack.submit("snap", "halt.door-1", camera="cam_a", n=500, channels=[{"name": "gfp", "exposure_ms": 20}])
    uid = running(stack)
    stack.hardware().set_value("handle", "1")
    ended = stack.wait(item)
    assert "interlock door (door) is open" in ended["result"]["msg"]
    assert "InterlockError: light is refused" in stop_document(stack, uid)["reason"]
    scope = stack.get("/api/scope")[1]
    assert scope["safety"]["interlocks"]["door"]["closed"] is False
    assert not any(light["state"]["on"] or light["state"]["emission"] for light in scope["lights"].values())
    code, refused = stack.post("/api/scope/rearm", {})
    assert (code, refused["code"]) == (409, "interlock_open")
    stack.hardware().set_value("handle", "0")
    until(lambda: stack.get("/api/scope")[1]["safety"]["interlocks"]["door"]["closed"])
    until(lambda: not stack.manager().status(reload=True)["queue_autostart_enabled"])  # on_failure: wait
    stack.manager().queue_autostart(True)
    refused_item = stack.run("snap", "halt.door-2", camera="cam_a", channels=[{"name": "gfp"}])
    assert "must close it and rearm" in refused_item["result"]["msg"]
    assert stack.post("/api/scope/rearm", {"resume_queue": True})[0] == 200
    item = stack.run("snap", "halt.door-3", camera="cam_a", channels=[{"name": "gfp"}])
    assert item["result"]["exit_status"] == "completed"


def test_a_running_plan_pauses_for_a_person_and_goes_on(stack: Any) -> None:
    """R5.2, R5.7: at its next checkpoint, with the joystick on meanwhile; handed back it ends with all its frames."""
    stack.hardware().set_value("stick", "1")
    item = stack.submit("snap", "halt.person-1", camera="cam_a", n=60, channels=[{"name": "gfp", "exposure_ms": 50}])
    uid = running(stack)
    code, answer = stack.post("/api/scope/control", {"mode": "person", "reason": "focusing by hand"})
    assert (code, answer["problems"]) == (200, [])
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "paused")
    until(lambda: stack.hardware().value("stick") == "1")
    stack.hardware().move({"z": 12.0})
    code, answer = stack.post("/api/scope/control", {"mode": "agents", "reason": "done"})
    assert (code, answer["problems"]) == (200, [])
    assert stack.wait(item)["result"]["exit_status"] == "completed"
    assert stack.get(f"/api/runs/{uid}")[1]["datasets"][0]["frames_written"] == 60


def submitted_by_agent(stack: Any, name: str, key: str, **kwargs: Any) -> str:
    """The item UID of a plan that an agent has queued."""
    item = {"item_type": "plan", "name": name, "kwargs": kwargs, "meta": {"op_key": key}}
    code, added = stack.post("/api/queue/item/add", {"item": item}, "agent")
    assert (code, added["success"]) == (200, True), added
    return str(added["item"]["item_uid"])


def test_the_holder_runs_plans_and_agents_wait(stack: Any) -> None:
    """R5.1, R5.2: `queuescope run` opens the queue's lock for who has taken over; an agent's plan that was queued before
    doesn't start even where somebody starts the queue.
    """
    assert stack.post("/api/queue/autostart", {"enable": False})[0] == 200
    before = submitted_by_agent(stack, "move_axis", "halt.held-1", axis="z", to=20.0)
    taken = stack.command("control", "person", "--reason", "focusing", "--by", "Ada", "--json")
    assert taken.returncode == 0, taken.stderr
    assert json.loads(taken.stdout)["control"]["by"] == "Ada (operator)"
    done = stack.command("run", "move_axis", "axis=z", "to=3", "--json")
    assert done.returncode == 0, done.stderr
    assert stack.hardware().positions(("z",)) == {"z": 3.0}
    code, answer = stack.post("/api/queue/start", {})
    assert (code, answer["success"]) == (200, False)
    assert "every plan in the queue waits: Ada (operator) has the microscope (person): focusing" in answer["msg"]
    assert [item["item_uid"] for item in stack.manager().queue_get(reload=True)["items"]] == [before]
    holds = stack.get("/api/ready")[1]["holds"]
    assert next(hold for hold in holds if hold["reason"] == "person")["detail"].startswith("Ada (operator) has")
    refused = stack.post(
        "/api/queue/item/add", {"item": {"item_type": "plan", "name": "move_axis", "kwargs": {}}}, "agent"
    )
    assert refused[0] == 400, "without a key it is refused for that first"
    assert stack.hardware().positions(("z",)) == {"z": 3.0}


def test_an_agents_plan_starts_when_a_person_approves_it(stack: Any) -> None:
    """R5.5: until then nothing moves and others overtake it; the next of its kind needs nobody; a refused one has failed."""
    stack.hardware().move({"z": 5.0})
    uid = submitted_by_agent(stack, "move_axis", "halt.approve-1", axis="z", to=30.0)
    other = stack.run("read_state", "halt.approve-2")
    assert other["result"]["exit_status"] == "completed"
    assert [item["item_uid"] for item in stack.manager().queue_get(reload=True)["items"]] == [uid]
    assert stack.hardware().positions(("z",)) == {"z": 5.0}
    listed = stack.command("approvals")
    assert uid in listed.stdout
    assert "move_axis of the agent" in listed.stdout
    assert f"queuescope approve {uid}" in stack.command("status").stdout
    approved = stack.command("approve", uid, "--by", "Ada", "--reason", "a look", "--json")
    assert approved.returncode == 0, approved.stderr
    assert stack.wait(uid)["result"]["exit_status"] == "completed"
    assert stack.hardware().positions(("z",)) == {"z": 30.0}
    second = submitted_by_agent(stack, "move_axis", "halt.approve-3", axis="z", to=31.0)
    assert stack.wait(second)["result"]["exit_status"] == "completed"

    third = submitted_by_agent(stack, "snap", "halt.approve-4", camera="cam_a", channels=[{"name": "gfp"}])
    refused = stack.command("approve", third, "--refuse", "--by", "Ada", "--reason", "too bright")
    assert refused.returncode == 0, refused.stderr
    ended = stack.wait(third)
    assert (ended["result"]["exit_status"], ended["result"]["run_uids"]) == ("failed", [])
    assert "refused by Ada (operator): too bright" in ended["result"]["msg"]
    operation = Operations(Ledger(stack.layout.ledger_db)).by_key("halt.approve-4")
    assert operation is not None
    assert (operation.state, operation.run_uids) == ("failed", ())
    assert "too bright" in str(operation.error)
    assert stack.manager().status(reload=True)["queue_autostart_enabled"]
    assert stack.command("approve", "nowhere").returncode == 1


def test_a_sample_is_opened_from_the_terminal(stack: Any) -> None:
    """R5.6: facts, budget and dose over REST; opened before a run, its light counts for it."""
    opened = stack.command("sample", "worm-9", "--budget", "l488=50", "--strain", "N2", "--refractive-index", "1.34")
    assert opened.returncode == 0, opened.stderr
    done = stack.run("snap", "halt.sample-1", camera="cam_a", channels=[{"name": "gfp", "exposure_ms": 20}])
    assert done["result"]["exit_status"] == "completed"
    told = json.loads(stack.command("dose", "--json").stdout)
    assert (told["sample_id"], told["open"], told["budget"]) == ("worm-9", True, {"l488": 50.0})
    assert told["used"]["l488"] > 0
    assert stack.command("sample", "--close").returncode == 0
    shown = stack.command("dose", "worm-9").stdout
    assert "strain: N2" in shown
    assert "of 50 % × s" in shown
    assert stack.command("sample", "--close").returncode == 1
    assert stack.command("confirm", "z", "--by", "Ada").returncode == 0


def test_it_stays_released_over_down_and_up(stack: Any) -> None:
    """R5.7: refused while a plan runs; then queued plans wait, also in the next stack, until it is reclaimed and resumed."""
    item = stack.submit("snap", "halt.release-1", camera="cam_a", n=900, channels=[{"name": "gfp", "exposure_ms": 50}])
    running(stack)
    refused = stack.command("release")
    assert refused.returncode == 1
    assert "a plan is there (the queue server is executing_queue)" in refused.stderr
    assert stack.manager().re_pause("immediate")["success"]
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "paused")
    assert stack.manager().re_abort()["success"]
    assert stack.wait(item)["result"]["exit_status"] == "aborted"
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle")
    released = stack.command("release", "--reason", "alignment", "--by", "Ada")
    assert released.returncode == 0, released.stderr
    waiting = stack.submit("snap", "halt.release-2", camera="cam_a")
    assert not stack.manager().status(reload=True)["queue_autostart_enabled"]
    code, answer = stack.post("/api/queue/start", {})
    assert (code, answer["success"]) == (200, False)
    assert "released by Ada (operator): alignment" in answer["msg"]
    stack.release()
    assert stack.command("down").returncode == 0
    started = stack.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    assert "released by Ada (operator)" in stack.command("ready").stdout
    assert [one["item_uid"] for one in stack.manager().queue_get(reload=True)["items"]] == [waiting]
    reclaimed = stack.command("reclaim", "--resume-queue")
    assert reclaimed.returncode == 0, reclaimed.stderr
    assert stack.wait(waiting)["result"]["exit_status"] == "completed"
    until(lambda: stack.manager().status(reload=True)["manager_state"] == "idle")
    worker = stack.runtime["pids"]["worker"]
    assert stack.command("release").returncode == 0
    assert stack.command("reclaim", "--resume-queue").returncode == 0
    item = stack.run("snap", "halt.release-3", camera="cam_a", channels=[{"name": "gfp"}])
    assert item["result"]["exit_status"] == "completed", "in the same environment, with the same devices"
    assert stack.runtime["pids"]["worker"] == worker


def answers(stack: Any) -> bool:
    with suppress(NoAnswer):
        return bool(stack.get("/api/ready")[0])
    return False


def test_the_command_halts_and_rearms(stack: Any) -> None:
    """R3.11: with the REST server, and without it straight to the hardware."""
    done = stack.command("halt", "--reason", "a click", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["halted"]["reason"] == "a click"
    rearmed = stack.command("rearm", "--resume-queue")
    assert rearmed.returncode == 0, rearmed.stderr
    http = psutil.Process(stack.runtime["pids"]["http"])
    http.suspend()
    try:
        done = stack.command("halt", "--reason", "no server", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["halted"]["by"] == "terminal"
    finally:
        with suppress(psutil.NoSuchProcess):  # one that is silent for long is ended and started again
            http.resume()
    until(lambda: answers(stack))
    assert stack.hardware().safety().halted is not None


def test_a_halted_stack_comes_up_halted(stack: Any) -> None:
    """R5.3: `up` ends well, and nothing starts until somebody rearms."""
    halt(stack, "operator", "over night")
    stack.release()
    assert stack.command("down").returncode == 0
    assert LatchFile.halt(stack.layout).exists()
    started = stack.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    assert stack.hardware().safety().halted.reason == "over night"
    assert not stack.manager().status(reload=True)["queue_autostart_enabled"]


def test_mode_worker_is_halted_through_the_latch(another_stack: Any) -> None:
    """R3.11 in ``process: worker``: during a plan, by the file that the worker looks at; rearmed through the worker."""
    stack = another_stack
    stack.environ["QUEUESCOPE_MICROMANAGER__PROCESS"] = "worker"
    started = stack.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    item = stack.submit("snap", "halt.inside-1", camera="cam_a", n=200, channels=[{"name": "gfp", "exposure_ms": 50}])
    uid = running(stack)
    outcome = halt(stack, "observer", "inside")
    assert outcome["seconds"] < 1.0  # the exposure in hand holds the only adapter
    assert "halted by observer" in stack.wait(item)["result"]["msg"]
    assert "inside" in stop_document(stack, uid)["reason"]
    code, scope = stack.get("/api/scope")
    assert (code, scope["safety"]["halted"]["reason"]) == (200, "inside")
    code, state = stack.post("/api/scope/rearm", {"resume_queue": True})
    assert (code, state["halted"]) == (200, None), state
    item = stack.run("snap", "halt.inside-2", camera="cam_a", channels=[{"name": "gfp"}])
    assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
    assert stack.get("/api/ready")[0] == 200

    # R5.6, R5.7: what people ask of the hardware reaches it through the worker
    code, opened = stack.post("/api/samples", {"id": "worm", "dose_budget": {"l488": 5}})
    assert (code, opened.get("dose_budget")) == (200, {"l488": 5.0}), opened
    code, refused = stack.post("/api/scope/confirm_reference", {"axis": "nowhere"})
    assert (code, refused["code"]) == (404, "unknown_name")
    code, released = stack.post("/api/scope/release", {"by": "Ada"})
    assert (code, released.get("problems")) == (200, []), released
    assert stack.get("/api/scope")[1]["code"] == "released"
    assert any("released by Ada" in reason for reason in stack.get("/api/ready")[1]["reasons"])
    code, reclaimed = stack.post("/api/scope/reclaim", {"resume_queue": True})
    assert (code, reclaimed["hardware"]["stage"]) == (200, "ready"), reclaimed
    assert stack.run("read_state", "halt.inside-3")["result"]["exit_status"] == "completed"
