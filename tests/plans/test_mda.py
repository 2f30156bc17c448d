"""`mda`: useq's sequences, checked before they are expanded, and taken in useq's own order."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.plans import Circumstances, ParameterError, check, templates
from queuescope.plans._sequence import events
from queuescope.plans._sequence_survey import is_focusing, series_of_event, survey

from .test_common import small, told  # noqa: F401 (a fixture)

SCOPE = load_scope("demo-widefield", environ={})
MDA = templates(SCOPE)["mda"]
EXAMPLES = json.loads((Path(__file__).parent / "useq_sequences.json").read_text())["sequences"]
NOT_HERE = {
    **{name: "autofocus_device_name" for name in EXAMPLES if ": af_" in name and "no_device" not in name},
    "tests/fixtures/cases.py: order": "no channel 'Cy3'",
    "tests/fixtures/cases.py: mix_cgz_axes": "no channel 'Cy3'",
    "tests/conftest.py": "autofocus_device_name",
    "tests/test_well_plate.py": "outside",
}
"""What this microscope can't do, and why."""


def in_fields(raw: Any) -> Any:
    """With frames of 1 × 1 µm in every grid, as useq's own examples count them."""
    if isinstance(raw, list):
        return [in_fields(one) for one in raw]
    if not isinstance(raw, dict):
        return raw
    found = {key: in_fields(one) for key, one in raw.items()}
    if found.get("grid_plan"):
        found["grid_plan"] = {"fov_width": 1.0, "fov_height": 1.0, **found["grid_plan"]}
    return found


CAN = {name: in_fields(raw) for name, raw in EXAMPLES.items() if name not in NOT_HERE}


def problem(sequence: Any, **more: Any) -> Any:
    with pytest.raises(ParameterError) as refused:
        MDA.check({"sequence": sequence, **more})
    (found,) = refused.value.problems
    return found


@pytest.mark.parametrize("name", sorted(NOT_HERE))
def test_what_these_devices_cannot_do_is_refused(name: str) -> None:
    assert NOT_HERE[name] in str(problem(in_fields(EXAMPLES[name])))


@pytest.mark.parametrize("name", sorted(CAN))
def test_frames_are_counted_without_going_through_every_time_point(name: str) -> None:
    """Exact, also where useq leaves events out."""
    MDA.check({"sequence": CAN[name]})
    counted: dict[Any, int] = {}
    for event in events(CAN[name]):
        if not is_focusing(event):
            series = series_of_event(event, SCOPE)
            counted[series] = counted.get(series, 0) + 1
    assert survey(CAN[name], SCOPE).frames == counted


