"""A volume as one flyer: the hardware process runs the slices, the RunEngine only follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..hardware import (
    DatasetPlan,
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
from ._status import in_thread

LONG_POLL_S = 10.0
"""Longest wait for one change of a recording's state; then it is asked again."""
GATHER_S = 0.25
"""New frames are gathered this long before documents tell of them."""


@dataclass(frozen=True)
class VolumePlan:
    program: VolumeProgram
    datasets: tuple[DatasetPlan, ...]


class VolumeFlyer(OphydObject):
    """Prepared with a `VolumePlan`, kicked off once, followed to its end; every message may be repeated after a pause.

    ``trigger`` is done when there are new frames on disk or nothing more comes; ``complete`` when the volume has ended.
    Stream documents name only frames on disk, one for all that are new since the last collection.
    """

    def __init__(
        self,
        *,
        name: str,
        hardware: Hardware,
        recordings: RunRecordings,
        labels: dict[str, str],
        imaging: ImagingConfiguration,
    ) -> None:
        super().__init__(name=name, labels={"cameras"})
        self._hardware, self._imaging = hardware, imaging
        self._recordings = recordings
        self._labels = labels
        self._plan: VolumePlan | None = None
        self._state: RecordingState | None = None
        self._streams: dict[str, AssetStream] = {}
        self._prepare: Status | None = None
        self._kickoff: Status | None = None
        self._lock = threading.Lock()

    @property
    def ended(self) -> bool:
        """Nothing more comes."""
        return self._state is not None and self._state.phase not in ("open", "running")

    def hardware_restarted(self) -> None:
        self.stage()

    def stage(self) -> list[Any]:
        self._plan, self._state, self._streams, self._prepare, self._kickoff = None, None, {}, None, None
        return [self]

    def unstage(self) -> Status:
        return in_thread(self.stop, self)

    def prepare(self, value: VolumePlan) -> Status:
        """Set the cameras and create the files; after it the stream can be declared. The same plan again changes nothing."""
        with self._lock:
            if self._prepare is None or self._plan is not value:
                self.stage()
                self._plan = value
                self._prepare = in_thread(lambda: self._create_files(value), self)
            return self._prepare

    def _create_files(self, plan: VolumePlan) -> None:
        for view in plan.program.views:
            self._hardware.configure_camera(view.camera, exposure_ms=view.settings.exposure_ms)
        state = self._recordings.open(*plan.datasets)
        planned = {dataset.name: dataset.frames for dataset in plan.datasets}
        self._streams = {
            name: self._recordings.asset_stream(dataset, planned[name]) for name, dataset in state.datasets.items()
        }
        self._state = state

    def kickoff(self) -> Status:
        """Start the slices; a second kickoff changes nothing."""
        with self._lock:
            if self._kickoff is None:
                plan, state = self._require()

                def start() -> None:
                    self._state = self._hardware.start_volume(state.recording, plan.program)

                self._kickoff = in_thread(start, self)
            return self._kickoff

    def trigger(self) -> Status:
        return in_thread(lambda: self._follow(to_the_end=False), self)

    def complete(self) -> Status:
        return in_thread(lambda: self._follow(to_the_end=True), self)

    def _follow(self, to_the_end: bool) -> None:
        """Wait for frames that no document has told of yet, or for the end.

        Raises
        ------
        RecordingError, HaltedError, InterlockError
            Where the volume failed, saying how many frames are good.
        """
        _, state = self._require()
        gathered = time.monotonic() + GATHER_S
        while not self.ended:
            news = any(dataset.frames_written > self._streams[name].told for name, dataset in state.datasets.items())
            rest = gathered - time.monotonic()
            if news and not to_the_end and rest <= 0:
                return
            wait_s = rest if rest > 0 else LONG_POLL_S
            try:
                state = self._state = self._hardware.recording(state.recording, seen=state.version, wait_s=wait_s)
            except (HardwareGoneError, UnknownNameError) as error:
                self._state = self._lost(state, error)
                raise
        if state.phase == "failed":
            kind = stopped_by(self._hardware.safety()) or RecordingError
            raise kind(
                state.error or "the volume failed",
                frames_written={name: dataset.frames_written for name, dataset in state.datasets.items()},
            )

    def stop(self, *, success: bool = False) -> None:
        """End a running volume after the slice in hand; done when it has ended. With its hardware it ended anyhow."""
        if self._kickoff is not None and self._state is not None and self._state.phase == "running":
            try:
                self._state = self._hardware.stop_recording(self._state.recording)
            except (HardwareGoneError, UnknownNameError) as error:
                self._state = self._lost(self._state, error)

    def _lost(self, state: RecordingState, error: HardwareError) -> RecordingState:
        """What is left of a volume whose hardware has gone: the frames that are on disk."""
        datasets = {}
        for name, dataset in state.datasets.items():
            found = self._recordings.on_disk(state.run_uid, name)
            frames = dataset.frames_written if found is None else max(found, dataset.frames_written)
            datasets[name] = dataset.model_copy(update={"frames_written": frames})
        return state.model_copy(update={"phase": "failed", "error": str(error), "datasets": datasets})

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        _, state = self._require()
        return {name: frame_key(d, self._labels[d.camera]) for name, d in state.datasets.items()}

    def get_index(self) -> int:
        """Frames on disk in every dataset."""
        _, state = self._require()
        return min(dataset.frames_written for dataset in state.datasets.values())

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        _, state = self._require()
        frames = self.get_index() if index is None else min(index, self.get_index())
        for name in state.datasets:
            yield from self._streams[name].documents(frames)

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
        for camera, values in self._configuration().items():
            found |= self._imaging.describe(camera, values)
        return found

    def _configuration(self) -> dict[str, dict[str, Any]]:
        """By camera."""
        if self._plan is None:
            return {}
        channels = {dataset.camera: dataset.channel for dataset in self._plan.datasets}
        return {
            view.camera: self._imaging.values(view.camera, view.settings, channels.get(view.camera))
            for view in self._plan.program.views
        }

    def _require(self) -> tuple[VolumePlan, RecordingState]:
        if self._plan is None or self._state is None:
            raise RuntimeError(f"{self.name} has no volume to acquire: prepare it with a VolumePlan first")
        return self._plan, self._state
