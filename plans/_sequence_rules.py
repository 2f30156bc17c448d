"""What is refused of a useq `MDASequence`, found before it is expanded."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import useq
from pydantic import BaseModel, ValidationError

from ..config import Scope
from ._parameters import MAX_FRAMES
from ._sequence import LONGEST_S, USEQ_GROUP, Loc, Refused, events, of_useq, parse, resolve_channel, timeless
from ._sequence_count import MOST_PLACES, MOST_POINTS, check_count

MOST_ORDERED_POINTS = 200
"""Random points that useq puts in an order: that takes it the cube of their number."""
MOST_DEPTH = 12
MOST_ITEMS = 20_000
"""Values in the whole JSON."""
LONGEST_TEXT = 200
LARGEST = 1e7
"""Of any number: µm, ms or how many."""
COUNTS = {"loops": MAX_FRAMES, "rows": MOST_POINTS, "columns": MOST_POINTS, "num_points": MOST_POINTS}
AXES_AS_TEXT = ("axis_order", "keep_shutter_open_across")
"""Lists that useq also takes as text, a letter for an axis."""


def check_sequence(raw: Any, scope: Scope, exposure_ms: tuple[float, float], camera: str) -> None:
    """Everything that doesn't need the microscope: numbers, names, how many events, where they lie.

    Raises
    ------
    Refused
        With where in the sequence it is, the value and the limit. Nothing large was made.
    """
    _look_at(raw, (), 0, [0])
    if not isinstance(raw, dict):
        raise Refused((), "a sequence is an object: {channels?, z_plan?, stage_positions?, …}", type(raw).__name__)
    _check_plate(raw)
    sequence = parse(raw)
    _compare(raw, sequence, ())
    _Rules(scope, exposure_ms, camera).check(sequence, ())
    check_count(sequence)
    _check_places(raw, sequence, scope)


def _look_at(raw: Any, loc: Loc, depth: int, seen: list[int]) -> None:
    """Depth, size, finite numbers, text that can be stored: before anything else reads it."""
    seen[0] += 1
    if seen[0] > MOST_ITEMS:
        raise Refused((), f"more than {MOST_ITEMS} values", seen[0], MOST_ITEMS)
    if depth > MOST_DEPTH:
        raise Refused(loc[:4], f"nested deeper than {MOST_DEPTH}", depth, MOST_DEPTH)
    match raw:
        case dict():
            if len(raw) > MOST_ITEMS:
                raise Refused(loc, f"more than {MOST_ITEMS} values", len(raw), MOST_ITEMS)
            for key, item in raw.items():
                _text(key, loc)
                limit = COUNTS.get(key)
                if limit is not None and isinstance(item, int | float) and not item <= limit:
                    raise Refused((*loc, key), f"{_told(item)} is more than {limit}", _told(item), limit)
                _look_at(item, (*loc, key), depth + 1, seen)
        case list() | tuple():
            if len(raw) > MOST_ITEMS:
                raise Refused(loc, f"more than {MOST_ITEMS} values", len(raw), MOST_ITEMS)
            for index, item in enumerate(raw):
                _look_at(item, (*loc, index), depth + 1, seen)
        case bool() | None:
            pass
        case int() | float():
            if not abs(raw) <= LARGEST:
                raise Refused(loc, f"must be a finite number of at most {LARGEST:g}", _told(raw), LARGEST)
        case str():
            _text(raw, loc)
        case _:
            raise Refused(loc, f"JSON has no {type(raw).__name__}", type(raw).__name__)


def _told(value: float) -> Any:
    """A number as JSON and an error's text can hold it."""
    if isinstance(value, int):
        return value if value.bit_length() <= 53 else f"an integer of {value.bit_length()} bits"
    return value if math.isfinite(value) else str(value)


def _text(raw: Any, loc: Loc) -> None:
    if not isinstance(raw, str):
        raise Refused(loc, "names are text", type(raw).__name__)
    if len(raw) > LONGEST_TEXT:
        raise Refused(loc, f"text of {len(raw)} characters, more than {LONGEST_TEXT}", raw[:40], LONGEST_TEXT)
    if any(0xD800 <= ord(character) <= 0xDFFF for character in raw):
        raise Refused(loc, "text with half of a surrogate pair can't be stored", ascii(raw))


