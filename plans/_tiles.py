"""`tile_scan` and `overview`: one frame at each of many places, in one dataset."""

from __future__ import annotations

from typing import Annotated, Any, Self

from bluesky import Msg
from bluesky import plan_stubs as bps
from pydantic import Field, create_model, model_validator

from ..config import Scope
from ._acquisition import one_run
from ._channels import cameras_of
from ._costs import AT_POINTS, move_s
from ._ending import ending
from ._imaging import camera_choices, common_fields, example_channel, imaging_estimate, sweep_estimate
from ._parameters import Parameters, choice, count, number, place_field
from ._reading import answer, value
from ._stepped import Stepped
from ._template import Estimate, PlanBody, PlanContext, Template

MOST_TILES = 2_500
MOST_PLACES = 500


def grid(
    centre: tuple[float, float], rows: int, columns: int, step_um: tuple[float, float]
) -> list[tuple[float, float]]:
    """(x, y) of every tile around a centre: row by row from the lowest y, every other row backwards."""
    found = []
    for row in range(rows):
        for column in range(columns) if row % 2 == 0 else reversed(range(columns)):
            x = centre[0] + (column - (columns - 1) / 2) * step_um[0]
            found.append((x, centre[1] + (row - (rows - 1) / 2) * step_um[1]))
    return found


