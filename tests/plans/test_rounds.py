"""Rounds begin at their time, places have datasets of their own, and all of it is one run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from queuescope.plans._rounds import LATE_S, RoundRecord, in_time
from queuescope.startup._session import Session

from .test_common import TWO, small, told  # noqa: F401 (a fixture)
from .test_templates import documents, run


class Clock:
    """Time that passes when a plan sleeps, and while a round is taken."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rounds_of(takes_s: list[float] | float, **how: Any) -> list[dict[str, Any]]:
    """Drive a plan of rounds without a RunEngine, each sleep a little too long; what is told of each round."""
    clock, record = Clock(), RoundRecord()
    told_: list[dict[str, Any]] = []
    taken = iter(takes_s if isinstance(takes_s, list) else [takes_s] * how["rounds"])

    def once() -> Iterator[Any]:
        yield from ()
        clock.now += next(taken)
        return True

    for msg in in_time(once, record, clock=clock, **how):
        if msg.command == "sleep":
            clock.now += msg.args[0] + 0.003
        elif msg.command == "collect":
            for page in record.collect_pages():
                told_ += [dict(zip(page["data"], row, strict=True)) for row in zip(*page["data"].values(), strict=True)]
    return told_


def test_a_thousand_rounds_do_not_drift() -> None:
    """Issue 5, item 9: the n-th round starts at n × interval, not after the last one plus interval."""
    told_ = rounds_of(0.7, rounds=1000, interval_s=1.0, on_late="skip")
    assert [one["due_s"] for one in told_] == [float(n) for n in range(1000)]
    assert max(one["began_s"] - one["due_s"] for one in told_) < 0.01
    assert {one["outcome"] for one in told_} == {"taken"}


def test_a_late_round_is_left_out_or_begins_at_once_and_is_told_late() -> None:
    """Issue 5, item 9: a late round is recorded as late; those after it are in time again."""
    takes = [0.1, 1.5, 0.1, 0.1, 0.1]
    skipped = rounds_of(takes, rounds=5, interval_s=1.0, on_late="skip")
    assert [(one["outcome"], one["late"]) for one in skipped] == [
        ("taken", False),
        ("taken", False),
        ("skipped", True),
        ("taken", False),
        ("taken", False),
    ]
    run_ = rounds_of(takes, rounds=5, interval_s=1.0, on_late="run")
    assert [(one["outcome"], one["late"]) for one in run_] == [
        ("taken", False),
        ("taken", False),
        ("taken", True),
        ("taken", False),
        ("taken", False),
    ]
    assert run_[2]["began_s"] == pytest.approx(2.5, abs=0.02)
    assert run_[3]["began_s"] == pytest.approx(3.0, abs=0.02)


ROUNDS: dict[str, dict[str, Any]] = {
    "snaps": {"do": {"plan": "snap", "kwargs": {"n": 2, "channels": [{"name": "fitc"}]}}},
    "two channels": {"do": {"plan": "snap", "kwargs": {"n": 1, "channels": TWO}}},
    "stacks": {"do": {"plan": "z_stack", "kwargs": {"range_um": 2, "step_um": 2, "channels": [{"name": "fitc"}]}}},
    "bursts": {"do": {"plan": "burst", "kwargs": {"frames": 2, "cameras": ["camera"]}}},
    "places": {
        "do": {
            "plan": "multi_position",
            "kwargs": {
                "positions": [{"x_um": 10, "y_um": 0}, {"x_um": 20, "y_um": 0, "z_um": 5}],
                "do": {"plan": "z_stack", "kwargs": {"range_um": 2, "step_um": 2}},
                "safe_z_um": -20,
            },
        }
    },
}


