"""Places come and go, powers and intervals change, and the schedule waits for nobody. R4 Adaptive; issue 5, item 5."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bluesky.utils import RunEngineInterrupted

from queuescope.ledger import Decision, WrongAnswerError
from queuescope.plans import ParameterError
from queuescope.startup._session import Session

from .test_common import told
from .test_decision import Client, operation
from .test_rounds import rounds_of
from .test_templates import documents, run

SNAP = {"plan": "snap", "kwargs": {"camera": "overview", "binning": 4, "channels": [{"name": "gfp", "power_pct": 4}]}}
TWO_PLACES = [{"x_um": 10, "y_um": 0}, {"x_um": 20, "y_um": 0}]
LAPSE: dict[str, Any] = {
    "positions": TWO_PLACES,
    "do": SNAP,
    "interval_s": 20.0,
    "rounds": 3,
    "on_late": "run",
    "max_positions": 4,
    "min_interval_s": 0.5,
    "max_interval_s": 60,
    "burst": {"frames": 3, "cameras": ["overview"]},
}

AT_ONCE = {"interval_s": 0.5}
"""An answer that has nobody wait: the next round is due before it is asked for."""


@pytest.fixture
def client(session: Session, request: pytest.FixtureRequest) -> Iterator[Client]:
    yield from operation(session, f"adaptive.{abs(hash(request.node.nodeid)):x}")


def events(docs: list[tuple[str, dict[str, Any]]], stream: str) -> list[dict[str, Any]]:
    streams = {doc["uid"]: doc["name"] for kind, doc in docs if kind == "descriptor"}
    return [doc["data"] for kind, doc in docs if kind == "event" and streams[doc["descriptor"]] == stream]


def visits(docs: list[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for one in events(docs, "visits"):
        found.setdefault((one["place"], one["outcome"]), []).append(one["visit_round"])
    return found


def test_another_interval_counts_from_the_last_round() -> None:
    """Zero drift before and after; what the change makes late begins at once; None ends it."""
    wanted = {1: 1.0, 2: 1.0, 3: 3.0, 4: 3.0, 5: 0.25, 6: None}

    def between(number: int, left_s: float) -> Iterator[Any]:
        yield from ()
        return wanted[number]

    told_ = rounds_of(0.7, rounds=10, interval_s=1.0, on_late="skip", between=between)
    assert [one["due_s"] for one in told_] == pytest.approx([0.0, 1.0, 2.0, 5.0, 8.0, 8.7], abs=0.02)
    assert not any(one["late"] for one in told_)


def test_decisions_end_and_add_places_and_change_how_they_are_taken(session: Session, client: Client) -> None:
    """R4: add/stop a position while running, power and burst rules; each decision is an event that says who, when and what."""
    answering = client.answers(
        {"stop": ["p1"], "add": [{"x_um": 30, "y_um": 5}], "power_pct": {"gfp": 2}, "burst": ["p2"], "interval_s": 3},
        AT_ONCE,
    )
    outcome = run(session, "adaptive_time_lapse", LAPSE)
    answering.join(10)
    assert outcome.exit_status == "success"
    result, docs = outcome.plan_result, documents(session, outcome.run_start_uids[0])
    assert result["datasets"] == {"overview_p1": 1, "overview_p2": 3, "overview_p3": 2, "overview_p2_burst": 3}
    assert result["datasets"] == docs[-1][1]["frames"]
    assert told(docs) == {name: list(range(count)) for name, count in result["datasets"].items()}
    assert result["places"] == {
        "p1": {"rounds": 1, "ended": "stopped"},
        "p2": {"rounds": 3, "ended": None},
        "p3": {"rounds": 2, "ended": None},
    }
    assert visits(docs) == {
        ("p1", "taken"): [0],
        ("p2", "taken"): [0, 1, 2],
        ("p2", "burst"): [1],
        ("p3", "taken"): [1, 2],
    }
    first, second = events(docs, "decisions")
    assert (first["decision"], first["by"], second["decision"]) == (1, "agent", 2)
    assert json.loads(first["answer"])["stop"] == ["p1"]
    assert first["outcome"] == "p1 stopped; gfp at 2 %; p3 added; burst at p2; every 3 s"
    assert second["outcome"] == "every 0.5 s"
    read = client.decisions.read(client.key, 1)
    assert read is not None
    assert first["at"] == read.answered_at
    due_s = [one["due_s"] for one in events(docs, "rounds")]
    assert due_s[1] >= 3
    assert due_s[1] < due_s[2] < 20
    assert session.hardware.positions(("xy.x",))["xy.x"] == pytest.approx(30, abs=0.1)
    assert not any(light.on for light in session.hardware.state().lights.values())


def test_with_nobody_there_the_schedule_is_kept(session: Session, client: Client) -> None:
    """The agent may vanish for an hour: each round begins at its time, as it was asked for; the defaults are recorded."""
    outcome = run(session, "adaptive_time_lapse", {**LAPSE, "interval_s": 1.5})
    docs = documents(session, outcome.run_start_uids[0])
    rounds = events(docs, "rounds")
    assert [one["due_s"] for one in rounds] == [0, 1.5, 3.0]
    assert [one["outcome"] for one in rounds] == ["taken"] * 3
    assert outcome.plan_result["datasets"] == {"overview_p1": 3, "overview_p2": 3}
    asked = events(docs, "decisions")
    assert {(one["by"], one["answer"]) for one in asked} <= {("default", "{}")}
    assert len(asked) + outcome.plan_result["unasked"] == 2


def test_what_is_asked_has_this_moments_limits(session: Session, client: Client) -> None:
    """Each answer is held against scope, caps and what is left of the dose; a refused one changes nothing."""
    asked: list[Decision] = []
    refusals: dict[str, Any] = {}
    WRONG: dict[str, Any] = {
        "power_pct.gfp": {"power_pct": {"gfp": 4.1}},
        "interval_s": {"interval_s": 61},
        "stop.0": {"stop": ["p7"]},
        "add": {"add": [{"x_um": 1, "y_um": n} for n in range(3)]},
        "add.0.x_um": {"add": [{"x_um": 1e7, "y_um": 0}]},
        "burst.0": {"burst": ["p9"]},
        "end_after.p1": {"end_after": {"p1": 0}},
        "": {"move": 1},
    }

    def act(decision: Decision) -> None:
        asked.append(decision)
        for loc, answer in WRONG.items():
            try:
                client.decisions.answer(client.key, 1, answer, "agent")
            except WrongAnswerError as error:
                refusals[loc] = error.parts
        client.decisions.answer(client.key, 1, {"end": True}, "agent")

    acting = client.then(act)
    outcome = run(session, "adaptive_time_lapse", LAPSE)
    acting.join(10)
    assert set(refusals) == set(WRONG)
    assert {loc for loc, parts in refusals.items() if [part.loc for part in parts] != [loc]} == set(), refusals
    assert refusals["power_pct.gfp"][0].limit == 4
    assert (refusals["interval_s"][0].value, refusals["interval_s"][0].limit) == (61, 60)
    assert refusals["add"][0].limit == 2
    assert asked[0].question.facts["run_uid"] == outcome.run_start_uids[0]
    assert asked[0].question.facts["places"]["p1"]["rounds"] == 1
    assert outcome.plan_result["datasets"] == {"overview_p1": 1, "overview_p2": 1}, "it ended when it was told to"


def test_a_dose_budget_caps_powers_and_ends_places(session: Session, client: Client) -> None:
    """R4: dose budget. A visit gets 4 % × 0.1 s: no answer may ask for more than is left, and what is spent ends."""
    limits: list[dict[str, Any]] = []

    def act(decision: Decision) -> None:
        limits.append(decision.question.answers["properties"]["power_pct"]["properties"]["gfp"])
        client.decisions.answer(client.key, 1, AT_ONCE, "agent")

    acting = client.then(act)
    channels = [{"name": "gfp", "power_pct": 4, "exposure_ms": 100}]
    do = {"plan": "snap", "kwargs": {**SNAP["kwargs"], "channels": channels}}
    kwargs = {**LAPSE, "do": do, "max_power_pct": 6, "dose_budget": {"l488": 1.0}, "rounds": 5}
    outcome = run(session, "adaptive_time_lapse", kwargs)
    acting.join(10)
    docs = documents(session, outcome.run_start_uids[0])
    assert 4 <= limits[0]["maximum"] < 6
    assert "dose_budget of l488" in limits[0]["description"]
    assert outcome.plan_result["places"] == {
        "p1": {"rounds": 2, "ended": "dose"},
        "p2": {"rounds": 2, "ended": "dose"},
    }
    assert len(events(docs, "rounds")) == 2, "without places it ends"


def test_places_end_after_their_rounds(session: Session, client: Client) -> None:
    answering = client.answers({"end_after": {"p2": 1}, **AT_ONCE})
    outcome = run(session, "adaptive_time_lapse", {**LAPSE, "end_after": {"p1": 1}})
    answering.join(10)
    assert outcome.plan_result["places"] == {
        "p1": {"rounds": 1, "ended": "rounds"},
        "p2": {"rounds": 2, "ended": "rounds"},
    }


def test_an_added_place_that_is_refused_ends_alone(
    session: Session,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forbidden box is in no schema: the hardware refuses the move, and the night's other places go on."""
    from queuescope.hardware import CollisionError

    move = session.hardware.move

    def guarded(targets: dict[str, float]) -> Any:
        if targets.get("xy.x") == 77.0:
            raise CollisionError("xy would go into the box 'dish'", thing="xy.x", value=77.0, limit=[0, 70])
        return move(targets)

    monkeypatch.setattr(session.hardware, "move", guarded)
    answering = client.answers({"add": [{"x_um": 77, "y_um": 0}], **AT_ONCE})
    outcome = run(session, "adaptive_time_lapse", LAPSE)
    answering.join(10)
    assert outcome.exit_status == "success"
    assert outcome.plan_result["places"]["p3"] == {
        "rounds": 0,
        "ended": "refused: xy would go into the box 'dish'",
    }
    assert outcome.plan_result["datasets"] == {"overview_p1": 3, "overview_p2": 3, "overview_p3": 0}


