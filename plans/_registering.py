"""`register_views`: how far two views of one place lie apart."""

from __future__ import annotations

import math
from typing import Any

from bluesky import plan_stubs as bps
from pydantic import create_model

from ..config import Scope
from ._calibration import calibrated, check_correlation, stored_field
from ._focus_fit import check_structure
from ._focus_sweep import Measured, measured_estimate, measured_fields
from ._imaging import example_channel
from ._parameters import Parameters
from ._template import Estimate, PlanBody, PlanContext, Template


class Views(Measured):
    """One frame of each view."""

    def __init__(self, parameters: Any, context: PlanContext, cameras: dict[str, str]) -> None:
        super().__init__(parameters, context, camera=cameras["A"])
        self.other = context.devices[cameras["B"]].meter("tenengrad")
        self.cameras = (cameras["A"], cameras["B"])
        self.devices = [self.meter, self.other]

    @property
    def frames(self) -> dict[str, int]:
        return {meter.name: meter.get_index() for meter in (self.meter, self.other)}

    def _take(self) -> PlanBody:
        objective = yield from self.objective()
        for meter, stream in ((self.meter, "primary"), (self.other, "view_b")):
            yield from self.prepare(meter, 1)
            found = yield from self.at({}, meter=meter, stream=stream)
            if not self.context.dry:
                check_structure(float(found[f"{meter.name}_structure"]), meter.name)
        shift = self.other.shift(self.other.newest(), self.meter.newest())
        values = {
            "x_px": shift.x_px,
            "y_px": shift.y_px,
            "distance_px": math.hypot(shift.x_px, shift.y_px),
            "correlation": shift.correlation,
        }
        yield from self.tell("fit", values, {"x_px": "px", "y_px": "px", "distance_px": "px"})
        check_correlation(shift.correlation, "the two views", "bring both into focus")
        yield from bps.checkpoint()
        self.found = {"views": list(self.cameras), "objective": objective, **values}
        self.stored = {"kind": "views", "of": objective or ""}


def register_views(scope: Scope) -> Template | None:
    cameras = {camera.view: name for name, camera in scope.of_kind("camera").items() if camera.view}
    if set(cameras) != {"A", "B"}:
        return None
    fields = measured_fields(scope, [cameras["A"]])
    del fields["camera"]
    model = create_model("register_views", __base__=Parameters, store=stored_field(), **fields)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Measure how far view B lies from view A, in pixels, from one frame of each.

        Moves nothing but to the position where one is given, and the channel's filters. A channel's light is on during its
        exposures. The views must show the same plane the same way round; an empty one and two that don't agree are refused.
        Returns the run UID, the shift of B against A (right and down, pixels as binned) and their correlation; with store it is
        kept for the objective in place.
        """
        return (yield from calibrated(Views(parameters, context, cameras)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return measured_estimate(parameters, scope, [cameras["A"], cameras["B"]], 1, shifts=1)

    return Template("register_views", model, body, estimate, example=example_channel(scope))
