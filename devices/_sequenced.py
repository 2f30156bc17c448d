"""A camera for the frames of a sequence: single ones and programs of the hardware process, into the same datasets, each with an
event that says which it is and where it was taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ophyd.status import Status

from ..hardware import (
    DatasetPlan,
    DeviceError,
    FrameLine,
    FrameSettings,
    Hardware,
    HardwareError,
    HardwareGoneError,
    UnknownNameError,
)
from ._camera_plan import CameraPlan, in_series
from ._following import Program, ProgramFollower
from ._imaging import ImagingConfiguration
from ._recordings import RunRecordings
from ._status import finished

log = logging.getLogger("queuescope.devices")


@dataclass(frozen=True, eq=False)
class Shots:
    """Frames that are taken in one step."""

    rows: tuple[Mapping[str, Any], ...]
    """By frame: what its event says besides places."""
    program: Program | None = None
    """None: one frame, where everything stands."""


@dataclass(frozen=True, eq=False)
class _Opening:
    """The plan of a recording that has no program yet."""

    plan: CameraPlan
    datasets: tuple[DatasetPlan, ...]

    def settings(self, camera: str) -> FrameSettings:
        return self.plan.settings

    def places(self, camera: str) -> dict[str, tuple[tuple[float, ...], str]]:
        return {}


class SequencedCamera(ProgramFollower):
    """Prepared with a `CameraPlan` it makes the files; then with `Shots` again and again: a single frame is taken by ``trigger``,
    a program by ``kickoff`` and ``trigger`` until it has ended.

    ``collect`` tells of all frames that are on disk by then: stream documents, and an event for each with its row, the position
    of each axis as the hardware noted it beside the frame, and whether that was ``programmed``: commanded, not read back.
    """

    plans: ClassVar[type[Any]] = _Opening

    def __init__(
        self,
        *,
        camera: str,
        series: str,
        cameras: tuple[str, ...],
        axes: Mapping[str, Any],
        described: Mapping[str, dict[str, Any]],
        hardware: Hardware,
        recordings: RunRecordings,
        imaging: ImagingConfiguration,
    ) -> None:
        """
        Parameters
        ----------
        cameras
            Those that expose: several, where ``camera`` is a multi-camera.
        axes
            Positioners by the axis's name (``xy.x``), whose positions an event has.
        described
            Data keys of `Shots.rows`.
        """
        labels = {one: imaging.label(one) for one in cameras}
        super().__init__(
            name=in_series(camera, series), hardware=hardware, recordings=recordings, labels=labels, imaging=imaging
        )
        self.cameras = cameras
        self._camera, self._series = camera, series
        self._axes, self._described = dict(axes), dict(described)
        self._reading = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._opening: _Opening | None = None
        self._rows: list[Mapping[str, Any]] = []
        self._lines: list[FrameLine] = []
        """Of frames from number `_first_kept` on, like the rows; those before are told."""
        self._first_kept = 0
        self._offered = 0

    def prepare(self, value: CameraPlan | Shots) -> Status:
        if isinstance(value, CameraPlan):
            if self._opening is None or self._opening.plan is not value:
                opening = _Opening(value, value.datasets(self.cameras, self._series))
                status = super().prepare(opening)
                self._opening = opening
                return status
            return super().prepare(self._opening)
        self.expect(value)
        return finished(self)

    def expect(self, shots: Shots) -> None:
        """`prepare` for a plan that tells it directly, between two messages: a message costs as much as a frame."""
        self._require()
        if shots is not self._next:
            self._rows.extend(shots.rows)
            self._next = shots

    def _first(self, plan: Any) -> Any:
        return None

    @property
    def _single(self) -> bool:
        """What comes next, or came last, is one frame by itself."""
        return isinstance(self._next, Shots) and self._next.program is None

    @property
    def ended(self) -> bool:
        return self._single or super().ended

    def trigger(self) -> Status:
        """Done when there are new frames on disk or nothing more comes; a single frame is taken by it."""
        return self.kickoff() if self._single else super().trigger()

    def _begin(self, recording: str, program: Any) -> None:
        shots: Shots = program
        if shots.program is not None:
            super()._begin(recording, shots.program)
            return
        plan, _ = self._require()
        settings = plan.settings(self._camera)
        if self.cameras == (self._camera,):
            self._state = self._hardware.record_frame(recording, {self.name: settings})
        else:
            self._state = self._hardware.record_together(recording, self._camera, settings)
        self._read_lines()

    def _follow(self, to_the_end: bool) -> None:
        try:
            super()._follow(to_the_end)
        except HardwareError:
            self._read_what_is_left()
            raise
        self._read_lines()

    def stop(self, *, success: bool = False) -> None:
        super().stop(success=success)
        self._read_what_is_left()

    def _read_what_is_left(self) -> None:
        """Why it ends is told already; where the hardware has gone, its frame list is still there."""
        try:
            try:
                self._read_lines()
            except (HardwareGoneError, UnknownNameError):
                self._read_lines(lost=True)
        except HardwareError as error:
            log.warning("%s: where its last frames were taken is unknown: %s", self.name, error)

    def _read_lines(self, lost: bool = False) -> None:
        """Where new frames were taken; they can be told then. Where the hardware is ``lost``, as the disk has it.

        Raises
        ------
        DeviceError
            Where an axis could not be read when one of them was taken.
        """
        with self._reading:
            state, known = self._state, self._first_kept + len(self._lines)
            if state is None or self._on_disk() <= known:
                return
            dataset = next(iter(state.datasets))  # frames of several cameras have the same places
            for line in (
                self._recordings.lines_on_disk(state.run_uid, dataset, known)
                if lost
                else self._hardware.frame_lines(state.recording, dataset, known)
            ):
                missing = [axis for axis in self._axes if axis not in line.position]
                if missing:
                    number = self._first_kept + len(self._lines)
                    raise DeviceError(
                        f"{missing[0]} could not be read when frame {number} of {dataset} was taken", thing=missing[0]
                    )
                self._lines.append(line)

    def describe_collect(self) -> dict[str, dict[str, Any]]:
        found = super().describe_collect() | self._described
        found["programmed"] = {"source": "mm:recorder", "dtype": "boolean", "shape": []}
        for axis in self._axes.values():
            found |= axis.describe()
        return found

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": [axis.name for axis in self._axes.values()]}

    def collect_asset_docs(self) -> Iterator[tuple[str, Any]]:
        """Of frames whose places are known. (Without an index: with one the RunEngine would expect no events.)"""
        told = min((stream.told for stream in self._streams.values()), default=0)
        with self._reading:
            del self._rows[: told - self._first_kept], self._lines[: told - self._first_kept]
            self._first_kept = told
            self._offered = min(told + len(self._lines), self._on_disk())
        for stream in self._streams.values():
            yield from stream.documents(self._offered)

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """The events of the frames that `collect_asset_docs` told of last."""
        number = self._offered - self._first_kept
        if number == 0:
            return
        rows, lines = self._rows[:number], self._lines[:number]
        data: dict[str, list[Any]] = {key: [row[key] for row in rows] for key in self._described}
        data["programmed"] = [line.programmed for line in lines]
        for name, axis in self._axes.items():
            data[axis.name] = [line.position[name] for line in lines]
        times = [line.time for line in lines]
        yield {"data": data, "timestamps": dict.fromkeys(data, times)}