def test_paused_while_it_asks_lights_are_off_and_nothing_is_taken_twice(session: Session, client: Client) -> None:
    run_engine = session.run_engine
    pausing = client.then(lambda _: run_engine.request_pause())
    with pytest.raises(RunEngineInterrupted):
        run(session, "adaptive_time_lapse", LAPSE)
    pausing.join(10)
    assert not any(light.on for light in session.hardware.state().lights.values())
    client.answers({"stop": ["p2"], **AT_ONCE})
    outcome = run_engine.resume()
    docs = documents(session, outcome.run_start_uids[0])
    assert told(docs) == {"overview_p1": [0, 1, 2], "overview_p2": [0]}
    assert visits(docs) == {("p1", "taken"): [0, 1, 2], ("p2", "taken"): [0]}


def test_a_pause_anywhere_takes_no_frame_twice(session: Session, client: Client) -> None:
    """Also while a place is added and a burst is taken."""
    run_engine = session.run_engine
    kwargs = {**LAPSE, "rounds": 2}
    answer = {"add": [{"x_um": 30, "y_um": 5}], "burst": ["p1"], "power_pct": {"gfp": 1}, **AT_ONCE}
    expected = {"overview_p1": 2, "overview_p2": 2, "overview_p3": 1, "overview_p1_burst": 3}
    for command in ("stage", "decision_use", "kickoff", "prepare", "save"):
        seen: list[str] = []

        def hook(msg: Any, seen: list[str] = seen, command: str = command) -> None:
            if msg.command == "decision_look":
                seen.append("asked")
            if msg.command == command and "asked" in seen:
                run_engine.msg_hook = None
                threading.Thread(target=run_engine.request_pause).start()

        run_engine.msg_hook = hook
        answering = client.answers(answer)
        try:
            outcome = run(session, "adaptive_time_lapse", kwargs)
        except RunEngineInterrupted:
            run_engine.msg_hook = None
            outcome = run_engine.resume()
        run_engine.msg_hook = None
        answering.join(10)
        docs = documents(session, outcome.run_start_uids[0])
        assert told(docs) == {name: list(range(count)) for name, count in expected.items()}, command


