"""A volume as one flyer: the hardware process runs the slices, the RunEngine only follows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..hardware import DatasetPlan, Hardware, RecordingError, RecordingState, VolumeProgram
from ._recordings import AssetStream, RunRecordings, frame_key
from ._status import finished, in_thread

FOLLOW_S = 10.0
"""Longest wait for one change of a recording's state; then it is asked again."""


@dataclass(frozen=True)
class VolumePlan:
    program: VolumeProgram
    datasets: tuple[DatasetPlan, ...]


class VolumeFlyer(OphydObject):
    """Prepared with a `VolumePlan`, kicked off once; ``complete`` is done when every frame is on disk.

    Stream documents name only frames on disk, one for all that are new since the last collection.
    """

    def __init__(self, *, name: str, hardware: Hardware, recordings: RunRecordings, labels: dict[str, str]) -> None:
        super().__init__(name=name)
        self._hardware = hardware
        self._recordings = recordings
        self._labels = labels
        self._plan: VolumePlan | None = None
        self._state: RecordingState | None = None
        self._streams: dict[str, AssetStream] = {}
        self._started = False
        self._complete: Status | None = None
        self._lock = threading.Lock()

    def stage(self) -> list[Any]:
        self._plan, self._state, self._streams, self._started, self._complete = None, None, {}, False, None
        return [self]

    def unstage(self) -> list[Any]:
        self.stop()
        return [self]

    def prepare(self, value: VolumePlan) -> Status:
        """Set the cameras and create the files; after it the stream can be declared."""

        def prepare() -> None:
            self.stage()
            self._plan = value
            for view in value.program.views:
                self._hardware.configure_camera(view.camera, exposure_ms=view.settings.exposure_ms)
            self._state = self._recordings.open(*value.datasets)
            planned = {dataset.name: dataset.frames for dataset in value.datasets}
            self._streams = {
                name: self._recordings.asset_stream(dataset, planned[name])
                for name, dataset in self._state.datasets.items()
            }

        return in_thread(prepare, self)

    def kickoff(self) -> Status:
        """Start the slices; a second kickoff (the RunEngine repeats messages after a pause) changes nothing."""
        with self._lock:
            if self._started:
                return finished(self)
            plan, state = self._require()
            self._started = True
            return in_thread(lambda: self._hardware.start_volume(state.recording, plan.program), self)

    def complete(self) -> Status:
        with self._lock:
            if self._complete is None or (self._complete.done and not self._complete.success):
                self._complete = in_thread(self._follow, self)
            return self._complete

    def _follow(self) -> None:
        _, state = self._require()
        while state.phase in ("open", "running"):
            state = self._hardware.recording(state.recording, seen=state.version, wait_s=FOLLOW_S)
            self._state = state
        if state.phase == "failed":
            raise RecordingError(
                state.error or "the volume failed",
                frames_written={name: d.frames_written for name, d in state.datasets.items()},
            )

    def stop(self, *, success: bool = False) -> None:
        """End a running volume after the slice in hand."""
        if self._state is not None and self._started and self._state.phase == "running":
            self._state = self._hardware.stop_volume(self._state.recording)

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

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def _require(self) -> tuple[VolumePlan, RecordingState]:
        if self._plan is None or self._state is None:
            raise RuntimeError(f"{self.name} has no volume to acquire: prepare it with a VolumePlan first")
        return self._plan, self._state
