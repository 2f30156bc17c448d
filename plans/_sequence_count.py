"""How many events a useq `MDASequence` has at most, without going through them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import useq

from ._parameters import MAX_FRAMES
from ._sequence import Loc, Refused

MOST_PLACES = 5_000
"""Events of one time point: each is held against the limits when the sequence is submitted."""
MOST_POINTS = 2_500
"""Of a grid, of a plate, or of random points."""


def check_count(sequence: useq.MDASequence) -> None:
    """
    Raises
    ------
    Refused
        Where useq would go through more events than are allowed. It goes through a position's own sequence once for each
        event that the outer one has there.
    """
    sizes = _sizes(sequence)
    places = sequence.stage_positions if "p" in sizes else [None]
    each = math.prod(size for axis, size in sizes.items() if axis != "p")
    each_time = math.prod(size for axis, size in sizes.items() if axis not in "pt")
    total = one_time = 0  # one_time: at one time point
    for place in places:
        own = _sizes(place.sequence) if place is not None and place.sequence is not None else {}
        total += each * math.prod(own.values())
        one_time += each_time * math.prod(size for axis, size in own.items() if axis != "t")
    if total > MOST_PLACES and counted_one_by_one(sequence):
        told = f"{total:,} events are more than {MOST_PLACES:,} with acquire_every and positions' own sequences"
        raise Refused(("channels",), told, total, MOST_PLACES)
    for number, limit, what in ((total, MAX_FRAMES, "events"), (one_time, MOST_PLACES, "events at one time point")):
        if number > limit:
            raise Refused(_largest(sizes), f"up to {number:,} {what}, more than {limit:,} ({sizes})", number, limit)


def _largest(sizes: Mapping[str, int]) -> Loc:
    plans = {"t": "time_plan", "p": "stage_positions", "g": "grid_plan", "c": "channels", "z": "z_plan"}
    return (plans[max(sizes, key=lambda axis: sizes[axis])],) if sizes else ()


def _sizes(sequence: useq.MDASequence) -> dict[str, int]:
    """At most so many along each axis."""
    grid, found = sequence.grid_plan, dict[str, int]()
    for axis in sequence.axis_order:
        match str(axis):
            case "t" if sequence.time_plan is not None:
                found["t"] = _time_points(sequence.time_plan)
            case "p" if len(sequence.stage_positions):
                found["p"] = len(sequence.stage_positions)
            case "g" if grid is not None:
                found["g"] = MOST_POINTS if isinstance(grid, useq.GridFromPolygon) else grid.num_positions()
            case "c" if sequence.channels:
                found["c"] = len(sequence.channels)
            case "z" if sequence.z_plan is not None:
                found["z"] = sequence.z_plan.num_positions()
    return found


def _time_points(plan: Any) -> int:
    phases = plan.phases if isinstance(plan, useq.MultiPhaseTimePlan) else [plan]
    return sum(phase.loops for phase in phases)


def counted_one_by_one(sequence: useq.MDASequence) -> bool:
    """Time points differ in a way that no product tells."""
    return _skips(sequence) and any(_has_own_frames(place) for place in sequence.stage_positions)


def _skips(sequence: useq.MDASequence) -> bool:
    """Some channel isn't taken at every time point."""
    inner = [place.sequence for place in sequence.stage_positions if place.sequence is not None]
    return any(channel.acquire_every > 1 for one in (sequence, *inner) for channel in one.channels)


def _has_own_frames(place: Any) -> bool:
    return (
        place is not None and place.sequence is not None and bool(place.sequence.time_plan or place.sequence.channels)
    )
