"""Halt, rearm, arm, control over REST: R3.11, R5.1 to R5.4, against a real queue server and the real hardware process."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from queuescope.config import load_scope
from queuescope.hardware import FrameSettings, HaltedError, LatchFile, connect


def until(true: Callable[[], Any], limit_s: float = 20) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)
    return found


@pytest.fixture
def people(stack: Any) -> Iterator[Any]:
    """The stack, as it was afterwards."""
    yield stack
    stack["operator"].post("/api/scope/control", json={"mode": "agents", "reason": "the test ends"})
    stack["operator"].post("/api/scope/rearm")
    stack.ask("queue_autostart", enable=False)
    stack.ask("queue_clear")


def item(name: str = "rest", key: str = "people-test-1") -> dict[str, Any]:
    return {"item": {"item_type": "plan", "name": name, "kwargs": {}, "meta": {"op_key": key}}}


@pytest.mark.parametrize("role", ["observer", "agent", "operator", "admin"])
def test_every_role_may_halt_and_only_people_rearm(people: Any, role: str) -> None:
    """R5.3, R3.11: it latches in the hardware; the answer and every refusal name who and why."""
    answer = people[role].post("/api/scope/halt", json={"reason": "smoke"})
    assert answer.status_code == 200, answer.text
    outcome = answer.json()
    assert (outcome["confirmed"], outcome["killed"]) == (True, False)
    assert (outcome["halted"]["by"], outcome["halted"]["reason"]) == (role, "smoke")
    assert outcome["seconds"] < 1  # R3.11 says 100 ms: `bench device`
    assert all(step["done"] for step in outcome["steps"])
    scope = people["observer"].get("/api/scope").json()
    assert scope["safety"]["halted"] == outcome["halted"]
    ready = people["observer"].get("/api/ready")
    assert ready.status_code == 503
    assert f"hardware: halted by {role}: smoke: an operator must rearm" in ready.json()["reasons"]
    for below in ("observer", "agent"):
        assert people[below].post("/api/scope/rearm").status_code == 403
        assert people["observer"].get("/api/scope").json()["safety"]["halted"] is not None
    state = people["operator"].post("/api/scope/rearm")
    assert (state.status_code, state.json()["halted"]) == (200, None)


def test_a_halt_needs_no_body_and_stops_the_queue(people: Any) -> None:
    """R5.3: autostart goes off, and stays off after a rearm unless asked."""
    people.ask("queue_autostart", enable=True)
    assert people["agent"].post("/api/scope/halt").status_code == 200
    until(lambda: not people.ask("status")["queue_autostart_enabled"])
    people["operator"].post("/api/scope/rearm")
    assert not people.ask("status")["queue_autostart_enabled"]
    people["agent"].post("/api/scope/halt")
    assert people["operator"].post("/api/scope/rearm", json={"resume_queue": True}).status_code == 200
    until(lambda: people.ask("status")["queue_autostart_enabled"])


def test_a_halt_waits_for_no_queue_server(people: Any) -> None:
    """R3.11: with the manager and its parent stopped dead it is as quick; the queue is stopped as soon as they hear it."""
    people.ask("queue_autostart", enable=True)
    frozen = [people.queue.popen.pid, *(p.pid for p in psutil.Process(people.queue.popen.pid).children(recursive=True))]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        outcome = people["observer"].post("/api/scope/halt", json={"reason": "frozen"}).json()
        assert time.monotonic() - began < 5, "a question to the queue server"
        assert outcome["confirmed"]
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    until(lambda: not people.ask("status")["queue_autostart_enabled"])


def test_a_halt_waits_for_no_request(people: Any) -> None:
    """R3.11: during a frame of 800 ms that another client takes; its call is refused or its frame was taken before."""
    hardware = connect(load_scope("demo-dispim", environ={}), people.layout)
    import threading

    failed: list[Exception] = []

    def frames() -> None:
        try:
            while True:
                hardware.snap("cam_a", FrameSettings(exposure_ms=300, light="l488", power_pct=1))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=frames)
    thread.start()
    until(lambda: hardware._busy)  # type: ignore[attr-defined]
    outcome = people["agent"].post("/api/scope/halt", json={"reason": "stop it"}).json()
    thread.join(20)
    assert outcome["confirmed"]
    assert not outcome["killed"]
    assert isinstance(failed[0], HaltedError)
    assert "stop it" in str(failed[0])
    lights = hardware.state().lights
    assert lights
    assert not any(light.on or light.emission for light in lights.values())
    hardware.close()


def test_a_person_takes_over_and_hands_back(people: Any) -> None:
    """R5.1, R5.2: logged, on queueserver's lock; agents' plans that move get 423, the person's key opens the queue."""
    people.ask("queue_autostart", enable=True)
    assert people["agent"].post("/api/scope/control", json={"mode": "agents", "reason": "mine"}).status_code == 403
    assert people["operator"].post("/api/scope/control", json={"mode": "person"}).status_code == 400
    taken = people["operator"].post("/api/scope/control", json={"mode": "person", "reason": "aligning"})
    assert taken.status_code == 200, taken.text
    assert taken.json()["problems"] == []
    control = people["observer"].get("/api/scope").json()["control"]
    assert (control["mode"], control["by"], control["reason"]) == ("person", "operator", "aligning")
    status = people.ask("status")
    assert status["lock"] == {"environment": False, "queue": True}
    assert not status["queue_autostart_enabled"]
    for path, body in (
        ("/api/queue/item/add", item()),
        ("/api/queue/item/add/batch", {"items": [item()["item"]]}),
    ):
        refused = people["agent"].post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (423, "person_in_control")
        assert "operator has taken (person: aligning)" in refused.json()["detail"]
    moved = people["operator"].post("/api/queue/item/add", json=item(key="people-test-2"))
    assert not moved.json()["success"], "locked for other people as well"
    moved = people["operator"].post(
        "/api/queue/item/add", json={**item(key="people-test-3"), "lock_key": taken.json()["lock_key"]}
    )
    assert moved.json()["success"], moved.text
    people.ask("queue_clear", lock_key=taken.json()["lock_key"])
    back = people["operator"].post("/api/scope/control", json={"mode": "agents", "reason": "done"}).json()
    assert (back["problems"], back["lock_key"]) == ([], None)
    status = people.ask("status")
    assert status["lock"] == {"environment": False, "queue": False}
    assert status["queue_autostart_enabled"]
    people.ask("queue_autostart", enable=False)
    added = people["agent"].post("/api/queue/item/add", json=item(key="people-test-4"))
    assert added.json()["success"], added.text
    log = [json.loads(line) for line in (people.layout.logs / "safety.jsonl").read_text().splitlines()]
    mine = [(line["mode"], line["reason"]) for line in log if line["event"] == "control"]
    assert ("person", "aligning") in mine
    assert ("agents", "done") in mine


