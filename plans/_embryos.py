"""`multi_embryo_round`: the same of several embryos, each with a calibration and a power of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError, create_model, model_validator

from ..config import NAME, Scope
from ._acquisition import Acquisition, one_run
from ._channels import channels_of, with_power
from ._costs import RUN_S
from ._doing import do_field
from ._parameters import Parameters, number, place_field
from ._places import LONGEST_NAME, MOST_PLACES, Visits, example_place, safe_z_fields, visit_s
from ._template import Estimate, PlanBody, PlanContext, Template


class EmbryoRound(Visits):
    """One round over the embryos, in their order."""

    def __init__(self, parameters: Any, *args: Any, **more: Any) -> None:
        super().__init__(parameters, *args, **more)
        self.metadata["embryos"] = {embryo.id: embryo.model_dump() for embryo in parameters.embryos}

    def stops(self) -> list[tuple[str, Any, Any]]:
        parameters = self.parameters
        return [(embryo.id, embryo.position, done_of(parameters.do, embryo)) for embryo in parameters.embryos]


def done_of(do: Any, embryo: Any) -> Any:
    """``do`` with the embryo's calibration and power, checked by its own model again.

    Raises
    ------
    ValueError
        Beginning with the parameter's name.
    """
    kwargs, changes = do.kwargs, {}
    if embryo.calibration is not None:
        if "calibration" not in type(kwargs).model_fields:
            raise ValueError(f"embryos: {embryo.id}: {do.plan} takes no calibration: leave it out")
        stored = embryo.calibration == "stored"
        changes["calibration"] = embryo.calibration if stored else embryo.calibration.model_dump()
    if embryo.power_pct is not None:
        channels = [channel.name for channel in channels_of(kwargs) if channel is not None]
        if not channels:
            raise ValueError(f"embryos: {embryo.id}: power_pct belongs to a channel: name channels in do.kwargs")
        kwargs = with_power(kwargs, dict.fromkeys(channels, embryo.power_pct))
    try:
        checked = type(kwargs).model_validate({**kwargs.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"embryos: {embryo.id}: {where + ': ' if where else ''}{words} ({first['input']!r})") from None
    return do.model_copy(update={"kwargs": checked})


def _no_embryo_twice(embryos: list[Any]) -> list[Any]:
    names = [embryo.id for embryo in embryos]
    if len(set(names)) < len(names):
        raise ValueError(f"{sorted(names)} names an embryo twice")
    return embryos


def multi_embryo_round(scope: Scope, made: Mapping[str, Template]) -> Template | None:
    """``made``: what may be done with each embryo, among others."""
    x, y, _ = scope.sample_axes()
    do = do_field({name: template for name, template in made.items() if "do" not in template.model.model_fields})
    if do is None or x is None or y is None:
        return None
    estimate_of = do.estimate

    class EmbryoCalibration(Parameters):
        slope_um_per_deg: FiniteFloat
        offset_um: FiniteFloat = 0.0

    class Checked(Parameters):
        @model_validator(mode="after")
        def _each_can_be_done(self) -> Self:
            what: Any = getattr(self, "do", None)
            if what.kwargs.position is not None:
                raise ValueError("do: leave out kwargs.position: each embryo has its own")
            for embryo in getattr(self, "embryos", []):
                for dataset in estimate_of(done_of(what, embryo), scope).frames:
                    if len(name := f"{dataset}_{embryo.id}") > LONGEST_NAME:
                        raise ValueError(
                            f"embryos: dataset {name!r} would have {len(name)} characters, more than {LONGEST_NAME}: shorter ids"
                        )
            return self

    limits = [light.limits_pct for light in scope.lights.values()]
    lowest, highest = min((low for low, _ in limits), default=0.0), max((high for _, high in limits), default=0.0)
    calibration_doc = "of acquire_volume: stored, or {slope_um_per_deg, offset_um?}; null: as do says"
    embryo: Any = create_model(
        "embryo",
        __base__=Parameters,
        id=(Annotated[str, Field(pattern=NAME, description="names its datasets and its dose")], ...),
        position=(place_field(scope, "a named position, or {x_um, y_um, z_um?}"), ...),
        calibration=(
            Annotated[Literal["stored"] | EmbryoCalibration | None, Field(description=calibration_doc)],
            None,
        ),
        power_pct=(
            number(lowest, highest, "%", "of every channel, within its light's limits; null: as do says") | None,
            None,
        ),
        role=(Annotated[str, Field(max_length=64, description="what it is for, such as control")] | None, None),
    )
    model = create_model(
        "multi_embryo_round",
        __base__=Checked,
        embryos=(
            Annotated[
                list[embryo],
                Field(
                    min_length=1,
                    max_length=MOST_PLACES,
                    description="in order: [{id, position, calibration?, power_pct?, role?}]",
                ),
                AfterValidator(_no_embryo_twice),
            ],
            ...,
        ),
        do=(do.annotation, ...),
        **safe_z_fields(scope),
    )

    def acquire(parameters: Any, context: PlanContext, **more: Any) -> Acquisition:
        return EmbryoRound(parameters, context, do, **more)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Do the same with each embryo, one after the other, with its own calibration and power.

        Moves the sample to each embryo (over safe_z_um where it is given), and what it does; stays at the last one. Lights what
        it does, at the embryo's power. Each embryo has datasets and a stream of its own, and a dose of its own, called by its id;
        the start document has their positions, calibrations, powers and roles. Returns the run UID and the frames written.
        """
        return (yield from one_run(acquire(parameters, context), do=parameters.do.plan))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        seconds, once_s, frames, dose = 0.0, RUN_S, dict[str, int](), dict[str, float]()
        for one in parameters.embryos:
            found = do.estimate(done_of(parameters.do, one), scope)
            seconds += found.round_s + visit_s(scope, parameters)
            once_s += found.once_s - RUN_S
            frames |= {f"{dataset}_{one.id}": count for dataset, count in found.frames.items()}
            for light, value in found.dose.items():
                dose[light] = dose.get(light, 0.0) + value
        return Estimate(once_s + seconds, frames, dose, once_s)

    example = {"embryos": [{"id": "e1", "position": example_place(scope)}], "do": do.example()}
    return Template("multi_embryo_round", model, body, estimate, acquire=acquire, example=example)
