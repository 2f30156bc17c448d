"""The focus before frames are taken: a lock that keeps it meanwhile, or a sweep that finds it. R4 focus: none | lock | sweep."""

from __future__ import annotations

from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus

from ..devices import CameraPlan, in_series
from ._channels import channels_of, frame_settings
from ._focus_fit import FitError
from ._measuring import Curve, Measuring
from ._movement import device_of
from ._reading import value
from ._steps import centred_steps
from ._sweeping import SERIES, sweep_of, sweep_slices
from ._template import PlanBody, PlanContext


class NoFocus:
    """Frames are taken where the stage is."""

    axis: str | None = None
    """The stage that it moves."""
    failures: tuple[type[Exception], ...] = ()
    """What `find` raises where the focus is not found."""

    def __init__(self) -> None:
        self.devices: list[Any] = []
        """To be staged around the whole run."""

    @property
    def frames(self) -> dict[str, int]:
        """Its own on disk, by dataset."""
        return {}

    def find(self, parameters: Any) -> PlanBody:
        """Where the stage stands in focus, in µm."""
        yield from ()
        return None

    def let_go(self) -> PlanBody:
        """The frames are taken."""
        yield from ()


class FocusLock(NoFocus):
    """Engaged before the frames, released after them."""

    failures = (FailedStatus,)

    def __init__(self, context: PlanContext, moves: str | None) -> None:
        """``moves``: the stage that moves while frames are taken, which a lock can't hold meanwhile."""
        super().__init__()
        ((name, settings),) = context.scope.of_kind("autofocus").items()
        self.axis = settings.axis
        self._autofocus, self._stage = context.devices[name], context.devices[settings.axis]
        self._moves, self._engaged = moves, False

    def find(self, parameters: Any) -> PlanBody:
        yield from bps.checkpoint()
        try:
            self._engaged = True  # before it is: whoever is stopped meanwhile lets go too
            yield from bps.abs_set(self._autofocus, True, wait=True)
        except FailedStatus:
            self._engaged = False  # the hardware has released what it couldn't lock
            raise
        found = yield from value(self._stage)
        if self._moves == self.axis:
            yield from self.let_go()
        return found

    def let_go(self) -> PlanBody:
        yield from ()
        if self._engaged:
            yield from bps.abs_set(self._autofocus, False, wait=True)
            self._engaged = False


class FocusSweep(Measuring, NoFocus):
    """Frames at positions around where the stage is, each measured: it stays at the peak of sharpness.

    They are taken in the first channel, into a dataset and a stream of their own; each fit is told in a stream, and why one was
    refused in another.
    """

    failures = (FitError,)

    def __init__(
        self, parameters: Any, context: PlanContext, camera: str, rounds: int, place: str, position: str | None
    ) -> None:
        NoFocus.__init__(self)
        sweep, suffix = sweep_of(parameters, context.scope), f"_{place}" if place else ""
        series = SERIES + suffix
        Measuring.__init__(self, context, context.devices[camera].meter(sweep.metric, series, position), series)
        self.axis, self.devices, self._sweep = sweep.axis, [self.meter], sweep
        self._dataset = in_series(camera, series)
        self._names = (f"focus_fit{suffix}", f"focus_refused{suffix}")
        self._slices = sweep_slices(sweep)
        self._planned, self._opened = rounds * self._slices, False

    @property
    def frames(self) -> dict[str, int]:
        return {self._dataset: self.meter.get_index()}

    def find(self, parameters: Any) -> PlanBody:
        sweep, (fit, refused) = self._sweep, self._names
        axis = device_of(self.context, sweep.axis)
        targets = centred_steps((yield from value(axis)), self._slices, sweep.step_um)
        for target in targets:
            axis.check_value(target)

        def measure(curve: Curve) -> PlanBody:
            channel = channels_of(parameters)[0]
            name, settings = None if channel is None else channel.name, frame_settings(channel, self.context.scope)
            plan = CameraPlan(settings=settings, frames=self._planned, channel=name, format=parameters.format)
            yield from self.prepare_meter(self.meter, settings if self._opened else plan, name)
            self._opened = True
            yield from self.along(axis, targets, curve)

        try:
            _, _, peak = yield from self.focus(axis, measure, sweep.min_r2, name=fit)
        except FitError as error:
            yield from bps.checkpoint()
            yield from self.tell(refused, {"position": (yield from value(axis)), "why": str(error)}, {"position": "um"})
            raise
        return peak.centre


def focusing(
    parameters: Any,
    context: PlanContext,
    cameras: tuple[str, ...],
    moves: str | None,
    rounds: int,
    place: str,
    position: str | None,
) -> NoFocus:
    """What ``focus`` asks for; templates without that parameter have none."""
    match getattr(parameters, "focus", "none"):
        case "lock":
            return FocusLock(context, moves)
        case "sweep":
            return FocusSweep(parameters, context, cameras[0], rounds, place, position)
        case _:
            return NoFocus()
