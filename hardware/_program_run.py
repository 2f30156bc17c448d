"""A volume or a burst while it is carried out: one thread, which ends with its frames on disk and its lights off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol

from ._axes import Axes
from ._cameras import Frame
from ._errors import HardwareError
from ._lights import Lights
from ._pace import P, Pace
from ._recording import Recording
from ._surface import VolumeProgram

log = logging.getLogger("queuescope.hardware")

DRAIN_S = 60.0
"""At its end it waits this long for its frames to reach the disk."""


class Sink(Protocol):
    """Takes frames to the disk."""

    def record(
        self, recording: Recording, dataset: str, frame: Frame, position: dict[str, float], programmed: bool = False
    ) -> None:
        """Check a frame and hand it to the writer; ``programmed``: the position was commanded, not read back."""
        ...

    def has_room(self, timeout_s: float) -> bool:
        """Whether a frame can be taken at once; waits so long for it."""
        ...


class ProgramRun(Generic[P]):
    """One volume or burst in a thread of its own. The program must have passed its check (`_programs`) and its pace's."""

    def __init__(self, recording: Recording, program: P, pace: Pace[P], axes: Axes, lights: Lights, sink: Sink) -> None:
        self.recording, self.program = recording, program
        self.ending = threading.Event()
        self._pace, self._axes, self._lights, self._sink = pace, axes, lights, sink
        self._turn = threading.Condition()
        self._held = self._waiting = self._ended = False
        self._stop_reason: str | None = None
        self._stays = False
        self._around: dict[str, float] = {}
        """Where the axes stand that it doesn't move: nothing else moves while it runs."""
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._run, name="program", daemon=True)

    @property
    def moves(self) -> set[str]:
        """The axes that the program moves."""
        return set(self._pace.moves(self.program))

    def start(self) -> None:
        self.recording.begin()
        self._thread.start()

    def stop(self, why: str, stay: bool = False) -> None:
        """End it: after the slice in hand in software time, else at once; with ``stay`` the axes stay where they are then."""
        self._stays = self._stays or stay
        if self._stop_reason is None:
            self._stop_reason = why
        self.ending.set()
        with self._turn:
            self._turn.notify_all()

    def hold(self, held: bool, limit_s: float) -> bool:
        """Have it wait before its next exposure, or go on; False where it doesn't wait after ``limit_s``.

        One whose pace can't wait goes on to its end, and the caller isn't kept.
        """
        if not self._pace.can_wait(self.program):
            return True
        with self._turn:
            self._held = held
            self._turn.notify_all()
            return not held or self._turn.wait_for(lambda: self._waiting or self._ended, limit_s)

    def goes_on(self) -> bool:
        with self._turn:
            while self._held and not self.ending.is_set() and not self.recording.failed:
                self._wait(True)
                self._turn.notify_all()
                self._turn.wait()
            self._wait(False)
        return not self.ends_early()

    def _wait(self, waiting: bool) -> None:
        if waiting != self._waiting:
            self._waiting = waiting
            self.recording.hold(waiting)

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
        self._stays = True

    def record(self, dataset: str, frame: Frame, position: dict[str, float], programmed: bool = False) -> None:
        self._sink.record(self.recording, dataset, frame, {**self._around, **position}, programmed)

    def has_room(self, timeout_s: float) -> bool:
        return self._sink.has_room(timeout_s)

    def _run(self) -> None:
        before: dict[str, float] = {}
        try:
            with self.noting():
                moved = self._pace.moves(self.program)
                before = self._axes.read(moved)
                self._around = self._axes.resting(moved)
                self._pace.run(self)
            for off in self._lights.all_off(emission=False):
                if off.error is not None:
                    self._problems.append(f"light {off.light} may still be ON: {off.error}")
            stays = self._stays or (isinstance(self.program, VolumeProgram) and self.program.stays)
            if before and not stays:
                with self.noting("the axes did not return: "):
                    self._axes.move(before)
        finally:
            if not self.recording.drain(DRAIN_S):
                self._problems.append(f"frames did not reach the disk within {DRAIN_S:g} s")
            if self._problems:
                self.recording.fail("; ".join(self._problems))
            self.recording.enter("done")
            with self._turn:
                self._ended = True
                self._turn.notify_all()

    @contextmanager
    def noting(self, prefix: str = "") -> Iterator[None]:
        try:
            yield
        except HardwareError as error:
            if self._stop_reason is not None:  # it may have failed for that
                self.note(self._stop_reason)
            self._problems.append(f"{prefix}{error}")
        except Exception as error:
            log.exception("a volume or burst failed unexpectedly")
            self._problems.append(f"{prefix}{type(error).__name__}: {error}")
