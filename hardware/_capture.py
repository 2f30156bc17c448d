"""Frames of cameras that are triggered by something else: taken from MMCore's buffer as they come, until all are there.

Cameras that record together share MMCore's one buffer: their frames must be of one size, and are told apart by their label.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ._cameras import Cameras, Frame
from ._errors import ArgumentError, HardwareError
from ._mmcore import Core, new_metadata
from ._pace import Running

LATE_S = 2.0
"""When whoever triggers has ended, and no frame has come for so long (and its exposure), no more will come."""
LOOK_S = 0.1
"""How often the one who triggers is asked whether it has ended."""
BUFFER_MB = 1000
"""The buffer holds a volume up to this size whole; a larger one must reach the disk meanwhile."""


def check_same_size(cameras: Cameras, names: list[str]) -> None:
    """
    Raises
    ------
    ArgumentError
        Where cameras that record together give frames of different sizes.
    """
    sizes = {}
    for name in names:
        state = cameras.state(name)
        sizes[name] = (state.width, state.height, state.dtype)
    if len(set(sizes.values())) > 1:
        raise ArgumentError(
            f"cameras that record together must give frames of one size and type, these give {sizes}: set the same binning and"
            " ROI, or acquire one view after the other",
            thing="program.views.camera",
            value=list(sizes),
        )


class Capture:
    """Sequences of one or more cameras. Whoever uses it holds the cameras (`Cameras.held`)."""

    def __init__(self, core: Core, cameras: Cameras, frames: Mapping[str, int]) -> None:
        """``frames``: how many each camera, by name, is to take."""
        self._core, self._cameras, self.frames = core, cameras, dict(frames)
        self._labels = {cameras.camera(name).label: name for name in frames}
        self._only = next(iter(frames)) if len(frames) == 1 else None

    def start(self) -> None:
        """Make every camera wait for its triggers."""
        mm, ask = self._core.mm, self._core.ask
        first = next(iter(self._labels.values()))
        state = self._cameras.state(first)
        size = state.width * state.height * (1 if state.dtype == "uint8" else 2) * sum(self.frames.values())
        wanted = min(BUFFER_MB, size // 2**20 + 16)
        if ask(first, mm.getCircularBufferMemoryFootprint) < wanted:
            ask(first, mm.setCircularBufferMemoryFootprint, wanted)
        ask(first, mm.clearCircularBuffer)
        for label, name in self._labels.items():
            ask(name, mm.startSequenceAcquisition, label, self.frames[name], 0.0, True)

    def next(self) -> tuple[str, Frame] | None:
        """The next frame and the name of its camera; None where there is none yet. The frame's time is when it was read."""
        mm = self._core.mm
        first = next(iter(self.frames))
        if not self._core.ask(first, mm.getRemainingImageCount):
            return None
        metadata = new_metadata()
        image = self._core.ask(first, mm.popNextImageMD, metadata)
        return self._camera_of(metadata), Frame(image, time.time())

    def _camera_of(self, metadata: Any) -> str:
        if self._only is not None:
            return self._only
        label = metadata.GetSingleTag("Camera").GetValue()
        if label not in self._labels:
            raise ArgumentError(f"a frame says that it is of camera {label!r}, which records nothing", thing="camera")
        return self._labels[label]

    @property
    def running(self) -> bool:
        """Whether any of the cameras still waits for triggers."""
        mm, ask = self._core.mm, self._core.ask
        return any(ask(name, mm.isSequenceRunning, label) for label, name in self._labels.items())

    @property
    def overflowed(self) -> bool:
        return bool(self._core.ask(next(iter(self.frames)), self._core.mm.isBufferOverflowed))

    def stop(self) -> None:
        """No camera waits any more; frames that are in the buffer stay there. The first failure is raised at the end."""
        failed: HardwareError | None = None
        for label, name in self._labels.items():
            try:
                if self._core.ask(name, self._core.mm.isSequenceRunning, label):
                    self._core.ask(name, self._core.mm.stopSequenceAcquisition, label)
            except HardwareError as error:
                failed = failed or error
        if failed is not None:
            raise failed


class Collector:
    """Takes the frames of a capture into the recording, each with the position that the program has for it."""

    def __init__(self, run: Running, capture: Capture, places: Mapping[str, list[dict[str, float]]]) -> None:
        """``places``: by camera, the position of each frame; a camera's name is that of its view."""
        self._run, self._capture, self._places = run, capture, places
        self._datasets = {view.camera: view.dataset for view in run.program.views}
        self.got = dict.fromkeys(places, 0)

    @property
    def complete(self) -> bool:
        return all(self.got[name] >= len(places) for name, places in self._places.items())

    def collect(self, ended: Callable[[], bool], late_s: float, limit_s: float) -> bool:
        """Until all frames are there, or no more will come; whether nobody ended it before.

        Parameters
        ----------
        ended
            Asks whether whoever triggers has ended.
        late_s
            So long after the last frame, when it has ended, no more is expected; `LATE_S` comes on top.
        limit_s
            So long altogether.
        """
        began = news = looked = time.monotonic()
        over = False
        while not self.complete:
            if self._run.ending.is_set() or self._run.recording.failed:
                return not self._run.ends_early()
            if self.take_one():
                news = time.monotonic()
                continue
            now = time.monotonic()
            if not over and now - looked >= LOOK_S:
                over, looked = ended(), now
                news = now if over else news
            if (over and now - news > LATE_S + late_s) or now - began > limit_s:
                return True
            self._run.ending.wait(0.002)
        return True

    def take_one(self) -> bool:
        """Record the next frame, if there is one."""
        found = self._capture.next()
        if found is None:
            return False
        camera, frame = found
        index = self.got[camera]
        if index < len(self._places[camera]):
            self._run.record(self._datasets[camera], frame, self._places[camera][index], programmed=True)
            self.got[camera] += 1
        return True

    def rest(self) -> None:
        """Frames that came before everything was stopped are good."""
        while self.take_one():
            pass

    def missing(self) -> str | None:
        """What is missing, or None."""
        told = [
            f"{self._datasets[name]}: {self.got[name]} of {len(places)} frames came"
            for name, places in self._places.items()
            if self.got[name] < len(places)
        ]
        return "; ".join(told) or None
