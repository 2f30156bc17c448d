"""The recorder: opens a run's files, takes frames into them, and follows volumes and bursts."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..config import Scope
from ..formats import Format
from ..layout import Layout
from ._axes import Axes
from ._burst_pace import BurstPace
from ._cameras import Cameras, Frame
from ._dataset_files import DatasetFiles
from ._deadlines import DISK_S, stopping_s
from ._errors import ArgumentError, HardwareTimeout, LimitError, RecordingError, UnknownNameError
from ._lights import Lights
from ._measuring import sharpness, shift, structure
from ._ome_metadata import image_facts
from ._ome_tiff import TiffFiles
from ._ome_zarr import ZarrFiles
from ._pace import P, Pace
from ._program_run import ProgramRun
from ._programs import check_burst, check_volume
from ._recording import Dataset, Recording
from ._software_pace import SoftwarePace
from ._surface import (
    BurstProgram,
    FocusMetric,
    FrameAt,
    FrameLine,
    FrameMeasure,
    FrameSettings,
    FrameShift,
    RecordingPlan,
    RecordingState,
    VolumeProgram,
)
from ._together import MultiCameras
from ._unfinished import Unfinished
from ._writer import FrameWriter

KEPT = 200
"""Closed recordings that can still be asked about."""

LONGEST_WAIT_S = 30.0

_FILES: dict[Format, type[ZarrFiles] | type[TiffFiles]] = {"ome-zarr": ZarrFiles, "ome-tiff": TiffFiles}


class Recorder:
    """All recordings of this process."""

    def __init__(
        self,
        scope: Scope,
        layout: Layout,
        axes: Axes,
        cameras: Cameras,
        lights: Lights,
        pace: Pace[VolumeProgram],
        together: MultiCameras,
    ) -> None:
        self._together = together
        self._scope, self._axes, self._cameras, self._lights, self._pace = scope, axes, cameras, lights, pace
        self._volumes = layout.root(scope, scope.storage.root, "hardware") / "volumes"
        self._unfinished = Unfinished(layout.services / "unfinished")
        self._unfinished.mend()
        self._recordings: dict[str, Recording] = {}
        self._writer = FrameWriter()
        self._burst = BurstPace(scope, axes, cameras, lights)
        self._run: ProgramRun[Any] | None = None
        self._taking = threading.Lock()
        """One frame, or the start of one volume or burst, at a time."""

    def open(self, plan: RecordingPlan) -> RecordingState:
        """Create the files of a run's datasets; see `Hardware.open_recording`."""
        names = [dataset.name for dataset in plan.datasets]
        if len(set(names)) != len(names):
            raise ArgumentError(f"two datasets have the same name: {names}", thing="plan.datasets", value=names)
        account = self._lights.meter.account(plan.sample_id, plan.position)
        files: dict[str, DatasetFiles] = {}
        for dataset in plan.datasets:
            facts = image_facts(self._scope, self._cameras, plan, dataset)
            files_of = _FILES[dataset.format or self._scope.storage.format]
            files[dataset.name] = files_of(self._volumes, dataset, facts, self._unfinished)
        self._create(list(files.values()))
        recording = Recording(uuid.uuid4().hex, self._scope, plan, files, account)
        self._forget_old()
        self._recordings[recording.id] = recording
        return recording.state()

    def _create(self, files: list[DatasetFiles]) -> None:
        for dataset in files:
            for path in (dataset.path, dataset.frames_jsonl):
                if path.exists():
                    raise RecordingError(f"{path} exists already: a run's files are written once", frames_written={})
        made: list[DatasetFiles] = []
        try:
            self._volumes.mkdir(parents=True, exist_ok=True)
            self._check_space(sum((dataset.plan.frames or 0) * dataset.frame_bytes for dataset in files))
            for dataset in files:
                made.append(dataset)
                dataset.create()
        except OSError as error:
            for dataset in made:
                dataset.discard()
            raise RecordingError(f"the files of the run could not be made: {error}", frames_written={}) from error

    def _check_space(self, planned: int) -> None:
        free = shutil.disk_usage(self._volumes).free
        reserve = self._scope.storage.min_free_gb * 1e9
        if free < planned + reserve:
            raise RecordingError(
                f"not enough space in {self._volumes}: the run needs {planned / 1e9:.2f} GB and {reserve / 1e9:.2f} GB must"
                f" stay free (scope file: storage.min_free_gb), {free / 1e9:.2f} GB are free: make room or plan fewer frames",
                frames_written={},
                needed=planned + reserve,
                free=free,
                path=str(self._volumes),
            )

    def record_frame(self, identity: str, settings: dict[str, FrameSettings], durable: bool) -> RecordingState:
        """Take one frame a dataset; see `Hardware.record_frame`."""
        with self._taking:
            return self._record_frame(identity, settings, durable)

    def _record_frame(self, identity: str, settings: dict[str, FrameSettings], durable: bool) -> RecordingState:
        recording = self._ready(identity)
        if not settings:
            raise ArgumentError("settings name no dataset", thing="record_frame.settings", value={})
        for name, one in settings.items():
            dataset = self._dataset(recording, name)
            self._cameras.check(dataset.plan.camera, one)
            self._check_room(recording, name)
        self._check_dose(recording, [(recording.datasets[n].plan.camera, one, 1) for n, one in settings.items()])

        def take() -> Iterator[tuple[str, Frame, dict[str, float]]]:
            for name, one in settings.items():
                position, _ = self._axes.read_all()
                yield name, self._cameras.take(recording.datasets[name].plan.camera, one, recording.account), position

        return self._written(recording, take(), durable)

    def record_together(
        self, identity: str, multi_camera: str, settings: FrameSettings, durable: bool
    ) -> RecordingState:
        """One exposure of all its cameras; see `Hardware.record_together`."""
        with self._taking:
            recording = self._ready(identity)
            datasets = self._together.datasets(multi_camera, recording)
            self._together.check(multi_camera, settings)
            for name in datasets.values():
                self._check_room(recording, name)
            self._lights.meter.check(self._together.dose(multi_camera, settings), recording.account)

            def take() -> Iterator[tuple[str, Frame, dict[str, float]]]:
                position, _ = self._axes.read_all()
                for camera, frame in self._together.take(multi_camera, settings, recording.account).items():
                    yield datasets[camera], frame, position

            return self._written(recording, take(), durable)

    def _check_room(self, recording: Recording, name: str) -> None:
        dataset = self._dataset(recording, name)
        if dataset.room() < 1:
            raise RecordingError(
                f"{name} was planned for {dataset.plan.frames} frames and has them all", **recording.counts()
            )

    def _written(
        self, recording: Recording, frames: Iterator[tuple[str, Frame, dict[str, float]]], durable: bool
    ) -> RecordingState:
        """Hand frames to the writer as they are taken, and where ``durable`` wait until all of the recording are."""
        try:
            for name, frame, position in frames:
                self.record(recording, name, frame, position)
        except Exception as error:
            recording.drain(DISK_S)  # frames taken before are good
            recording.fail(str(error))
            raise
        if durable:
            self._drained(recording)
        if recording.failed:
            raise RecordingError(str(recording.error), **recording.counts())
        return recording.state()

    def _drained(self, recording: Recording) -> None:
        limit_s = self._scope.micromanager.call_timeout_s + DISK_S
        if not recording.drain(limit_s):
            raise HardwareTimeout(f"the frame is not on disk after {limit_s:g} s", thing="disk", limit=limit_s)

    def has_room(self, timeout_s: float) -> bool:
        """Whether the writer can take a frame at once; waits so long for it."""
        return self._writer.has_room(timeout_s)

    def record(
        self, recording: Recording, name: str, frame: Frame, position: dict[str, float], programmed: bool = False
    ) -> None:
        """Hand a frame to the writer, if it is what the dataset was made for; waits while the writer has enough."""
        files = recording.datasets[name].files
        if frame.array.shape != files.frame_shape or frame.array.dtype != files.dtype:
            raise RecordingError(
                f"{name} holds frames of {files.frame_shape} {files.dtype.name}, the camera gave {frame.array.shape}"
                f" {frame.array.dtype.name}: binning, ROI and pixel type must stay as they were when the recording was opened",
                **recording.counts(),
            )
        if recording.datasets[name].plan.frames is None:
            self._check_space(files.frame_bytes)
        self._writer.put(recording, name, frame, position, programmed)

    def start_volume(self, identity: str, program: VolumeProgram) -> RecordingState:
        """Check everything, then acquire in a thread; see `Hardware.start_volume`."""
        with self._taking:
            recording = self._ready(identity)
            check_volume(recording, program, self._axes, self._cameras, self._together)
            pace = self._pace if program.trigger is None else SoftwarePace(self._axes, self._cameras, self._together)
            return self._start(recording, program, pace)

    def start_burst(self, identity: str, program: BurstProgram) -> RecordingState:
        """Check everything, then acquire in a thread; see `Hardware.start_burst`."""
        with self._taking:
            recording = self._ready(identity)
            check_burst(recording, program, self._cameras)
            return self._start(recording, program, self._burst)

    def _start(self, recording: Recording, program: P, pace: Pace[P]) -> RecordingState:
        pace.check(program)
        self._lights.meter.check(pace.dose(program), recording.account)
        self._run = ProgramRun(recording, program, pace, self._axes, self._lights, self)
        self._run.start()
        return recording.state()

    def _check_dose(self, recording: Recording, frames: list[tuple[str, FrameSettings, int]]) -> None:
        """Refuse, before any light, frames (camera, settings, how many) that would exceed a budget together."""
        asked: dict[str, float] = {}
        for camera, settings, count in frames:
            for light, dose in self._cameras.dose(camera, settings).items():
                asked[light] = asked.get(light, 0.0) + count * dose
        self._lights.meter.check(asked, recording.account)

    def hold_recording(self, identity: str, hold: bool) -> RecordingState:
        """Have a running volume or burst wait, or go on; see `Hardware.hold_recording`."""
        recording = self._known(identity)
        run = self._run_of(recording)
        limit_s = stopping_s(self._scope)
        if run is not None and not run.hold(hold, limit_s):
            raise HardwareTimeout(
                f"the exposure in hand has not ended after {limit_s:g} s", thing="recording", limit=limit_s
            )
        return recording.state()

    def stop_recording(self, identity: str) -> RecordingState:
        """End a volume or burst after the exposure in hand, wait for it and for every frame on its way to the disk."""
        recording = self._known(identity)
        self._end(recording, "stopped by stop_recording")
        self._drained(recording)
        return recording.state()

    def _end(self, recording: Recording, why: str) -> None:
        run = self._run_of(recording)
        if run is not None:
            run.stop(why)
            limit_s = stopping_s(self._scope)
            if not run.join(limit_s):
                raise HardwareTimeout(f"it has not ended after {limit_s:g} s", thing="recording", limit=limit_s)

    def _run_of(self, recording: Recording) -> ProgramRun[Any] | None:
        """What runs now into this recording."""
        run = self._run
        return run if run is not None and run.recording is recording and run.running else None

    def state(self, identity: str, seen: int, wait_s: float, gather_s: float) -> RecordingState:
        """See `Hardware.recording`."""
        for name, value in (("wait_s", wait_s), ("gather_s", gather_s)):
            if not (math.isfinite(value) and 0 <= value <= LONGEST_WAIT_S):
                raise LimitError(
                    f"{name} {value} is outside [0, {LONGEST_WAIT_S:g}]",
                    thing=name,
                    value=repr(value),
                    limit=[0, LONGEST_WAIT_S],
                )
        return self._known(identity).wait(seen, wait_s, gather_s)

    def close_recording(self, identity: str) -> RecordingState:
        """Stop what runs, finish the files; see `Hardware.close_recording`."""
        recording = self._known(identity)
        self._end(recording, "the recording was closed")
        return recording.close(DISK_S)

    def checksums(self, identity: str, dataset: str) -> tuple[str, ...]:
        """See `Hardware.checksums`."""
        recording = self._known(identity)
        with recording.changed:
            return tuple(self._dataset(recording, dataset).checksums)

    def lines(self, identity: str, dataset: str, start: int) -> tuple[FrameLine, ...]:
        """See `Hardware.frame_lines`."""
        if start < 0:
            raise LimitError(f"start {start} is below 0", thing="frame_lines.start", value=start, limit=[0, None])
        recording = self._known(identity)
        try:
            lines = self._dataset(recording, dataset).files.lines(start)
        except OSError as error:
            raise RecordingError(f"the frame list of {dataset} can't be read: {error}", **recording.counts()) from error
        return tuple(FrameLine.of(line) for line in lines)

    def measure(self, frame: FrameAt, metric: FocusMetric) -> FrameMeasure:
        """See `Hardware.measure_frame`."""
        pixels = self._frame(frame)
        return FrameMeasure(sharpness=sharpness(pixels, metric), structure=structure(pixels), mean=float(pixels.mean()))

    def shift(self, frame: FrameAt, reference: FrameAt) -> FrameShift:
        """See `Hardware.frame_shift`."""
        x, y, correlation = shift(self._frame(frame), self._frame(reference))
        return FrameShift(x_px=x, y_px=y, correlation=correlation)

    def _frame(self, at: FrameAt) -> np.ndarray:
        """What was written, not what was in memory."""
        recording = self._known(at.recording)
        dataset = self._dataset(recording, at.dataset)
        if at.index >= dataset.written:
            raise RecordingError(
                f"{at.dataset} has {dataset.written} frames on disk, there is no frame {at.index}", **recording.counts()
            )
        try:
            return dataset.files.read(at.index)
        except OSError as error:
            raise RecordingError(
                f"frame {at.index} of {at.dataset} can't be read back from {dataset.files.path}: {error}",
                **recording.counts(),
            ) from error

    @property
    def idle(self) -> bool:
        """Whether no volume or burst runs."""
        return self._run is None or not self._run.running

    def open_runs(self) -> list[str]:
        """UIDs of the runs whose recordings aren't closed."""
        return [one.plan.run_uid for one in self._recordings.copy().values() if one.phase != "closed"]

    def check_idle(self, call: str) -> None:
        """A running volume or burst owns the microscope.

        Raises
        ------
        RecordingError
            Where one is running.
        """
        if self._run is not None and self._run.running:
            raise RecordingError(
                f"{call}: a volume or burst is running; wait for its end or stop it (stop_recording)",
                **self._run.recording.counts(),
            )

    def interrupt(self, why: str, axes: tuple[str, ...] | None = None) -> None:
        """Tell what runs and moves one of these axes (None: whatever runs) to end with its axes where they are; doesn't wait."""
        if self._run is not None and (axes is None or self._run.moves.intersection(axes)):
            self._run.stop(why, stay=True)

    def join(self, limit_s: float) -> bool:
        """Wait for the end of what runs; False after ``limit_s``."""
        return self._run is None or self._run.join(limit_s)

    def give_up(self, identity: str, why: str) -> None:
        """Whoever opened this recording is gone: close it with the frames it has. Never raises."""
        recording = self._recordings.get(identity)
        if recording is not None and recording.phase != "closed":
            if self._run is not None and self._run.recording is recording:
                self._run.join(DISK_S)
            recording.drain(DISK_S)
            recording.fail(why)
            with contextlib.suppress(RecordingError):  # its state says so, and the next process tries again
                recording.close(DISK_S)

    def fail_all(self, why: str, limit_s: float) -> None:
        """Nothing more may come into any recording; frames in hand get ``limit_s`` to reach the disk."""
        for recording in self._recordings.copy().values():
            recording.drain(limit_s)
            recording.fail(why)

    def close(self, limit_s: float) -> list[RecordingState]:
        """End and close every recording, each in its own step; returns those that were open."""
        self.interrupt("the hardware is shutting down")
        if self._run is not None:
            self._run.join(limit_s)
        ended = []
        for recording in self._recordings.values():
            if recording.phase != "closed":
                with contextlib.suppress(RecordingError):  # its state says so, and the next one must be closed too
                    recording.close(limit_s)
                ended.append(recording.state())
        self._writer.close()
        return ended

    def _known(self, identity: str) -> Recording:
        if identity not in self._recordings:
            raise UnknownNameError(
                f"there is no recording {identity!r} (this process knows {len(self._recordings)})",
                thing="recording",
                value=identity,
                known=list(self._recordings)[-5:],
            )
        return self._recordings[identity]

    def _ready(self, identity: str) -> Recording:
        recording = self._known(identity)
        self.check_idle("recording")
        if recording.phase not in ("open", "done"):
            raise RecordingError(
                f"the recording is {recording.phase}" + (f": {recording.error}" if recording.error else ""),
                **recording.counts(),
            )
        return recording

    @staticmethod
    def _dataset(recording: Recording, name: str) -> Dataset:
        if name not in recording.datasets:
            known = sorted(recording.datasets)
            raise UnknownNameError(
                f"{name!r} is none of this recording's datasets {known}", thing="dataset", value=name, known=known
            )
        return recording.datasets[name]

    def _forget_old(self) -> None:
        closed = [identity for identity, recording in self._recordings.items() if recording.phase == "closed"]
        for identity in closed[:-KEPT]:
            del self._recordings[identity]
