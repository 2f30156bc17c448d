"""Strict, bounded parameters: what is refused names the field, the value and the limit."""

import math
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
import yaml
from bluesky_queueserver.manager.profile_ops import (
    existing_plans_and_devices_from_nspace,
    load_allowed_plans_and_devices,
    validate_plan,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from queuescope.config import bundled_scopes, load_scope
from queuescope.plans import ParameterError, PlanContext, templates
from queuescope.plans._costs import CALL_S, DATASET_S, FLOWN, RUN_S
from queuescope.plans._template import Estimate
from queuescope.startup.__main__ import permissions

SCOPE = load_scope("demo-dispim", environ={})
TEMPLATES = templates(SCOPE)
GOOD: dict[str, dict[str, Any]] = {
    "read_state": {},
    "move_axis": {"axis": "piezo_a", "to": 12.5},
    "move_xy": {"x_um": -100.0, "y_um": 20},
    "move_z": {"z_um": 30.0},
    "home": {"axis": "piezo_b"},
    "set_light": {"light": "l488", "on": True, "power_pct": 6.0, "max_s": 1.5},
    "set_objective": {"name": "water20"},
    "set_temperature": {"target_c": 28.5, "wait": False},
    "autofocus": {"mode": "lock"},
    "mark_position": {"name": "embryo_3"},
    "shutdown_safe": {},
    "snap": {"camera": "overview", "n": 2, "channels": [{"name": "gfp", "power_pct": 3}]},
    "z_stack": {"range_um": 10, "step_um": 0.5, "centre_um": 20.0},
    "burst": {"frames": 20, "cameras": ["cam_a", "overview"], "channels": [{"name": "gfp"}]},
    "acquire_volume": {"slices": 20, "step_um": 0.5, "channels": [{"name": "gfp", "exposure_ms": 20.0}]},
    "tile_scan": {"rows": 3, "columns": 4, "overlap_pct": 15.0, "camera": "overview"},
    "overview": {"grid": {"rows": 2, "columns": 3, "step_x_um": 500.0, "step_y_um": 400.0}},
    "focus_sweep": {"range_um": 10.0, "step_um": 0.5, "camera": "overview", "channels": [{"name": "gfp"}]},
    "head_focus_descent": {"axis": "f", "descent_um": -50.0, "camera": "overview"},
    "calibrate_piezo_galvo": {"view": "B", "piezo_um": [-10.0, 10.0], "channels": [{"name": "gfp"}]},
    "calibrate_stage_camera": {"camera": "overview", "step_um": 20.0},
    "register_views": {"channels": [{"name": "gfp"}]},
    "center_on_pixel": {"run_uid": "0" * 36, "dataset": "overview", "index": 0, "x_frac": 0.25, "y_frac": 0.5},
    "mda": {
        "sequence": {
            "channels": [{"config": "gfp", "exposure": 20.0}],
            "stage_positions": [{"x": 1.0, "y": 2.0, "z": 3.0}],
            "z_plan": {"range": 4.0, "step": 1.0},
            "time_plan": {"interval": 30.0, "loops": 10},
        }
    },
    "multi_position": {
        "positions": [{"x_um": 1.0, "y_um": 2.0}, {"x_um": 3.0, "y_um": 4.0, "z_um": 5.0}],
        "do": {"plan": "snap", "kwargs": {"camera": "overview"}},
        "safe_z_um": -10.0,
    },
    "time_lapse": {
        "do": {"plan": "acquire_volume", "kwargs": {"slices": 20, "channels": [{"name": "gfp"}]}},
        "interval_s": 30.0,
        "rounds": 960,
    },
    "edge_search": {"axis": "xy.x", "step_um": 50.0, "max_steps": 8, "resolution_um": 2.0, "camera": "overview"},
    "live": {"camera": "overview", "channel": "gfp", "exposure_ms": 20.0, "max_s": 60.0},
    "temperature_burst": {
        "target_c": 25.0,
        "do": {"plan": "burst", "kwargs": {"frames": 100, "cameras": ["cam_a"], "channels": [{"name": "gfp"}]}},
        "interval_s": 30.0,
        "rounds": 40,
    },
    "multi_embryo_round": {
        "embryos": [
            {
                "id": "e1",
                "position": {"x_um": 1.0, "y_um": 2.0},
                "calibration": {"slope_um_per_deg": 90.0, "offset_um": 3.0},
                "power_pct": 3.0,
                "role": "test",
            },
            {"id": "e2", "position": {"x_um": 3.0, "y_um": 4.0, "z_um": 5.0}},
        ],
        "do": {"plan": "acquire_volume", "kwargs": {"slices": 20, "channels": [{"name": "gfp"}]}},
    },
    "adaptive_time_lapse": {
        "positions": [{"x_um": 1.0, "y_um": 2.0}, {"x_um": 3.0, "y_um": 4.0, "z_um": 5.0}],
        "do": {"plan": "acquire_volume", "kwargs": {"slices": 20, "channels": [{"name": "gfp", "power_pct": 2.0}]}},
        "interval_s": 300.0,
        "rounds": 120,
        "max_positions": 6,
        "min_interval_s": 30.0,
        "max_power_pct": 4.0,
        "dose_budget": {"l488": 500.0},
        "burst": {"frames": 100, "cameras": ["cam_a"], "channels": [{"name": "gfp"}]},
        "safe_z_um": -10.0,
    },
    "protocol": {
        "steps": [
            {"plan": "move_xy", "kwargs": {"x_um": 5.0, "y_um": 6.0}},
            {"plan": "z_stack", "kwargs": {"range_um": 10, "step_um": 0.5}},
            {"plan": "read_state"},
        ]
    },
}


LAPSE = {"do": {"plan": "snap"}, "interval_s": 1.0, "rounds": 3}
HERE = {"x_um": 0.0, "y_um": 0.0}
GRID = {"rows": 2, "columns": 2, "step_x_um": 10.0, "step_y_um": 10.0}


def test_every_template_has_a_good_example() -> None:
    assert set(GOOD) == set(TEMPLATES)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_good_parameters_pass(name: str) -> None:
    TEMPLATES[name].check(GOOD[name])


@pytest.mark.parametrize("scope", bundled_scopes())
def test_every_template_s_own_example_is_good(scope: str) -> None:
    """What the reference shows, the stack's tests run and bad submissions are made from."""
    for template in templates(load_scope(scope, environ={})).values():
        template.check(template.example)


def slower(name: str, kwargs: dict[str, Any], key: str, value: float) -> float:
    """By how many seconds a plan is estimated to be longer where the scope file says so."""
    slow = load_scope("demo-dispim", environ={f"QUEUESCOPE_{key}": str(value)})
    parameters, estimate = TEMPLATES[name].check(kwargs), TEMPLATES[name].estimate
    return estimate(parameters, slow).seconds - estimate(parameters, SCOPE).seconds


TWO = [{"name": "gfp"}, {"name": "dapi"}]


@pytest.mark.parametrize(
    ("name", "kwargs", "key", "times"),
    [
        ("move_xy", GOOD["move_xy"], "DEVICES__XY__MOVE_S", 1),
        ("tile_scan", GOOD["tile_scan"], "DEVICES__XY__MOVE_S", 13),
        ("overview", GOOD["overview"], "DEVICES__XY__MOVE_S", 7),
        ("snap", {"position": {"x_um": 0, "y_um": 0}}, "DEVICES__XY__MOVE_S", 1),
        ("set_objective", {"name": "water20"}, "DEVICES__OBJECTIVE__MOVE_S", 1),
        ("autofocus", {"mode": "once"}, "DEVICES__AUTOFOCUS__FOCUS_S", 1),
        ("snap", {"focus": "lock"}, "DEVICES__AUTOFOCUS__FOCUS_S", 1),
        ("snap", {"n": 3, "channels": TWO[:1]}, "CHANNELS__GFP__SELECT_S", 1),
        ("snap", {"n": 3, "channels": TWO}, "CHANNELS__GFP__SELECT_S", 3),
        ("z_stack", {"range_um": 4, "step_um": 1, "channels": TWO}, "CHANNELS__GFP__SELECT_S", 1),
        ("z_stack", {"range_um": 4, "step_um": 1, "channels": TWO, "order": "zc"}, "CHANNELS__GFP__SELECT_S", 5),
    ],
)
def test_an_estimate_counts_what_the_scope_file_says(name: str, kwargs: dict[str, Any], key: str, times: int) -> None:
    """Each move, turn, focusing and selection, as often as the plan does it."""
    two, three = (slower(name, kwargs, key, value) for value in (2, 3))
    assert three - two == pytest.approx(times)


def test_a_frame_counts_its_readout() -> None:
    longer = "DEVICES__OVERVIEW__READOUT_MS"
    for name, kwargs in (("snap", {"camera": "overview", "n": 5}), ("tile_scan", {"rows": 1, "columns": 5})):
        kwargs = {**kwargs, "camera": "overview"}
        assert slower(name, kwargs, longer, 1002) == pytest.approx(5)
    burst = {"cameras": ["overview"], "frames": 5, "channels": [{"name": "gfp", "exposure_ms": 900.0}]}
    assert slower("burst", burst, longer, 1000) == pytest.approx(5 * 0.1)  # it reads out while it exposes


def test_rounds_cost_once_what_a_run_costs_once() -> None:
    """Documents and files come once, in however many rounds; each place has files of its own."""

    def of(name: str, **kwargs: Any) -> Estimate:
        return TEMPLATES[name].estimate(TEMPLATES[name].check(kwargs), SCOPE)

    snap = {"plan": "snap", "kwargs": {"camera": "overview"}}
    one, lapse = of("snap", camera="overview"), of("time_lapse", do=snap, interval_s=0, rounds=9)
    assert one.once_s == pytest.approx(RUN_S + DATASET_S)
    assert (lapse.once_s, lapse.round_s) == pytest.approx((one.once_s, 9 * one.round_s))
    assert of("time_lapse", do=snap, interval_s=2, rounds=9).seconds == pytest.approx(8 * 2 + one.seconds)
    places = of("multi_position", do=snap, positions=[{"x_um": 0, "y_um": 0}, {"x_um": 9, "y_um": 0}])
    assert places.once_s == pytest.approx(RUN_S + 2 * DATASET_S)


@pytest.mark.parametrize(
    ("name", "kwargs", "loc", "limit"),
    [
        ("move_axis", {"axis": "piezo_a", "to": 201.0}, "to", "[-200.0, 200.0]"),
        ("move_axis", {"axis": "galvo_a.x", "to": 5.1}, "to", "[-5.0, 5.0]"),
        ("move_axis", {"axis": "nose", "to": 0.0}, "axis", "piezo_a"),
        ("move_axis", {"axis": "z"}, "to", "either"),
        ("move_axis", {"axis": "z", "to": 1.0, "by": 1.0}, "to", "either"),
        ("move_xy", {"x_um": 984.0, "y_um": 0.0}, "x_um", "983"),
        ("move_xy", {"x_um": 0.0}, "y_um", "required"),
        ("move_z", {"z_um": -50.5}, "z_um", "-50"),
        ("move_z", {"z_um": 0.0, "": 1}, "", "not permitted"),
        ("home", {"axis": "xy.x"}, "axis", "piezo_a"),
        ("set_light", {"light": "l488", "on": True, "power_pct": 6.5}, "power_pct", "[0.0, 6.0]"),
        ("set_light", {"light": "l488", "on": False, "power_pct": 1.0}, "power_pct", "leave it out"),
        ("set_light", {"light": "l488", "on": True, "max_s": 121.0}, "max_s", "120"),
        ("set_light", {"light": "l488", "on": 1}, "on", "boolean"),
        ("set_light", {"light": "sun", "on": True}, "light", "l488"),
        ("set_objective", {"name": "oil100"}, "name", "water20"),
        ("set_temperature", {"target_c": 43.0}, "target_c", "42"),
        ("set_temperature", {"target_c": 30.0, "timeout_s": 0}, "timeout_s", "0.1"),
        ("autofocus", {"mode": "twice"}, "mode", "release"),
        ("mark_position", {"name": "Embryo 3"}, "name", "pattern"),
        ("mark_position", {"name": "../../etc"}, "name", "pattern"),
        ("snap", {"n": 0}, "n", "1"),
        ("snap", {"channels": [{"name": "gfp"}, {"name": "gfp"}]}, "channels", "twice"),
        ("burst", {"frames": 3, "channels": [{"name": "gfp"}, {"name": "dapi"}]}, "channels", "1"),
        ("head_focus_descent", {"axis": "f", "descent_um": 401.0}, "descent_um", "400"),
        ("calibrate_piezo_galvo", {"piezo_um": [0.0]}, "piezo_um", "2"),
        ("calibrate_piezo_galvo", {"piezo_um": [0.0, 0.0]}, "piezo_um", "twice"),
        ("calibrate_piezo_galvo", {"piezo_um": [0.0, 201.0]}, "piezo_um.1", "200"),
        ("calibrate_stage_camera", {"step_um": math.inf}, "step_um", "finite"),
        ("register_views", {"store": 1}, "store", "boolean"),
        ("center_on_pixel", {**GOOD["center_on_pixel"], "run_uid": "../../etc"}, "run_uid", "pattern"),
        ("center_on_pixel", {**GOOD["center_on_pixel"], "x_frac": 1.5}, "x_frac", "1"),
        ("center_on_pixel", {**GOOD["center_on_pixel"], "index": -1}, "index", "0"),
        ("snap", {"binning": 17}, "binning", "16"),
        ("snap", {"roi": {"x_px": -1, "y_px": 0, "width_px": 1, "height_px": 1}}, "roi.x_px", "0"),
        ("snap", {"focus": "sharp"}, "focus", "sweep"),
        ("snap", {"on_focus_fail": "hope"}, "on_focus_fail", "skip"),
        ("z_stack", {"range_um": 4, "step_um": 2, "order": "zcc"}, "order", "zc"),
        ("protocol", {"steps": []}, "steps", "1"),
        ("protocol", {"steps": [{"plan": "read_state"}] * 51}, "steps", "50"),
        ("protocol", {"steps": [{"plan": "home", "kwargs": {"axis": "z"}}]}, "steps.0", "read_state"),
        ("protocol", {"steps": [{"plan": "protocol", "kwargs": {"steps": []}}]}, "steps.0", "read_state"),
        (
            "protocol",
            {"steps": [{"plan": "read_state"}, {"plan": "move_z", "kwargs": {"z_um": 300.0}}]},
            "steps.1.move_z.kwargs.z_um",
            "250",
        ),
        ("time_lapse", {**LAPSE, "rounds": 0}, "rounds", "1"),
        ("time_lapse", {**LAPSE, "interval_s": -1.0}, "interval_s", "0"),
        ("time_lapse", {**LAPSE, "do": {"plan": "home", "kwargs": {"axis": "z"}}}, "do", "snap"),
        ("time_lapse", {**LAPSE, "do": {"plan": "time_lapse", "kwargs": LAPSE}}, "do", "snap"),
        ("time_lapse", {**LAPSE, "do": {"plan": "snap", "kwargs": {"n": 0}}}, "do.snap.kwargs.n", "1"),
        ("time_lapse", {**LAPSE, "do": {"plan": "z_stack"}}, "do.z_stack.kwargs", "required"),
        ("tile_scan", {"rows": 51, "columns": 50}, "rows", "2500"),
        ("tile_scan", {"rows": 2, "columns": 2, "overlap_pct": 95.0}, "overlap_pct", "90"),
        ("overview", {}, "positions", "either"),
        ("overview", {"positions": [HERE], "grid": GRID}, "positions", "either"),
        ("overview", {"grid": {**GRID, "step_x_um": 0}}, "grid.step_x_um", "0.1"),
        ("overview", {"positions": [{"x_um": 984.0, "y_um": 0.0}]}, "positions.0.x_um", "983"),
        ("multi_position", {"positions": [], "do": {"plan": "snap"}}, "positions", "1"),
        ("multi_position", {"positions": ["nowhere"], "do": {"plan": "snap"}}, "positions.0", "mark_position"),
        (
            "multi_position",
            {"positions": [HERE, {"x_um": 984.0, "y_um": 0.0}], "do": {"plan": "snap"}},
            "positions.1.x_um",
            "983",
        ),
        (
            "multi_position",
            {"positions": [HERE], "do": {"plan": "snap", "kwargs": {"position": HERE}}},
            "do",
            "leave out",
        ),
        ("multi_position", {"positions": [HERE], "do": {"plan": "snap"}, "safe_z_um": 251.0}, "safe_z_um", "250"),
        ("snap", {"position": "nowhere"}, "position", "mark_position"),
        ("snap", {"n": True}, "n", "integer"),
        ("snap", {"camera": "cam_c"}, "camera", "cam_a"),
        ("snap", {"channels": [{"name": "gfp", "power_pct": 7}]}, "channels.0.gfp.power_pct", "6"),
        ("snap", {"channels": [{"name": "gfp", "exposure_ms": 2000}]}, "channels.0.gfp.exposure_ms", "1000"),
        ("snap", {"channels": [{"name": "infrared"}]}, "channels.0", "gfp"),
        ("snap", {"position": {"x_um": 984.0, "y_um": 0.0}}, "position.x_um", "983"),
        ("z_stack", {"range_um": 100, "step_um": 1, "centre_um": 240.0}, "range_um", "[-50.0, 250.0]"),
        ("z_stack", {"range_um": 300, "step_um": 0}, "step_um", "0.01"),
        ("burst", {"frames": 0}, "frames", "1"),
        ("burst", {"frames": 3, "cameras": []}, "cameras", "1"),
        ("burst", {"frames": 3, "cameras": ["cam_a", "nose"]}, "cameras.1", "overview"),
        ("burst", {"frames": 3, "cameras": ["cam_a", "cam_a"]}, "cameras", "twice"),
        ("burst", {"frames": 3, "rate_hz": 0}, "rate_hz", "0.001"),
        ("burst", {"frames": 3, "rate_hz": 100.0, "channels": [{"name": "gfp"}]}, "rate_hz", "lower rate"),
        ("acquire_volume", {"slices": 500, "step_um": 1.0, "centre_piezo_um": 0.0}, "slices", "[-200.0, 200.0]"),
        ("acquire_volume", {"centre_piezo_um": 201.0}, "centre_piezo_um", "200"),
        ("acquire_volume", {"sheet_offset_deg": 6.0, "centre_piezo_um": 0.0}, "slices", "galvo_a"),
        (
            "acquire_volume",
            {"centre_piezo_um": 150.0, "slices": 2, "calibration": {"slope_um_per_deg": 10.0}},
            "slices",
            "galvo_a.y",
        ),
        (
            "acquire_volume",
            {"sheet_width_deg": 9.0, "sheet_offset_deg": 1.0, "centre_piezo_um": 0.0},
            "slices",
            "[-3.5, 5.5]",
        ),
        ("acquire_volume", {"sheet_width_deg": -1.0}, "sheet_width_deg", "0"),
        ("acquire_volume", {"order": "slice"}, "order", "volume"),
        ("acquire_volume", {"wobble": 1}, "wobble", "not permitted"),
    ],
)
def test_a_refusal_names_the_field_and_the_limit(name: str, kwargs: dict[str, Any], loc: str, limit: str) -> None:
    """R3.8 limits hold for offsets, ranges and sequences as for positions."""
    with pytest.raises(ParameterError) as refused:
        TEMPLATES[name].check(kwargs)
    assert refused.value.problems[0].loc == loc
    assert limit in str(refused.value)


def test_agents_neither_home_nor_descend_nor_mark_positions() -> None:
    """R5.8 homing can't be called by agents, and the places that they go to are named by people."""
    text = files("queuescope.startup").joinpath("user_group_permissions.yaml").read_text()
    permissions = yaml.safe_load(text)["user_groups"]
    allowed, _ = load_allowed_plans_and_devices(
        existing_plans=existing_plans_and_devices_from_nspace(
            nspace={name: template.plan(PlanContext(SCOPE, {})) for name, template in TEMPLATES.items()}
        )[0],
        existing_devices={},
        user_group_permissions={"user_groups": permissions},
    )
    alone = {name for name, template in TEMPLATES.items() if template.people_only}
    assert set(TEMPLATES) - set(allowed["agent"]) == alone >= {"home", "mark_position", "head_focus_descent"}
    for group in ("operator", "primary", "admin"):
        assert set(TEMPLATES) == set(allowed[group])


def test_a_package_s_plan_that_is_people_s_alone_is_refused_to_agents_too() -> None:
    """Issue 5, item 10: queueserver's groups are written from what the templates say."""
    assert yaml.safe_load(permissions(TEMPLATES)) == yaml.safe_load(
        files("queuescope.startup").joinpath("user_group_permissions.yaml").read_text()
    )
    groups = yaml.safe_load(permissions({**TEMPLATES, "burn": replace(TEMPLATES["snap"], people_only=True)}))
    assert groups["user_groups"]["agent"]["forbidden_plans"] == [
        *(":^home$", ":^mark_position$", ":^head_focus_descent$"),
        ":^burn$",
    ]


def test_in_software_time_the_sheet_has_no_width() -> None:
    """Issue 3, item 4: a parameter that would have no effect is refused and says what it needs; both orders are offered."""
    template = templates(load_scope("demo-dispim", environ={"QUEUESCOPE_VOLUME__TRIGGER": "software"}))[
        "acquire_volume"
    ]
    with pytest.raises(ParameterError, match=r"sheet_width_deg: nothing sweeps .* pace volumes with tiger_spim"):
        template.check({"sheet_width_deg": 1.0})
    for order in ("slice", "volume"):
        template.check({"order": order, "sheet_offset_deg": 0.5})


def test_an_estimate_knows_the_controllers_timing() -> None:
    """Two sides of 20 slices at 10 ms of light, 10 ms reset and readout: 30.25 ms each, and 20 ms before each side."""
    parameters = TEMPLATES["acquire_volume"].check({"slices": 20, "channels": [{"name": "gfp"}]})
    found = TEMPLATES["acquire_volume"].estimate(parameters, SCOPE)
    selected_s = SCOPE.channels["gfp"].select_s + CALL_S
    assert found.round_s == pytest.approx(FLOWN.begin_s + selected_s + 2 * (0.02 + 20 * 0.03025))
    assert found.frames == {"cam_a": 20, "cam_b": 20}
    assert found.dose == {"l488": pytest.approx(40 * 0.01 * 2)}


@settings(deadline=None, max_examples=60)
@given(
    bad=st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, True, "10", None, [], {}, "\ud800"]),
    name=st.sampled_from(
        [
            "move_axis.to",
            "move_xy.x_um",
            "move_z.z_um",
            "set_light.max_s",
            "set_temperature.target_c",
            "z_stack.range_um",
            "acquire_volume.step_um",
            "acquire_volume.slices",
        ]
    ),
)
def test_no_bad_number_passes(bad: Any, name: str) -> None:
    """R3.8 NaN, infinities, text and True are refused where a number is due."""
    template, _, field = name.partition(".")
    with pytest.raises(ParameterError):
        TEMPLATES[template].check({**GOOD[template], field: bad})


