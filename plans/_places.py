"""`multi_position`: the same at several places of the sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from bluesky import plan_stubs as bps
from pydantic import AfterValidator, Field, create_model, model_validator

from ..config import Scope
from ..devices import Geometry
from ._acquisition import Acquisition, go_to, one_run
from ._costs import RUN_S, move_s
from ._doing import Do, do_field
from ._ending import ending
from ._movement import nearest
from ._parameters import Parameters, number, place_field
from ._reading import value
from ._template import Estimate, PlanBody, PlanContext, Template

MOST_PLACES = 200
LONGEST_NAME = 64
"""Of a dataset (`queuescope.hardware.DatasetPlan`)."""


def place_name(place: Any, index: int) -> str:
    """Ends the name of what is taken there: the position's own, or ``p1``, ``p2`` …"""
    return place if isinstance(place, str) else f"p{index + 1}"


class Visits(Acquisition):
    """One round at each place, in their order; each place has datasets and a stream of its own."""

    def __init__(
        self,
        parameters: Any,
        context: PlanContext,
        do: Do,
        rounds: int = 1,
        place: str = "",
        position: str | None = None,
    ) -> None:
        super().__init__(parameters, context, rounds, place, position)
        self._places: list[tuple[str, Any, Acquisition]] = [
            (name, where, do.acquire(what, context, rounds=rounds, place=name, position=name))
            for name, where, what in self.stops()
        ]
        taken = [acquisition for _, _, acquisition in self._places]
        self.devices = [device for acquisition in taken for device in acquisition.devices]
        self.cameras, self._z_um = taken[0].cameras, dict[int, float]()
        x, y, z = context.scope.sample_axes()
        axes = [axis for axis in (x, y, z) if axis]
        self.metadata = {
            **taken[0].metadata,
            "motors": list(dict.fromkeys([*axes, *taken[0].metadata["motors"]])),
            "positions": {name: _where(context, where) for name, where, _ in self._places},
        }

    def stops(self) -> list[tuple[str, Any, Any]]:
        """Name, position and ``do`` of each place."""
        positions, do = self.parameters.positions, self.parameters.do
        return [(place_name(where, index), where, do) for index, where in enumerate(positions)]

    def geometry(self) -> Geometry:
        return self._places[0][2].geometry()

    @property
    def frames(self) -> dict[str, int]:
        return {name: count for _, _, one in self._places for name, count in one.frames.items()}

    def result(self) -> dict[str, Any]:
        return self.result_of({name: one for name, _, one in self._places})

    def result_of(self, places: Mapping[str, Acquisition]) -> dict[str, Any]:
        """The frames, and by place what became of its focus."""
        each = {name: one.result() for name, one in places.items()}
        found: dict[str, Any] = {"datasets": self.frames}
        for key in ("focus_um", "without_focus"):
            if told := {name: result[key] for name, result in each.items() if key in result}:
                found[key] = told
        return found

    def once(self) -> PlanBody:
        taken = False
        for _, where, acquisition in self._places:
            yield from bps.checkpoint()
            yield from self._go(where)
            taken = (yield from acquisition.once()) or taken
        return taken

    def end(self) -> PlanBody:
        ends: PlanBody = bps.null()
        for _, _, acquisition in self._places:
            ends = ending(ends, acquisition.end)
        yield from ends

    def _go(self, where: Any) -> PlanBody:
        """Over ``safe_z_um``, if there is one, and then down: to the place's z, or to where z was in the beginning."""
        place = self.context.positions[where] if isinstance(where, str) else where
        _, _, z = self.context.scope.sample_axes()
        if z is None or self.parameters.safe_z_um is None:  # no z: the model has no such parameter
            yield from go_to(self.context, where)
            return
        stage = self.context.devices[z]
        if not self._z_um:
            self._z_um[0] = yield from value(stage)
        yield from bps.mv(stage, self.parameters.safe_z_um)
        yield from go_to(self.context, place.model_copy(update={"z_um": None}))
        yield from bps.mv(stage, self._z_um[0] if place.z_um is None else place.z_um)


def _where(context: PlanContext, where: Any) -> dict[str, float | None]:
    place = context.positions[where] if isinstance(where, str) else where
    found: dict[str, float | None] = place.model_dump()
    return found


def _no_name_twice(places: list[Any]) -> list[Any]:
    names = [place_name(place, index) for index, place in enumerate(places)]
    if len(set(names)) < len(names):
        raise ValueError(f"{sorted(names)} names a place twice")
    return places


