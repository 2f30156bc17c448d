"""A useq `MDASequence` as JSON: read by useq's own model, and the events that useq makes of it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import useq
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from useq import _iter_sequence

from ..config import Scope

LONGEST_S = 31 * 86_400.0
USEQ_GROUP = "Channel"
"""What useq calls a channel's group where nothing is said."""
Loc = tuple[int | str, ...]


class Refused(Exception):
    """Something inside the sequence."""

    def __init__(self, loc: Loc, message: str, value: Any = None, limit: Any = None) -> None:
        self.loc, self.message, self.value, self.limit = loc, message, value, limit
        super().__init__(message)


def as_validation_error(refused: Refused) -> ValidationError:
    """pydantic puts the location where it was raised (``sequence``) before ours."""
    kind = PydanticCustomError("sequence", "{reason}", {"reason": refused.message, "expected": refused.limit})
    return ValidationError.from_exception_data(
        "sequence", [InitErrorDetails(type=kind, loc=refused.loc, input=refused.value)]
    )


def parse(raw: Mapping[str, Any]) -> useq.MDASequence:
    """By useq's own model. Each iteration needs a new one: an autofocus plan remembers the event before.

    Raises
    ------
    Refused
        What useq refuses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what useq leaves out, it leaves out for everybody
        try:
            return useq.MDASequence.model_validate(copy.deepcopy(dict(raw)))
        except ValidationError as error:
            raise of_useq(error, raw) from None
        except (TypeError, ArithmeticError, AttributeError, IndexError, KeyError) as error:
            raise Refused((), f"useq can't read it: {error}") from None


def events(raw: Mapping[str, Any], field_um: tuple[float, float] | None = None) -> Iterator[useq.MDAEvent]:
    """In the order that useq gives them. ``field_um``: width and height of a frame, for grids that don't say it."""
    given = with_field(raw, field_um) if field_um is not None else raw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from parse(given)
        finally:  # useq keeps every sequence that it ever went through
            for cached in (_iter_sequence._iter_axis, _iter_sequence._sizes, _iter_sequence._used_axes):
                cached.cache_clear()


def with_field(raw: Any, field_um: tuple[float, float]) -> Any:
    """The same with the size of a frame in every grid of rows and columns that doesn't say it."""
    if isinstance(raw, list | tuple):
        return [with_field(item, field_um) for item in raw]
    if not isinstance(raw, dict):
        return raw
    found = {key: item if key == "metadata" else with_field(item, field_um) for key, item in raw.items()}
    for key in ("grid_plan", "well_points_plan"):
        grid = found.get(key)
        if isinstance(grid, dict) and "rows" in grid:
            for name, size in zip(("fov_width", "fov_height"), field_um, strict=True):
                if grid.get(name) is None:
                    grid[name] = size or 1e-9  # a dry run knows no size: all lie in the middle
    return found


def of_useq(error: ValidationError, raw: Any, above: Loc = ()) -> Refused:
    """The first that useq complains of, where it stands in the JSON (useq's own locations name its classes as well)."""
    found: list[tuple[Loc, Mapping[str, Any]]] = []
    for one in error.errors(include_url=False):
        here, loc = raw, list[int | str]()
        for part in one["loc"]:
            listed = isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
            if listed or (isinstance(here, dict) and part in here):
                here = here[part]
                loc.append(part)
        found.append((tuple(loc), one))
    loc_, first = max(found, key=lambda pair: (len(pair[0]), pair[1]["type"] != "missing"))
    here = raw
    for part in loc_:
        here = here[part]
    endless = loc_[-1:] == ("time_plan",) and isinstance(here, dict) and here.get("loops", here.get("duration")) is None
    if endless or (loc_[-1:] == ("duration",) and here is None):
        return Refused((*above, *loc_), "a time plan must end: say loops or duration", None, LONGEST_S)
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        message = f"{first['loc'][-1]} is missing, or it is none of useq's kinds"
    value = here if isinstance(here, str | int | float | None) else type(here).__name__
    limits = first.get("ctx") or {}
    limit = next((limits[key] for key in ("ge", "gt", "le", "lt", "min_length", "expected") if key in limits), None)
    return Refused((*above, *loc_), message, value, limit)


def resolve_channel(scope: Scope, config: str, group: str) -> str | None:
    """The scope's channel: by its name, or as Micro-Manager's preset of the group; None where there is none."""
    if config in scope.channels:
        preset = scope.channels[config].preset
        return config if group == USEQ_GROUP or (preset is not None and group == preset[0]) else None
    found = [
        name for name, channel in scope.channels.items() if channel.preset and [*channel.preset] == [group, config]
    ]
    return found[0] if len(found) == 1 else None


def timeless(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same with one time point, wherever it has time points."""
    found = dict(raw)
    if found.get("time_plan"):
        found["time_plan"] = {"interval": 0, "loops": 1}
    if isinstance(raw.get("stage_positions"), list | tuple):
        found["stage_positions"] = [
            {**place, "sequence": timeless(place["sequence"])}
            if isinstance(place, dict) and isinstance(place.get("sequence"), dict)
            else place
            for place in raw["stage_positions"]
        ]
    return found
