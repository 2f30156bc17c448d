"""Programs of the hardware process in one recording: started, followed to their end, held in a pause."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..hardware import (
    BurstProgram,
    DatasetPlan,
    FrameSettings,
    Hardware,
    HardwareError,
    HardwareGoneError,
    RecordingError,
    RecordingState,
    UnknownNameError,
    VolumeProgram,
    stopped_by,
)
from ._imaging import ImagingConfiguration
from ._recordings import AssetStream, RunRecordings, frame_key
from ._status import finished, in_thread

log = logging.getLogger("queuescope.devices")

LONG_POLL_S = 10.0
"""Longest wait for one change of a recording's state; then it is asked again."""
LOOK_S = 0.2
"""How soon it is seen that what a pause waits for must end at once."""
GATHER_S = 0.25
"""New frames are gathered this long before documents tell of them."""


Program = VolumeProgram | BurstProgram


class Plan(Protocol):
    """What the files of a recording are made by, and its descriptor."""

    @property
    def datasets(self) -> tuple[DatasetPlan, ...]: ...

    def settings(self, camera: str) -> FrameSettings: ...

    def places(self, camera: str) -> dict[str, tuple[tuple[float, ...], str]]: ...


@dataclass(frozen=True)
class ProgramPlan:
    program: Program
    """The first of those that the datasets have room for: the descriptor tells of this one."""
    datasets: tuple[DatasetPlan, ...]
    """One for each camera."""

    def settings(self, camera: str) -> FrameSettings:
        """How this camera's frames are taken."""
        views = {view.camera: view.settings for view in self.program.views}
        return views.get(camera, self.program.views[0].settings)  # a multi-camera's cameras have those of its one view

    def places(self, camera: str) -> dict[str, tuple[tuple[float, ...], str]]:
        """By axis: where each of this camera's frames is taken, and in which units."""
        if isinstance(self.program, BurstProgram):
            return {}
        views = {view.camera: view for view in self.program.views}
        view = views.get(camera, self.program.views[0])
        places = {view.piezo: (view.piezo_um, "um")}
        if view.galvo is not None and view.galvo_deg is not None:
            places[view.galvo] = (view.galvo_deg, "deg")
        return places


