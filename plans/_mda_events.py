"""The events of a useq sequence, as part of a run: each goes to its place, waits for its time and becomes a frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import useq
from bluesky import Msg
from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus

from ..devices import CameraDetector, CameraPlan, SequencedCamera, Shots, in_series
from ..hardware import BurstProgram, BurstView, VolumeProgram, VolumeView
from ._acquisition import Acquisition
from ._channels import cameras_of
from ._ending import ending
from ._messages import checkpoint, collect, declare, follow, kickoff, move, prepare, trigger
from ._reading import answer, value
from ._rounds import LOOK_S, RoundRecord
from ._sequence import events
from ._sequence_flights import Flight, Flights
from ._sequence_series import Series, is_focusing, names_of
from ._sequence_survey import survey
from ._space import wait_for_space
from ._template import PlanBody, PlanContext

AXES = "tpgcz"
ROW: dict[str, dict[str, Any]] = {
    key: {"source": "plan:mda", "dtype": kind, "shape": []}
    for key, kind in {**dict.fromkeys((f"index_{axis}" for axis in AXES), "integer"), "position_name": "string"}.items()
}
"""Data keys of what an event says of its frame besides where it was taken."""
SINGLES_HZ = 1000.0
"""Faster than single exposures go: each begins when the one before has ended."""


def row_of(event: useq.MDAEvent) -> dict[str, Any]:
    """Which event of the sequence a frame is. An axis that it hasn't is -1."""
    return {**{f"index_{axis}": event.index.get(axis, -1) for axis in AXES}, "position_name": event.pos_name or ""}


