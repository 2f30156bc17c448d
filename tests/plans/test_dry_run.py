"""A dry run says what a plan would do, and what would stop it, without hardware."""

from __future__ import annotations

from typing import Any

import pytest

from queuescope.config import Scope, load_scope
from queuescope.hardware import CameraState
from queuescope.layout import Layout
from queuescope.plans import Circumstances, check, templates

from .test_parameters import GOOD, SCOPE, TEMPLATES

RETRACTING = load_scope(
    "demo-dispim",
    environ={
        "QUEUESCOPE_SAFETY__RETRACT_FIRST": "[z]",
        "QUEUESCOPE_SAFETY__COLLISION": "[{f: [100, 200], z: [50, 250]}]",
    },
)


CAMERA = CameraState(
    width=2000,
    height=1000,
    dtype="uint16",
    bit_depth=12,
    exposure_ms=10.0,
    binning=1,
    roi=(0, 0, 2000, 1000),
    pixel_um=0.1625,
)
OTHERS = templates(RETRACTING)


def dry(name: str, kwargs: dict[str, Any], tmp: Any, scope: Scope = SCOPE, **more: Any) -> Any:
    positions = dict.fromkeys(scope.axes(), 0.0) | more.pop("at", {})
    how = Circumstances(positions=positions, layout=Layout(tmp), **more)
    found = check((OTHERS if scope is RETRACTING else TEMPLATES)[name], kwargs, scope, how)
    assert not list(tmp.iterdir()), "nothing is written"
    return found


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"center_on_pixel"}))  # that one needs a run: test_focus.py
def test_what_is_good_passes_with_its_estimate(name: str, tmp_path: Any) -> None:
    """Issue 5, item 3: every template, without a device."""
    found = dry(name, GOOD[name], tmp_path)
    assert (found.ok, found.problems) == (True, [])
    assert found.seconds > 0
    assert found.frames == TEMPLATES[name].estimate(TEMPLATES[name].check(GOOD[name]), SCOPE).frames


def test_moves_are_counted_and_checked_from_where_the_axes_are(tmp_path: Any) -> None:
    stack = {"range_um": 10, "step_um": 1, "camera": "overview"}
    assert dry("z_stack", stack, tmp_path).moves == 11 + 1  # and back
    found = dry("z_stack", stack, tmp_path, at={"z": 248.0})
    assert not found.ok
    assert (found.problems[0].loc, found.problems[0].limit) == ("z", [-50.0, 250.0])
    by = dry("move_axis", {"axis": "piezo_a", "by": 150.0}, tmp_path, at={"piezo_a": 100.0})
    assert "outside [-200" in by.problems[0].msg


FAST = load_scope("demo-dispim", environ={"QUEUESCOPE_DEVICES__XY__SPEED_PER_S": "100"})
AT_ONCE = load_scope("demo-dispim", environ={"QUEUESCOPE_DEVICES__XY__SPEED_PER_S": "1e9"})


def travelling_s(name: str, kwargs: dict[str, Any], tmp: Any) -> float:
    """What the distances add to an estimate, at 100 µm a second."""
    cameras = {"cam_a": CAMERA, "overview": CAMERA}
    slow, quick = (dry(name, kwargs, tmp, scope, cameras=cameras).seconds for scope in (FAST, AT_ONCE))
    return float(slow - quick)


def test_the_way_counts_where_the_scope_file_says_how_fast_a_stage_is(tmp_path: Any) -> None:
    """Issue 5, item 3: seconds. Tiles lie as far apart as the camera's frames are large, whatever the parameters say."""
    assert travelling_s("move_xy", {"x_um": 30.0, "y_um": 40.0}, tmp_path) == pytest.approx(0.5)
    scan = {"rows": 1, "columns": 2, "overlap_pct": 0, "camera": "overview"}
    assert travelling_s("tile_scan", scan, tmp_path) == pytest.approx(
        2 * 0.325 * 1000 / 100
    )  # to the first tile, on, and back


