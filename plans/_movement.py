"""Templates that move the sample or one axis."""

from __future__ import annotations

from typing import Any, Self

from bluesky import plan_stubs as bps
from pydantic import create_model, model_validator

from ..config import Scope
from ._costs import CALL_S, RUN_S, move_s
from ._parameters import Parameters, choice, number
from ._reading import observe, value
from ._template import Estimate, PlanBody, PlanContext, Template


def moved(scope: Scope, *axes: str | None) -> Estimate:
    """A run that moves these axes, one after the other, and reads them before and after."""
    return Estimate(seconds=RUN_S + move_s(scope, *axes) + 2 * CALL_S)


def device_of(context: PlanContext, axis: str) -> Any:
    """The positioner of a scalar axis, ``piezo_a`` or ``xy.x``."""
    name, _, component = axis.partition(".")
    device = context.devices[name]
    return getattr(device, component) if component else device


def move_run(positioner: Any, target: Any, **metadata: Any) -> PlanBody:
    """One run: read, move, read back. Events: before and after.

    Returns
    -------
    tuple
        The run UID, and the readings before and after by name.
    """
    run_uid = yield from bps.open_run({"motors": [positioner.name], **metadata})
    before = yield from observe(positioner)
    yield from bps.mv(positioner, target)
    after = yield from observe(positioner)
    yield from bps.close_run()
    return run_uid, before, after


def move_stage_run(stage: Any, target: tuple[float, float], **metadata: Any) -> PlanBody:
    """`move_run` of an XY stage; returns its run UID, where it was, where it was sent and where it is, each by x_um and y_um."""
    run_uid, before, after = yield from move_run(stage, target, **metadata)
    names = {"x_um": stage.x.name, "y_um": stage.y.name}
    return {
        "run_uid": run_uid,
        "before": {um: before[name] for um, name in names.items()},
        "target": dict(zip(names, target, strict=True)),
        "after": {um: after[name] for um, name in names.items()},
    }


def move_axis(scope: Scope) -> Template | None:
    axes = scope.axes()
    if not axes:
        return None
    lowest = min((axis.limits[0] for axis in axes.values()), default=0.0)
    highest = max((axis.limits[1] for axis in axes.values()), default=0.0)

    class Checked(Parameters):
        @model_validator(mode="after")
        def _one_inside_its_limits(self) -> Self:
            to, by, axis = getattr(self, "to", None), getattr(self, "by", None), axes[getattr(self, "axis", "")]
            if (to is None) == (by is None):
                raise ValueError("to: say either to (a position) or by (a distance), not both and not neither")
            low, high = axis.limits
            if to is not None and not low <= to <= high:
                raise ValueError(
                    f"to: {axis.name} {to} {axis.units} is outside [{low}, {high}] (scope.yml: {axis.source})"
                )
            if by is not None and abs(by) > high - low:
                raise ValueError(f"by: {by} {axis.units} is more than the whole range of {axis.name}, [{low}, {high}]")
            return self

    model = create_model(
        "move_axis",
        __base__=Checked,
        axis=(choice(list(axes), "the axis: a stage, or one component of an XY stage or galvo"), ...),
        to=(number(lowest, highest, "um or deg", "where to; each axis has its own limits") | None, None),
        by=(number(lowest - highest, highest - lowest, "um or deg", "how far from where it is") | None, None),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Move one axis to a position or by a distance, wait for it, read it back.

        Moves the axis named and nothing else; uses no light. Returns where it was, where it was sent and where it is.
        """
        positioner = device_of(context, parameters.axis)
        before = yield from value(positioner)
        target = parameters.to if parameters.to is not None else before + parameters.by
        run_uid, _, after = yield from move_run(positioner, target)
        return {
            "run_uid": run_uid,
            "axis": parameters.axis,
            "before": before,
            "target": target,
            "after": after[positioner.name],
        }

    return Template(
        "move_axis",
        model,
        body,
        lambda parameters, scope: moved(scope, parameters.axis),
        example={"axis": next(iter(axes)), "by": 0.0},
    )


def move_xy(scope: Scope) -> Template | None:
    x, y, _ = scope.sample_axes()
    if x is None or y is None:
        return None
    axes = scope.axes()
    model = create_model(
        "move_xy",
        __base__=Parameters,
        x_um=(number(*axes[x].limits, "um", "x of the sample"), ...),
        y_um=(number(*axes[y].limits, "um", "y of the sample"), ...),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Move the sample in x and y, wait for both, read them back.

        Moves the XY stage, both axes at once, and nothing else; uses no light. Returns where it was, where it was sent and
        where it is.
        """
        stage = context.devices[x.partition(".")[0]]
        return (yield from move_stage_run(stage, (parameters.x_um, parameters.y_um)))

    example = {"x_um": nearest(0.0, axes[x].limits), "y_um": nearest(0.0, axes[y].limits)}
    return Template("move_xy", model, body, lambda _, scope: moved(scope, x), example=example)


def move_z(scope: Scope) -> Template | None:
    _, _, z = scope.sample_axes()
    if z is None:
        return None
    model = create_model(
        "move_z",
        __base__=Parameters,
        z_um=(number(*scope.axes()[z].limits, "um", "z of the sample"), ...),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Move the sample in z, wait for it, read it back.

        Moves the stage called z and nothing else; uses no light. Returns where it was, where it was sent and where it is.
        """
        run_uid, before, after = yield from move_run(context.devices[z], parameters.z_um)
        return {"run_uid": run_uid, "before": before[z], "target": parameters.z_um, "after": after[z]}

    return Template(
        "move_z",
        model,
        body,
        lambda _, scope: moved(scope, z),
        example={"z_um": nearest(0.0, scope.axes()[z].limits)},
    )


def home(scope: Scope) -> Template | None:
    homes = {name: axis.home for name, axis in scope.axes().items() if axis.home is not None}
    if not homes:
        return None
    model = create_model(
        "home", __base__=Parameters, axis=(choice(list(homes), "the stage; scope.yml says where its home is"), ...)
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Move one stage to its home (scope.yml: devices.….home), wait for it, read it back. For people only.

        Moves the stage named and nothing else, by an ordinary move: its origin stays, no controller's homing is started. Uses
        no light. Returns where it was, its home and where it is.
        """
        axis = parameters.axis
        run_uid, before, after = yield from move_run(device_of(context, axis), homes[axis])
        return {"run_uid": run_uid, "axis": axis, "before": before[axis], "target": homes[axis], "after": after[axis]}

    return Template(
        "home",
        model,
        body,
        lambda parameters, scope: moved(scope, parameters.axis),
        example={"axis": next(iter(homes))},
        people_only=True,
    )


def nearest(wanted: float, limits: tuple[float, float]) -> float:
    """The allowed value that is nearest to the one wanted."""
    return min(max(wanted, limits[0]), limits[1])


def retract(context: PlanContext) -> PlanBody:
    """Bring every stage of `safety.retract_first` to its home, one after the other; return where they stand, by name."""
    found = {}
    for name in context.scope.safety.retract_first:
        stage = context.devices[name]
        yield from bps.mv(stage, context.scope.axes()[name].home)
        found[name] = yield from value(stage)
    return found