def _check_plate(raw: Mapping[str, Any]) -> None:
    """A well plate is counted by itself: `MDASequence` makes all its positions when it validates."""
    given = raw.get("stage_positions")
    if not isinstance(given, dict):
        return
    shape = given.get("plate")
    if isinstance(shape, dict):
        wells = [n for key in ("rows", "columns") if isinstance(n := shape.get(key), int)]
        if math.prod(wells) > MOST_POINTS:
            loc: Loc = ("stage_positions", "plate")
            raise Refused(loc, f"a plate of {wells} has more than {MOST_POINTS} wells", wells, MOST_POINTS)
    try:
        plate = useq.WellPlatePlan.model_validate(copy.deepcopy(given))
    except ValidationError as error:
        raise of_useq(error, given, ("stage_positions",)) from None
    except (TypeError, ArithmeticError, AttributeError, IndexError, KeyError) as error:
        raise Refused(("stage_positions",), f"useq can't read it: {error}") from None
    _check_points(plate.well_points_plan, ("stage_positions", "well_points_plan"))
    if len(plate) > MOST_POINTS:
        raise Refused(("stage_positions",), f"{len(plate)} places, more than {MOST_POINTS}", len(plate), MOST_POINTS)


def _compare(raw: Any, value: Any, loc: Loc) -> None:
    """What useq read against what was sent: it ignores keys that it doesn't know, and takes text and true for numbers.

    Raises
    ------
    Refused
        Naming the key or the value.
    """
    if isinstance(value, BaseModel) and isinstance(raw, dict):
        for key, item in raw.items():
            name = {"row": "grid_row", "col": "grid_col"}.get(key, key)
            if name not in type(value).model_fields:
                known = sorted(type(value).model_fields)
                raise Refused((*loc, key), f"{type(value).__name__} knows no {key!r}, only {known}", key, known)
            if key not in ("metadata", "selected_wells", "rotation"):
                _compare(item, getattr(value, name), (*loc, key))
    elif isinstance(value, useq.MultiPhaseTimePlan) and isinstance(raw, list):
        _compare(raw, value.phases, loc)
    elif isinstance(value, list | tuple) and isinstance(raw, list | tuple):
        for index, (item, one) in enumerate(zip(raw, value, strict=False)):
            _compare(item, one, (*loc, index))
    elif isinstance(value, list | tuple) and isinstance(raw, str) and loc[-1] not in AXES_AS_TEXT:
        raise Refused(loc, "must be a list", raw)  # pydantic reads an empty text as a sequence without items
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
        if isinstance(raw, bool) or not 0 <= seconds <= LONGEST_S:
            raise Refused(loc, f"{seconds:g} s is outside [0, {LONGEST_S:g}] s", _told(seconds), [0, LONGEST_S])
    elif isinstance(value, int | float) and isinstance(raw, bool | str) != isinstance(value, bool):
        raise Refused(loc, "must be true or false" if isinstance(value, bool) else "must be a number", raw)