def test_a_round_with_time_to_spare_travels_in_it(tmp_path: Any) -> None:
    grid = {"plan": "overview", "kwargs": {"grid": {"rows": 1, "columns": 2, "step_x_um": 100.0, "step_y_um": 1.0}}}
    once = travelling_s("overview", grid["kwargs"], tmp_path)  # type: ignore[arg-type]
    assert once == pytest.approx(2.0)
    assert travelling_s("time_lapse", {"do": grid, "interval_s": 60, "rounds": 5}, tmp_path) == pytest.approx(once)
    assert travelling_s("time_lapse", {"do": grid, "interval_s": 0, "rounds": 5}, tmp_path) == pytest.approx(5 * once)


def test_collision_rules_count(tmp_path: Any) -> None:
    """What the hardware would refuse after half of the plan is told before its first move."""
    found = dry("move_xy", {"x_um": 5.0, "y_um": 5.0}, tmp_path, RETRACTING, at={"z": 30.0})
    assert "must be at its home" in found.problems[0].msg
    touched = dry("move_axis", {"axis": "f", "to": 150.0}, tmp_path, RETRACTING, at={"z": 60.0})
    assert not touched.ok
    assert dry("set_objective", {"name": "water20"}, tmp_path, RETRACTING, at={"z": 30.0}).ok, "it retracts first"


def test_light_and_disk_are_held_against_what_is_left(tmp_path: Any) -> None:
    kwargs = {"n": 100, "channels": [{"name": "gfp"}]}
    found = dry("snap", kwargs, tmp_path, dose_left={"l488": 1.0})
    assert [problem.loc for problem in found.problems] == ["dose"]
    assert found.dose == {"l488": pytest.approx(2.0)}

    full = dry("snap", kwargs, tmp_path, cameras={"cam_a": CAMERA}, free_bytes=10)
    assert full.bytes == 100 * 2000 * 1000 * 2
    assert [problem.loc for problem in full.problems] == ["frames"]
    assert dry("snap", kwargs, tmp_path).bytes is None, "nobody said how large a frame is"


def test_frames_are_as_large_as_the_plan_sets_them(tmp_path: Any) -> None:
    """Issue 5, item 3: binning and ROI count, and what is put back afterwards doesn't."""
    cameras = {"cam_a": CAMERA, "cam_b": CAMERA}
    binned = {"slices": 7, "binning": 2, "channels": [{"name": "gfp"}, {"name": "dapi"}]}
    assert dry("acquire_volume", binned, tmp_path, cameras=cameras).bytes == 2 * 2 * 7 * 1000 * 500 * 2
    part = {"n": 3, "roi": {"x_px": 4, "y_px": 8, "width_px": 40, "height_px": 20}, "binning": 4}
    assert dry("snap", part, tmp_path, cameras=cameras).bytes == 3 * 10 * 5 * 2
    lapse = {"do": {"plan": "snap", "kwargs": part}, "interval_s": 0.0, "rounds": 1000}
    assert dry("time_lapse", lapse, tmp_path, cameras=cameras).bytes == 1000 * 3 * 10 * 5 * 2


def test_tiles_lie_as_far_apart_as_a_frame_is_large(tmp_path: Any) -> None:
    """A scan that would leave the limits at its edge is told before."""
    scan = {"rows": 1, "columns": 5, "overlap_pct": 0, "camera": "cam_a"}
    assert dry("tile_scan", scan, tmp_path, cameras={"cam_a": CAMERA}).ok
    found = dry("tile_scan", scan, tmp_path, cameras={"cam_a": CAMERA.model_copy(update={"pixel_um": 2.0})})
    assert [problem.loc for problem in found.problems] == ["xy.x"]


def test_bad_parameters_are_the_models_problems(tmp_path: Any) -> None:
    found = dry("move_z", {"z_um": 300.0}, tmp_path)
    assert (found.ok, found.problems[0].loc, found.problems[0].limit) == (False, "z_um", 250.0)


def test_no_position_is_made_up() -> None:
    with pytest.raises(ValueError, match=r"positions of .* are missing"):
        check(TEMPLATES["read_state"], {}, SCOPE, Circumstances(positions={"z": 0.0}))
