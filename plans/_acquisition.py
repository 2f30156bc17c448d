"""What an imaging template takes, once or in rounds, as part of one run.

A template's body opens a run and takes one round; `time_lapse` takes many, `multi_position` one at each place. Frames of all
rounds go into the same datasets; each channel (where there are several) and each place has a dataset and a stream of its own: a
*series*, by whose name they are called (`in_series`). Where there is only one, its dataset has its camera's name and its stream
is `primary`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bluesky import Msg
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp

from ..devices import Geometry, ProgramPlan, in_series, of_image
from ..hardware import DatasetPlan
from ._channels import channels_of, frame_settings, series_of, with_power
from ._ending import ending
from ._focusing import focusing
from ._messages import checkpoint, collect, declare, follow, kickoff, prepare
from ._movement import device_of
from ._reading import answer
from ._template import PlanBody, PlanContext


class Acquisition:
    """One template's frames. A subclass says how one round of them is taken (`_take`), and how that ends (`_end`)."""

    def __init__(
        self, parameters: Any, context: PlanContext, rounds: int = 1, place: str = "", position: str | None = None
    ) -> None:
        """
        Parameters
        ----------
        rounds
            How often `once` will be called at most.
        place
            Ends the name of its series; empty: there is only this place.
        position
            For whose dose its light counts; None: what the run's parameters name.
        """
        self.parameters, self.context, self.rounds = parameters, context, rounds
        self.place, self.position = place, position
        self.cameras = self.exposing()
        self.focusing = focusing(parameters, context, self.cameras, self.moves, rounds, place, position)
        self.devices: list[Any] = [*self.focusing.devices]
        """To be staged around the whole run."""
        self.metadata: dict[str, Any] = {"motors": []}
        """Of the start document."""
        self.back_to_back = False
        """Rounds follow each other at once: one may begin while frames of that before are still on their way to the disk."""
        self.without_focus = 0
        """Rounds without a frame, since the focus was not found and ``on_focus_fail`` is skip."""
        self._focus_um: float | None = None
        """Where it was found last."""

    @property
    def moves(self) -> str | None:
        """The stage that it moves, which a focus lock can't hold meanwhile."""
        return None

    def exposing(self) -> tuple[str, ...]:
        """The cameras that take frames."""
        return ()

    def geometry(self) -> Geometry:
        """Binning and ROI asked for."""
        roi = self.parameters.roi
        return Geometry(
            self.parameters.binning, None if roi is None else (roi.x_px, roi.y_px, roi.width_px, roi.height_px)
        )

    @property
    def taken(self) -> dict[str, int]:
        """Its frames on disk, by dataset."""
        raise NotImplementedError

    @property
    def frames(self) -> dict[str, int]:
        """Frames on disk, by dataset; also those that the focus was found with."""
        return {**self.taken, **self.focusing.frames}

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {"datasets": self.frames}
        if self.focusing.axis is not None:
            found["focus_um"] = self._focus_um
        return {**found, "without_focus": self.without_focus} if self.without_focus else found

    @property
    def dose(self) -> dict[str, float]:
        """By light: what its frames got so far, in % × s, as the hardware measured it."""
        found: dict[str, float] = {}
        for device in self.devices:
            for light, dose in device.dose.items():
                found[light] = found.get(light, 0.0) + dose
        return found

    def set_power(self, power_pct: Mapping[str, float]) -> None:
        """From the next round on these channels have these powers; what a descriptor says is how it began."""
        self.parameters = with_power(self.parameters, power_pct)

    def once(self) -> PlanBody:
        """One round: go there, focus, take the frames. Returns whether frames were taken."""
        yield from go_to(self.context, self.parameters.position)
        return (yield from ending(self._focused(), self.focusing.let_go))

    def _focused(self) -> PlanBody:
        if not (yield from self._focus()):
            self.without_focus += 1
            return False
        yield from self._take()
        return True

    def written(self) -> PlanBody:
        """After rounds back to back: every frame is on disk, and told."""
        yield from ()

    def end(self) -> PlanBody:
        """However it ended: stop what runs, tell of every frame that is on disk."""
        yield from bps.null()

    def _take(self) -> PlanBody:
        raise NotImplementedError

    def series(self) -> Iterator[tuple[Any, str]]:
        """Each channel, and the name of its series here."""
        for channel in channels_of(self.parameters):
            yield channel, series_of(self.parameters, channel, self.place)

    def select(self, channel: Any) -> PlanBody:
        """Bring a channel's preset and filter in place."""
        if channel is not None:
            yield from bps.mv(self.context.devices["channel"], channel.name)

    def _focus(self) -> PlanBody:
        """Find the focus where that is asked for; returns whether frames may be taken."""
        focusing = self.focusing
        try:
            self._focus_um = yield from focusing.find(self.parameters)
        except focusing.failures:
            if self.parameters.on_focus_fail == "fail":
                raise
            if self.parameters.on_focus_fail == "skip":
                return False
            if self._focus_um is not None and focusing.axis is not None:
                yield from bps.mv(device_of(self.context, focusing.axis), self._focus_um)
        return True