class Events(Acquisition):
    """The events of a sequence, one frame each; then the stages go back to where they were.

    What the hardware process can take alone it takes in one step (`Flights`); a frame has its event all the same.
    """

    def __init__(self, parameters: Any, context: PlanContext, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(parameters, context)
        scope = context.scope
        self._clock, self._survey = clock, survey(parameters.sequence, scope, parameters.camera)
        self._flights = Flights(scope, parameters.camera)
        x, y, z = scope.sample_axes()
        self._stage = None if x is None else context.devices[x.partition(".")[0]]
        self._z = None if z is None else context.devices[z]
        axes = {str(x): self._stage.x, str(y): self._stage.y} if self._stage is not None else {}
        axes |= {str(z): self._z} if self._z is not None else {}
        camera: CameraDetector = context.devices[parameters.camera]
        self._names = names_of(self._survey.frames)
        self._cameras: dict[Series, SequencedCamera] = {
            series: camera.sequenced(name, axes, ROW) for series, name in self._names.items()
        }
        self._opened: list[Series] = []
        self.devices = list(self._cameras.values())
        self.metadata = {
            "motors": [stage.name for stage in (self._stage, self._z) if stage is not None],
            "volume_trigger": scope.volume.trigger if self._flights.triggered else "software",
            "channels": list(dict.fromkeys(one.channel for one in self._names if one.channel)),
        }
        self.rounds_record = RoundRecord()
        self._number = 0
        self._round: tuple[float, float] | None = None
        """When the time point under way was due, and when it began, in s after the clock of the sequence was set to 0."""
        self._selected: str | None = None
        self._at: dict[Any, Any] = {}
        self._correction: dict[int, float] = {}
        """By position: how far from what the sequence says the focus was found, in µm of z."""
        self._unfocused: set[int] = set()

    def exposing(self) -> tuple[str, ...]:
        return cameras_of(self.context.scope, self.parameters.camera)

    @property
    def taken(self) -> dict[str, int]:
        planned = {in_series(camera, name): 0 for name in self._names.values() for camera in self.cameras}
        return planned | {name: n for camera in self._cameras.values() for name, n in camera.frames_written.items()}

    def result(self) -> dict[str, Any]:
        late = {"late": self.rounds_record.late} if self._survey.times else {}
        return {**super().result(), **late}

    def once(self) -> PlanBody:
        before: dict[Any, float] = {}
        stages = [*([] if self._stage is None else [self._stage.x, self._stage.y]), *([self._z] if self._z else [])]
        for stage in stages:
            before[stage] = yield from value(stage)

        def back() -> PlanBody:
            for series in self._opened:  # what still runs may be moving z
                yield from bps.stop(self._cameras[series])
            if self._stage is not None and self._stage in self._at:
                yield from bps.mv(self._stage, (before[self._stage.x], before[self._stage.y]))
            if self._z is not None and (self._z in self._at or self._correction):
                yield from bps.mv(self._z, before[self._z])

        yield from ending(self._all(before), back)
        return True

    def _all(self, before: Mapping[Any, float]) -> PlanBody:
        geometry = self.context.devices[self.cameras[0]].geometry
        field_um = (yield from answer(Msg("locate", geometry)))["readback"].field_um
        began, due, taken = 0.0, None, 0
        for group in self._flights.grouped(events(self.parameters.sequence, field_um)):
            event = group[0]
            yield from checkpoint()
            if event.reset_event_timer or due is None:
                began = self._clock()
            start = event.min_start_time or 0.0
            if event.reset_event_timer or start != due:
                yield from self._told(taken)
                due, taken = start, 0
                yield from wait_for_space(self.context)
                yield from self._wait(began + start)
                self._round = (start, self._clock() - began)
            if is_focusing(event):
                yield from self._focus_at(event, before)
            elif event.index.get("p", -1) in self._unfocused:
                self.without_focus += len(group)
            else:
                yield from self._take_group(group, before)
                taken += len(group)
        yield from self._told(taken)

    def _wait(self, until: float) -> PlanBody:
        while not self.context.dry and (rest := until - self._clock()) > 0:
            yield from bps.checkpoint()
            yield from bps.sleep(min(rest, LOOK_S))

    def _told(self, taken: int) -> PlanBody:
        """A time point's event in the stream ``rounds``, where the sequence has time points."""
        if self._round is None or not self._survey.times:
            return
        self.rounds_record.tell(self._number, *self._round, "taken" if taken else "no frames")
        self._number += 1
        yield from self.rounds_record.told()

    def _go(self, event: useq.MDAEvent, before: Mapping[Any, float], z: bool = True) -> PlanBody:
        """To where the event says; where it says nothing, an axis stays. Without ``z``: z only together with the stage."""
        moves: dict[Any, Any] = {}
        if self._stage is not None and (event.x_pos is not None or event.y_pos is not None):
            x, y = self._at.get(self._stage, (before[self._stage.x], before[self._stage.y]))
            target = (x if event.x_pos is None else event.x_pos, y if event.y_pos is None else event.y_pos)
            if self._at.get(self._stage) != target:
                moves[self._stage] = target
        if self._z is not None and event.z_pos is not None and (z or moves):
            z_um = self._z_um(event)
            if self._at.get(self._z) != z_um:
                moves[self._z] = z_um
        if moves:
            for stage, target in moves.items():
                stage.check_value(target)
            self._at |= moves  # before they are there: whoever is stopped on the way goes back too
            yield from move(moves)

    def _z_um(self, event: useq.MDAEvent) -> float:
        """Of an event that says it."""
        assert event.z_pos is not None
        return event.z_pos + self._correction.get(event.index.get("p", -1), 0.0)

    def _focus_at(self, event: useq.MDAEvent, before: Mapping[Any, float]) -> PlanBody:
        """Focus once at the event's place; its frames are taken as far from what the sequence says as the focus was found."""
        ((name, settings),) = self.context.scope.of_kind("autofocus").items()
        autofocus, stage = self.context.devices[name], self.context.devices[settings.axis]
        place = event.index.get("p", -1)
        last = self._correction.pop(place, None)
        self._unfocused.discard(place)
        yield from self._go(event, before)
        asked = yield from value(stage)
        try:
            yield from bps.checkpoint()
            offset = getattr(event.action, "autofocus_motor_offset", None)
            if offset is not None:
                lock = bps.abs_set(autofocus.offset, offset, wait=True)
                yield from ending(lock, lambda: bps.abs_set(autofocus, False, wait=True))
            else:
                yield from bps.abs_set(autofocus, "full", wait=True)
        except FailedStatus:
            match self.parameters.on_focus_fail:
                case "fail":
                    raise
                case "skip":
                    self._unfocused.add(place)
                case _ if last is not None:
                    self._correction[place] = last
            self._at.pop(stage, None)
            return
        found = yield from value(stage)
        self._at.pop(stage, None)
        self._correction[place] = found - asked if stage is self._z else 0.0

    def _take_group(self, group: list[useq.MDAEvent], before: Mapping[Any, float]) -> PlanBody:
        flight, series = self._flights.way(group), self._flights.series(group[0])
        if flight is Flight.STEPS:
            for event in group:
                yield from self._go(event, before)
                yield from self._select(series)
                yield from self._step(series, event)
            return
        yield from self._go(group[0], before, z=not flight.moves)
        yield from self._select(series)
        yield from self._fly(series, group, flight)

    def _select(self, series: Series) -> PlanBody:
        if series.channel is not None and self._selected != series.channel:
            yield from bps.mv(self.context.devices["channel"], series.channel)
            self._selected = series.channel

    def _open(self, series: Series) -> PlanBody:
        if series not in self._opened:
            camera = self._cameras[series]
            yield from prepare(camera, self._plan(series))
            yield from declare(camera, self._stream(series))
            self._opened.append(series)

    def _stream(self, series: Series) -> str:
        return self._names[series] or "primary"

    def _step(self, series: Series, event: useq.MDAEvent) -> PlanBody:
        camera = self._cameras[series]
        yield from self._open(series)
        camera.expect(Shots((row_of(event),)))
        yield from trigger(camera)
        yield from collect(camera, self._stream(series))

    def _fly(self, series: Series, group: list[useq.MDAEvent], flight: Flight) -> PlanBody:
        camera, program = self._cameras[series], self._program(series, group, flight)
        yield from self._open(series)
        yield from prepare(camera, Shots(tuple(row_of(event) for event in group), program))
        yield from kickoff(camera)
        yield from follow(camera, self._stream(series), flight.waits)

    def _program(self, series: Series, group: list[useq.MDAEvent], flight: Flight) -> VolumeProgram | BurstProgram:
        camera, settings = self.parameters.camera, self._flights.settings(series)
        dataset = in_series(camera, self._names[series])
        if not flight.moves:
            view = BurstView(dataset=dataset, camera=camera, settings=settings, frames=len(group))
            return BurstProgram(views=(view,), rate_hz=SINGLES_HZ if flight is Flight.SINGLES else None)
        z, targets = self._z, tuple(self._z_um(event) for event in group)
        assert z is not None  # else no event says where it is
        for target in dict.fromkeys(targets):
            z.check_value(target)
        self._at[z] = targets[-1]  # before it is there: as in `_go`
        stack = VolumeView(dataset=dataset, camera=camera, settings=settings, piezo=z.name, piezo_um=targets)
        return VolumeProgram(views=(stack,), trigger=None if flight is Flight.TRIGGERED else "software", stays=True)

    def end(self) -> PlanBody:
        for series in self._opened:
            yield from bps.stop(self._cameras[series])
            yield from collect(self._cameras[series], self._stream(series))

    def _plan(self, series: Series) -> CameraPlan:
        only_z = self._survey.axes <= {"c", "z"} and "z" in self._survey.axes
        return CameraPlan(
            settings=self._flights.settings(series),
            frames=self._survey.frames[series],
            axis="z" if only_z else "t",
            step_um=(self.parameters.sequence.get("z_plan") or {}).get("step") or None if only_z else None,
            channel=series.channel,
            format=self.parameters.format,
        )
