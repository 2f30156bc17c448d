"""``focus: sweep``: before its frames a plan finds the focus, on a sample where that is known. R4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from queuescope.layout import Layout
from queuescope.plans import Circumstances, FitError, ParameterError, check, templates
from queuescope.startup._session import Session

from .test_adaptive import events
from .test_common import told
from .test_focus import FOCUS_UM, WHITE, last_run
from .test_templates import documents, positions, run

SWEEP = {"focus": "sweep", "sweep": {"range_um": 16.0, "step_um": 2.0}}
SNAP = {"camera": "wide", "n": 2, **WHITE, **SWEEP}
STACK = {"camera": "wide", "range_um": 4.0, "step_um": 2.0, **WHITE, **SWEEP}
NOWHERE = 1500.0
"""x without any beads."""


def test_frames_are_taken_in_the_focus_that_a_sweep_found(beads: Session) -> None:
    """The sweep's frames and fit are in the run, beside the frames; the stage stays in the focus; all of it was estimated."""
    outcome = run(beads, "snap", SNAP)
    result, docs = outcome.plan_result, documents(beads, outcome.run_start_uids[0])
    assert result["focus_um"] == pytest.approx(FOCUS_UM, abs=0.4)
    assert positions(beads)["z"] == pytest.approx(result["focus_um"], abs=0.01)
    estimate = beads.templates["snap"].estimate(beads.templates["snap"].check(SNAP), beads.scope)
    assert result["datasets"] == estimate.frames == docs[-1][1]["frames"] == {"wide": 2, "wide_focus": 9}
    assert docs[-1][1]["dose"]["lamp"] >= 0.999 * estimate.dose["lamp"] > 0
    assert told(docs) == {"wide": [0, 1], "wide_focus": list(range(9))}
    assert [one["z"] for one in events(docs, "focus")] == pytest.approx([2.0 * n + 2 for n in range(9)])
    (fit,) = events(docs, "focus_fit")
    assert (fit["focus_fit_centre"], fit["focus_fit_accepted"]) == (result["focus_um"], True)
    assert docs[0][1]["motors"] == ["z"]


def test_a_stack_lies_around_the_focus_in_every_round(beads: Session) -> None:
    kwargs = {"do": {"plan": "z_stack", "kwargs": STACK}, "interval_s": 0.1, "rounds": 2, "on_late": "run"}
    outcome = run(beads, "time_lapse", kwargs)
    docs = documents(beads, outcome.run_start_uids[0])
    assert outcome.plan_result["datasets"] == {"wide": 6, "wide_focus": 18} == docs[-1][1]["frames"]
    first, second = [one["focus_fit_centre"] for one in events(docs, "focus_fit")]
    assert first == pytest.approx(second, abs=0.4)
    lines = (beads.layout.volumes / f"{outcome.run_start_uids[0]}_wide.frames.jsonl").read_text().splitlines()
    places = [json.loads(line)["position"]["z"] for line in lines]
    assert places == pytest.approx([um + off for um in (first, second) for off in (-2, 0, 2)], abs=0.02)


def test_each_place_has_a_focus_of_its_own(beads: Session) -> None:
    places = [{"x_um": 0, "y_um": 0, "z_um": 9.0}, {"x_um": 20, "y_um": 0, "z_um": 15.0}]
    outcome = run(beads, "multi_position", {"positions": places, "do": {"plan": "snap", "kwargs": SNAP}})
    expected = {"wide_p1": 2, "wide_focus_p1": 9, "wide_p2": 2, "wide_focus_p2": 9}
    template = beads.templates["multi_position"]
    kwargs = {"positions": places, "do": {"plan": "snap", "kwargs": SNAP}}
    assert outcome.plan_result["datasets"] == expected == template.estimate(template.check(kwargs), beads.scope).frames
    assert outcome.plan_result["focus_um"] == pytest.approx({"p1": FOCUS_UM, "p2": FOCUS_UM}, abs=0.4)


def test_a_volume_is_centred_where_the_sheet_is_sharp(beads: Session) -> None:
    """Flown frames, and another stage than z: the piezo, which is sharp where the scanner's sheet is."""
    sweep = {"focus": "sweep", "sweep": {"axis": "piezo_a", "range_um": 16.0, "step_um": 2.0}}
    outcome = run(beads, "acquire_volume", {"views": "A", "slices": 3, **WHITE, **sweep})
    assert outcome.plan_result["datasets"] == {"side_a": 3, "side_a_focus": 9}
    assert outcome.plan_result["focus_um"] == pytest.approx(87.5 * 0.02 + 3.2, abs=0.5)
    assert positions(beads)["piezo_a"] == pytest.approx(outcome.plan_result["focus_um"], abs=0.01)