class _Rules:
    """What a sequence may ask of this microscope."""

    def __init__(self, scope: Scope, exposure_ms: tuple[float, float], camera: str) -> None:
        self._scope, self._exposure_ms, self._camera = scope, exposure_ms, camera
        self._axes = scope.sample_axes()

    def check(self, sequence: useq.MDASequence, loc: Loc) -> None:
        x, y, z = self._axes
        if sequence.setup is not None:
            raise Refused((*loc, "setup"), "a setup event would set properties: use the plan's parameters", "setup")
        if sequence.time_plan is not None:
            _check_times(sequence.time_plan, (*loc, "time_plan"))
        if sequence.z_plan is not None:
            if z is None:
                raise Refused((*loc, "z_plan"), "this microscope has no z (scope.yml: devices.z)", "z_plan")
            _check_z(sequence.z_plan, (*loc, "z_plan"))
        if sequence.grid_plan is not None:
            if x is None or y is None:
                raise Refused((*loc, "grid_plan"), "this microscope has no XY stage", "grid_plan")
            _check_points(sequence.grid_plan, (*loc, "grid_plan"))
        for index, channel in enumerate(sequence.channels):
            self._check_channel(channel, (*loc, "channels", index))
        if sequence.autofocus_plan is not None:
            self._check_autofocus(sequence.autofocus_plan, (*loc, "autofocus_plan"))
        for axis in sequence.keep_shutter_open_across:
            if axis not in (known := list("tpgcz")):
                raise Refused((*loc, "keep_shutter_open_across"), f"there is no axis {axis!r}", axis, known)
        for index, place in enumerate(sequence.stage_positions):
            self._check_place(place, (*loc, "stage_positions", index), nested=bool(loc))

    def _check_place(self, place: Any, loc: Loc, nested: bool) -> None:
        if nested:
            raise Refused(loc[:-1], "a position's own sequence can't have stage_positions", "stage_positions")
        if place.properties:
            raise Refused(
                (*loc, "properties"), "properties are set by nobody but scope.yml", str(place.properties)[:80]
            )
        x, y, z = self._axes
        for name, axis in (("x", x), ("y", y), ("z", z)):
            if getattr(place, name) is not None and axis is None:
                raise Refused((*loc, name), f"this microscope has no {name}", getattr(place, name))
        if place.sequence is not None:
            self.check(place.sequence, (*loc, "sequence"))

    def _check_channel(self, channel: Any, loc: Loc) -> None:
        if resolve_channel(self._scope, channel.config, channel.group) is None:
            known = sorted(self._scope.channels)
            if channel.config in known:
                group = (self._scope.channels[channel.config].preset or [USEQ_GROUP])[0]
                told = f"channel {channel.config!r} is of group {group!r}, not {channel.group!r}"
                raise Refused((*loc, "group"), told, channel.group, group)
            told = f"there is no channel {channel.config!r} (of group {channel.group!r}), there are {known}"
            raise Refused((*loc, "config"), told, channel.config, known)
        low, high = self._exposure_ms
        if channel.exposure is not None and not low <= channel.exposure <= high:
            told = f"{channel.exposure:g} ms is outside [{low:g}, {high:g}] ms"
            raise Refused((*loc, "exposure"), told, channel.exposure, [low, high])
        if channel.camera not in (None, self._camera):
            told = f"the plan's parameter says camera {self._camera!r}; leave it out here, or say the same"
            raise Refused((*loc, "camera"), told, channel.camera, self._camera)

    def _check_autofocus(self, plan: Any, loc: Loc) -> None:
        devices = self._scope.of_kind("autofocus")
        if not devices:
            raise Refused(loc, "this microscope has no autofocus", "autofocus_plan")
        ((name, settings),) = devices.items()
        if plan.autofocus_device_name not in (None, name, settings.label):
            told = f"the autofocus is called {name!r} (label {settings.label!r})"
            raise Refused((*loc, "autofocus_device_name"), told, plan.autofocus_device_name, name)
        if (offset := plan.autofocus_motor_offset) is not None:
            if settings.offset is None:
                told = f"{name} has no limits of an offset (scope.yml: devices.{name}.offset)"
                raise Refused((*loc, "autofocus_motor_offset"), told, offset)
            low, high = settings.offset
            if not low <= offset <= high:
                told = f"{offset:g} is outside [{low:g}, {high:g}] (scope.yml: devices.{name}.offset)"
                raise Refused((*loc, "autofocus_motor_offset"), told, offset, [low, high])


def _check_times(plan: Any, loc: Loc) -> None:
    phases = list(plan.phases) if isinstance(plan, useq.MultiPhaseTimePlan) else [plan]
    for index, phase in enumerate(phases):
        here = (*loc, "phases", index) if isinstance(plan, useq.MultiPhaseTimePlan) else loc
        if isinstance(phase, useq.TIntervalDuration) and not phase.interval:
            raise Refused((*here, "interval"), "an interval of 0 never fills a duration: say loops", 0.0, "above 0")
        if isinstance(phase, useq.TDurationLoops) and phase.loops < 2:
            raise Refused((*here, "loops"), "a duration needs at least 2 loops", phase.loops, 2)
    lasts_s = sum(phase.duration.total_seconds() for phase in phases)
    if lasts_s > LONGEST_S:
        raise Refused(loc, f"{lasts_s:g} s are more than {LONGEST_S:g} s", lasts_s, LONGEST_S)


def _check_z(plan: Any, loc: Loc) -> None:
    step = getattr(plan, "step", None)
    if step is not None and step < 0:
        raise Refused((*loc, "step"), "a step is at least 0; go_up says in which direction", step, 0)
    number = plan.num_positions()
    if not 1 <= number <= MOST_PLACES:
        field = "range" if hasattr(plan, "range") else "step" if step is not None else None
        told = f"{number} slices, not 1 to {MOST_PLACES}"
        raise Refused((*loc, *([field] if field else [])), told, getattr(plan, field) if field else number, MOST_PLACES)


