"""When scanner, laser and camera act within one slice of a controller-timed volume. Pure functions, milliseconds.

The rules are those of Micro-Manager's diSPIM plugin for edge-triggered cameras (micro-manager/micro-manager,
``plugins/ASIdiSPIM/.../AcquisitionPanel.java``: ``getTimingFromPeriodAndLightExposure``, ``getSliceDuration``): the camera is
triggered when it has read out the frame before; the laser is on while all rows of the chip expose; the mirror sweeps a quarter of
a millisecond longer at either end, and starts earlier by what its filter delays it. Every time is a multiple of 0.25 ms, the
tick of the controller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TICK_MS = 0.25
SWEEP_MARGIN_MS = 0.25
"""The sweep begins so much before the laser and ends so much after it."""
TRIGGER_MS = 1.0
"""Length of the camera's trigger pulse; an edge is all that counts."""
EXPOSURE_MARGIN_MS = 0.1


@dataclass(frozen=True)
class SliceTiming:
    """One slice; delays count from its beginning."""

    scan_delay_ms: float
    scan_ms: float
    laser_delay_ms: float
    laser_ms: float
    camera_delay_ms: float
    camera_ms: float
    exposure_ms: float
    """What the camera is set to: reset, light, and a margin."""

    @property
    def period_ms(self) -> float:
        """From slice to slice: until the last of the three has ended."""
        return max(
            self.scan_delay_ms + self.scan_ms,
            self.laser_delay_ms + self.laser_ms,
            self.camera_delay_ms + self.camera_ms,
        )

    def later(self, by_ms: float) -> SliceTiming:
        """The same, with everything later in a slice that is so much longer."""
        return SliceTiming(
            self.scan_delay_ms + by_ms,
            self.scan_ms,
            self.laser_delay_ms + by_ms,
            self.laser_ms,
            self.camera_delay_ms + by_ms,
            self.camera_ms,
            self.exposure_ms,
        )


def slice_timing(
    light_ms: float, readout_ms: float, reset_ms: float, filter_khz: float = 0.0, plogic: bool = False
) -> SliceTiming:
    """The shortest slice in which the sample gets ``light_ms`` of light in every row of the chip.

    Parameters
    ----------
    light_ms
        How long the laser is on, rounded to the controller's tick (at least one).
    readout_ms, reset_ms
        Of the camera: reading a frame out, and from its trigger until all rows expose.
    filter_khz
        Cut-off of the scanner's Bessel filter, whose delay is 0.39 / frequency; 0: none.
    plogic
        The pulses pass through a PLogic card, which takes a tick.
    """
    readout, reset = ticks_up(readout_ms), ticks_up(reset_ms)
    light = max(ticks(light_ms), TICK_MS)
    filter_delay = ticks(0.39 / filter_khz) if filter_khz else 0.0
    if plogic:
        filter_delay -= TICK_MS
    timing = SliceTiming(
        scan_delay_ms=readout + reset - SWEEP_MARGIN_MS - filter_delay,
        scan_ms=light + 2 * SWEEP_MARGIN_MS,
        laser_delay_ms=readout + reset,
        laser_ms=light,
        camera_delay_ms=readout,
        camera_ms=TRIGGER_MS,
        exposure_ms=reset + light + EXPOSURE_MARGIN_MS,
    )
    if timing.scan_delay_ms < 0:
        shift = -timing.scan_delay_ms
        timing = timing.later(shift)
    missing = timing.exposure_ms + readout_ms - timing.period_ms
    return timing.later(ticks_up(missing)) if missing > 0 else timing


def volume_ms(timing: SliceTiming, slices: int, sides: int, delay_before_side_ms: float) -> float:
    """How long the controller takes for a volume."""
    return sides * (delay_before_side_ms + slices * timing.period_ms)


def ticks(ms: float) -> float:
    """The nearest multiple of a tick."""
    return math.floor(ms / TICK_MS + 0.5) * TICK_MS


def ticks_up(ms: float) -> float:
    """The next multiple of a tick."""
    return math.ceil(ms / TICK_MS - 1e-9) * TICK_MS
