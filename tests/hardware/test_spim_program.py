"""The controller's programme: timing and properties, computed without hardware."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuescope.hardware import ArgumentError, FrameSettings, VolumeProgram, VolumeView
from queuescope.hardware._spim_pace import places
from queuescope.hardware._spim_program import (
    PIEZO_NEEDS,
    SCANNER_NEEDS,
    Ramp,
    Side,
    check_shared,
    piezo_settings,
    ramp,
    scanner_settings,
)
from queuescope.hardware._timing import TICK_MS, slice_timing, volume_ms


def view(camera: str = "cam_a", slices: int = 5, **changed: object) -> VolumeView:
    values = {
        "dataset": camera,
        "camera": camera,
        "settings": FrameSettings(exposure_ms=10, light="l488", power_pct=2),
        "piezo": "piezo_a",
        "piezo_um": tuple(-10.0 + 5 * index for index in range(slices)),
        "galvo": "galvo_a.y",
        "galvo_deg": tuple(-0.1 + 0.05 * index for index in range(slices)),
    }
    return VolumeView(**{**values, **changed})


def side(letter: str = "A", slices: int = 5) -> Side:
    made = view(slices=slices)
    assert made.galvo_deg is not None
    return Side(
        made, letter, "Scanner", "Piezo", ramp(made.piezo_um, 0.01, ""), ramp(made.galvo_deg, 0.001, ""), Ramp(0.1, 2)
    )


def test_the_slice_is_that_of_the_dispim_plugin() -> None:
    """Issue 3, item 4: Micro-Manager's plugin gives these numbers for 10 ms of light, 10 ms readout and reset, edge trigger."""
    timing = slice_timing(10, 10, 10)
    assert (timing.scan_delay_ms, timing.scan_ms) == (19.75, 10.5)
    assert (timing.laser_delay_ms, timing.laser_ms) == (20, 10)
    assert (timing.camera_delay_ms, timing.camera_ms) == (10, 1)
    assert timing.exposure_ms == pytest.approx(20.1)
    assert timing.period_ms == 30.25
    assert volume_ms(timing, slices=10, sides=2, delay_before_side_ms=50) == 2 * (50 + 302.5)
    filtered = slice_timing(10, 10, 10, filter_khz=0.8)
    assert filtered.laser_delay_ms - filtered.scan_delay_ms == 0.75, (
        "0.39 / 0.8 kHz is half a ms: the mirror starts earlier"
    )
    assert filtered.laser_delay_ms == 20.25, "a tick later, or a trigger would come during the readout"
    delayed = slice_timing(10, 10, 10, filter_khz=0.8, plogic=True)
    assert delayed.laser_delay_ms - delayed.scan_delay_ms == 0.5, "the card takes a tick"
    early = slice_timing(5, 0, 0, filter_khz=0.4)
    assert early.scan_delay_ms == 0
    assert early.laser_delay_ms == 1.25, "what can't start before the slice delays the others"


@given(
    st.floats(0.01, 1000),
    st.floats(0, 200),
    st.floats(0, 200),
    st.sampled_from([0, 0.2, 0.4, 0.8, 2.0, 8.0]),
    st.booleans(),
)
def test_any_slice_keeps_the_rules(light: float, readout: float, reset: float, khz: float, plogic: bool) -> None:
    """FACTS: laser ≤ camera ≤ slice, slice ≥ exposure + readout; everything in ticks, and nothing before the slice begins."""
    timing = slice_timing(light, readout, reset, khz, plogic)
    exposing = timing.camera_delay_ms + reset, timing.camera_delay_ms + timing.exposure_ms
    assert exposing[0] <= timing.laser_delay_ms + 1e-9, "all rows expose before there is light"
    assert timing.laser_delay_ms + timing.laser_ms <= exposing[1] + 1e-9, "and as long as there is"
    assert timing.period_ms >= timing.exposure_ms + readout - 1e-9, "no trigger comes while a frame is read out"
    assert timing.scan_ms == timing.laser_ms + 0.5
    for time in (timing.scan_delay_ms, timing.laser_delay_ms, timing.camera_delay_ms, timing.laser_ms, timing.scan_ms):
        assert time >= 0
        assert time / TICK_MS == pytest.approx(round(time / TICK_MS))
    assert abs(timing.laser_ms - light) <= TICK_MS


def test_every_property_that_is_written_is_looked_up_at_start() -> None:
    """Issue 3, item 4: a configuration that lacks one is a named error at start, not in the middle of a run."""
    one, timing = side(), slice_timing(10, 10, 10)
    assert {name for name, _ in scanner_settings(one, [one], timing, 50)} <= set(SCANNER_NEEDS)
    assert {name for name, _ in piezo_settings(one)} <= set(PIEZO_NEEDS)


def test_the_settings_of_a_two_sided_volume() -> None:
    """Amplitudes are peak to peak, offsets the middle; the first side is that of the first view."""
    sides = [side("B"), side("A")]
    settings = dict(scanner_settings(sides[0], sides, slice_timing(10, 10, 10), 20))
    assert settings["SPIMNumSides"] == 2
    assert settings["SPIMFirstSide"] == "B"
    assert settings["SPIMNumSlices"] == 5
    assert (settings["SingleAxisYOffset(deg)"], settings["SingleAxisYAmplitude(deg)"]) == (0, 0.2)
    assert (settings["SingleAxisXOffset(deg)"], settings["SingleAxisXAmplitude(deg)"]) == (0.1, 2)
    assert settings["SPIMDelayBeforeSide(ms)"] == 20
    assert dict(piezo_settings(sides[0])) == {
        "SingleAxisAmplitude(um)": 20,
        "SingleAxisOffset(um)": 0,
        "SPIMNumSlices": 5,
    }


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_a_frame_is_where_the_programme_puts_it(slices: int) -> None:
    """R3.10: positions of frames are those that the controller was told."""
    expected = [
        {"piezo_a": pytest.approx(-10 + 5 * index), "galvo_a.y": pytest.approx(-0.1 + 0.05 * index)}
        for index in range(slices)
    ]
    assert places(side(slices=slices)) == expected


def test_what_the_controller_can_not_do_is_refused() -> None:
    """R3.8: uneven steps, different views and interleaved sides; named, before anything is written."""
    with pytest.raises(ArgumentError, match="slice 1 is at 3, even steps from 0 to 4 would put it at 2"):
        ramp((0.0, 3.0, 4.0), 0.002, "cam_a: piezo_um")
    with pytest.raises(ArgumentError, match="cam_b has 4 slices, cam_a has 5"):
        check_shared(VolumeProgram(views=(view(), view("cam_b", 4)), order="volume"))
    with pytest.raises(ArgumentError, match="differ in exposure, light or power"):
        check_shared(
            VolumeProgram(views=(view(), view("cam_b", settings=FrameSettings(exposure_ms=5))), order="volume")
        )
    with pytest.raises(ArgumentError, match="order slice"):
        check_shared(VolumeProgram(views=(view(), view("cam_b"))))