class ProgramFollower(OphydObject):
    """Prepared with a `ProgramPlan`, kicked off, followed to its end; every message may be repeated after a pause.

    Prepared with the next program alone, it takes that into the same datasets, as often as they have room. What the frames are
    told in is a subclass's business.

    ``trigger`` is done when there are new frames on disk or nothing more comes; ``complete`` when it has ended. A pause of the
    RunEngine holds it before its next exposure; what something else times ends first (decision 0087).
    """

    plans: ClassVar[type[Any]] = ProgramPlan
    """What it is prepared with first."""

    def __init__(
        self,
        *,
        name: str,
        hardware: Hardware,
        recordings: RunRecordings,
        labels: dict[str, str],
        imaging: ImagingConfiguration,
        position: str | None = None,
    ) -> None:
        super().__init__(name=name, labels={"cameras"})
        self._hardware, self._imaging = hardware, imaging
        self._position = position
        self._recordings = recordings
        self._labels = labels
        self._plan: Plan | None = None
        self._state: RecordingState | None = None
        self._streams: dict[str, AssetStream] = {}
        self._prepare: Status | None = None
        self._kickoff: Status | None = None
        self._lock = threading.Lock()
        self._stopped = False
        """`stop` has ended it: that is no failure of its own, which would cover why the plan ends."""

    @property
    def ended(self) -> bool:
        """Nothing more comes."""
        return self._state is not None and self._state.phase not in ("open", "running")

    @property
    def frames_written(self) -> dict[str, int]:
        """Frames on disk, by dataset."""
        return {} if self._state is None else {n: d.frames_written for n, d in self._state.datasets.items()}

    @property
    def dose(self) -> dict[str, float]:
        """By light: what its frames in this run got, in % × s, as the hardware measured it."""
        return {} if self._state is None else self._state.dose

    @property
    def seconds(self) -> float:
        """From the first exposure until the newest frame was on disk."""
        return 0.0 if self._state is None else self._state.seconds

    def hardware_restarted(self) -> None:
        self._forget()

    def stage(self) -> list[Any]:
        """What an earlier plan began that was halted has ended when this is done."""
        for status in (self._prepare, self._kickoff):
            if status is not None:
                status.exception()
        self._forget()
        return [self]

    def _forget(self) -> None:
        self._plan, self._state, self._streams, self._prepare, self._kickoff = None, None, {}, None, None
        self._next: Any = None
        self._started: Any = None

    def unstage(self) -> Status:
        return in_thread(self.stop, self)

    def prepare(self, value: Any) -> Status:
        """Set the cameras and create the files; after it the stream can be declared. The same plan again changes nothing.

        With what comes next alone: that is what the next `kickoff` starts.
        """
        with self._lock:
            if not isinstance(value, self.plans):
                self._require()
                self._next = value
                return finished(self)
            if self._prepare is None or self._plan is not value:
                self._forget()
                self._plan, self._next, run_uid = value, self._first(value), self._recordings.run_uid
                self._prepare = in_thread(lambda: self._create_files(value, run_uid), self)
            return self._prepare

    def _first(self, plan: Any) -> Any:
        """What comes next where nothing else is said."""
        return plan.program

    def _create_files(self, plan: Plan, run_uid: str | None) -> None:
        for dataset in plan.datasets:
            exposure_ms = plan.settings(dataset.camera).exposure_ms
            self._hardware.configure_camera(dataset.camera, exposure_ms=exposure_ms)
        state = self._recordings.open(run_uid, *plan.datasets, position=self._position)
        planned = {dataset.name: dataset.frames for dataset in plan.datasets}
        self._streams = {
            name: self._recordings.asset_stream(dataset, planned[name]) for name, dataset in state.datasets.items()
        }
        self._state = state

    def kickoff(self) -> Status:
        """Start the program that it was prepared with last; a second kickoff of the same changes nothing."""
        with self._lock:
            _, state = self._require()
            program = self._next
            if self._kickoff is None or self._started is not program:
                self._started, self._stopped = program, False

                self._kickoff = in_thread(lambda: self._begin(state.recording, program), self)
            return self._kickoff

    def _begin(self, recording: str, program: Any) -> None:
        if isinstance(program, BurstProgram):
            self._state = self._hardware.start_burst(recording, program)
        elif program is not None:
            self._state = self._hardware.start_volume(recording, program)

    def trigger(self) -> Status:
        return in_thread(lambda: self._follow(to_the_end=False), self)

    def complete(self) -> Status:
        return in_thread(lambda: self._follow(to_the_end=True), self)

    def _follow(self, to_the_end: bool) -> None:
        """Wait for frames that no document has told of yet, or for the end.

        Raises
        ------
        RecordingError, HaltedError, InterlockError
            Where it failed, saying how many frames are good.
        """
        _, state = self._require()
        while not self.ended:
            # A frame is told when every dataset has it: one view's frames alone are no news.
            if not to_the_end and self._on_disk() > min(stream.told for stream in self._streams.values()):
                return
            try:
                state = self._state = self._hardware.recording(
                    state.recording, seen=state.version, wait_s=LONG_POLL_S, gather_s=GATHER_S
                )
            except (HardwareGoneError, UnknownNameError) as error:
                self._state = self._lost(state, error)
                raise
        if state.phase == "failed" and not self._stopped:
            kind = stopped_by(self._hardware.safety()) or RecordingError
            raise kind(
                state.error or "the recording failed",
                frames_written={name: dataset.frames_written for name, dataset in state.datasets.items()},
            )

    def stop(self, *, success: bool = False) -> None:
        """End it after the exposure in hand; done when it has ended. With its hardware it ended anyhow."""
        if self._starts() and self._state is not None and self._state.phase == "running":
            self._stopped = True
            try:
                self._state = self._hardware.stop_recording(self._state.recording)
            except (HardwareGoneError, UnknownNameError) as error:
                self._state = self._lost(self._state, error)

    def _starts(self) -> bool:
        """Whether a program was started: waits for one that is about to be, since what has ended before that can't be ended."""
        if self._kickoff is not None:
            self._kickoff.exception()
        return self._kickoff is not None

    async def pause(self) -> None:
        """Called by the RunEngine when it pauses: no light is on when this is done. What can't be held has ended then: by itself,
        or at once where the plan is about to end (`RunRecordings.ending`).
        """
        await asyncio.to_thread(self._hold, True)

    async def resume(self) -> None:
        """Called by the RunEngine before it goes on."""
        await asyncio.to_thread(self._hold, False)

    def _hold(self, hold: bool) -> None:
        if not self._starts() or self._state is None or self.ended:
            return
        try:
            state = self._hardware.hold_recording(self._state.recording, hold)
            while hold and state.phase == "running" and not state.held:
                if self._recordings.ending:
                    self.stop()
                    return
                state = self._hardware.recording(state.recording, seen=state.version, wait_s=LOOK_S)
        except (HardwareGoneError, UnknownNameError) as error:  # following it will say so
            log.warning("%s can't be held: %s", self.name, error)

    def _lost(self, state: RecordingState, error: HardwareError) -> RecordingState:
        """What is left of a recording whose hardware has gone: the frames that are on disk."""
        datasets = {}
        for name, dataset in state.datasets.items():
            found = self._recordings.on_disk(state.run_uid, name)
            frames = dataset.frames_written if found is None else max(found, dataset.frames_written)
            datasets[name] = dataset.model_copy(update={"frames_written": frames})
        return state.model_copy(update={"phase": "failed", "error": str(error), "datasets": datasets})

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        _, state = self._require()
        return {name: frame_key(d, self._labels[d.camera]) for name, d in state.datasets.items()}

    def _on_disk(self) -> int:
        """Frames on disk in every dataset."""
        _, state = self._require()
        return min(dataset.frames_written for dataset in state.datasets.values())

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": []}

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        """What is needed to take the same images again, for each camera of the volume; nothing before it is prepared."""
        return self._imaging.reading(
            {key: value for values in self._configuration().values() for key, value in values.items()}
        )

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        plan = self._plan
        for dataset, values in self._configuration().items():
            assert plan is not None
            camera = next(one.camera for one in plan.datasets if one.name == dataset)
            found |= self._imaging.describe(camera, values, dataset)
            for axis, (_, units) in plan.places(camera).items():
                found[_place_key(dataset, axis)]["units"] = units
        return found

    def _configuration(self) -> dict[str, dict[str, Any]]:
        """By dataset."""
        plan = self._plan
        if plan is None:
            return {}
        return {
            one.name: self._imaging.values(one.camera, plan.settings(one.camera), one.channel, one.name)
            | {_place_key(one.name, axis): list(places) for axis, (places, _) in plan.places(one.camera).items()}
            for one in plan.datasets
        }

    def _require(self) -> tuple[Plan, RecordingState]:
        if self._plan is None or self._state is None:
            raise RuntimeError(f"{self.name} has nothing to acquire: prepare it with a {self.plans.__name__} first")
        return self._plan, self._state


def _place_key(dataset: str, axis: str) -> str:
    """Under which a descriptor has the places of an axis: Tiled takes a dot for a path."""
    return f"{dataset}_{axis.replace('.', '_')}"
