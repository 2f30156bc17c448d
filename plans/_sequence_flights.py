"""Which events of a sequence the hardware process takes in one step, without the RunEngine between them, and in which way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

import useq

from ..config import Scope
from ..hardware import FrameSettings
from ._costs import UNKNOWN_EXPOSURE_S
from ._sequence_series import Series, is_focusing, series_of_event, settings_of

FEWEST = 2
"""Frames that are worth a program."""
MOST = 500
LONGEST_S = 10.0
"""Of exposures in one program: what a camera or a stage times can't be held, and a pause waits for its end."""


class Flight(Enum):
    """How a group of events is taken."""

    STEPS = "steps"
    """One by one, each a step of the RunEngine."""
    SOFTWARE = "software"
    """The hardware process moves z and exposes."""
    TRIGGERED = "triggered"
    """The camera's pulses step z (`volume.trigger` of the scope file: mm_sequence)."""
    SINGLES = "singles"
    """Single exposures in a row; nothing moves."""
    SEQUENCE = "sequence"
    """The camera free-runs; nothing moves."""

    @property
    def waits(self) -> bool:
        """It can be held before each exposure."""
        return self in (Flight.SOFTWARE, Flight.SINGLES)

    @property
    def moves(self) -> bool:
        return self in (Flight.SOFTWARE, Flight.TRIGGERED)


class Flights:
    """For a camera of a microscope."""

    def __init__(self, scope: Scope, camera: str | None) -> None:
        """``camera``: None where it isn't known yet: one that no stage is wired to."""
        self._scope = scope
        self._together = camera in scope.of_kind("multi_camera")
        self.triggered = camera is not None and wired(scope, camera)
        """Its pulses step z."""
        self._settings: dict[Series, FrameSettings] = {}

    def series(self, event: useq.MDAEvent) -> Series:
        return series_of_event(event, self._scope)

    def settings(self, series: Series) -> FrameSettings:
        if series not in self._settings:
            self._settings[series] = settings_of(series, self._scope)
        return self._settings[series]

    def grouped(self, events: Iterable[useq.MDAEvent]) -> Iterator[list[useq.MDAEvent]]:
        """The same events in the same order. Those of a group have one series, position, place and time that they wait for; only
        z differs, or (where it doesn't) only what else their index says.
        """
        group: list[useq.MDAEvent] = []
        most, still = 0, True
        for event in events:
            if group and len(group) < most and self._joins(group[0], event, still):
                still = still and event.z_pos == group[0].z_pos
                group.append(event)
                continue
            if group:
                yield group
            group, most, still = [event], self._most(event), True
        if group:
            yield group

    def _most(self, event: useq.MDAEvent) -> int:
        if is_focusing(event):
            return 1
        exposure_ms = self.settings(self.series(event)).exposure_ms or 1000 * UNKNOWN_EXPOSURE_S
        return min(MOST, max(FEWEST, int(1000 * LONGEST_S / exposure_ms)))

    def _joins(self, first: useq.MDAEvent, event: useq.MDAEvent, still: bool) -> bool:
        if is_focusing(event) or event.reset_event_timer:
            return False
        if (event.min_start_time or 0.0) != (first.min_start_time or 0.0):
            return False
        if any(
            there is not None and there != here
            for here, there in ((first.x_pos, event.x_pos), (first.y_pos, event.y_pos))
        ):
            return False
        if (event.z_pos is None) != (first.z_pos is None) or self.series(event) != self.series(first):
            return False
        before, now = first.index, event.index
        if all(before.get(axis) == now.get(axis) for axis in (*before, *now) if axis != "z"):
            return True
        return still and event.z_pos == first.z_pos and before.get("p") == now.get("p")

    def way(self, group: list[useq.MDAEvent]) -> Flight:
        """How a group is taken."""
        if len(group) < FEWEST:
            return Flight.STEPS
        z = group[0].z_pos
        if any(event.z_pos != z for event in group):
            return Flight.TRIGGERED if self.triggered else Flight.SOFTWARE
        if self._together:  # a burst is of single cameras
            return Flight.STEPS if z is None else Flight.SOFTWARE
        lit = self.settings(self.series(group[0])).light is not None
        kept = all(event.keep_shutter_open for event in group[:-1])
        return Flight.SEQUENCE if kept or not lit else Flight.SINGLES


def wired(scope: Scope, camera: str) -> bool:
    """Whether this camera's pulses step the microscope's z: mm_sequence, and both are of one view, or it is the only camera."""
    _, _, z = scope.sample_axes()
    cameras = scope.of_kind("camera")
    if z is None or scope.volume.trigger != "mm_sequence" or camera not in cameras:
        return False
    view = cameras[camera].view
    return view == scope.of_kind("stage")[z].view and (view is not None or len(cameras) == 1)
