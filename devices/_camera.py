"""A camera whose frames go to disk in the hardware process; the documents carry where they are, never pixels."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..config import Camera as CameraSettings
from ..config import MultiCamera as MultiCameraSettings
from ..hardware import (
    DatasetState,
    FocusMetric,
    FrameAt,
    FrameMeasure,
    FrameSettings,
    FrameShift,
    Hardware,
    HardwareError,
    RecordingError,
)
from ._camera_plan import CameraPlan, in_series
from ._geometry import CameraGeometry
from ._imaging import ImagingConfiguration
from ._recordings import AssetStream, RunRecordings, frame_key
from ._sequenced import SequencedCamera
from ._status import Exposes, finished, in_thread

log = logging.getLogger("queuescope.devices")


class CameraDetector(Exposes, OphydObject):
    """Each ``trigger`` takes one frame, and is done when its bytes are on disk.

    A detector like any other: ``bp.count([cam_a], 3)`` works. Frames are read by run UID, from Tiled or from disk.
    After a pause the RunEngine repeats the messages since the last checkpoint; a frame that was taken but not yet told in
    a document stands, so the sample isn't exposed again.

    A multi-camera is the same with a dataset for each of its cameras, which expose together. `another` takes frames of the same
    camera into datasets of their own: of another channel, or another place.
    """

    def __init__(
        self,
        *,
        name: str,
        hardware: Hardware,
        settings: CameraSettings | MultiCameraSettings,
        recordings: RunRecordings,
        imaging: ImagingConfiguration,
        series: str = "",
        position: str | None = None,
    ) -> None:
        super().__init__(name=in_series(name, series), labels={"cameras"})
        self._hardware, self._imaging = hardware, imaging
        self._camera, self._series, self._position = name, series, position
        self.settings = settings
        self.cameras = settings.cameras if isinstance(settings, MultiCameraSettings) else (name,)
        """Each has a dataset of its own name (`in_series`)."""
        self.geometry = None
        if isinstance(settings, CameraSettings):
            self.geometry = CameraGeometry(camera=name, hardware=hardware, label=settings.label, parent=None)
        self._recordings = recordings
        self._plan = CameraPlan()
        self._lock = threading.Lock()
        self.ahead = FramesAhead(self)
        self._forget()

    def meter(self, metric: FocusMetric, series: str = "", position: str | None = None) -> FrameMeter:
        """The same camera, whose frames are measured as well; as `another`."""
        return FrameMeter(
            name=self._camera,
            hardware=self._hardware,
            settings=self.settings,
            recordings=self._recordings,
            imaging=self._imaging,
            series=series,
            position=position,
            metric=metric,
        )

    def another(self, series: str, position: str | None = None) -> CameraDetector:
        """The same camera, whose frames go into datasets of this series, and whose light counts for this ``position``."""
        return CameraDetector(
            name=self._camera,
            hardware=self._hardware,
            settings=self.settings,
            recordings=self._recordings,
            imaging=self._imaging,
            series=series,
            position=position,
        )

    def sequenced(
        self, series: str, axes: Mapping[str, Any], described: Mapping[str, dict[str, Any]]
    ) -> SequencedCamera:
        """The same camera for a sequence's frames, each with an event; see `SequencedCamera`."""
        return SequencedCamera(
            camera=self._camera,
            series=series,
            cameras=self.cameras,
            axes=axes,
            described=described,
            hardware=self._hardware,
            recordings=self._recordings,
            imaging=self._imaging,
        )

    def _forget(self) -> None:
        self._recording: str | None = None
        self._datasets: dict[str, DatasetState] = {}
        self._streams: dict[str, AssetStream] = {}
        self.dose: dict[str, float] = {}
        """By light: what its frames in this run got, in % × s, as the hardware measured it."""

    def hardware_restarted(self) -> None:
        self._forget()

    def stage(self) -> list[Any]:
        """A frame that an earlier plan began which was halted has ended when this is done."""
        if self._exposing is not None:
            self._exposing.exception()
        self._forget()
        return [self]

    def unstage(self) -> list[Any]:
        self._forget()
        self._plan = CameraPlan()
        return [self]

    def prepare(self, value: CameraPlan | FrameSettings) -> Status:
        """Say how frames are taken and how many will come; sets the exposure time.

        With settings alone: frames are taken so from now on, into the same datasets.
        """
        if isinstance(value, CameraPlan):
            self._forget()
            self._plan = value
        else:
            self._plan = replace(self._plan, settings=value)
        exposure_ms = self._plan.settings.exposure_ms

        def configure() -> None:
            if exposure_ms is not None:
                for camera in self.cameras:
                    self._hardware.configure_camera(camera, exposure_ms=exposure_ms)

        return in_thread(configure, self)

    def trigger(self) -> Status:
        return self.expose(durable=True)

    def expose(self, durable: bool) -> Status:
        """Take one frame; the status is done when it is on disk, or, where it needn't be ``durable``, when it is exposed."""
        with self._lock:
            if self._exposing is not None and not self._exposing.done:
                return self._exposing
            if any(stream.in_hand for stream in self._streams.values()):
                return finished(self)
            run_uid = self._recordings.run_uid
            self._exposing = in_thread(lambda: self._take_frame(run_uid, durable), self)
            return self._exposing

    def _take_frame(self, run_uid: str | None, durable: bool = True) -> None:
        plan = self._plan
        if self._recording is None:
            opened = self._recordings.open(
                run_uid,
                *plan.datasets(self.cameras, self._series),
                position=self._position,
            )
            self._recording, self._datasets = opened.recording, opened.datasets
            self._streams = {
                name: self._recordings.asset_stream(dataset, plan.frames) for name, dataset in opened.datasets.items()
            }
        if isinstance(self.settings, MultiCameraSettings):
            state = self._hardware.record_together(self._recording, self._camera, plan.settings, durable)
        else:
            state = self._hardware.record_frame(self._recording, {self.name: plan.settings}, durable)
        self._datasets, self.dose = state.datasets, state.dose
        for stream in self._streams.values():
            stream.taken, stream.told_later = stream.taken + 1, not durable

    def settle(self) -> None:
        """Wait until every frame that was taken is on disk.

        Raises
        ------
        RecordingError
            Where one was lost.
        """
        if self._recording is None or self.taken <= self.get_index():
            return
        state = self._hardware.stop_recording(self._recording)
        self._datasets, self.dose = state.datasets, state.dose
        if self.taken > self.get_index():
            counts = {name: dataset.frames_written for name, dataset in state.datasets.items()}
            raise RecordingError(state.error or "frames were lost", frames_written=counts)

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        frames = self.get_index()
        for stream in self._streams.values():
            yield from stream.documents(frames if index is None else min(index, frames))

    @property
    def taken(self) -> int:
        """Frames exposed in this run, by each camera."""
        return min((stream.taken for stream in self._streams.values()), default=0)

    def get_index(self) -> int:
        """Frames on disk, of each camera."""
        return min((dataset.frames_written for dataset in self._datasets.values()), default=0)

    def read(self) -> dict[str, dict[str, Any]]:
        return {}  # frames travel as stream documents

    def describe(self) -> dict[str, dict[str, Any]]:
        if not self._datasets:
            raise RuntimeError(f"{self.name}: nothing was recorded in this run yet: trigger it before reading")
        return {name: frame_key(d, self._imaging.label(d.camera)) for name, d in self._datasets.items()}

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": []}

    def stop(self, *, success: bool = False) -> None:
        """A frame in hand ends by itself, with its exposure; nothing is asked of the camera."""

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        """What is needed to take the same image again (`ImagingConfiguration`)."""
        return self._imaging.reading({k: v for camera in self.cameras for k, v in self._configuration(camera).items()})

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        described: dict[str, dict[str, Any]] = {}
        for camera in self.cameras:
            described |= self._imaging.describe(camera, self._configuration(camera), in_series(camera, self._series))
        return described

    def _configuration(self, camera: str) -> dict[str, Any]:
        return self._imaging.values(camera, self._plan.settings, self._plan.channel, in_series(camera, self._series))


