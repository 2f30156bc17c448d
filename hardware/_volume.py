"""A volume, slice by slice: the piezo follows the sheet, each view exposes with its own light, all in software time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._axes import Axes
from ._cameras import Cameras, Frame
from ._errors import ArgumentError, HardwareError, RecordingError, UnknownNameError
from ._lights import Lights
from ._recording import Recording
from ._surface import VolumeProgram, VolumeView

log = logging.getLogger("queuescope.hardware")

DRAIN_S = 60.0
"""At its end a volume waits this long for its frames to reach the disk."""

Record = Callable[[Recording, str, Frame, dict[str, float]], None]
"""Checks a frame and hands it to the writer."""


def check_program(recording: Recording, program: VolumeProgram, axes: Axes, cameras: Cameras) -> None:
    """Everything, before anything moves.

    Raises
    ------
    LimitError, UnknownNameError, ArgumentError, RecordingError
        Naming what doesn't fit.
    """
    names = [view.dataset for view in program.views]
    if len(set(names)) != len(names):
        raise ArgumentError(f"two views record the same dataset: {names}", thing="program.views", value=names)
    lengths = {view.dataset: len(view.piezo_um) for view in program.views}
    if min(lengths.values()) < 1 or (program.order == "slice" and len(set(lengths.values())) > 1):
        raise ArgumentError(
            f"piezo_um must have at least one slice, and the same number in every view when the order is by slice: {lengths}",
            thing="program.views.piezo_um",
            value=lengths,
        )
    for view in program.views:
        _check_view(recording, view, axes, cameras)
    axes.check_sequence([targets_of(view, index) for view, index in in_order(program)], back=True)


def in_order(program: VolumeProgram) -> Iterator[tuple[VolumeView, int]]:
    """Each frame of the program: its view and slice, in the order in which they are taken."""
    if program.order == "slice":
        for index in range(len(program.views[0].piezo_um)):
            for view in program.views:
                yield view, index
    else:
        for view in program.views:
            for index in range(len(view.piezo_um)):
                yield view, index


def targets_of(view: VolumeView, index: int) -> dict[str, float]:
    """Where the axes of a view are at a slice."""
    targets = {view.piezo: view.piezo_um[index]}
    if view.galvo is not None and view.galvo_deg is not None:
        targets[view.galvo] = view.galvo_deg[index]
    return targets


def _check_view(recording: Recording, view: VolumeView, axes: Axes, cameras: Cameras) -> None:
    if view.dataset not in recording.datasets:
        known = sorted(recording.datasets)
        raise UnknownNameError(
            f"{view.dataset!r} is none of this recording's datasets {known}",
            thing="dataset",
            value=view.dataset,
            known=known,
        )
    dataset = recording.datasets[view.dataset]
    if view.camera != dataset.plan.camera:
        raise ArgumentError(
            f"dataset {view.dataset} was opened for camera {dataset.plan.camera}, not {view.camera}",
            thing="program.views.camera",
            value=view.camera,
        )
    if len(view.piezo_um) > dataset.room():
        raise RecordingError(
            f"{view.dataset} has room for {dataset.room():g} more frames, the volume has {len(view.piezo_um)}: open a"
            " recording with as many frames as will come",
            **recording.counts(),
        )
    cameras.check(view.camera, view.settings)
    for target in view.piezo_um:
        axes.check(view.piezo, target)
    if (view.galvo is None) != (view.galvo_deg is None):
        raise ArgumentError("galvo and galvo_deg belong together: give both or neither", thing="program.views.galvo")
    if view.galvo is not None and view.galvo_deg is not None:
        if len(view.galvo_deg) != len(view.piezo_um):
            raise ArgumentError(
                f"{view.dataset}: {len(view.galvo_deg)} galvo targets for {len(view.piezo_um)} slices",
                thing="program.views.galvo_deg",
                value=len(view.galvo_deg),
            )
        for target in view.galvo_deg:
            axes.check(view.galvo, target)


class VolumeRun:
    """One volume in a thread of its own. The program must have passed `check_program`."""

    def __init__(
        self, recording: Recording, program: VolumeProgram, axes: Axes, cameras: Cameras, lights: Lights, record: Record
    ) -> None:
        self.recording, self._program = recording, program
        self._axes, self._cameras, self._lights, self._record = axes, cameras, lights, record
        self._stop_reason: str | None = None
        self._hold = False
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._run, name="volume", daemon=True)

    @property
    def moves(self) -> set[str]:
        """The axes that the program moves."""
        return {axis for view in self._program.views for axis in (view.piezo, view.galvo) if axis is not None}

    def start(self) -> None:
        self.recording.enter("running")
        self._thread.start()

    def stop(self, why: str, hold: bool = False) -> None:
        """End after the slice in hand; with ``hold`` the axes stay where they are then."""
        self._hold = self._hold or hold
        if self._stop_reason is None:
            self._stop_reason = why

    def join(self, limit_s: float) -> bool:
        """Wait for the end; False after ``limit_s``."""
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        moved = dict.fromkeys(n for v in self._program.views for n in (v.piezo, v.galvo) if n is not None)
        before: dict[str, float] = {}
        try:
            with self._noting():
                before = self._axes.read(moved)
                self._slices()
            for off in self._lights.all_off(emission=False):
                if off.error is not None:
                    self._problems.append(f"light {off.light} may still be ON: {off.error}")
            if before and not self._hold:
                with self._noting("the axes did not return: "):
                    self._axes.move(before)
        finally:
            if not self.recording.drain(DRAIN_S):
                self._problems.append(f"frames did not reach the disk within {DRAIN_S:g} s")
            if self._problems:
                self.recording.fail("; ".join(self._problems))
            self.recording.enter("done")

    @contextmanager
    def _noting(self, prefix: str = "") -> Iterator[None]:
        """What fails is told in the recording's error, the first thing first; the next step is taken all the same."""
        try:
            yield
        except HardwareError as error:
            self._problems.append(f"{prefix}{error}")
        except Exception as error:
            log.exception("the volume failed unexpectedly")
            self._problems.append(f"{prefix}{type(error).__name__}: {error}")

    def _slices(self) -> None:
        for view, index in in_order(self._program):
            if self._stop_reason is not None:
                self._problems.append(self._stop_reason)
                return
            if self.recording.failed:  # its frames could not be written
                return
            position = self._axes.move(targets_of(view, index))
            frame = self._cameras.take(view.camera, view.settings, self.recording.account)
            self._record(self.recording, view.dataset, frame, position)
