"""Release, reclaim, samples, references, approvals over REST: R5.5 to R5.8, on the real hardware process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from queuescope.config import load_scope
from queuescope.hardware import ArgumentError, DatasetPlan, DoseError, FrameSettings, LatchFile, RecordingPlan, connect
from queuescope.ledger import Ledger, Samples

LIT = FrameSettings(exposure_ms=20, light="l488", power_pct=2)
BELOW = ("observer", "agent")


@pytest.fixture
def people(stack: Any) -> Iterator[Any]:
    """The stack, as it was afterwards."""
    yield stack
    stack["operator"].post("/api/scope/reclaim", json={})
    stack["operator"].post("/api/scope/rearm")
    stack.ask("queue_autostart", enable=False)
    stack.ask("queue_clear")


@pytest.fixture
def hardware(people: Any) -> Iterator[Any]:
    connected = connect(load_scope("demo-dispim"), people.layout)
    yield connected
    connected.close()


def test_it_is_released_and_reclaimed(people: Any) -> None:
    """R5.7: by a named person, told wherever one looks; the queue is stopped meanwhile and starts when asked."""
    people.ask("queue_autostart", enable=True)
    for role in BELOW:
        assert people[role].post("/api/scope/release", json={}).status_code == 403
        assert people[role].post("/api/scope/reclaim", json={}).status_code == 403
    answer = people["operator"].post("/api/scope/release", json={"reason": "alignment", "by": "Ada"})
    assert (answer.status_code, answer.json()["problems"]) == (200, [])
    assert answer.json()["hardware"]["stage"] == "released"
    assert not people.ask("status")["queue_autostart_enabled"]
    ready = people["observer"].get("/api/ready")
    assert ready.status_code == 503
    assert any("hardware: released by Ada (operator) at" in reason for reason in ready.json()["reasons"])
    hold = next(hold for hold in ready.json()["holds"] if hold["reason"] == "released")
    assert (hold["needs"], hold["since"] > time.time() - 60) == ("queuescope reclaim", True)
    for refused in (
        people["observer"].get("/api/scope"),
        people["operator"].post("/api/scope/confirm_reference", json={"axis": "z"}),
        people["operator"].post("/api/samples", json={"id": "worm"}),
        people["operator"].post("/api/scope/arm", json={"until": None}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "released"), refused.text
        assert "released by Ada (operator)" in refused.json()["detail"]
    halted = people["agent"].post("/api/scope/halt", json={"reason": "smoke"}).json()
    assert "NOT EVERYTHING IS OFF: released: released by Ada" in halted["detail"]
    people["operator"].post("/api/scope/rearm")
    answer = people["operator"].post("/api/scope/reclaim", json={"resume_queue": True})
    assert (answer.status_code, answer.json()["hardware"]["stage"], answer.json()["problems"]) == (200, "ready", [])
    assert people.ask("status")["queue_autostart_enabled"]
    assert not LatchFile.released(people.layout).exists()
    assert people["observer"].get("/api/scope").status_code == 200


def test_an_open_recording_keeps_it_and_the_queue_goes_on(people: Any, hardware: Any) -> None:
    """R5.7: refused; nothing is stopped by a refusal."""
    people.ask("queue_autostart", enable=True)
    state = hardware.open_recording(
        RecordingPlan(run_uid="by-hand-1", datasets=(DatasetPlan(name="cam_a", camera="cam_a"),))
    )
    refused = people["operator"].post("/api/scope/release", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "busy")
    assert "by-hand-1" in refused.json()["detail"]
    assert people.ask("status")["queue_autostart_enabled"]
    hardware.close_recording(state.recording)


def test_a_sample_is_opened_and_closed_by_an_operator(people: Any, hardware: Any) -> None:
    """R5.6: facts and budget; its dose is measured by position, and an agent can neither open nor reset it nor leave it out."""
    sample = {
        "id": "by-hand-worm",
        "strain": "N2",
        "stain": "GFP",
        "mount": "agarose",
        "medium": "M9",
        "refractive_index": 1.34,
        "dose_budget": {"l488": 0.05},
    }
    for role in BELOW:
        assert people[role].post("/api/samples", json=sample).status_code == 403
        assert people[role].get("/api/samples/by-hand-worm").status_code == 404
    opened = people["operator"].post("/api/samples", json=sample)
    assert opened.status_code == 200, opened.text
    assert {name: opened.json()[name] for name in sample} == sample
    assert (opened.json()["open"], opened.json()["opened_by"], opened.json()["dose"]) == (True, "operator", {})

    state = hardware.open_recording(
        RecordingPlan(run_uid="by-hand-2", position="head", datasets=(DatasetPlan(name="cam_a", camera="cam_a"),))
    )
    hardware.record_frame(state.recording, {"cam_a": LIT})
    hardware.close_recording(state.recording)
    with pytest.raises(ArgumentError, match="'by-hand-worm' is open"):
        hardware.open_recording(
            RecordingPlan(run_uid="by-hand-3", sample_id="another", datasets=(DatasetPlan(name="a", camera="cam_a"),))
        )
    seen = people["agent"].get("/api/samples/by-hand-worm").json()
    now = people["agent"].get("/api/samples").json()
    assert (now["sample_id"], now["open"], now["used"]) == ("by-hand-worm", True, seen["dose"])
    assert seen["dose"]["l488"] >= 0.04
    assert seen["dose_by_position"]["head"]["l488"] == seen["dose"]["l488"]
    for role in BELOW:  # neither reset nor closed
        assert people[role].post("/api/samples", json={**sample, "dose_budget": {}}).status_code == 403
        assert people[role].post("/api/samples", json={"id": "by-hand-worm", "open": False}).status_code == 403
    with pytest.raises(DoseError):
        hardware.snap("cam_a", LIT)

    other = people["operator"].post("/api/samples", json={"id": "by-hand-worm-2"})
    assert (other.json()["open"], other.json()["dose"]) == (True, {})
    before = people["agent"].get("/api/samples/by-hand-worm").json()
    assert (before["open"], before["closed_at"] is not None, before["strain"]) == (False, True, "N2")
    again = people["operator"].post("/api/samples", json={"id": "by-hand-worm", "medium": "water"}).json()
    assert (again["strain"], again["medium"], again["dose"]) == ("N2", "water", before["dose"])
    assert again["dose"]["l488"] >= seen["dose"]["l488"]
    closed = people["operator"].post("/api/samples", json={"id": "by-hand-worm", "open": False})
    assert (closed.status_code, closed.json()["open"]) == (200, False)
    refused = people["operator"].post("/api/samples", json={"id": "by-hand-worm", "open": False})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_sample")
    assert Samples(Ledger(people.layout.ledger_db)).get("by-hand-worm") is not None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"id": "a b"}, "invalid_body"),
        ({"id": "w", "dose_budget": {"sun": 1}}, "invalid_body"),
        ({"id": "w", "dose_budget": {"l488": -1}}, "invalid_body"),
        ({"id": "w", "refractive_index": 0.5}, "invalid_body"),
        ({"id": "w", "species": "?"}, "invalid_body"),
    ],
)
def test_a_sample_that_makes_no_sense_is_refused(people: Any, body: dict[str, Any], code: str) -> None:
    """R5.6: and none is opened."""
    refused = people["operator"].post("/api/samples", json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, code)
    assert people["observer"].get("/api/samples/w").status_code == 404


def test_a_reference_is_confirmed_by_people_only(people: Any) -> None:
    """R5.8: no agent unlocks an axis; who has looked is named."""
    for role in BELOW:
        assert people[role].post("/api/scope/confirm_reference", json={"axis": "z"}).status_code == 403
    done = people["operator"].post("/api/scope/confirm_reference", json={"axis": "z", "by": "Ada"})
    assert done.status_code == 200, done.text
    position = people["observer"].get("/api/scope").json()["devices"]["z"]["position"]
    assert done.json() == {"axis": "z", "position": position}
    unknown = people["operator"].post("/api/scope/confirm_reference", json={"axis": "nowhere"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_name")


def test_an_agents_plan_waits_for_a_person(people: Any, start_and_stop: Callable[..., Any]) -> None:
    """R5.5: it is listed with its hold; only an operator decides, on the body that was shown, and once."""
    server = start_and_stop(people.layout.data, QUEUESCOPE_AGENTS__APPROVAL="all")
    item = {"item_type": "plan", "name": "rest", "kwargs": {"x_um": 1.0}, "meta": {"op_key": "by-hand-rest-1"}}
    agent, operator = server["agent"], server["operator"]
    uid = agent.post("/api/queue/item/add", json={"item": item}).json()["item"]["item_uid"]
    operator.post("/api/queue/item/add", json={"item": {**item, "meta": {}}})
    (waits,) = agent.get("/api/scope/approvals").json()
    assert (waits["item_uid"], waits["plan"], waits["kwargs"]) == (uid, "rest", {"x_um": 1.0})
    assert (waits["hold"]["reason"], waits["hold"]["needs"]) == ("approval", f"queuescope approve {uid}")
    holds = server["observer"].get("/api/ready").json()["holds"]
    assert waits["hold"] in holds
    decide = f"/api/scope/approvals/{uid}"
    for role in BELOW:
        assert server[role].post(decide, json={"approve": True}).status_code == 403

    edited = {**item, "item_uid": uid, "kwargs": {"x_um": 2.0}}
    assert agent.post("/api/queue/item/update", json={"item": edited, "replace": False}).json()["success"]
    refused = operator.post(decide, json={"approve": True, "body": waits["body"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "body_changed")
    (waits,) = agent.get("/api/scope/approvals").json()
    done = operator.post(decide, json={"approve": True, "body": waits["body"], "by": "Ada", "reason": "fine"})
    assert (done.status_code, done.json()["by"], done.json()["problems"]) == (200, "Ada (operator)", [])
    assert agent.get("/api/scope/approvals").json() == []
    assert operator.post(decide, json={"approve": True}).json()["at"] == done.json()["at"], "twice is once"
    other = operator.post(decide, json={"approve": False})
    assert (other.status_code, other.json()["code"]) == (409, "decided_already")
    nothing = operator.post("/api/scope/approvals/nowhere", json={"approve": True})
    assert (nothing.status_code, nothing.json()["code"]) == (404, "nothing_to_approve")


def test_a_hardware_that_restarts_is_told_as_a_hold(
    data_folder: Callable[[str], Any], start_and_stop: Callable[..., Any]
) -> None:
    """R5.2: whoever waits for a plan sees why; it ends by itself, so it needs nobody."""
    server = start_and_stop(data_folder("gone"))
    holds = server["observer"].get("/api/ready").json()["holds"]
    assert [(hold["reason"], hold["needs"]) for hold in holds] == [("restarting", None)]
    assert "no hardware process answers" in holds[0]["detail"]
