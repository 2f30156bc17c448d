"""What a sweep for the focus may be: parameters that `focus_sweep` and ``focus: sweep`` share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, create_model, model_validator

from ..config import Axis, Scope
from ..hardware import FocusMetric
from ._parameters import Parameters, choice, number
from ._steps import stack_slices

METRICS = get_args(FocusMetric)
MOST_POSITIONS = 1000
SERIES = "focus"
"""Names the dataset of a sweep before other frames."""


def focusing_stages(scope: Scope) -> dict[str, Axis]:
    return {name: scope.axes()[name] for name, stage in scope.of_kind("stage").items() if stage.units == "um"}


def fit_fields(min_r2: float = 0.8) -> dict[str, Any]:
    return {
        "metric": (choice(METRICS, "how sharpness is measured"), "tenengrad"),
        "min_r2": (number(0, 1, "no unit", "a fit with a smaller R² is refused"), min_r2),
    }


def sweep_fields(scope: Scope) -> dict[str, Any]:
    stages = focusing_stages(scope)
    _, _, z = scope.sample_axes()
    axis = z if z in stages else next(iter(stages))
    widest = max(one.limits[1] - one.limits[0] for one in stages.values())
    range_um = min(20.0, stages[axis].limits[1] - stages[axis].limits[0])
    return {
        "range_um": (number(0, widest, "um", "first to last position"), range_um),
        "step_um": (number(0.01, max(widest, 0.01), "um", "distance of two positions"), range_um / 20),
        "axis": (choice(list(stages), "the stage that focuses"), axis),
        **fit_fields(),
    }


def check_range(parameters: Any, stages: dict[str, Axis], centre_um: float | None = None) -> None:
    """
    Raises
    ------
    ValueError
        For too few positions or too many, or where they leave the limits of the stage, as far as that can be known.
    """
    range_um, step_um = parameters.range_um, parameters.step_um
    axis = stages[parameters.axis]
    check_positions(range_um, step_um, "range_um")
    low, high = axis.limits
    half = (stack_slices(range_um, step_um) - 1) * step_um / 2
    if (2 * half > high - low) if centre_um is None else (centre_um - half < low or centre_um + half > high):
        where = f"{range_um} um" if centre_um is None else f"[{centre_um - half}, {centre_um + half}] um"
        raise ValueError(f"range_um: {axis.name} over {where} leaves [{low}, {high}] (scope.yml: {axis.source})")


def check_positions(range_um: float, step_um: float, name: str) -> None:
    """`ValueError` for a number of positions that no peak can be fitted to, or that nobody means."""
    positions = stack_slices(range_um, step_um)
    if not 5 <= positions <= MOST_POSITIONS:
        raise ValueError(
            f"{name}: {range_um:g} um in steps of {step_um:g} um are {positions} positions, 5 to {MOST_POSITIONS} are possible"
        )


def sweep_model(scope: Scope) -> type[Parameters]:
    """Of the common parameter ``sweep``."""
    stages = focusing_stages(scope)

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            check_range(self, stages)
            return self

    return create_model("sweep", __base__=Checked, **sweep_fields(scope))


def sweep_field(scope: Scope) -> Any:
    """``sweep``, which belongs to ``focus: sweep`` (a field before it)."""

    def belongs(value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("focus") != "sweep":
            raise ValueError("belongs to focus: sweep: say that too, or leave it out")
        return value

    doc = "of focus sweep, around where the stage is: {range_um?, step_um?, axis?, metric?, min_r2?}; null: as focus_sweep"
    return Annotated[sweep_model(scope) | None, Field(description=doc), AfterValidator(belongs)]


def sweep_slices(sweep: Any) -> int:
    return stack_slices(sweep.range_um, sweep.step_um)


def sweep_of(parameters: Any, scope: Scope) -> Any:
    """The sweep that parameters ask for; None where they ask for none."""
    if getattr(parameters, "focus", "none") != "sweep":
        return None
    return parameters.sweep or SimpleNamespace(**{name: default for name, (_, default) in sweep_fields(scope).items()})
