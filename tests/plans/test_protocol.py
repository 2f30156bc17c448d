"""`protocol`: several templates as one operation on the real MMCore."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bluesky.utils import FailedStatus

from queuescope.config import load_scope
from queuescope.hardware import DoseError, LimitError, RecordingError
from queuescope.layout import Layout
from queuescope.ledger import Room
from queuescope.plans import Circumstances, check, templates
from queuescope.startup import _circumstances
from queuescope.startup._outcomes import cause_of, failure_of
from queuescope.startup._session import Session

ITEM = {"item_uid": "item-1", "user": "ada", "user_group": "agent", "meta": {"op_key": "night-3.1", "session_id": "s1"}}
SMALL = {"x_px": 0, "y_px": 0, "width_px": 64, "height_px": 48}
STACK = {"camera": "overview", "range_um": 4, "step_um": 2.0, "channels": [{"name": "gfp"}], "roi": SMALL}


def step(plan: str, **kwargs: Any) -> dict[str, Any]:
    return {"plan": plan, "kwargs": kwargs}


def run(session: Session, *steps: dict[str, Any], **meta: Any) -> Any:
    kwargs = {"steps": list(steps)}
    item = {**ITEM, "meta": {**ITEM["meta"], **meta}, "name": "protocol", "kwargs": kwargs}  # type: ignore[dict-item]
    return session.run_engine(session.plans["protocol"](**kwargs), **session.run_metadata(item))


def documents(session: Session, run_uid: str) -> list[tuple[str, dict[str, Any]]]:
    lines = session.layout.document_log(run_uid).read_text().splitlines()
    return [(entry["name"], entry["doc"]) for entry in map(json.loads, lines)]


def runs_of(session: Session, before: set[str]) -> set[str]:
    return {path.stem for path in session.layout.documents.glob("*.jsonl")} - before


def test_each_step_is_a_run_that_says_what_it_is(session: Session) -> None:
    """Issue 5, item 7; DESIGN: one run per step, whose start document carries the step's index."""
    session.hardware.move({"z": 3.0})
    outcome = run(session, step("move_z", z_um=12.0), step("z_stack", **STACK), step("read_state"))
    moved, stack, state = outcome.plan_result
    assert [moved["after"], stack["datasets"]] == [12.0, {"overview": 3}]
    assert state["state"]["z"] == 12.0
    assert list(outcome.run_start_uids) == [result["run_uid"] for result in outcome.plan_result]
    starts = [documents(session, uid)[0][1] for uid in outcome.run_start_uids]
    assert [(doc["plan_name"], doc["step"], doc["steps"]) for doc in starts] == [
        ("move_z", 0, 3),
        ("z_stack", 1, 3),
        ("read_state", 2, 3),
    ]
    assert starts[1]["plan_args"] == STACK
    assert (starts[1]["channels"], set(starts[1]["estimated_dose"])) == (["gfp"], {"l488"})
    assert (starts[0]["channels"], starts[0]["estimated_dose"]) == ([], {})
    assert all(doc["op_key"] == "night-3.1" and "of_step" not in doc for doc in starts)


def test_the_first_failure_ends_it_in_the_dark(session: Session) -> None:
    """What failed has its stop document with the reason, what follows never begins, and the failure says which step it was."""
    session.hardware.move({"z": 3.0})
    before = runs_of(session, set())
    unreachable = {"x_px": 0, "y_px": 0, "width_px": 90_000, "height_px": 48}
    with pytest.raises(Exception) as failed:  # noqa: PT011 (whatever the camera says)
        run(
            session,
            step("move_z", z_um=5.0),
            step("set_light", light="l488", on=True, max_s=0.05),
            step("snap", camera="overview", roi=unreachable),
            step("move_z", z_um=9.0),
        )
    assert failure_of(cause_of(failed.value)).detail.endswith("in step 2 of protocol (snap); 1 not begun")
    assert session.hardware.positions(("z",)) == {"z": 5.0}
    assert not any(light.on for light in session.hardware.state().lights.values())
    logs = [documents(session, uid) for uid in runs_of(session, before)]
    assert {log[0][1]["plan_name"] for log in logs} <= {"move_z", "set_light", "snap"}
    assert session.run_engine.state == "idle"