@pytest.mark.parametrize("case", sorted(ROUNDS))
def test_all_rounds_are_one_run(small: Session, case: str) -> None:  # noqa: F811
    """R4 time_lapse(do, interval_s, rounds): one dataset for each camera, channel and place, with all rounds' frames."""
    kwargs = {**ROUNDS[case], "interval_s": 0.6, "rounds": 3, "on_late": "run"}
    outcome = run(small, "time_lapse", kwargs)
    (run_uid,) = outcome.run_start_uids
    docs = documents(small, run_uid)
    frames = 3 if case == "two channels" else 6
    estimate = small.templates["time_lapse"].estimate(small.templates["time_lapse"].check(kwargs), small.scope)
    assert outcome.plan_result["datasets"] == estimate.frames == docs[-1][1]["frames"]
    assert set(estimate.frames.values()) == {frames}
    assert told(docs) == {name: list(range(frames)) for name in estimate.frames}
    assert docs[0][1]["rounds"] == 3
    assert docs[0][1]["interval_s"] == 0.6
    if case == "snaps":
        assert docs[0][1]["channels"] == ["fitc"]
    streams = {doc["uid"]: doc["name"] for kind, doc in docs if kind == "descriptor"}
    told_ = [doc["data"] for kind, doc in docs if kind == "event" and streams[doc["descriptor"]] == "rounds"]
    assert [(one["round"], one["outcome"]) for one in told_] == [(0, "taken"), (1, "taken"), (2, "taken")]
    assert all(one["late"] == (one["began_s"] - one["due_s"] > LATE_S) for one in told_)
    assert [one["due_s"] for one in told_] == [0, 0.6, 1.2]
    assert not any(light.on for light in small.hardware.state().lights.values())


def test_each_place_has_a_dataset_and_a_dose_of_its_own(small: Session) -> None:  # noqa: F811
    """R4 multi_position(positions, do, safe_z_um); a place is called by its name, or p1, p2 … by its number."""
    small.hardware.move({"xy.x": 30.0, "xy.y": 40.0, "z": 7.0})
    run(small, "mark_position", {"name": "embryo"})
    small.hardware.set_sample("fish", {})
    moves: list[dict[str, float]] = []
    small.run_engine.msg_hook = lambda msg: (
        moves.append(small.hardware.positions(("xy.x", "z"))) if msg.command == "trigger" else None
    )
    try:
        kwargs = {
            "positions": ["embryo", {"x_um": 90, "y_um": 0}],
            "do": {"plan": "snap", "kwargs": {"channels": [{"name": "fitc"}]}},
            "safe_z_um": -30,
        }
        outcome = run(small, "multi_position", kwargs)
        by_position = small.hardware.dose("fish").by_position
    finally:
        small.run_engine.msg_hook = None
        small.hardware.set_sample(None, {})
    assert outcome.plan_result["datasets"] == {"camera_embryo": 1, "camera_p2": 1}
    assert moves == [{"xy.x": 30.0, "z": 7.0}, {"xy.x": 90.0, "z": 7.0}]
    assert set(by_position) == {"embryo", "p2"}
    start = documents(small, outcome.run_start_uids[0])[0][1]
    assert start["positions"]["embryo"] == pytest.approx({"x_um": 30.0, "y_um": 40.0, "z_um": 7.0}, abs=0.02)
    assert start["positions"]["p2"] == {"x_um": 90.0, "y_um": 0.0, "z_um": None}


def test_rounds_back_to_back_are_told_together_and_none_is_left_out() -> None:
    """A round takes milliseconds then, and an event by itself half of one."""
    assert [one["round"] for one in rounds_of(0.001, rounds=500, interval_s=0.0, on_late="run")] == list(range(500))

    record, began = RoundRecord(), []
    told_: list[int] = []

    def fails() -> Iterator[Any]:
        yield from ()
        if len(began) == 3:
            raise ValueError("the third")
        began.append(True)
        return True

    def drive() -> None:
        for msg in in_time(fails, record, rounds=9, interval_s=0.0, on_late="run"):
            for page in record.collect_pages() if msg.command == "collect" else ():
                told_.extend(page["data"]["round"])

    with pytest.raises(ValueError, match="the third"):
        drive()
    assert told_ == [0, 1, 2], "those before it, however it ends"