def places_field(scope: Scope) -> Any:
    """``positions``: one or more places, none by the same name."""
    place: Any = place_field(scope, "a named position, or {x_um, y_um, z_um?}")
    doc = "the places, in order: names or {x_um, y_um, z_um?}"
    return Annotated[
        list[place], Field(min_length=1, max_length=MOST_PLACES, description=doc), AfterValidator(_no_name_twice)
    ]


def safe_z_fields(scope: Scope) -> dict[str, Any]:
    """``safe_z_um``, where there is a z."""
    _, _, z = scope.sample_axes()
    if z is None:
        return {}
    doc = "z goes there before each move in x and y; null: it stays"
    return {"safe_z_um": (number(*scope.axes()[z].limits, "um", doc) | None, None)}


def check_places(what: Any, positions: list[Any], datasets: Iterable[str], plan: str, more: str = "") -> None:
    """Refuse a template that says itself where it is, and places whose datasets would have too long a name.

    Parameters
    ----------
    what
        The ``do``.
    more
        Ends the name of some datasets.

    Raises
    ------
    ValueError
        Beginning with the parameter's name.
    """
    if what.kwargs.position is not None:
        raise ValueError(f"do: leave out kwargs.position: {plan} goes to its own positions")
    places = [place_name(place, index) for index, place in enumerate(positions)]
    longest = max((f"{dataset}_{place}{more}" for dataset in datasets for place in places), key=len)
    if len(longest) > LONGEST_NAME:
        raise ValueError(
            f"positions: dataset {longest!r} would have {len(longest)} characters, more than {LONGEST_NAME}"
            " (camera, channel and place): give the place's coordinates instead of its name"
        )


def example_place(scope: Scope) -> dict[str, float]:
    """A place that any sample stage reaches."""
    x, y, _ = scope.sample_axes()
    assert x is not None
    assert y is not None
    return {"x_um": nearest(0.0, scope.axes()[x].limits), "y_um": nearest(0.0, scope.axes()[y].limits)}


def visit_s(scope: Scope, parameters: Any) -> float:
    """What going to a place counts in an estimate, over ``safe_z_um`` where it is given."""
    x, _, z = scope.sample_axes()
    over = getattr(parameters, "safe_z_um", None) is not None
    return move_s(scope, x, *((z, z) if over else ()))


def of_places(once_s: float, places: int) -> float:
    """What one run at so many places costs once: each has its files."""
    return RUN_S + places * (once_s - RUN_S)


def multi_position(scope: Scope, made: Mapping[str, Template]) -> Template | None:
    """``made``: what may be done at each place, among others."""
    x, y, _ = scope.sample_axes()
    do = do_field(made)
    if do is None or x is None or y is None:
        return None
    estimate_of = do.estimate

    class Checked(Parameters):
        @model_validator(mode="after")
        def _says_places_once(self) -> Self:
            what, positions = getattr(self, "do", None), getattr(self, "positions", [])
            if what is not None and positions:
                check_places(what, positions, estimate_of(what, scope).frames, "multi_position")
            return self

    model = create_model(
        "multi_position",
        __base__=Checked,
        positions=(places_field(scope), ...),
        do=(do.annotation, ...),
        **safe_z_fields(scope),
    )

    def acquire(parameters: Any, context: PlanContext, **more: Any) -> Acquisition:
        return Visits(parameters, context, do, **more)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Do the same at each place, one after the other.

        Moves the sample to each place (over safe_z_um where it is given), and what it does; stays at the last one. Lights what it
        does. Each place has datasets and a stream of its own, and a dose of its own: called by its name, or p1, p2 … in the order
        of positions. Returns the run UID and the frames written.
        """
        return (yield from one_run(acquire(parameters, context), do=parameters.do.plan))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        one, places = do.estimate(parameters.do, scope), len(parameters.positions)
        once_s = of_places(one.once_s, places)
        names = [place_name(place, index) for index, place in enumerate(parameters.positions)]
        return Estimate(
            seconds=once_s + places * (one.round_s + visit_s(scope, parameters)),
            frames={f"{dataset}_{name}": count for name in names for dataset, count in one.frames.items()},
            dose={light: dose * places for light, dose in one.dose.items()},
            once_s=once_s,
        )

    example = {"positions": [example_place(scope)], "do": do.example()}
    return Template("multi_position", model, body, estimate, acquire=acquire, example=example)
