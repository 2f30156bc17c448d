"""What a useq sequence comes to: frames by series and seconds, without going through every time point."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import useq

from ..config import Scope
from ._channels import cameras_of
from ._costs import AT_POINTS, CALL_S, FLOWN, UNKNOWN_EXPOSURE_S, focus_s, move_s, readouts_s, step_s
from ._sequence import events, parse, timeless
from ._sequence_count import counted_one_by_one
from ._sequence_flights import FEWEST, Flight, Flights
from ._sequence_series import Series, is_focusing, series_of_event, settings_of


@dataclass
class Survey:
    frames: dict[Series, int] = field(default_factory=dict)
    seconds: float = 0.0
    axes: set[str] = field(default_factory=set)
    """Along which there is more than one index."""
    times: bool = False
    """It has time points."""
    lit_s: dict[Series, float] = field(default_factory=dict)
    """Seconds of light, where the series has one."""


def survey(raw: Mapping[str, Any], scope: Scope, camera: str | None = None) -> Survey:
    """``raw`` was checked (`check_sequence`). Without a ``camera`` seconds and light are as of one that no stage is wired to."""
    return _survey(json.dumps(raw), _Hashed(scope), camera)


class _Hashed:
    """A scope by its identity, for the cache."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __hash__(self) -> int:
        return id(self.scope)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.scope is self.scope


@lru_cache(maxsize=8)
def _survey(text: str, hashed: _Hashed, camera: str | None) -> Survey:
    raw, scope = json.loads(text), hashed.scope
    sequence = parse(raw)
    outer = [] if sequence.time_plan is None or "t" not in sequence.axis_order else list(sequence.time_plan)
    one_by_one = counted_one_by_one(sequence)
    found = Survey(times=bool(outer))
    at_place: dict[int, float] = {}
    """Seconds of one time point, by position."""
    flights, costs = Flights(scope, camera), _Costs(scope, camera)
    groups = 0
    for group in flights.grouped(events(raw if one_by_one else timeless(raw), (0.0, 0.0))):
        groups += 1
        place = group[0].index.get("p", -1)
        inner = _inner_times(sequence, place)
        found.times = found.times or bool(inner)
        flight = flights.way(group)
        for event in group:
            found.axes |= {axis for axis, index in event.index.items() if index > 0}
            if not is_focusing(event):
                series = flights.series(event)
                taken = 1 if one_by_one else _taken(sequence, event, outer) * max(len(inner), 1)
                found.frames[series] = found.frames.get(series, 0) + taken
                found.lit_s[series] = found.lit_s.get(series, 0.0) + taken * costs.lit_s(series, flight)
        at_place[place] = at_place.get(place, 0.0) + costs.of(group, flight)
    if groups == 1 and len(outer) > 1 and not any(outer) and not inner:
        at_place = {place: costs.in_a_row(group, flights)}  # the time points of one frame are one group
    lasts = sum(_lasting(_inner_times(sequence, place), cost) for place, cost in at_place.items())
    if one_by_one:
        lasts /= max(len(outer), 1)
    found.axes |= {"t"} if len(outer) > 1 or (found.times and not outer) else set()
    before = math.prod(sequence.sizes[axis] or 1 for axis in _axes_before_time(sequence)) if outer else 1
    found.seconds = before * _lasting(outer, lasts / before)
    return found


class _Costs:
    """Seconds that groups of events take, one after the other."""

    def __init__(self, scope: Scope, camera: str | None) -> None:
        self._scope = scope
        cameras = scope.of_kind("camera") if camera is None else cameras_of(scope, camera)
        self._readout_s = max(readouts_s(scope, cameras), default=0.0)
        external = None if camera is None else getattr(scope.devices[camera], "external", None)
        self._held_s = 0.0 if external is None else external.readout_ms / 1000
        """Between two exposures that a camera's pulses follow, with the light on."""
        self._here: tuple[float | None, float | None] | None = None
        self._deep: float | None = None
        self._selected: str | None = None

    def lit_s(self, series: Series, flight: Flight) -> float:
        """Seconds of light for a frame."""
        return self._exposure_s(series) + (self._held_s if flight is Flight.TRIGGERED else 0.0)

    def _exposure_s(self, series: Series) -> float:
        return (settings_of(series, self._scope).exposure_ms or 1000 * UNKNOWN_EXPOSURE_S) / 1000

    def of(self, group: list[useq.MDAEvent], flight: Flight) -> float:
        first, scope = group[0], self._scope
        x, _, z = scope.sample_axes()
        seconds = 0.0
        if (first.x_pos, first.y_pos) not in (self._here, (None, None)):
            self._here = (first.x_pos, first.y_pos)
            seconds += move_s(scope, x)
        for event in group:
            if z is not None and event.z_pos not in (self._deep, None):
                self._deep = event.z_pos
                if flight is not Flight.TRIGGERED or event is first:
                    seconds += step_s(scope, z) + (CALL_S if flight is Flight.STEPS else 0.0)
        if is_focusing(first):
            return seconds + focus_s(scope)
        series = series_of_event(first, scope)
        if series.channel is not None and series.channel != self._selected:
            self._selected = series.channel
            seconds += scope.channels[series.channel].select_s + CALL_S
        begin_s = 0.0 if flight is Flight.STEPS else FLOWN.begin_s
        return seconds + begin_s + len(group) * self._frame_s(series, flight)

    def _frame_s(self, series: Series, flight: Flight) -> float:
        exposure_s = self._exposure_s(series)
        if flight is Flight.SEQUENCE:
            return max(exposure_s, self._readout_s)
        return exposure_s + self._readout_s + (AT_POINTS if flight is Flight.STEPS else FLOWN).frame_s

    def in_a_row(self, group: list[useq.MDAEvent], flights: Flights) -> float:
        """Of a group that the same follows at once, again and again."""
        flight = flights.way(group * FEWEST)
        if flight.moves and len({event.z_pos for event in group}) > 1:  # a stack ends with its time point
            return self.of(group, flights.way(group))
        return len(group) * self._frame_s(series_of_event(group[0], self._scope), flight)


def _inner_times(sequence: useq.MDASequence, place: int) -> list[float]:
    """Time points of a position's own sequence."""
    if place < 0:
        return []
    own = sequence.stage_positions[place].sequence
    if own is None or own.time_plan is None or "t" not in own.axis_order:
        return []
    return list(own.time_plan)


def _taken(sequence: useq.MDASequence, event: useq.MDAEvent, outer: list[float]) -> int:
    """At how many of the time points an event comes."""
    channel = event.index.get("c")
    every = 1
    if channel is not None and _has_outer_channel(sequence, event):
        every = sequence.channels[channel].acquire_every
    return math.ceil(len(outer) / every) if outer else 1


def _has_outer_channel(sequence: useq.MDASequence, event: useq.MDAEvent) -> bool:
    place = event.index.get("p", -1)
    own = sequence.stage_positions[place].sequence if place >= 0 else None
    return bool(sequence.channels) and not (own is not None and own.channels)


def _axes_before_time(sequence: useq.MDASequence) -> str:
    return sequence.used_axes.partition("t")[0]


def _lasting(times: list[float], each_s: float) -> float:
    """Seconds of these time points, each as soon as it is due and the one before has ended."""
    elapsed = 0.0
    for due in times or [0.0]:
        elapsed = max(elapsed, due) + each_s
    return elapsed