@pytest.fixture(scope="module")
def described() -> Any:
    context = PlanContext(SCOPE, {})
    plans = {name: template.plan(context) for name, template in TEMPLATES.items()}
    return existing_plans_and_devices_from_nspace(nspace=plans)[0]


@pytest.mark.parametrize("name", sorted(GOOD))
def test_queueserver_accepts_what_the_model_accepts(described: Any, name: str) -> None:
    item = {"name": name, "kwargs": GOOD[name], "user_group": "agent"}
    ok, message = validate_plan(item, allowed_plans=described, allowed_devices={})
    assert ok, message


@pytest.mark.parametrize("name", sorted(GOOD))
def test_queueserver_describes_each_parameter(described: Any, name: str) -> None:
    """What `plans` shows comes from the model: every parameter, with a description; bounds are this microscope's."""
    parameters = {p["name"]: p for p in described[name]["parameters"]}
    assert set(parameters) == set(TEMPLATES[name].model.model_fields)
    assert all(p.get("description") for p in parameters.values()), parameters
    if name == "acquire_volume":
        assert (parameters["centre_piezo_um"]["min"], parameters["centre_piezo_um"]["max"]) == ("-200", "200")


def test_estimated_dose_is_power_times_time() -> None:
    parameters = TEMPLATES["acquire_volume"].check(
        {"views": "both", "slices": 10, "channels": [{"name": "gfp", "exposure_ms": 20.0, "power_pct": 3.0}]}
    )
    estimate = TEMPLATES["acquire_volume"].estimate(parameters, SCOPE)
    assert estimate.frames == {"cam_a": 10, "cam_b": 10}
    assert estimate.dose == {"l488": pytest.approx(20 * 0.020 * 3.0)}