def test_a_run_whose_files_are_not_good_ends_it(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a step returns as if all were well: its stop document says that it isn't."""
    recordings = session.run_engine._recordings
    monkeypatch.setattr(recordings, "end_run", lambda: ({}, "files not closed: the disk is gone"))
    before = runs_of(session, set())
    with pytest.raises(RecordingError, match="the disk is gone"):
        run(session, step("read_state"), step("read_state"))
    assert len(runs_of(session, before)) == 1


def test_nothing_begins_where_a_later_step_may_not(session: Session) -> None:
    """The second move is checked from where the first one ends; no run is opened and nothing moves."""
    session.hardware.move({"piezo_a": 0.0})
    before = runs_of(session, set())
    with pytest.raises(LimitError, match=r"before its first step.*piezo_a 250"):
        run(session, step("move_axis", axis="piezo_a", to=150.0), step("move_axis", axis="piezo_a", by=100.0))
    assert session.hardware.positions(("piezo_a",)) == {"piezo_a": 0.0}
    assert runs_of(session, before) == set()


def test_the_dose_of_all_steps_counts(session: Session) -> None:
    """Each step alone would be within the sample's budget."""
    lit = step("set_light", light="l488", on=True, power_pct=2.0, max_s=0.1)
    session.hardware.set_sample("embryo", {"l488": 0.35})
    before = runs_of(session, set())
    try:
        with pytest.raises(DoseError, match="before its first step"):
            run(session, lit, lit)
        assert runs_of(session, before) == set()
        assert session.hardware.dose("embryo").used.get("l488", 0.0) == 0.0
    finally:
        session.hardware.set_sample(None, {})


def test_the_frames_of_all_steps_count(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step alone would fit on the disk."""
    free = int(1.5 * 5 * 64 * 48 * 2)

    def little(*_: Any) -> Room:
        return Room(session.layout.data, 0, 0, free, "make room")

    monkeypatch.setattr(_circumstances, "room_for", little)
    burst = step("snap", camera="overview", n=5, roi=SMALL)
    with pytest.raises(RecordingError, match="don't fit"):
        run(session, burst, burst)


def test_a_dry_run_goes_on_from_where_the_step_before_ends(tmp_path: Any) -> None:
    """Without hardware; a time-lapse in a step is gone through once."""
    scope = load_scope("demo-dispim", environ={})
    template = templates(scope)["protocol"]
    here = Circumstances(positions=dict.fromkeys(scope.axes(), 0.0), layout=Layout(tmp_path))
    by = step("move_axis", axis="piezo_a", by=90.0)
    assert check(template, {"steps": [by, by]}, scope, here).ok
    found = check(template, {"steps": [by, by, by]}, scope, here)
    assert [problem.loc for problem in found.problems] == ["piezo_a"]
    lapse = step("time_lapse", do=step("z_stack", range_um=10, step_um=1), interval_s=10.0, rounds=500)
    long = check(template, {"steps": [lapse, lapse]}, scope, here)
    assert (long.moves, long.frames) == (2 * (11 + 1), {"cam_a": 2 * 500 * 11})


def test_a_light_in_the_last_step_counts_for_its_own_position(session: Session) -> None:
    """R5.6: the dose of a step is told by the place that the step names."""
    session.hardware.set_sample("worm", {})
    try:
        scope_place = {"x_um": 1.0, "y_um": 2.0}
        run(session, step("snap", camera="overview", channels=[{"name": "gfp"}], roi=SMALL, position=scope_place))
        assert set(session.hardware.dose("worm").by_position) == {""}
        session.run_engine(session.plans["mark_position"](name="heart"))
        run(session, step("snap", camera="overview", channels=[{"name": "gfp"}], roi=SMALL, position="heart"))
        assert "heart" in session.hardware.dose("worm").by_position
    finally:
        session.hardware.set_sample(None, {})


def test_a_status_that_failed_is_noted_on_its_cause() -> None:
    error = FailedStatus()
    error.__cause__ = LimitError("z is stuck")
    error.__cause__.add_note("in step 1 of protocol (move_z); 0 not begun")
    assert failure_of(cause_of(error)).detail == "LimitError: z is stuck; in step 1 of protocol (move_z); 0 not begun"