class Flown(Acquisition):
    """Frames that the hardware process takes by itself: a program for each channel and round."""

    flyer = "volume"
    waits = False
    """The program can be held before each exposure: a pause takes effect there, else when all its frames are taken."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        flyer = self.context.devices[self.flyer]
        self._flyers = {
            series: flyer.another(series, self.position) if series else flyer for _, series in self.series()
        }
        self._opened: set[str] = set()
        self.devices += self._flyers.values()

    @property
    def taken(self) -> dict[str, int]:
        return {name: count for flyer in self._flyers.values() for name, count in flyer.frames_written.items()}

    def result(self) -> dict[str, Any]:
        return {**super().result(), "seconds": round(sum(flyer.seconds for flyer in self._flyers.values()), 3)}

    def program(self, channel: Any, series: str) -> PlanBody:
        """The `ProgramPlan` of one round; its datasets have room for all rounds."""
        raise NotImplementedError

    def datasets(
        self, cameras: tuple[str, ...], frames: int, channel: Any, series: str, **more: Any
    ) -> tuple[DatasetPlan, ...]:
        settings = frame_settings(channel, self.context.scope)
        return tuple(
            DatasetPlan(
                name=in_series(camera, series),
                camera=camera,
                frames=frames * self.rounds,
                channel=None if channel is None else channel.name,
                format=self.parameters.format,
                **of_image(settings),
                **more,
            )
            for camera in cameras
        )

    def _take(self) -> PlanBody:
        for channel, series in self.series():
            yield from self.select(channel)
            plan: ProgramPlan = yield from self.program(channel, series)
            yield from self._fly(plan, series)

    def _fly(self, plan: ProgramPlan, series: str) -> PlanBody:
        flyer, stream = self._flyers[series], series or "primary"
        if series not in self._opened:
            yield from prepare(flyer, plan)
            yield from declare(flyer, stream)
            self._opened.add(series)
        else:
            yield from prepare(flyer, plan.program)
        yield from checkpoint()
        yield from kickoff(flyer)
        yield from follow(flyer, stream, self.waits)

    def end(self) -> PlanBody:
        for series, flyer in self._flyers.items():
            yield from bps.stop(flyer)
            if series in self._opened:
                yield from collect(flyer, series or "primary")


def go_to(context: PlanContext, position: Any) -> PlanBody:
    """Go to a place of the sample: a name, coordinates, or None to stay."""
    place = context.positions[position] if isinstance(position, str) else position
    if place is None:
        return
    x, _, z = context.scope.sample_axes()
    if x:
        yield from bps.mv(context.devices[x.partition(".")[0]], (place.x_um, place.y_um))
    if z and place.z_um is not None:
        yield from bps.mv(device_of(context, z), place.z_um)


def one_run(acquisition: Acquisition, **metadata: Any) -> PlanBody:
    """A run with one round of it; returns its UID beside the acquisition's result."""

    def body() -> PlanBody:
        yield from acquisition.once()

    return (yield from run_of(acquisition, body, **metadata))


def run_of(
    acquisition: Acquisition,
    body: Callable[[], PlanBody],
    opened: Callable[[str], None] = lambda run_uid: None,
    **metadata: Any,
) -> PlanBody:
    """A run in which ``body`` takes rounds of it: staged, ROI and binning set before and put back, ended whatever happens.

    ``opened`` is told its UID.
    """

    def inner() -> PlanBody:
        described = {"detectors": list(acquisition.cameras), **acquisition.metadata, **metadata}
        if (axis := acquisition.focusing.axis) is not None:
            described["motors"] = list(dict.fromkeys([axis, *described["motors"]]))
        run_uid = yield from bps.open_run(described)
        opened(run_uid)
        yield from ending(body(), acquisition.end)
        yield from bps.checkpoint()  # a pause that was asked for meanwhile takes effect now
        result = acquisition.result()
        yield from bps.close_run()
        return {"run_uid": run_uid, **result}

    staged = bpp.stage_wrapper(inner(), acquisition.devices)
    return (yield from _with_geometry(acquisition, staged))


def _with_geometry(acquisition: Acquisition, plan: PlanBody) -> PlanBody:
    asked = acquisition.geometry()
    if asked == Geometry():
        return (yield from plan)
    before: dict[Any, Geometry] = {}

    def changed() -> PlanBody:
        for name in acquisition.cameras:
            geometry = acquisition.context.devices[name].geometry
            found = (yield from answer(Msg("locate", geometry)))["setpoint"]
            before[geometry] = found
            yield from bps.abs_set(geometry, asked, wait=True)
        return (yield from plan)

    def back() -> PlanBody:
        for geometry, found in before.items():
            yield from bps.abs_set(geometry, found, wait=True)

    return (yield from ending(changed(), back))