ONE = {"channels": ["fitc"]}
GRID = {"fov_width": 1.0, "fov_height": 1.0}
HOSTILE: dict[str, tuple[Any, str, str]] = {
    "10^12 events": (
        {"time_plan": {"interval": 0, "loops": 100_000}, "z_plan": {"range": 2000, "step": 0.001}, **ONE},
        "sequence.z_plan.range",
        "slices",
    ),
    "loops": ({"time_plan": {"interval": 0, "loops": 10**12}}, "sequence.time_plan.loops", "100000"),
    "product": (
        {"time_plan": {"interval": 0, "loops": 1000}, "z_plan": {"range": 100, "step": 0.1}, **ONE},
        "sequence.z_plan",
        "100000",
    ),
    "duration": ({"time_plan": {"interval": 1e-6, "duration": 1e5}}, "sequence.time_plan", "100000"),
    "no end": ({"time_plan": {"interval": 1}}, "sequence.time_plan", "must end"),
    "infinite": ({"time_plan": {"interval": 1, "duration": None}}, "sequence.time_plan.duration", "must end"),
    "interval 0": ({"time_plan": {"interval": 0, "duration": 5}}, "sequence.time_plan.interval", "0"),
    "backwards": ({"time_plan": {"interval": -1, "loops": 5}}, "sequence.time_plan.interval", "outside"),
    "one loop": ({"time_plan": {"duration": 5, "loops": 1}}, "sequence.time_plan.loops", "2"),
    "a phase": (
        {"time_plan": [{"interval": 1, "loops": 2}, {"interval": -1, "loops": 5}]},
        "sequence.time_plan.1.interval",
        "outside",
    ),
    "NaN": ({"z_plan": {"range": float("nan"), "step": 1}}, "sequence.z_plan.range", "nan"),
    "NaN as text": ({"z_plan": {"range": "nan", "step": 1}}, "sequence.z_plan.range", "number"),
    "text": ({"z_plan": {"range": "4", "step": 1}}, "sequence.z_plan.range", "number"),
    "no list": ({"stage_positions": "", "z_plan": {"range": 4, "step": 1}}, "sequence.stage_positions", "list"),
    "true": ({"z_plan": {"range": True, "step": 1}}, "sequence.z_plan.range", "number"),
    "10^30": ({"z_plan": {"range": 10**30, "step": 1}}, "sequence.z_plan.range", "finite"),
    "10^400": ({"z_plan": {"range": 10**400, "step": 1}}, "sequence.z_plan.range", "finite"),
    "10^400 loops": ({"time_plan": {"interval": 0, "loops": 10**400}}, "sequence.time_plan.loops", "bits"),
    "10^5000": ({"z_plan": {"range": 10**5000, "step": 1}}, "sequence.z_plan.range", "bits"),
    "NaN loops": ({"time_plan": {"interval": 0, "loops": float("nan")}}, "sequence.time_plan.loops", "nan"),
    "a name that is no text": ({"z_plan": {1: 2}}, "sequence.z_plan", "text"),
    "step down": ({"z_plan": {"range": 4, "step": -1}}, "sequence.z_plan.step", "at least 0"),
    "upside down": ({"z_plan": {"top": 0, "bottom": 9, "step": 1}}, "sequence.z_plan.step", "slices"),
    "outside": ({"z_plan": {"range": 402, "step": 201}, **ONE}, "sequence.z_plan", "[-200"),
    "outside, with an offset": (
        {"z_plan": {"range": 2, "step": 1}, "channels": [{"config": "fitc", "z_offset": 200}]},
        "sequence.z_plan",
        "[-200",
    ),
    "x": ({"stage_positions": [{"x": 0}, {"x": 5001}]}, "sequence.stage_positions.1.x", "[-5000"),
    "grid": (
        {"grid_plan": {"rows": 2, "columns": 2, "fov_width": 20_000, "fov_height": 1}},
        "sequence.grid_plan",
        "[-5000",
    ),
    "inside": (
        {"stage_positions": [{"sequence": {"z_plan": {"absolute": [0, 300]}}}]},
        "sequence.stage_positions.0.sequence.z_plan",
        "[-200",
    ),
    "grid of 10^9": ({"grid_plan": {"rows": 10**9, "columns": 1}}, "sequence.grid_plan.rows", "2500"),
    "spiral": (
        {"grid_plan": {"rows": 1, "columns": 2000, "mode": "spiral"}},
        "sequence.grid_plan",
        "2500",
    ),
    "overlap": ({"grid_plan": {"rows": 1, "columns": 2, "overlap": 100}}, "sequence.grid_plan.overlap", "95"),
    "tiny frames": (
        {"grid_plan": {"width": 1e6, "height": 1e6, "fov_width": 1e-6, "fov_height": 1e-6}},
        "sequence.grid_plan",
        "2500",
    ),
    "polygon": (
        {"grid_plan": {**GRID, "vertices": [[0, 0], [9000, 0], [0, 9000]]}},
        "sequence.grid_plan",
        "2500",
    ),
    "frames of no size": (
        {"grid_plan": {"top": 9, "bottom": 0, "left": 0, "right": 9}},
        "sequence.grid_plan.fov_width",
        "how large",
    ),
    "random": ({"grid_plan": {"num_points": 5, "max_width": 9}}, "sequence.grid_plan.random_seed", "seed"),
    "random, ordered": (
        {"grid_plan": {"num_points": 2000, "random_seed": 1}},
        "sequence.grid_plan.num_points",
        "200",
    ),
    "plate": (
        {
            "stage_positions": {
                "plate": {"rows": 2000, "columns": 2000, "well_spacing": 9, "well_size": 1},
                "a1_center_xy": [0, 0],
            }
        },
        "sequence.stage_positions.plate",
        "2500",
    ),
    "points in wells": (
        {
            "stage_positions": {
                "plate": 96,
                "a1_center_xy": [0, 0],
                "selected_wells": [[0, 1], [0, 1]],
                "well_points_plan": {"num_points": 2400, "random_seed": 1, "order": None},
            }
        },
        "sequence.stage_positions",
        "2500",
    ),
    "unknown key": ({**ONE, "z_plans": {}}, "sequence.z_plans", "z_plan"),
    "unknown key inside": (
        {"z_plan": {"range": 4, "step": 1, "speed": 2}},
        "sequence.z_plan.speed",
        "go_up",
    ),
    "unknown channel": ({"channels": ["fitc", "gfp"]}, "sequence.channels.1.config", "led_dapi"),
    "other group": ({"channels": [{"config": "fitc", "group": "Camera"}]}, "sequence.channels.0.group", "Channel"),
    "preset of a group that is no channel": (
        {"channels": [{"config": "HighRes", "group": "Camera"}]},
        "sequence.channels.0.config",
        "no channel",
    ),
    "exposure": ({"channels": [{"config": "fitc", "exposure": 1001}]}, "sequence.channels.0.exposure", "[1"),
    "camera": ({"channels": [{"config": "fitc", "camera": "Other"}]}, "sequence.channels.0.camera", "camera"),
    "properties": (
        {"stage_positions": [{"x": 0, "properties": [["Camera", "Binning", "4"]]}]},
        "sequence.stage_positions.0.properties",
        "scope.yml",
    ),
    "setup": ({**ONE, "setup": {"properties": [["LED", "State", "1"]]}}, "sequence.setup", "properties"),
    "autofocus": (
        {**ONE, "autofocus_plan": {"axes": ["p"], "autofocus_device_name": "PFS"}},
        "sequence.autofocus_plan.autofocus_device_name",
        "Autofocus",
    ),
    "offset": (
        {**ONE, "autofocus_plan": {"axes": ["p"], "autofocus_motor_offset": 101}},
        "sequence.autofocus_plan.autofocus_motor_offset",
        "[-100",
    ),
    "shutter": ({**ONE, "keep_shutter_open_across": ["q"]}, "sequence.keep_shutter_open_across", "'q'"),
    "axis": ({**ONE, "axis_order": "tq"}, "sequence.axis_order", "axes"),
    "positions inside": (
        {"stage_positions": [{"sequence": {"stage_positions": [{"x": 0}]}}], "axis_order": "c"},
        "sequence.stage_positions.0.sequence.stage_positions",
        "own sequence",
    ),
    "surrogate": ({**ONE, "metadata": {"name": "\ud800"}}, "sequence.metadata.name", "surrogate"),
    "long text": ({**ONE, "metadata": {"name": "x" * 10_000}}, "sequence.metadata.name", "200"),
    "a list": ([1, 2, 3], "sequence", "dict"),
    "nothing": ({}, "sequence", "no event"),
    "no frame": ({"channels": []}, "sequence", "no event"),
    "long list": ({"z_plan": {"relative": [0.0] * 1_000_000}}, "sequence.z_plan.relative", "20000"),
    "many lists": ({"metadata": {str(i): [0] * 200 for i in range(200)}}, "sequence", "20000"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_what_is_wrong_is_refused_where_it_stands(case: str) -> None:
    """Issue 5, item 4: capped before it is expanded; with field, value and limit."""
    sequence, loc, limit = HOSTILE[case]
    began = time.process_time()
    found = problem(sequence)
    assert time.process_time() - began < 0.5
    assert found.loc == loc
    assert limit in f"{found.msg} {found.value!r} {found.limit!r}"
    assert len(str(found)) < 1_000
    json.dumps([found.value, found.limit], allow_nan=False)


def test_nesting_is_refused_before_python_minds() -> None:
    sequence: Any = {"channels": ["fitc"]}
    for _ in range(5_000):
        sequence = {"stage_positions": [{"sequence": sequence}]}
    assert "nested" in problem(sequence).msg
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    assert "nested" in problem({"metadata": {"x": deep}}).msg


def test_a_million_millions_are_refused_in_milliseconds() -> None:
    """Every axis within what it may have, the whole far beyond."""
    sequence = {
        "time_plan": {"interval": 0, "loops": 100_000},
        "grid_plan": {"rows": 50, "columns": 50},
        "z_plan": {"range": 400, "step": 0.1},
        "channels": ["fitc", "cy5"],
    }
    began = time.process_time()
    found = problem(sequence)
    assert time.process_time() - began < 0.1
    assert (found.loc, found.value, found.limit) == ("sequence.time_plan", 100_000 * 2_500 * 4_001 * 2, 100_000)


def test_channels_may_be_called_as_micro_manager_calls_them() -> None:
    sequence = {"channels": [{"config": "DAPI"}, {"config": "DAPI", "group": "Channel-Multiband"}, {"config": "fitc"}]}
    assert [channel.name for channel in MDA.check({"sequence": sequence}).channels] == ["dapi", "led_dapi", "fitc"]


def test_the_example_in_the_schema_can_be_done() -> None:
    (example,) = MDA.model.model_json_schema()["properties"]["sequence"]["examples"]
    MDA.check({"sequence": example})


def test_the_schema_lets_pass_what_the_plan_takes() -> None:
    schema = MDA.model.model_json_schema()
    for sequence in CAN.values():
        jsonschema.validate({"sequence": sequence}, schema)


def test_a_long_time_lapse_is_estimated_without_its_events() -> None:
    sequence = {
        "time_plan": {"interval": 30, "loops": 960},
        "channels": [{"config": "fitc", "exposure": 10}, {"config": "cy5", "exposure": 20, "acquire_every": 7}],
        "z_plan": {"range": 49, "step": 1},
    }
    began = time.process_time()
    estimate = MDA.estimate(MDA.check({"sequence": sequence}), SCOPE)
    assert time.process_time() - began < 2
    assert estimate.frames == {"camera_fitc": 960 * 50, "camera_cy5": 138 * 50}
    assert 959 * 30 < estimate.seconds < 960 * 30
    assert estimate.dose == {"lamp": pytest.approx(100 * (960 * 50 * 0.01 + 138 * 50 * 0.02))}


def test_what_flies_is_estimated_as_that() -> None:
    """A stack costs less than its slices one by one; frames of one place without an interval less than with one."""

    def seconds(**sequence: Any) -> float:
        return MDA.estimate(
            MDA.check({"sequence": {"channels": [{"config": "fitc", "exposure": 10}], **sequence}}), SCOPE
        ).seconds

    focused = {"autofocus_plan": {"axes": ["z"]}}  # which comes between the slices, and takes no time here
    stack = {"z_plan": {"range": 99, "step": 1}}
    assert 1.0 < seconds(**stack) < seconds(**stack, **focused) - 1.0
    assert (
        10.0
        < seconds(time_plan={"interval": 0, "loops": 1000})
        < seconds(time_plan={"interval": 1e-4, "loops": 1000}) - 10
    )


def test_a_dry_run_goes_through_every_move(tmp_path: Path) -> None:
    how = Circumstances(positions=dict.fromkeys(SCOPE.axes(), 0.0), layout=Layout(tmp_path))
    sequence = {"z_plan": {"range": 2, "step": 1}, "time_plan": {"interval": 3600, "loops": 2}, **ONE}
    found = check(MDA, {"sequence": sequence}, SCOPE, how)
    assert (found.ok, found.problems, found.frames) == (True, [], {"camera": 6})
    assert found.moves == 6 + 1  # and back