class Tiles(Stepped):
    """A frame at each place; the stage goes back to where it was before the first."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        x, _, z = self.context.scope.sample_axes()
        assert x is not None
        self._stage = self.context.devices[x.partition(".")[0]]
        self._z = None if z is None else self.context.devices[z]
        self.metadata = {"motors": [self._stage.name]}

    def places(self, here: tuple[float, float]) -> PlanBody:
        """(x, y, z or None) of each place, with the stage ``here``."""
        raise NotImplementedError

    def points(self) -> PlanBody:
        here = ((yield from value(self._stage.x)), (yield from value(self._stage.y)))
        places = yield from self.places(here)
        deep = self._z is not None and any(z is not None for _, _, z in places)
        z_um = (yield from value(self._z)) if deep else None
        points = []
        for x, y, z in places:
            self._stage.check_value((x, y))
            points.append({self._stage: (x, y)} | ({self._z: z_um if z is None else z} if deep else {}))
        return points

    def _take(self) -> PlanBody:
        stages = [self._stage.x, self._stage.y, *([self._z] if self._z is not None else [])]
        before = []
        for stage in stages:
            before.append((yield from value(stage)))

        def back() -> PlanBody:
            yield from bps.mv(self._stage, tuple(before[:2]))
            if self._z is not None and self._moves_z():
                yield from bps.mv(self._z, before[2])

        yield from ending(super()._take(), back)

    def _moves_z(self) -> bool:
        return False


class TileScan(Tiles):
    def places(self, here: tuple[float, float]) -> PlanBody:
        parameters = self.parameters
        geometry = self.context.devices[self.cameras[0]].geometry
        width, height = (yield from answer(Msg("locate", geometry)))["readback"].field_um
        part = 1 - parameters.overlap_pct / 100
        step_um = (width * part, height * part)
        return [(x, y, None) for x, y in grid(here, parameters.rows, parameters.columns, step_um)]


class Overview(Tiles):
    def places(self, here: tuple[float, float]) -> PlanBody:
        yield from ()
        parameters = self.parameters
        if parameters.grid is not None:
            asked = parameters.grid
            step_um = (asked.step_x_um, asked.step_y_um)
            return [(x, y, None) for x, y in grid(here, asked.rows, asked.columns, step_um)]
        positions = [self.context.positions[p] if isinstance(p, str) else p for p in parameters.positions]
        return [(place.x_um, place.y_um, getattr(place, "z_um", None)) for place in positions]

    def _moves_z(self) -> bool:
        return self.parameters.grid is None


def _tiles_estimate(parameters: Any, scope: Scope, tiles: int) -> Estimate:
    cameras = cameras_of(scope, parameters.camera)
    moves = Estimate(seconds=(tiles + 1) * move_s(scope, scope.sample_axes()[0]))
    return (
        imaging_estimate(parameters, scope, cameras, tiles, tiles, AT_POINTS)
        + moves
        + sweep_estimate(parameters, scope, cameras[0])
    )


def tile_scan(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
    x, y, _ = scope.sample_axes()
    if not cameras or x is None or y is None:
        return None

    class Checked(Parameters):
        @model_validator(mode="after")
        def _not_too_many(self) -> Self:
            tiles = getattr(self, "rows", 1) * getattr(self, "columns", 1)
            if tiles > MOST_TILES:
                raise ValueError(f"rows: rows × columns gives {tiles} tiles, more than {MOST_TILES}")
            return self

    model = create_model(
        "tile_scan",
        __base__=Checked,
        rows=(count(1, MOST_TILES, "tiles along y"), ...),
        columns=(count(1, MOST_TILES, "tiles along x"), ...),
        overlap_pct=(number(0, 90, "%", "how much of a frame its neighbours show too"), 10.0),
        camera=(choice(cameras, "the camera; its rows lie along the stage's x"), cameras[0]),
        **common_fields(scope),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take a frame at each tile of a grid around where the sample is, or around the position.

        Moves the XY stage by the size of a frame less the overlap, row by row and back and forth, every target checked before the
        first, then back to the middle; the stage that focuses and the channels' filters where given. A channel's light is on
        during its exposures. Frame n is tile n; its event says where the stage was. Returns the run UID and the frames written.
        """
        return (yield from one_run(TileScan(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return _tiles_estimate(parameters, scope, parameters.rows * parameters.columns)

    return Template(
        "tile_scan",
        model,
        body,
        estimate,
        acquire=TileScan,
        example={"rows": 1, "columns": 2, **example_channel(scope)},
    )


def overview(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
    x, y, _ = scope.sample_axes()
    if not cameras or x is None or y is None:
        return None
    axes = scope.axes()
    widest = [axes[axis].limits[1] - axes[axis].limits[0] for axis in (x, y)]

    class Checked(Parameters):
        @model_validator(mode="after")
        def _one_of_them(self) -> Self:
            positions, asked = getattr(self, "positions", None), getattr(self, "grid", None)
            if (positions is None) == (asked is None):
                raise ValueError("positions: say either positions or grid, not both and not neither")
            if asked is not None and asked.rows * asked.columns > MOST_TILES:
                raise ValueError(
                    f"grid: rows × columns gives {asked.rows * asked.columns} places, more than {MOST_TILES}"
                )
            return self

    spacing = create_model(
        "grid",
        __base__=Parameters,
        rows=(count(1, MOST_TILES, "places along y"), ...),
        columns=(count(1, MOST_TILES, "places along x"), ...),
        step_x_um=(number(0.1, widest[0], "um", "distance of two columns"), ...),
        step_y_um=(number(0.1, widest[1], "um", "distance of two rows"), ...),
    )
    place: Any = place_field(scope, "a named position, or {x_um, y_um, z_um?}")
    positions_doc = "the places, in order: names or {x_um, y_um, z_um?}"
    views = [name for name, camera in scope.of_kind("camera").items() if camera.view is None]
    model = create_model(
        "overview",
        __base__=Checked,
        positions=(
            Annotated[list[place], Field(min_length=1, max_length=MOST_PLACES, description=positions_doc)] | None,
            None,
        ),
        grid=(
            Annotated[
                spacing | None,
                Field(
                    description="around where it is: {rows, columns, step_x_um, step_y_um}; null: positions are given"
                ),
            ],
            None,
        ),
        camera=(choice(cameras, "the camera"), next(iter(views), cameras[0])),
        **common_fields(scope),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take a frame at each place of a list, or of a grid around where the sample is.

        Moves the XY stage (and z, where a place says it) from place to place, every target checked before the first, then back to
        where it was; the stage that focuses and the channels' filters where given. A channel's light is on during its exposures.
        Frame n is place n; its event says where the stage was. Returns the run UID and the frames written.
        """
        return (yield from one_run(Overview(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        asked = parameters.grid
        places = len(parameters.positions) if asked is None else asked.rows * asked.columns
        return _tiles_estimate(parameters, scope, places)

    example = {"grid": {"rows": 1, "columns": 2, "step_x_um": 10.0, "step_y_um": 10.0}, **example_channel(scope)}
    return Template("overview", model, body, estimate, acquire=Overview, example=example)
