"""Templates that move one axis or only look."""

from __future__ import annotations

from typing import Any, Self

from bluesky import plan_stubs as bps
from pydantic import create_model, model_validator

from ..config import Scope
from ._parameters import Parameters, choice, number
from ._template import Estimate, PlanBody, PlanContext, Template


def device_of(context: PlanContext, axis: str) -> Any:
    """The positioner of a scalar axis, ``piezo_a`` or ``xy.x``."""
    name, _, component = axis.partition(".")
    device = context.devices[name]
    return getattr(device, component) if component else device


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
        before = yield from bps.rd(positioner)
        target = parameters.to if parameters.to is not None else before + parameters.by
        run_uid = yield from bps.open_run()
        yield from bps.mv(positioner, target)
        reading = yield from bps.trigger_and_read([positioner])
        yield from bps.close_run()
        after = reading[positioner.name]["value"]
        return {"run_uid": run_uid, "axis": parameters.axis, "before": before, "target": target, "after": after}

    return Template("move_axis", model, body, lambda _parameters, _scope: Estimate(seconds=1.0))


def read_state(scope: Scope) -> Template:
    model = create_model("read_state", __base__=Parameters)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Read every position, label, value and light of the microscope.

        Moves nothing and uses no light. Returns the readings by name; a reading that fails fails the run.
        """
        cameras = set(scope.of_kind("camera", "multi_camera")) | {"volume", "burst"}
        devices = [device for name, device in context.devices.items() if name not in cameras]
        run_uid = yield from bps.open_run()
        reading = yield from bps.trigger_and_read(devices)
        yield from bps.close_run()
        return {"run_uid": run_uid, "state": {name: entry["value"] for name, entry in reading.items()}}

    return Template("read_state", model, body, lambda _parameters, _scope: Estimate(seconds=0.5))
