"""The emulated Tiger controller's cards, axes and settings, and what goes over its trigger lines.

Names and meanings are those of Micro-Manager's ASITiger adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

SIDES = ("A", "B")
PIEZO_OF = {"A": "P", "B": "Q"}
MIRROR_OF = {"A": ("A", "B"), "B": ("C", "D")}
"""The axes of a side's scanner: the sheet, and the slice."""
CARD_OF = {"A": "33", "B": "33", "C": "33", "D": "33", "P": "34", "Q": "35"}

RANGE = {"P": 200.0, "Q": 200.0} | dict.fromkeys("ABCD", 5.0)
"""An axis goes this far on either side of 0: µm, or degrees."""
PARKED = 5.0
"""Where a scanner's mirror is sent to block the beam (degrees): its limits, as on the real card."""

DEFAULTS: dict[str, float | str] = {
    "SPIMNumSlices": 1,
    "SPIMNumSlicesPerPiezo": 1,
    "SPIMNumScansPerSlice": 1,
    "SPIMNumSides": 1,
    "SPIMFirstSide": "A",
    "SPIMNumRepeats": 1,
    "SPIMDelayBeforeRepeat(ms)": 0.0,
    "SPIMDelayBeforeSide(ms)": 0.0,
    "SPIMDelayBeforeScan(ms)": 0.0,
    "SPIMScanDuration(ms)": 10.0,
    "SPIMDelayBeforeLaser(ms)": 0.0,
    "SPIMLaserDuration(ms)": 1.0,
    "SPIMDelayBeforeCamera(ms)": 0.0,
    "SPIMCameraDuration(ms)": 1.0,
    "SPIMPiezoHomeDisable": "No",
    "SPIMScannerHomeDisable": "No",
    "SPIMInterleaveSidesEnable": "No",
    "SPIMAlternateDirectionsEnable": "No",
}
"""Settings of card 33."""

OUTPUTS: dict[str, tuple[int, ...]] = {
    "none of outputs 5-8": (),
    "output 5 only": (5,),
    "output 6 only": (6,),
    "output 7 only": (7,),
    "output 8 only": (8,),
    "output 6 and 7": (6, 7),
    "outputs 5-7": (5, 6, 7),
    "outputs 5-8": (5, 6, 7, 8),
}
"""``OutputChannel`` of card 36: the laser outputs that a laser trigger reaches."""


@dataclass(frozen=True)
class Trigger:
    """A rising edge on a camera's line, and what was true at that moment. Times in ms of the controller's own clock."""

    side: str
    number: int
    """Counts the edges of this side since the run began; missed ones too."""
    slice: int
    repeat: int
    at_ms: float
    duration_ms: float
    """How long the line stays high."""
    laser_from_ms: float
    laser_until_ms: float
    outputs: tuple[int, ...]
    """Laser outputs that are high from ``laser_from_ms`` until ``laser_until_ms``."""
    piezo_um: float
    galvo_x_deg: float
    galvo_y_deg: float
    time_scale: float


@dataclass
class Faults:
    """What tests let go wrong."""

    miss: dict[str, list[int]]
    """By side: numbers of the triggers that don't reach the camera."""
    miss_every: int | None
    fire_until_stopped: bool
    """Repeat the last side's slices for ever."""
    refuse_idle: bool
    """Acknowledge the command to stop, and run on."""
