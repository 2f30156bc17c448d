"""A volume as a Tiger controller's firmware runs it: which property of which device gets which value.

The firmware steps the piezo and the slice mirror (y) evenly over an amplitude about an offset, and sweeps the sheet mirror (x)
over another one (Micro-Manager's ASITiger adapter, ``ASIScanner.cpp`` and ``ASIPiezo.cpp``; which value goes where: the diSPIM
plugin's ``ControllerUtils.prepareControllerForAquisition_Side``). Amplitudes are peak to peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ._errors import ArgumentError
from ._surface import VolumeProgram, VolumeView
from ._timing import SliceTiming

UNEVEN_UM, UNEVEN_DEG = 0.002, 0.0002
"""A slice may lie so far from the even steps that the controller makes (about its resolution)."""

SCANNER_NUMBERS = (
    "SPIMNumSlices",
    "SPIMNumSides",
    "SPIMNumRepeats",
    "SPIMNumSlicesPerPiezo",
    "SPIMNumScansPerSlice",
    "SPIMDelayBeforeRepeat(ms)",
    "SPIMDelayBeforeSide(ms)",
    "SPIMDelayBeforeScan(ms)",
    "SPIMDelayBeforeLaser(ms)",
    "SPIMDelayBeforeCamera(ms)",
    "SPIMScanDuration(ms)",
    "SPIMLaserDuration(ms)",
    "SPIMCameraDuration(ms)",
    "SingleAxisXAmplitude(deg)",
    "SingleAxisXOffset(deg)",
    "SingleAxisYAmplitude(deg)",
    "SingleAxisYOffset(deg)",
)
SCANNER_NEEDS = ("SPIMState", "SPIMFirstSide", "SPIMAlternateDirectionsEnable", *SCANNER_NUMBERS)
PIEZO_NEEDS = ("SPIMState", "SPIMNumSlices", "SingleAxisAmplitude(um)", "SingleAxisOffset(um)")
"""Properties without which a device can't take part."""

TOLERANCES = {"(deg)": 0.0005, "(um)": 0.005, "(ms)": 0.1}
"""Of a readback, by the unit in the property's name."""

Setting = tuple[str, str | float]
"""A property and its value."""


@dataclass(frozen=True)
class Ramp:
    """Even steps from first to last."""

    offset: float
    """The middle."""
    amplitude: float
    """From first to last; negative where they descend."""


def ramp(values: Sequence[float], uneven: float, what: str) -> Ramp:
    """The ramp through these values.

    Raises
    ------
    ArgumentError
        Where they are not evenly spaced to within ``uneven``.
    """
    first, last, steps = values[0], values[-1], len(values) - 1
    for index, value in enumerate(values):
        even = first + (last - first) * index / steps if steps else first
        if abs(value - even) > uneven:
            raise ArgumentError(
                f"{what}: slice {index} is at {value:g}, even steps from {first:g} to {last:g} would put it at {even:g}: the"
                " controller steps evenly; use volume.trigger: software for this",
                thing="program.views",
                value=value,
            )
    return Ramp((first + last) / 2, last - first)


@dataclass(frozen=True)
class Side:
    """One view's part of the program."""

    view: VolumeView
    letter: str
    scanner: str
    """Label."""
    piezo: str
    """Label."""
    slices: Ramp
    tilt: Ramp
    sheet: Ramp
    """The sheet's width and its middle."""


def check_shared(program: VolumeProgram) -> None:
    """What the controller has once only must be the same for all views.

    Raises
    ------
    ArgumentError
        Naming what differs.
    """
    first = program.views[0]
    for view in program.views[1:]:
        if len(view.piezo_um) != len(first.piezo_um):
            raise ArgumentError(
                f"{view.dataset} has {len(view.piezo_um)} slices, {first.dataset} has {len(first.piezo_um)}: the controller"
                " runs the same number on each side",
                thing="program.views.piezo_um",
                value=len(view.piezo_um),
            )
        if view.settings != first.settings:
            raise ArgumentError(
                f"{view.dataset} and {first.dataset} differ in exposure, light or power: the controller's timing and laser"
                " output are the same for both sides; acquire them one after the other",
                thing="program.views.settings",
            )
    if len(program.views) > 1 and program.order == "slice":
        raise ArgumentError(
            "order slice: the controller takes all slices of one side, then those of the other: say order volume",
            thing="program.order",
            value=program.order,
        )


def scanner_settings(
    side: Side, sides: Sequence[Side], timing: SliceTiming, delay_before_side_ms: float
) -> list[Setting]:
    """What a side's scanner is told; both of a card share what begins with SPIM."""
    return [
        ("SPIMAlternateDirectionsEnable", "No"),
        ("SPIMNumSlices", len(side.view.piezo_um)),
        ("SPIMNumSides", len(sides)),
        ("SPIMFirstSide", sides[0].letter),
        ("SPIMNumRepeats", 1),
        ("SPIMNumSlicesPerPiezo", 1),
        ("SPIMNumScansPerSlice", 1),
        ("SPIMDelayBeforeRepeat(ms)", 0.0),
        ("SPIMDelayBeforeSide(ms)", delay_before_side_ms),
        ("SPIMDelayBeforeScan(ms)", timing.scan_delay_ms),
        ("SPIMScanDuration(ms)", timing.scan_ms),
        ("SPIMDelayBeforeLaser(ms)", timing.laser_delay_ms),
        ("SPIMLaserDuration(ms)", timing.laser_ms),
        ("SPIMDelayBeforeCamera(ms)", timing.camera_delay_ms),
        ("SPIMCameraDuration(ms)", timing.camera_ms),
        ("SingleAxisYAmplitude(deg)", round(side.tilt.amplitude, 4)),
        ("SingleAxisYOffset(deg)", round(side.tilt.offset, 4)),
        ("SingleAxisXAmplitude(deg)", round(side.sheet.amplitude, 4)),
        ("SingleAxisXOffset(deg)", round(side.sheet.offset, 4)),
    ]


SCANNER_WHERE_THERE: list[Setting] = [
    ("SingleAxisXMode", "0 - Disabled"),
    ("SPIMInterleaveSidesEnable", "No"),
    ("SPIMPiezoHomeDisable", "Yes"),
    ("SPIMScannerHomeDisable", "Yes"),
]
"""Older firmware lacks some of these. Homing is off: nothing goes where nobody has sent it."""


def piezo_settings(side: Side) -> list[Setting]:
    return [
        ("SingleAxisAmplitude(um)", round(side.slices.amplitude, 3)),
        ("SingleAxisOffset(um)", round(side.slices.offset, 3)),
        ("SPIMNumSlices", len(side.view.piezo_um)),
    ]


def tolerance(name: str) -> float:
    """How far the readback of a numeric property may be off."""
    return next((limit for unit, limit in TOLERANCES.items() if name.endswith(unit)), 0.0)
