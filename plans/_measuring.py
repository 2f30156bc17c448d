"""Frames of one camera that are measured as they are taken, along an axis, and what is fitted to that.

They are recorded like any others and measured by the hardware process, which has them; the plan sees numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bluesky import plan_stubs as bps

from ..devices import CameraPlan, Finding, FrameMeter
from ..hardware import FrameSettings
from ._ending import ending
from ._focus_fit import Peak, check_r2, check_structure, fit_peak
from ._messages import checkpoint, move, trigger
from ._reading import observe, value
from ._template import PlanBody, PlanContext


@dataclass
class Curve:
    """What was measured along an axis, in the order taken."""

    positions: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    structure: list[float] = field(default_factory=list)

    @property
    def structure_at_best(self) -> float:
        """Of the sharpest frame; 0 before the first."""
        return max(zip(self.sharpness, self.structure, strict=True), default=(0.0, 0.0))[1]


class Measuring:
    """One camera's frames, an event for each in ``stream``."""

    def __init__(self, context: PlanContext, meter: FrameMeter, stream: str = "primary") -> None:
        self.context, self.meter, self._stream = context, meter, stream
        self._findings: dict[str, Finding] = {}

    def prepare_meter(self, meter: FrameMeter, plan: CameraPlan | FrameSettings, channel: str | None) -> PlanBody:
        """Bring the channel in place, and say how the frames are taken; settings alone: into the same dataset as before."""
        if channel is not None:
            yield from bps.mv(self.context.devices["channel"], channel)
        yield from bps.prepare(meter, plan, wait=True)

    def at(
        self, targets: Mapping[Any, Any], *beside: Any, meter: FrameMeter | None = None, stream: str | None = None
    ) -> PlanBody:
        """Move there, take a frame, measure it: an event, with what else stands ``beside``. Returns its readings by name."""
        meter = self.meter if meter is None else meter
        yield from checkpoint()
        yield from move(targets)
        yield from trigger(meter)
        found = yield from observe(meter, *targets, *beside, stream=self._stream if stream is None else stream)
        yield from checkpoint()
        return found

    def along(self, axis: Any, targets: list[float], curve: Curve, *beside: Any) -> PlanBody:
        """A frame at each target of a scalar axis, added to ``curve``."""
        for target in targets:
            found = yield from self.at({axis: target}, *beside)
            curve.positions.append(float(found[axis.name]))
            curve.sharpness.append(float(found[f"{self.meter.name}_sharpness"]))
            curve.structure.append(float(found[f"{self.meter.name}_structure"]))

    def tell(self, name: str, values: Mapping[str, Any], units: Mapping[str, str]) -> PlanBody:
        """An event with what was found, in the stream ``name``."""
        finding = self._findings.setdefault(name, Finding(name, units))
        finding.found(values)
        yield from observe(finding, stream=name)

    def peak(self, curve: Curve, axis: Any, units: str, min_r2: float, name: str = "fit") -> PlanBody:
        """The curve's peak, told in an event also where its R² is refused.

        Raises
        ------
        FitError
            For an empty field, a flat curve, a peak at the edge, a bad fit.
        """
        if self.context.dry:  # all frames are alike
            middle = (min(curve.positions) + max(curve.positions)) / 2
            return Peak(middle, 1.0, 1.0, 0.0, 1.0)
        check_structure(curve.structure_at_best, self.meter.name)
        peak = fit_peak(curve.positions, curve.sharpness, axis.name, units)
        values = {**asdict(peak), "accepted": peak.r2 >= min_r2}
        yield from self.tell(name, values, {"centre": units, "width": units})
        check_r2(peak.r2, min_r2, f"the focus curve over {axis.name}")
        return peak

    def focus(
        self,
        axis: Any,
        measure: Callable[[Curve], PlanBody],
        min_r2: float,
        apply: bool = True,
        name: str = "fit",
    ) -> PlanBody:
        """Measure a curve along a stage and stay at its peak; without a peak, and without ``apply``, go back to where it was.

        Returns
        -------
        tuple
            Where it was, the curve and its `Peak`.

        Raises
        ------
        FitError
            With the stage where it was.
        """
        before, curve = (yield from value(axis)), Curve()
        at_last = before

        def sweep() -> PlanBody:
            nonlocal at_last
            yield from measure(curve)
            peak = yield from self.peak(curve, axis, "um", min_r2, name)
            if apply:
                at_last = peak.centre
            return peak

        peak = yield from ending(sweep(), lambda: bps.mv(axis, at_last))
        return before, curve, peak