def test_a_focus_that_isnt_found_fails_the_run(beads: Session) -> None:
    beads.hardware.move({"xy.x": NOWHERE})
    with pytest.raises(FitError, match="wide_focus sees an empty field"):
        run(beads, "snap", SNAP)
    assert positions(beads)["z"] == pytest.approx(10.0, abs=0.01)
    docs = last_run(beads)
    assert (docs[-1][1]["exit_status"], docs[-1][1]["frames"]) == ("fail", {"wide_focus": 9})
    (refused,) = events(docs, "focus_refused")
    assert refused["focus_refused_position"] == pytest.approx(10.0, abs=0.01)
    assert "empty field" in refused["focus_refused_why"]
    assert beads.hardware.light("lamp").on is False


def test_without_a_focus_no_frame_is_taken_where_that_was_asked_for(beads: Session) -> None:
    beads.hardware.move({"xy.x": NOWHERE})
    outcome = run(beads, "snap", {**SNAP, "on_focus_fail": "skip"})
    assert outcome.exit_status == "success"
    assert outcome.plan_result["datasets"] == {"wide": 0, "wide_focus": 9}
    assert (outcome.plan_result["without_focus"], outcome.plan_result["focus_um"]) == (1, None)
    assert positions(beads)["z"] == pytest.approx(10.0, abs=0.01)


def test_where_the_focus_was_last_frames_are_taken_without_it(beads: Session) -> None:
    """The sample has gone and somebody has moved z; the second round goes back to where the first one had its focus."""
    rounds: list[Any] = []

    def hook(msg: Any) -> None:
        if msg.command == "collect" and msg.kwargs["name"] == "rounds" and not rounds:
            rounds.append(msg)
            beads.hardware.move({"xy.x": NOWHERE})
            beads.hardware.move({"z": 8.0})

    beads.run_engine.msg_hook = hook
    do = {"plan": "snap", "kwargs": {**SNAP, "on_focus_fail": "last"}}
    outcome = run(beads, "time_lapse", {"do": do, "interval_s": 0.1, "rounds": 2, "on_late": "run"})
    assert outcome.plan_result["datasets"] == {"wide": 4, "wide_focus": 18}
    assert outcome.plan_result["focus_um"] == pytest.approx(FOCUS_UM, abs=0.4)
    assert positions(beads)["z"] == pytest.approx(outcome.plan_result["focus_um"], abs=0.01)
    docs = documents(beads, outcome.run_start_uids[0])
    assert [one["focus_refused_position"] for one in events(docs, "focus_refused")] == pytest.approx([8.0], abs=0.01)


@pytest.mark.parametrize(
    ("plan", "kwargs", "words"),
    [
        ("snap", {"sweep": {"range_um": 10.0}}, "sweep.*belongs to focus: sweep"),
        ("snap", {"focus": "sweep", "sweep": {"range_um": 2.0}}, "sweep.*3 positions, 5 to 1000"),
        ("snap", {"focus": "sweep", "sweep": {"axis": "xy"}}, "sweep.axis"),
        ("z_stack", {"range_um": 4, "step_um": 1, "centre_um": 3, "focus": "sweep"}, "centre_um: the sweep of z finds"),
        (
            "acquire_volume",
            {"views": "A", "centre_piezo_um": 3, "focus": "sweep", "sweep": {"axis": "piezo_a"}},
            "centre_piezo_um: the sweep of piezo_a finds",
        ),
        ("edge_search", {"axis": "z", "step_um": 2.0, "focus": "sweep"}, "focus: the sweep would move z"),
    ],
)
def test_what_makes_no_sense_is_refused(beads: Session, plan: str, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        beads.templates[plan].check(kwargs)


def test_a_dry_run_goes_through_the_sweep(beads: Session, tmp_path: Path) -> None:
    here = Circumstances(positions=positions(beads), layout=Layout(tmp_path))
    found = check(templates(beads.scope, beads.layout)["z_stack"], STACK, beads.scope, here)
    assert (found.ok, found.frames, found.moves) == (True, {"wide": 3, "wide_focus": 9}, 9 + 1 + 3 + 1)
    at_limit = Circumstances(positions=positions(beads) | {"z": 248.0}, layout=Layout(tmp_path))
    refused = check(templates(beads.scope, beads.layout)["z_stack"], STACK, beads.scope, at_limit)
    assert [problem.loc for problem in refused.problems] == ["z"]
