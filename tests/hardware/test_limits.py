"""Limits, as properties: whatever is asked, nothing leaves its bounds, and a refusal changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queuescope.hardware import (
    DatasetPlan,
    FrameSettings,
    HardwareError,
    LimitError,
    RecordingPlan,
    VolumeProgram,
    VolumeView,
)

SCALARS = ("z", "f", "piezo_a", "piezo_b", "galvo_a.x", "galvo_a.y", "galvo_b.x", "galvo_b.y")
"""The XY stage takes its time in the demo adapter; its limits are checked by the same code."""

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = (
    st.floats(width=64)
    | st.floats(-300, 300)
    | st.sampled_from([math.nan, math.inf, -math.inf, 250.0, 250.00000000001])
)


def inside(local: Any, axis: str, value: float) -> bool:
    low, high = local._microscope._axes.by_name[axis].limits
    return math.isfinite(value) and low <= value <= high


@quick
@given(targets=st.dictionaries(st.sampled_from(SCALARS), anything, min_size=1, max_size=4))
def test_all_targets_pass_or_nothing_moves(shared_local: Any, targets: dict[str, float]) -> None:
    """R3.8: one bad target keeps every axis where it is."""
    before = shared_local.positions(SCALARS)
    if all(inside(shared_local, axis, value) for axis, value in targets.items()):
        got = shared_local.move(targets)
        assert got == pytest.approx(targets, abs=0.5)
    else:
        with pytest.raises(LimitError):
            shared_local.move(targets)
        assert shared_local.positions(SCALARS) == before


@quick
@given(light=st.sampled_from(["l405", "l488", "led"]), power=anything, on=st.booleans())
def test_no_light_leaves_its_power_limits(shared_local: Any, light: str, power: float, on: bool) -> None:
    """R3.8: a power outside opens no gate and writes no power."""
    before = shared_local.light(light)
    low, high = shared_local._microscope._lights.light(light).power.limits_pct
    if math.isfinite(power) and low <= power <= high:
        after = shared_local.set_light(light, on, power)
        assert after.on == on
        assert abs(after.power_pct - power) <= 0.05
        shared_local.set_light(light, False)
    else:
        with pytest.raises(LimitError):
            shared_local.set_light(light, on, power)
        assert shared_local.light(light) == before


@quick
@given(exposure_ms=st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2, 1100), power=st.floats(-2, 8))
def test_no_exposure_leaves_the_cameras_limits(shared_local: Any, exposure_ms: float, power: float) -> None:
    """R3.8: checked for frames, too, and before any light."""
    before = shared_local.configure_camera("cam_a").exposure_ms
    if not 1 <= exposure_ms <= 1000 or not 0 <= power <= 6:
        with pytest.raises(LimitError):
            shared_local.snap("cam_a", FrameSettings(exposure_ms=exposure_ms, light="l488", power_pct=power))
        assert shared_local.configure_camera("cam_a").exposure_ms == before
        assert not shared_local.light("l488").on


@quick
@given(value=anything | st.text(max_size=5))
def test_no_setpoint_leaves_its_limits(shared_local: Any, value: float | str) -> None:
    """R3.8: temperatures."""
    mm = shared_local._microscope._core.mm
    before = mm.getProperty("Incubator", "Setpoint")
    if isinstance(value, float) and math.isfinite(value) and 20 <= value <= 42:
        assert shared_local.set_value("chamber", value) == pytest.approx(value, abs=0.03)
    else:
        with pytest.raises(LimitError):
            shared_local.set_value("chamber", value)
        assert mm.getProperty("Incubator", "Setpoint") == before


@pytest.fixture(scope="module")
def open_recording(shared_local: Any) -> Any:
    plan = RecordingPlan(run_uid="limits-volume", datasets=(DatasetPlan(name="cam_a", camera="cam_a", frames=5),))
    state = shared_local.open_recording(plan)
    yield state.recording
    shared_local.close_recording(state.recording)


@quick
@given(
    piezo=st.lists(st.floats(-400, 400), max_size=6),
    galvo=st.lists(st.floats(-10, 10), max_size=6) | st.none(),
    exposure_ms=st.floats(0, 1100),
    axis=st.sampled_from(["piezo_a", "galvo_a", "nowhere"]),
    bad=st.integers(0, 5),
)
def test_a_bad_program_moves_nothing(
    shared_local: Any,
    open_recording: str,
    piezo: list[float],
    galvo: list[float] | None,
    exposure_ms: float,
    axis: str,
    bad: int,
) -> None:
    """R3.8: amplitudes, centres, offsets and lengths are checked slice by slice before the first move."""
    piezo = [*piezo[:bad], 200.01, *piezo[bad:]]  # at least one slice is outside
    before = shared_local.positions(SCALARS)
    view = VolumeView(
        dataset="cam_a",
        camera="cam_a",
        settings=FrameSettings(exposure_ms=exposure_ms, light="l488"),
        piezo=axis,
        piezo_um=tuple(piezo),
        galvo=None if galvo is None else "galvo_a.y",
        galvo_deg=None if galvo is None else tuple(galvo),
    )
    with pytest.raises(HardwareError):
        shared_local.start_volume(open_recording, VolumeProgram(views=(view,)))
    assert shared_local.positions(SCALARS) == before
    state = shared_local.recording(open_recording)
    assert (state.phase, state.datasets["cam_a"].frames_written) == ("open", 0)