@pytest.mark.parametrize("how", ["abort", "stop", "halt"])
def test_ended_while_it_asks_its_run_says_so(session: Session, client: Client, how: str) -> None:
    run_engine = session.run_engine
    client.then(lambda _: run_engine.request_pause())
    with pytest.raises(RunEngineInterrupted):
        run(session, "adaptive_time_lapse", LAPSE)
    getattr(run_engine, how)()
    stop = documents(session, run_engine._run_start_uids[-1])[-1][1]
    assert stop["exit_status"] == {"abort": "abort", "stop": "success", "halt": "abort"}[how]
    assert stop["frames"] == {"overview_p1": 1, "overview_p2": 1}
    if how != "halt":  # then the plan says nothing more; the ledger knows that it has ended
        assert client.decisions.waiting() == {}
    assert not any(light.on for light in session.hardware.state().lights.values())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "end_after": ({"end_after": {"p9": 3}}, "end_after: there is no place 'p9'"),
    "max_positions": ({"max_positions": 1}, "max_positions: 1 is less than the 2 places"),
    "interval": ({"min_interval_s": 30.0}, "interval_s: 20 s is outside"),
    "power": ({"max_power_pct": 3}, "max_power_pct: gfp begins with 4 % of l488, more than 3 %"),
    "do": ({"do": {"plan": "snap", "kwargs": {"position": {"x_um": 0, "y_um": 0}}}}, "do: leave out kwargs.position"),
    "burst": ({"burst": {"frames": 3, "position": {"x_um": 0, "y_um": 0}}}, "burst: leave out position"),
    "light": ({"dose_budget": {"sun": 3}}, "dose_budget.sun"),
    "nan": ({"interval_s": float("nan")}, "interval_s"),
    "twice": ({"do": {"plan": "multi_position", "kwargs": {}}}, "do"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_doesnt_fit_together_is_refused(session: Session, case: str) -> None:
    more, words = REFUSED[case]
    with pytest.raises(ParameterError, match=words.replace("%", ".")):
        session.templates["adaptive_time_lapse"].check({**LAPSE, **more})


def test_the_estimate_is_the_most_that_decisions_make_of_it(session: Session) -> None:
    template = session.templates["adaptive_time_lapse"]
    estimate: Callable[..., Any] = lambda **more: template.estimate(  # noqa: E731
        template.check({**LAPSE, **more}), session.scope
    )
    plain = estimate(max_positions=None, burst=None, max_interval_s=None)
    assert plain.frames == {"overview_p1": 3, "overview_p2": 3}
    assert plain.dose["l488"] == pytest.approx(6 * 4 * 0.01)
    most = estimate(max_power_pct=5)
    assert most.frames == {f"overview_p{n}": 3 for n in (1, 2, 3, 4)} | {"overview_burst": 30}
    assert most.dose["l488"] == pytest.approx(12 * 5 * 0.01)
    assert most.seconds > 120
    assert estimate(dose_budget={"l488": 0.05}).dose["l488"] == pytest.approx(0.2)