def _check_points(plan: Any, loc: Loc) -> None:
    """How many points, without making them; and nothing in them that is ignored, or other each time.

    Raises
    ------
    Refused
        Where there would be too many, or not the same ones again.
    """
    if isinstance(plan, useq.RelativePosition):
        if plan.sequence is not None:
            raise Refused((*loc, "sequence"), "useq ignores a sequence here: give it to a position", "sequence")
        return
    if isinstance(plan, useq.RandomPoints):
        if plan.random_seed is None:
            raise Refused((*loc, "random_seed"), "say a seed: what was checked must be what is taken", None)
        if plan.order is useq.TraversalOrder.RANDOM:
            raise Refused((*loc, "order"), "this order is another each time", "random")
        most = MOST_POINTS if plan.order is None else MOST_ORDERED_POINTS
        if plan.num_points > most:
            raise Refused((*loc, "num_points"), f"{plan.num_points} is more than {most}", plan.num_points, most)
        return
    for overlap in plan.overlap:
        if not -1000 <= overlap <= 95:
            raise Refused((*loc, "overlap"), f"{overlap:g} % is outside [-1000, 95] %", _told(overlap), [-1000, 95])
    for name in ("fov_width", "fov_height"):
        size = getattr(plan, name)
        if size is not None and size <= 0:
            raise Refused((*loc, name), "must be above 0 um", size, 0)
        if size is None and not isinstance(plan, useq.GridRowsColumns):
            raise Refused((*loc, name), "say how large a frame is [um]: how many there are depends on it", None)
    width, height = plan.fov_width or 1.0, plan.fov_height or 1.0
    step_x, step_y = (size * (1 - part / 100) for size, part in zip((width, height), plan.overlap, strict=True))
    match plan:
        case useq.GridRowsColumns():
            rows, columns = plan.rows, plan.columns
        case useq.GridWidthHeight():
            rows, columns = math.ceil(plan.height / step_y), math.ceil(plan.width / step_x)
        case useq.GridFromEdges():
            rows = math.ceil(abs(plan.top - plan.bottom) / step_y) + 1
            columns = math.ceil(abs(plan.right - plan.left) / step_x) + 1
        case useq.GridFromPolygon():
            left, low, right, high = plan.poly.bounds
            rows, columns = math.ceil((high - low) / step_y) + 1, math.ceil((right - left) / step_x) + 1
    looked_at = max(rows, columns) ** 2 if plan.mode is useq.OrderMode.spiral else rows * columns
    if looked_at > MOST_POINTS:
        spiral = " (a spiral goes through the square around it)" if looked_at != rows * columns else ""
        told = f"{rows} rows × {columns} columns are more than {MOST_POINTS} points{spiral}"
        raise Refused(loc, told, looked_at, MOST_POINTS)


def _check_places(raw: dict[str, Any], sequence: useq.MDASequence, scope: Scope) -> None:
    """Every place inside its limits. Time changes none of them, so one time point is gone through."""
    x, y, z = scope.sample_axes()
    axes, one_event = scope.axes(), False
    for event in events(timeless(raw), (0.0, 0.0)):
        one_event = True
        for name, axis, target in (("x", x, event.x_pos), ("y", y, event.y_pos), ("z", z, event.z_pos)):
            if target is None:
                continue
            if axis is None:
                raise Refused(_whence(sequence, event, name), f"this microscope has no {name}", target)
            low, high = axes[axis].limits
            if not low <= target <= high:
                told = f"{axis} would go to {target:g} um, outside [{low:g}, {high:g}] (scope.yml: {axes[axis].source})"
                raise Refused(_whence(sequence, event, name), told, target, [low, high])
    if not one_event:
        raise Refused(
            (), "it has no event: say at least one of channels, z_plan, stage_positions, grid_plan, time_plan"
        )


def _whence(sequence: useq.MDASequence, event: useq.MDAEvent, axis: str) -> Loc:
    """What in the sequence sends an axis there."""
    plan = "z_plan" if axis == "z" else "grid_plan"
    place = event.index.get("p")
    if place is not None and isinstance(sequence.stage_positions, tuple):
        inner = sequence.stage_positions[place].sequence
        if inner is not None and getattr(inner, plan):
            return ("stage_positions", place, "sequence", plan)
    if getattr(sequence, plan):
        return (plan,)
    return ("stage_positions",) if place is None else ("stage_positions", place, axis)
