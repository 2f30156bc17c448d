"""Which events of a sequence the hardware process takes in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import useq

from queuescope.config import Scope, load_scope
from queuescope.plans._sequence import events
from queuescope.plans._sequence_flights import LONGEST_S, MOST, Flights, wired

SCOPE = load_scope("demo-widefield", environ={})
TWO_CAMERAS = Path(__file__).parents[1] / "scopes" / "two-cameras"
FITC = {"config": "fitc", "exposure": 10}
STACK = {"range": 2, "step": 1}
CASES: dict[str, tuple[dict[str, Any], list[tuple[int, str]]]] = {
    "a stack": ({"channels": [FITC], "z_plan": STACK}, [(3, "software")]),
    "stacks of two channels": ({"channels": [FITC, "cy5"], "z_plan": STACK}, [(3, "software")] * 2),
    "channels at each slice": (
        {"channels": [FITC, "cy5"], "z_plan": STACK, "axis_order": "tpgzc"},
        [(1, "steps")] * 6,
    ),
    "the same channel with two exposures": (
        {"channels": [FITC, {"config": "fitc", "exposure": 20}], "z_plan": STACK},
        [(3, "software")] * 2,
    ),
    "the same stack twice": ({"channels": [FITC, {**FITC, "z_offset": 5}], "z_plan": STACK}, [(3, "software")] * 2),
    "two places": (
        {"channels": [FITC], "stage_positions": [{"x": 0, "y": 0, "z": 0}, {"x": 9, "y": 0, "z": 0}], "z_plan": STACK},
        [(3, "software")] * 2,
    ),
    "two positions at one place": (
        {"channels": [FITC], "stage_positions": [{"x": 0, "y": 0, "z": 0}, {"x": 0, "y": 0, "z": 9}], "z_plan": STACK},
        [(3, "software")] * 2,
    ),
    "places without a stack": (
        {"channels": [FITC], "stage_positions": [{"x": 0, "y": 0, "z": 0}, {"x": 0, "y": 0, "z": 0}]},
        [(1, "steps")] * 2,
    ),
    "time points": ({"channels": [FITC], "time_plan": {"interval": 1, "loops": 3}}, [(1, "steps")] * 3),
    "stacks in time": (
        {"channels": [FITC], "z_plan": STACK, "time_plan": {"interval": 1, "loops": 2}},
        [(3, "software")] * 2,
    ),
    "stacks at once": (
        {"channels": [FITC], "z_plan": STACK, "time_plan": {"interval": 0, "loops": 2}},
        [(3, "software")] * 2,
    ),
    "a film": ({"channels": [FITC], "time_plan": {"interval": 0, "loops": 4}}, [(4, "singles")]),
    "a film in the dark": ({"time_plan": {"interval": 0, "loops": 4}}, [(4, "sequence")]),
    "a film with the shutter open": (
        {"channels": [FITC], "time_plan": {"interval": 0, "loops": 4}, "keep_shutter_open_across": "t"},
        [(4, "sequence")],
    ),
    "focused before each slice": (
        {"channels": [FITC], "z_plan": STACK, "autofocus_plan": {"axes": ["z"]}},
        [(1, "steps")] * 6,
    ),
    "focused before the stack": (
        {"channels": [FITC], "z_plan": STACK, "autofocus_plan": {"axes": ["c"]}},
        [(1, "steps"), (3, "software")],
    ),
    "a position's own clock": (
        {
            "channels": [FITC],
            "stage_positions": [{"x": 0, "y": 0, "sequence": {"time_plan": {"interval": 0, "loops": 2}}}] * 2,
        },
        [(2, "singles")] * 2,
    ),
    "a clock that starts again": (
        {
            "channels": [FITC, {**FITC, "do_stack": False}],
            "time_plan": {"interval": 0, "loops": 2},
            "axis_order": "cpgtz",
        },
        [(2, "singles")] * 2,
    ),
    "very long": (
        {"channels": [FITC], "time_plan": {"interval": 0, "loops": MOST + 1}},
        [(MOST, "singles"), (1, "steps")],
    ),
    "long exposures": (
        {"channels": [{"config": "fitc", "exposure": 1000}], "z_plan": {"range": LONGEST_S, "step": 1}},
        [(10, "software"), (1, "steps")],
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_only_what_nothing_comes_between(case: str) -> None:
    sequence, wanted = CASES[case]
    flights = Flights(SCOPE, "camera")
    groups = list(flights.grouped(events(sequence, (1.0, 1.0))))
    assert [(len(group), flights.way(group).value) for group in groups] == wanted
    assert [event for group in groups for event in group] == list(events(sequence, (1.0, 1.0)))


def test_where_z_is_unknown_no_stack_begins() -> None:
    """An event that doesn't say where z is leaves it where it is, which no program knows."""
    flights = Flights(SCOPE, "camera")
    unknown, known = useq.MDAEvent(), useq.MDAEvent(z_pos=1.0)
    found = flights.grouped([unknown, unknown, known, known, unknown])
    assert [(len(group), flights.way(group).value) for group in found] == [
        (2, "sequence"),
        (2, "sequence"),
        (1, "steps"),
    ]


def scope(name: str, **given: str) -> Scope:
    return load_scope(name, environ={f"QUEUESCOPE_{key}": value for key, value in given.items()})


@pytest.mark.parametrize(
    ("given", "camera", "expected"),
    [
        (scope("demo-widefield", VOLUME__TRIGGER="mm_sequence"), "camera", True),
        (scope("demo-widefield"), "camera", False),
        (scope("demo-widefield", VOLUME__TRIGGER="mm_sequence", DEVICES__Z__VIEW="A"), "camera", False),
        (
            scope("demo-widefield", VOLUME__TRIGGER="mm_sequence", DEVICES__Z__VIEW="A", DEVICES__CAMERA__VIEW="A"),
            "camera",
            True,
        ),
        (scope("demo-dispim", VOLUME__TRIGGER="mm_sequence"), "overview", False),
        (scope("demo-dispim", VOLUME__TRIGGER="mm_sequence"), "cam_a", False),
        (scope("demo-dispim", VOLUME__TRIGGER="tiger_spim"), "cam_a", False),
    ],
    ids=["the only camera", "software", "another view", "one view", "overview", "a view's camera", "tiger"],
)
def test_pulses_step_a_stage_that_they_are_wired_to(given: Scope, camera: str, expected: bool) -> None:
    assert wired(given, camera) == expected


def test_cameras_that_expose_together_take_stacks_but_no_bursts() -> None:
    together = load_scope(TWO_CAMERAS, environ={})
    (name,) = together.of_kind("multi_camera")
    flights = Flights(together, name)
    for sequence, wanted in (
        ({"z_plan": STACK}, ["software"]),
        ({"time_plan": {"interval": 0, "loops": 3}}, ["steps"]),
        ({"stage_positions": [{"z": 1}], "time_plan": {"interval": 0, "loops": 3}}, ["software"]),
    ):
        assert [flights.way(group).value for group in flights.grouped(events(sequence, (1.0, 1.0)))] == wanted