def test_nothing_to_arm_is_said(people: Any) -> None:
    answer = people["operator"].post("/api/scope/arm", json={"until": time.time() + 60})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_armable")
    assert people["agent"].post("/api/scope/arm", json={"until": None}).status_code == 403


def test_a_silent_hardware_process_is_latched_and_killed(
    data_folder: Callable[[str], Any], start_and_stop: Callable[..., Any], start_hardware: Callable[..., Any]
) -> None:
    """R3.11: frozen, it can't answer: the latch is on disk, and it is ended, so that its successor starts dark and halted."""
    server = start_and_stop(data_folder("frozen"))
    process = start_hardware(server.layout)
    os.kill(process.pid, signal.SIGSTOP)
    outcome = server["observer"].post("/api/scope/halt", json={"reason": "it hangs"}).json()
    assert (outcome["confirmed"], outcome["killed"]) == (False, True)
    assert process.popen.wait(60) == -signal.SIGKILL
    start_hardware(server.layout)
    assert server["observer"].get("/api/scope").json()["safety"]["halted"]["reason"] == "it hangs"
    assert server["operator"].post("/api/scope/rearm").status_code == 200
    assert not LatchFile.halt(server.layout).exists()


def test_without_any_hardware_the_latch_waits_for_it(
    data_folder: Callable[[str], Any], start_and_stop: Callable[..., Any], start_hardware: Callable[..., Any]
) -> None:
    server = start_and_stop(data_folder("none"))
    outcome = server["observer"].post("/api/scope/halt", json={"reason": "before it starts"}).json()
    assert (outcome["confirmed"], outcome["killed"]) == (False, False)
    assert "stays halted" in outcome["detail"]
    start_hardware(server.layout)
    assert server["observer"].get("/api/scope").json()["safety"]["halted"]["reason"] == "before it starts"
