"""Frames that something else times (a trigger, the camera itself), taken from MMCore's buffers as they come, until all are there.

Cameras of one core share its one buffer: their frames must be of one size, and are told apart by their label.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ._cameras import Cameras, Frame
from ._errors import ArgumentError, DeviceError, HardwareError
from ._large_memory import mapped_apart
from ._mmcore import Core, new_metadata
from ._pace import Running

LATE_S = 2.0
"""When whoever triggers has ended, and no frame has come for so long (and its exposure), no more will come."""
LOOK_S = 0.1
"""How often the one who triggers is asked whether it has ended."""
ROOM_S = 0.005
"""How long to wait for the writer before the buffer is looked at again."""
SPARE = 3
"""Frames for which the buffer must have room, while more are to come: as many come until the cameras have stopped."""


class Source:
    """The cameras of one core, and its buffer."""

    def __init__(self, core: Core, labels: dict[str, str], frames: Mapping[str, int]) -> None:
        """``labels``: the cameras' names by their label; ``frames``: how many each is to take, by name."""
        self._core, self._labels, self._frames = core, labels, frames
        self.first = next(iter(labels.values()))
        self._only = self.first if len(labels) == 1 else None
        self._total = sum(frames[name] for name in labels.values())
        self._taken = 0
        self._numbers = dict.fromkeys(labels.values(), 0)
        self._capacity = 0

    def prepare(self, frame_bytes: int, buffer_mb: int) -> None:
        """Make room in the buffer for all frames, or ``buffer_mb``."""
        mm, ask = self._core.mm, self._core.ask
        wanted = min(buffer_mb, frame_bytes * self._total // 2**20 + 16)
        if not wanted <= ask(self.first, mm.getCircularBufferMemoryFootprint) <= buffer_mb:
            with mapped_apart():
                ask(self.first, mm.setCircularBufferMemoryFootprint, wanted)
        ask(self.first, mm.clearCircularBuffer)

    def start(self) -> None:
        mm, ask = self._core.mm, self._core.ask
        for label, name in self._labels.items():
            ask(name, mm.startSequenceAcquisition, label, self._frames[name], 0.0, True)
        self._capacity = ask(self.first, mm.getBufferTotalCapacity)

    @property
    def waiting(self) -> int:
        """Frames in the buffer."""
        return int(self._core.ask(self.first, self._core.mm.getRemainingImageCount))

    def take(self) -> tuple[str, Frame]:
        """The oldest frame of the buffer, which must have one, and its camera. Its time is when MMCore received it."""
        metadata = new_metadata()
        image = self._core.ask(self.first, self._core.mm.popNextImageMD, metadata)
        name = self._camera_of(metadata)
        self._taken += 1
        self._check_number(name, metadata)
        return name, Frame(image, _received(metadata))

    def _camera_of(self, metadata: Any) -> str:
        if self._only is not None:
            return self._only
        label = metadata.GetSingleTag("Camera").GetValue()
        if label not in self._labels:
            raise ArgumentError(f"a frame says that it is of camera {label!r}, which records nothing", thing="camera")
        return self._labels[label]

    def _check_number(self, name: str, metadata: Any) -> None:
        """A frame that was lost on the way leaves a gap."""
        expected = self._numbers[name]
        number = int(metadata.GetSingleTag("ImageNumber").GetValue())
        self._numbers[name] = expected + 1
        if number != expected:
            raise DeviceError(
                f"{name}: frame {number} came in the place of frame {expected}: frames between them were lost before they"
                " reached MMCore",
                thing=name,
                value=number,
                limit=expected,
            )

    def overtaken(self) -> str | None:
        """Why it must end before the buffer is full; None while there is room for what may still come."""
        mm, ask = self._core.mm, self._core.ask
        waiting = self.waiting
        to_come = self._total - self._taken - waiting
        free = ask(self.first, mm.getBufferFreeCapacity)
        if to_come <= 0 or free >= min(to_come, SPARE * len(self._labels)):
            return None
        return (
            f"the disk doesn't keep up: {waiting} frames wait in MMCore's buffer, which holds {self._capacity}, and {to_come} are"
            " still to come: ended before one was lost. Expose longer, take fewer frames or a smaller ROI, or raise"
            " micromanager.buffer_mb (scope file)"
        )

    @property
    def running(self) -> bool:
        mm, ask = self._core.mm, self._core.ask
        return any(ask(name, mm.isSequenceRunning, label) for label, name in self._labels.items())

    @property
    def overflowed(self) -> bool:
        return bool(self._core.ask(self.first, self._core.mm.isBufferOverflowed))

    def stop(self) -> None:
        failed: HardwareError | None = None
        for label, name in self._labels.items():
            try:
                if self._core.ask(name, self._core.mm.isSequenceRunning, label):
                    self._core.ask(name, self._core.mm.stopSequenceAcquisition, label)
            except HardwareError as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _received(metadata: Any) -> float:
    return datetime.fromisoformat(metadata.GetSingleTag("TimeReceivedByCore").GetValue()).timestamp()


class Capture:
    """Sequences of one or more cameras. Whoever uses it holds the cameras (`Cameras.held`)."""

    def __init__(self, cameras: Cameras, frames: Mapping[str, int], buffer_mb: int) -> None:
        """``frames``: how many each camera, by name, is to take; ``buffer_mb``: `micromanager.buffer_mb`."""
        self._cameras, self.frames, self._buffer_mb = cameras, dict(frames), buffer_mb
        of_core: dict[int, dict[str, str]] = {}
        cores = {name: cameras.core(name) for name in frames}
        for name, core in cores.items():
            of_core.setdefault(id(core), {})[cameras.camera(name).label] = name
        self._sources = [Source(cores[next(iter(labels.values()))], labels, frames) for labels in of_core.values()]

    def prepare(self) -> None:
        """Make room for the frames: memory that nobody should wait for with the light on."""
        for source in self._sources:
            state = self._cameras.state(source.first)
            source.prepare(state.width * state.height * (1 if state.dtype == "uint8" else 2), self._buffer_mb)

    def start(self) -> None:
        """Make every camera wait for its triggers, or run; `prepare` it before."""
        for source in self._sources:
            source.start()

    def next(self) -> tuple[str, Frame] | None:
        """The next frame and the name of its camera, from the fullest buffer; None where there is none yet."""
        if len(self._sources) == 1:
            source = self._sources[0]
            return source.take() if source.waiting else None
        fullest = max(self._sources, key=lambda source: source.waiting)
        return fullest.take() if fullest.waiting else None

    def overtaken(self) -> str | None:
        """Why it must end now, before a buffer is full; None while all have room."""
        return next((why for source in self._sources if (why := source.overtaken()) is not None), None)

    @property
    def running(self) -> bool:
        """Whether any of the cameras still waits for triggers, or runs."""
        return any(source.running for source in self._sources)

    @property
    def overflowed(self) -> bool:
        return any(source.overflowed for source in self._sources)

    def stop(self) -> None:
        """No camera waits any more; frames that are in a buffer stay there. The first failure is raised at the end."""
        failed: HardwareError | None = None
        for source in self._sources:
            try:
                source.stop()
            except HardwareError as error:
                failed = failed or error
        if failed is not None:
            raise failed


class Collector:
    """Takes the frames of a capture into the recording, each with the position that the program has for it."""

    def __init__(
        self,
        run: Running[Any],
        capture: Capture,
        places: Mapping[str, list[dict[str, float]]],
        programmed: bool = True,
    ) -> None:
        """``places``: by camera, the position of each frame; ``programmed``: they were commanded, not read back."""
        self._run, self._capture, self._places, self._programmed = run, capture, places, programmed
        self._datasets = {view.camera: view.dataset for view in run.program.views}
        self.got = dict.fromkeys(places, 0)
        self._torn = False
        """A frame was lost: those after it can't be counted."""

    @property
    def complete(self) -> bool:
        return all(self.got[name] >= len(places) for name, places in self._places.items())

    def collect(
        self, ended: Callable[[], bool], late_s: float, limit_s: float = math.inf, silence_s: float = math.inf
    ) -> bool:
        """Until all frames are there, or no more will come; whether nobody ended it before.

        Parameters
        ----------
        ended
            Asks whether whoever triggers has ended.
        late_s
            So long after the last frame, when it has ended, no more is expected; `LATE_S` comes on top.
        limit_s
            So long altogether.
        silence_s
            So long without a frame, whoever triggers.
        """
        began = news = looked = time.monotonic()
        over = False
        while not self.complete:
            if self._run.ending.is_set() or self._run.recording.failed:
                return not self._run.ends_early()
            why = self._capture.overtaken()
            if why is not None:
                self._run.note(why)
                return False
            if not self._run.has_room(ROOM_S):
                news = time.monotonic()
                continue
            if self.take_one():
                news = time.monotonic()
                continue
            now = time.monotonic()
            if not over and now - looked >= LOOK_S:
                over, looked = ended(), now
                news = now if over else news
            if (over and now - news > LATE_S + late_s) or now - began > limit_s or now - news > silence_s:
                return True
            self._run.ending.wait(0.002)
        return True

    def take_one(self) -> bool:
        """Record the next frame, if there is one."""
        if self._torn:
            return False
        try:
            found = self._capture.next()
        except DeviceError:
            self._torn = True
            raise
        if found is None:
            return False
        camera, frame = found
        index = self.got[camera]
        if index < len(self._places[camera]):
            self._run.record(self._datasets[camera], frame, self._places[camera][index], self._programmed)
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