class FramesAhead:
    """A camera whose next frame is exposed while those before are still on their way to the disk.

    ``trigger`` is done when a frame is exposed; the next checkpoint is past it. ``collect`` tells of all frames that are on disk
    by then, in one stream document; there are no events. Triggering the camera itself waits for its frame and all before,
    triggering ``rest`` for those that were taken; ``stop`` does that too, whatever became of them.
    """

    parent = None

    def __init__(self, camera: CameraDetector) -> None:
        self._camera, self.name = camera, camera.name
        self.describe_collect, self.collect_asset_docs = camera.describe, camera.collect_asset_docs
        self.read_configuration, self.describe_configuration = camera.read_configuration, camera.describe_configuration
        self.get_index, self.hints = camera.get_index, camera.hints
        self.rest = FramesOnTheirWay(camera)

    def trigger(self) -> Status:
        return self._camera.expose(durable=False)

    async def stop(self, success: bool = True) -> None:
        try:
            await asyncio.to_thread(self._camera.settle)
        except HardwareError as error:  # why the plan ends is told already
            log.warning("%s: frames on their way to the disk: %s", self.name, error)


class FramesOnTheirWay:
    """``trigger`` is done when all frames that a camera took are on disk, and fails where one was lost."""

    parent = None

    def __init__(self, camera: CameraDetector) -> None:
        self._camera, self.name = camera, camera.name

    def trigger(self) -> Status:
        return in_thread(self._camera.settle, self._camera)


class FrameMeter(CameraDetector):
    """A camera that reads, for each frame it took, how sharp that is and how much structure it has: ``{name}_sharpness``,
    ``{name}_structure``, ``{name}_mean``. The hardware measures the frame as it lies on disk; no pixels come here.
    """

    def __init__(self, *, metric: FocusMetric, **more: Any) -> None:
        self._metric = metric
        self._measure: FrameMeasure | None = None
        super().__init__(**more)

    def _take_frame(self, run_uid: str | None, durable: bool = True) -> None:
        super()._take_frame(run_uid)
        self._measure = self._hardware.measure_frame(self.newest(), self._metric)

    def newest(self) -> FrameAt:
        """The frame taken last.

        Raises
        ------
        RuntimeError
            Before the first.
        """
        if self._recording is None or not self.get_index():
            raise RuntimeError(f"{self.name}: no frame was taken in this run yet: trigger it first")
        return FrameAt(recording=self._recording, dataset=self.name, index=self.get_index() - 1)

    def shift(self, frame: FrameAt, reference: FrameAt) -> FrameShift:
        """How far a frame lies from another one of this process; see `Hardware.frame_shift`."""
        return self._hardware.frame_shift(frame, reference)

    def read(self) -> dict[str, dict[str, Any]]:
        if self._measure is None:
            raise RuntimeError(f"{self.name}: no frame was measured in this run yet: trigger it before reading")
        now = time.time()
        return {f"{self.name}_{key}": {"value": value, "timestamp": now} for key, value in self._measure}

    def describe(self) -> dict[str, dict[str, Any]]:
        source = f"mm:{self._imaging.label(self._camera)}"
        measured = {"source": source, "dtype": "number", "shape": []}
        return super().describe() | {
            f"{self.name}_sharpness": {**measured, "units": "", "metric": self._metric},
            f"{self.name}_structure": {**measured, "units": ""},
            f"{self.name}_mean": {**measured, "units": "counts"},
        }
