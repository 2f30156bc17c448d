"""Parameters of plan templates: strict, finite, bounded by this microscope's scope file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
)

from ..config import Scope
from ._positions import Positions

MAX_FRAMES = 100_000
"""Most frames of one camera in one run."""


class Parameters(BaseModel):
    """Base of every template's model: unknown names, NaN, ±inf, text or True for a number are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Problem:
    """One refused parameter, as in the REST contract's ``errors``."""

    loc: str
    msg: str
    value: Any
    limit: Any = None

    def __str__(self) -> str:
        limit = "" if self.limit is None else f", limit {self.limit}"
        return f"{self.loc}: {self.msg} (value {self.value!r}{limit})"


class ParameterError(ValueError):
    """Parameters that a template refuses; ``problems`` has one entry for each."""

    def __init__(self, plan: str, problems: list[Problem]) -> None:
        self.plan = plan
        self.problems = problems
        super().__init__(f"plan {plan!r} refused: " + "; ".join(str(problem) for problem in problems))


def check_parameters(
    plan: str, model: type[Parameters], kwargs: Mapping[str, Any], positions: Positions | None = None
) -> Parameters:
    """Validate keyword arguments of a plan; ``positions`` has the names of places.

    Raises
    ------
    ParameterError
        With field, value and limit of everything that is wrong.
    """
    try:
        return model.model_validate(dict(kwargs), context={"positions": positions})
    except ValidationError as error:
        raise ParameterError(plan, [_problem(e) for e in error.errors(include_url=False)]) from None


_LIMITS = ("ge", "gt", "le", "lt", "expected", "max_length", "min_length")


def _problem(error: Any) -> Problem:
    context = error.get("ctx") or {}
    limit = next((context[key] for key in _LIMITS if key in context), None)
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    if isinstance(value, float) and not math.isfinite(value):
        value = str(value)
    loc = ".".join(str(part) for part in error["loc"])
    if not error["loc"]:  # a check over several parameters: its text begins with the name of the one to change
        loc, _, message = message.partition(": ")
        value = value.get(loc) if isinstance(value, dict) else value
    return Problem(loc, message, value, limit)


def number(low: float | None, high: float | None, units: str, doc: str, **more: Any) -> Any:
    """A finite float between ``low`` and ``high``."""
    return Annotated[FiniteFloat, Field(ge=low, le=high, description=f"{doc} [{units}]", **more)]


def count(low: int, high: int, doc: str) -> Any:
    return Annotated[int, Field(ge=low, le=high, description=doc)]


def choice(options: list[str] | tuple[str, ...], doc: str) -> Any:
    """One of these names; with no names to choose from, nothing fits."""
    if not options:
        options = ("(none in scope.yml)",)
    return Annotated[Literal[tuple(options)], Field(description=doc)]


def described(annotation: Any, doc: str) -> Any:
    return Annotated[annotation, Field(description=doc)]


Made = TypeVar("Made")


def once_a_scope(make: Callable[..., Made]) -> Callable[..., Made]:
    """Remember what was made of the last scope: most templates of a microscope have the same parts."""
    last: tuple[Scope | None, dict[Any, Made]] = None, {}

    @wraps(make)
    def made(scope: Scope, *given: Any, **named: Any) -> Made:
        nonlocal last
        if last[0] is not scope:
            last = scope, {}
        key = given, tuple(sorted(named.items()))
        if key not in last[1]:
            last[1][key] = make(scope, *given, **named)
        return last[1][key]

    return made


@once_a_scope
def channel_field(scope: Scope, most: int) -> Any:
    """``channels``: ``{name, exposure_ms?, power_pct?}``, each bounded by its own light and cameras, none twice."""
    exposures = [camera.exposure_ms for camera in scope.of_kind("camera").values()] or [(0.0, 0.0)]
    shortest, longest = max(low for low, _ in exposures), min(high for _, high in exposures)
    entries = []
    for name, channel in scope.channels.items():
        low, high = scope.lights[channel.light].limits_pct
        entries.append(
            create_model(
                f"channel_{name}",
                __base__=Parameters,
                name=(Literal[name], ...),
                exposure_ms=(number(shortest, longest, "ms", "exposure time") | None, None),
                power_pct=(number(low, high, "%", f"power of {channel.light}") | None, None),
            )
        )
    if not entries:
        entry: Any = create_model("channel", __base__=Parameters, name=(choice([], "channel"), ...))
    elif len(entries) == 1:
        entry = entries[0]
    else:
        union: Any = entries[0]
        for other in entries[1:]:
            union = union | other
        entry = Annotated[union, Field(discriminator="name")]
    most = min(most, max(len(entries), 1))
    doc = "the channels, one after the other" if most > 1 else "the channel, at most one"
    doc += ": [{name, exposure_ms?, power_pct?}]; none: no light"
    listed = Annotated[list[entry], Field(max_length=most, description=doc), AfterValidator(_no_channel_twice)]
    return listed | None


def _no_channel_twice(channels: list[Any]) -> list[Any]:
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise ValueError(f"{names} names a channel twice")
    return channels


def position_field(scope: Scope) -> Any:
    """``position``: a named position, ``{x_um, y_um, z_um?}``, or null to stay."""
    return place_field(scope, "a named position, {x_um, y_um, z_um?}, or null to stay") | None


@once_a_scope
def place_field(scope: Scope, doc: str) -> Any:
    """A place: by its name (in scope.yml, or marked by a person since: `Positions`), or ``{x_um, y_um, z_um?}``."""
    x, y, z = scope.sample_axes()
    fields: dict[str, Any] = {}
    axes = scope.axes()
    if x and y:
        fields["x_um"] = (number(*axes[x].limits, "um", "x of the sample"), ...)
        fields["y_um"] = (number(*axes[y].limits, "um", "y of the sample"), ...)
    if z:
        fields["z_um"] = (number(*axes[z].limits, "um", "z of the sample") | None, None)
    place = create_model("position", __base__=Parameters, **fields)

    def by_name(value: Any, check_place: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return check_place(value)
        positions: Positions | None = (info.context or {}).get("positions")
        known = sorted(scope.positions) if positions is None else positions.names()
        if value not in known:
            raise ValueError(
                f"there is no position {value!r}, there are {known}: a person marks one (mark_position), or scope.yml names it"
            )
        return value

    schema = {"anyOf": [{"type": "string"}, place.model_json_schema()], "description": doc}
    return Annotated[place, WrapValidator(by_name), WithJsonSchema(schema)]
