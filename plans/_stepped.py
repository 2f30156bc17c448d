"""Frames taken one by one, each at a point of its own, or one after the other in one place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from bluesky import Msg
from bluesky import plan_stubs as bps

from ..devices import GATHER_S, CameraDetector, CameraPlan, in_series
from ._acquisition import Acquisition
from ._channels import cameras_of, frame_settings
from ._messages import checkpoint, collect, declare, move, read_together, trigger
from ._template import PlanBody


class Stepped(Acquisition):
    """Frames one by one: at each point every channel."""

    axis: Any = "t"
    step_um: float | None = None

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        camera: CameraDetector = self.context.devices[self.parameters.camera]
        self._detectors = {
            series: camera.another(series, self.position) if series else camera for _, series in self.series()
        }
        self._opened = self._changed = False
        self.devices += self._detectors.values()

    def exposing(self) -> tuple[str, ...]:
        return cameras_of(self.context.scope, self.parameters.camera)

    def set_power(self, power_pct: Mapping[str, float]) -> None:
        super().set_power(power_pct)
        self._changed = True

    @property
    def taken(self) -> dict[str, int]:
        return {
            in_series(camera, series): detector.get_index()
            for series, detector in self._detectors.items()
            for camera in self.cameras
        }

    def points(self) -> PlanBody:
        """Where each frame of one round is taken: a list of ``{positioner: target}``, all of them allowed."""
        raise NotImplementedError

    def _take(self) -> PlanBody:
        points = yield from self.points()
        channels = list(self.series())
        if not self._opened:
            for channel, series in channels:
                plan = CameraPlan(
                    settings=frame_settings(channel, self.context.scope),
                    frames=len(points) * self.rounds,
                    axis=self.axis,
                    step_um=self.step_um,
                    channel=None if channel is None else channel.name,
                    format=self.parameters.format,
                )
                yield from bps.prepare(self._detectors[series], plan, wait=True)
            self._opened = True
        elif self._changed:
            for channel, series in channels:
                yield from bps.prepare(self._detectors[series], frame_settings(channel, self.context.scope), wait=True)
        self._changed = False
        if len(channels) == 1:
            yield from self.select(channels[0][0])
        for number, point in enumerate(points, 1):
            yield from checkpoint()
            yield from move(point)
            for channel, series in channels:
                if len(channels) > 1:
                    yield from self.select(channel)
                yield from self._frame(series, point, number == len(points))

    def _frame(self, series: str, point: Mapping[Any, Any], last: bool) -> PlanBody:
        """An event for each frame, with where the axes of the point are. ``last``: of this round."""
        camera = self._detectors[series]
        yield from trigger(camera)
        yield from read_together(camera, *point, stream=series or "primary")


class InARow(Stepped):
    """Frames with nothing moving: each is exposed while those before are still on their way to the disk. Stream documents tell of
    them, as of a stack's; there are no events. A round's last frames are waited for, unless rounds follow each other at once.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._declared: set[str] = set()
        self._told: dict[str, float] = {}

    def _frame(self, series: str, point: Mapping[Any, Any], last: bool) -> PlanBody:
        camera = self._detectors[series]
        waits = last and not self.back_to_back
        yield from trigger(camera if waits else camera.ahead)
        if waits or time.monotonic() - self._told.get(series, 0.0) >= GATHER_S:
            yield from self._tell(series)

    def _tell(self, series: str) -> PlanBody:
        """Of every frame that is on disk."""
        frames, stream = self._detectors[series].ahead, series or "primary"
        if series not in self._declared:
            yield from declare(frames, stream)
            self._declared.add(series)
        yield from collect(frames, stream)
        self._told[series] = time.monotonic()

    def written(self) -> PlanBody:
        for series, camera in self._detectors.items():
            if camera.taken:
                yield from checkpoint()
                yield from trigger(camera.ahead.rest)
                yield from self._tell(series)

    def end(self) -> PlanBody:
        for series, camera in self._detectors.items():
            if camera.taken:
                yield Msg("stop", camera.ahead)
                yield from self._tell(series)
