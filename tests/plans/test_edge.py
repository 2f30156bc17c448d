"""The edge of a sample is where whoever looks at the frames says it is. R4 edge_search; issue 5, item 5."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from bluesky.utils import RunEngineInterrupted

from queuescope.hardware import LimitError
from queuescope.plans import ParameterError
from queuescope.startup._session import Session

from .test_adaptive import events
from .test_common import told
from .test_decision import Client, operation
from .test_templates import begin, documents, positions, run

SEARCH: dict[str, Any] = {
    "axis": "xy.x",
    "step_um": 20.0,
    "max_steps": 5,
    "resolution_um": 6.0,
    "camera": "overview",
    "binning": 4,
    "channels": [{"name": "gfp"}],
    "decision_s": 20.0,
}


@pytest.fixture
def client(session: Session, request: pytest.FixtureRequest) -> Iterator[Client]:
    begin(session)
    yield from operation(session, f"edge.{abs(hash(request.node.nodeid)):x}", "edge_search")


def looks(client: Client, edge_um: float, frames: int) -> threading.Thread:
    """A client that sees the sample left of an edge, by where the frame was taken."""

    def each() -> None:
        for _ in range(frames):
            asked = client.waiting()
            seen = "inside" if asked.question.facts["position_um"] < edge_um else "outside"
            client.decisions.answer(client.key, asked.round, seen, "agent")
            while client.decisions.read(client.key, asked.round).closed_at is None:  # type: ignore[union-attr]
                threading.Event().wait(0.01)

    thread = threading.Thread(target=each, daemon=True)
    thread.start()
    return thread


def test_an_edge_is_found_and_the_axis_goes_back(session: Session, client: Client) -> None:
    before = positions(session)
    looking = looks(client, 47.0, 6)
    outcome = run(session, "edge_search", SEARCH)
    looking.join(10)
    result, docs = outcome.plan_result, documents(session, outcome.run_start_uids[0])
    assert result["ended"] == "found"
    assert result["edge_um"] == pytest.approx(47.0, abs=result["uncertainty_um"])
    assert result["uncertainty_um"] <= 3.0
    places = [step["position_um"] for step in result["steps"]]
    assert places == pytest.approx([0, 20, 40, 60, 50, 45], abs=0.1)
    assert told(docs) == {"overview": list(range(6))}
    assert [one["xy_x"] for one in events(docs, "primary")] == pytest.approx(places, abs=0.1)
    assert [one["outcome"] for one in events(docs, "decisions")][1] == "xy.x at 20 um"
    assert {one["by"] for one in events(docs, "decisions")} == {"agent"}
    assert positions(session) == pytest.approx(before, abs=0.1)
    assert not any(light.on for light in session.hardware.state().lights.values())
    read = client.decisions.read(client.key, 3)
    assert read is not None
    assert read.question.facts == {
        "run_uid": result["run_uid"],
        "dataset": "overview",
        "index": 2,
        "axis": "xy.x",
        "position_um": pytest.approx(40.0, abs=0.1),
    }


def test_it_ends_where_nobody_answers_or_somebody_says_stop(session: Session, client: Client) -> None:
    outcome = run(session, "edge_search", {**SEARCH, "decision_s": 0.3})
    assert (outcome.plan_result["ended"], outcome.plan_result["edge_um"]) == ("nobody answered", None)
    assert outcome.plan_result["datasets"] == {"overview": 1}
    answering = client.answers("inside", "stop")
    outcome = run(session, "edge_search", SEARCH)
    answering.join(10)
    assert (outcome.plan_result["ended"], len(outcome.plan_result["steps"])) == ("stopped", 2)
    assert positions(session)["xy.x"] == pytest.approx(0.0, abs=0.1)


def test_without_an_edge_it_ends_after_its_steps(session: Session, client: Client) -> None:
    looking = looks(client, 1e9, 3)
    outcome = run(session, "edge_search", {**SEARCH, "max_steps": 2, "direction": "down"})
    looking.join(10)
    assert (outcome.plan_result["ended"], outcome.plan_result["edge_um"]) == ("max_steps", None)
    assert [step["position_um"] for step in outcome.plan_result["steps"]] == pytest.approx([0, -20, -40], abs=0.1)


def test_every_step_is_checked_before_the_first(session: Session, client: Client) -> None:
    session.hardware.move({"xy.x": 900.0})
    with pytest.raises(LimitError, match=r"xy.x .* is outside"):
        run(session, "edge_search", SEARCH)
    assert positions(session)["xy.x"] == pytest.approx(900.0, abs=0.1)
    assert client.decisions.read(client.key, 1) is None


def test_aborted_while_it_asks_it_goes_back(session: Session, client: Client) -> None:
    looking = looks(client, 1e9, 1)
    looking.join(0)

    def pause() -> None:
        looking.join(30)
        client.then(lambda _: session.run_engine.request_pause())

    threading.Thread(target=pause, daemon=True).start()
    with pytest.raises(RunEngineInterrupted):
        run(session, "edge_search", SEARCH)
    assert not any(light.on for light in session.hardware.state().lights.values())
    session.run_engine.abort()
    assert positions(session)["xy.x"] == pytest.approx(0.0, abs=0.1)
    assert client.decisions.waiting() == {}
    assert documents(session, session.run_engine._run_start_uids[-1])[-1][1]["frames"] == {"overview": 2}


def test_what_is_not_bounded_is_refused(session: Session) -> None:
    template = session.templates["edge_search"]
    with pytest.raises(ParameterError, match=r"max_steps: 4000 um is more than the whole range of xy\.x"):
        template.check({**SEARCH, "max_steps": 200})
    with pytest.raises(ParameterError, match="resolution_um: is more than a step"):
        template.check({**SEARCH, "resolution_um": 30.0})
    assert template.estimate(template.check(SEARCH), session.scope).frames == {"overview": 8}
