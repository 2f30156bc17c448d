"""A volume: the piezo follows the sheet, each view exposes with its own light. Who times the slices is its pace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._axes import Axes
from ._cameras import Cameras, Frame
from ._errors import ArgumentError, HardwareError, RecordingError, UnknownNameError
from ._lights import Lights
from ._pace import Pace, in_order, targets_of
from ._recording import Recording
from ._surface import VolumeProgram, VolumeView

log = logging.getLogger("queuescope.hardware")

DRAIN_S = 60.0
"""At its end a volume waits this long for its frames to reach the disk."""

Record = Callable[[Recording, str, Frame, dict[str, float], bool], None]
"""Checks a frame and hands it to the writer; the last argument says that the position was commanded, not read back."""


def check_program(recording: Recording, program: VolumeProgram, axes: Axes, cameras: Cameras) -> None:
    """Everything that doesn't depend on the pace, before anything moves.

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
    """One volume in a thread of its own. The program must have passed `check_program` and its pace's check."""

    def __init__(
        self, recording: Recording, program: VolumeProgram, pace: Pace, axes: Axes, lights: Lights, record: Record
    ) -> None:
        self.recording, self.program = recording, program
        self.ending = threading.Event()
        self._pace, self._axes, self._lights, self._record = pace, axes, lights, record
        self._stop_reason: str | None = None
        self._hold = False
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._run, name="volume", daemon=True)

    @property
    def moves(self) -> set[str]:
        """The axes that the program moves."""
        return set(self._pace.moves(self.program))

    def start(self) -> None:
        self.recording.enter("running")
        self._thread.start()

    def stop(self, why: str, hold: bool = False) -> None:
        """End it: after the slice in hand in software time, else at once; with ``hold`` the axes stay where they are then."""
        self._hold = self._hold or hold
        if self._stop_reason is None:
            self._stop_reason = why
        self.ending.set()

    def join(self, limit_s: float) -> bool:
        """Wait for the end; False after ``limit_s``."""
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def ends_early(self) -> bool:
        if self._stop_reason is not None:
            self.note(self._stop_reason)
            return True
        return self.recording.failed  # its frames could not be written

    def note(self, problem: str) -> None:
        if problem not in self._problems:
            self._problems.append(problem)

    def stay(self) -> None:
        self._hold = True

    def record(self, dataset: str, frame: Frame, position: dict[str, float], programmed: bool = False) -> None:
        self._record(self.recording, dataset, frame, position, programmed)

    def _run(self) -> None:
        before: dict[str, float] = {}
        try:
            with self.noting():
                before = self._axes.read(self._pace.moves(self.program))
                self._pace.run(self)
            for off in self._lights.all_off(emission=False):
                if off.error is not None:
                    self._problems.append(f"light {off.light} may still be ON: {off.error}")
            if before and not self._hold:
                with self.noting("the axes did not return: "):
                    self._axes.move(before)
        finally:
            if not self.recording.drain(DRAIN_S):
                self._problems.append(f"frames did not reach the disk within {DRAIN_S:g} s")
            if self._problems:
                self.recording.fail("; ".join(self._problems))
            self.recording.enter("done")

    @contextmanager
    def noting(self, prefix: str = "") -> Iterator[None]:
        try:
            yield
        except HardwareError as error:
            if self._stop_reason is not None:  # it may have failed for that
                self.note(self._stop_reason)
            self._problems.append(f"{prefix}{error}")
        except Exception as error:
            log.exception("the volume failed unexpectedly")
            self._problems.append(f"{prefix}{type(error).__name__}: {error}")
