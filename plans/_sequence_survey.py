"""What a useq sequence comes to: frames by series and seconds, without going through every time point."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import useq

from ..config import Scope
from ..hardware import FrameSettings
from ._channels import frame_settings
from ._costs import AT_POINTS, CALL_S, UNKNOWN_EXPOSURE_S, focus_s, move_s, readouts_s, step_s
from ._sequence import events, parse, resolve_channel, timeless
from ._sequence_count import counted_one_by_one


@dataclass(frozen=True)
class Series:
    """Frames of one channel with one exposure: a dataset for each camera, and a stream."""

    channel: str | None
    exposure_ms: float | None


@dataclass
class Survey:
    frames: dict[Series, int] = field(default_factory=dict)
    seconds: float = 0.0
    axes: set[str] = field(default_factory=set)
    """Along which there is more than one index."""
    times: bool = False
    """It has time points."""


def is_focusing(event: useq.MDAEvent) -> bool:
    return isinstance(event.action, useq.HardwareAutofocus)


def series_of_event(event: useq.MDAEvent, scope: Scope) -> Series:
    if event.channel is None:
        return Series(None, None)
    name = resolve_channel(scope, event.channel.config, event.channel.group)
    return Series(name, event.exposure)


def settings_of(series: Series, scope: Scope) -> FrameSettings:
    if series.channel is None:
        return FrameSettings()
    asked = SimpleNamespace(name=series.channel, exposure_ms=series.exposure_ms, power_pct=None)
    return frame_settings(asked, scope)


def survey(raw: Mapping[str, Any], scope: Scope) -> Survey:
    """``raw`` was checked (`check_sequence`)."""
    return _survey(json.dumps(raw), _Hashed(scope))


class _Hashed:
    """A scope by its identity, for the cache."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __hash__(self) -> int:
        return id(self.scope)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and other.scope is self.scope


@lru_cache(maxsize=8)
def _survey(text: str, hashed: _Hashed) -> Survey:
    raw, scope = json.loads(text), hashed.scope
    sequence = parse(raw)
    outer = [] if sequence.time_plan is None or "t" not in sequence.axis_order else list(sequence.time_plan)
    one_by_one = counted_one_by_one(sequence)
    found = Survey(times=bool(outer))
    at_place: dict[int, float] = {}
    """Seconds of one time point, by position."""
    x, _, z = scope.sample_axes()
    readout_s = max(readouts_s(scope, scope.of_kind("camera")), default=0.0)  # whichever camera it will be
    here: tuple[float | None, float | None] | None = None
    deep: float | None = None
    selected: str | None = None
    for event in events(raw if one_by_one else timeless(raw), (0.0, 0.0)):
        place = event.index.get("p", -1)
        inner = _inner_times(sequence, place)
        found.axes |= {axis for axis, index in event.index.items() if index > 0}
        found.times = found.times or bool(inner)
        cost = 0.0
        if (event.x_pos, event.y_pos) not in (here, (None, None)):
            here = (event.x_pos, event.y_pos)
            cost += move_s(scope, x)
        if z is not None and event.z_pos not in (deep, None):
            deep = event.z_pos
            cost += step_s(scope, z) + CALL_S
        if is_focusing(event):
            cost += focus_s(scope)
        else:
            series = series_of_event(event, scope)
            if series.channel is not None and series.channel != selected:
                selected = series.channel
                cost += scope.channels[selected].select_s + CALL_S
            cost += (settings_of(series, scope).exposure_ms or 1000 * UNKNOWN_EXPOSURE_S) / 1000
            cost += readout_s + AT_POINTS.frame_s
            taken = 1 if one_by_one else _taken(sequence, event, outer) * max(len(inner), 1)
            found.frames[series] = found.frames.get(series, 0) + taken
        at_place[place] = at_place.get(place, 0.0) + cost
    lasts = sum(_lasting(_inner_times(sequence, place), cost) for place, cost in at_place.items())
    if one_by_one:
        lasts /= max(len(outer), 1)
    found.axes |= {"t"} if len(outer) > 1 or (found.times and not outer) else set()
    before = math.prod(sequence.sizes[axis] or 1 for axis in _axes_before_time(sequence)) if outer else 1
    found.seconds = before * _lasting(outer, lasts / before)
    return found


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
