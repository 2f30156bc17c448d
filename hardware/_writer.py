"""Writer threads: frames go from the camera to the disk through a short queue, so that exposing and writing overlap."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass

from ._cameras import Frame
from ._direct import DirectBuffer
from ._recording import Recording, line_of

log = logging.getLogger("queuescope.hardware")

THREADS = 2
QUEUE_BYTES = 64 * 2**20
"""Frames waiting for the disk hold at most about this much memory, besides MMCore's buffer; then exposing waits."""


@dataclass(frozen=True)
class _Item:
    recording: Recording
    dataset: str
    index: int
    frame: Frame
    position: dict[str, float]
    programmed: bool


class FrameWriter:
    """Two threads, one queue, all recordings."""

    def __init__(self) -> None:
        self._queue: queue.Queue[_Item | None] = queue.Queue()
        self._held = 0
        self._largest = 0
        self._room = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"frame-writer-{n}", daemon=True) for n in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def put(
        self, recording: Recording, dataset: str, frame: Frame, position: dict[str, float], programmed: bool = False
    ) -> None:
        """Hand a frame over; waits while the queue is full, unless the recording fails meanwhile."""
        size = frame.array.nbytes
        with self._room:
            self._largest = max(self._largest, size)
            while self._held and self._held + size > QUEUE_BYTES and not recording.failed:
                self._room.wait(0.1)
            self._held += size
        index = recording.submit(dataset)
        self._queue.put(_Item(recording, dataset, index, frame, position, programmed))

    def has_room(self, timeout_s: float) -> bool:
        """Whether a frame like those before can be handed over at once; waits so long for it."""
        with self._room:
            return self._room.wait_for(lambda: not self._held or self._held + self._largest <= QUEUE_BYTES, timeout_s)

    def close(self) -> None:
        """Write what is queued, then end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(5)

    def _run(self) -> None:
        buffer = DirectBuffer()
        while (item := self._queue.get()) is not None:
            try:
                if not item.recording.failed:
                    self._write(item, buffer)
            finally:
                with self._room:
                    self._held -= item.frame.array.nbytes
                    self._room.notify_all()
                item.recording.done_with_one()
            del item  # the frame's memory is free for the next

    @staticmethod
    def _write(item: _Item, buffer: DirectBuffer) -> None:
        files = item.recording.datasets[item.dataset].files
        try:
            checksum = files.write(item.index, item.frame.array, buffer)
            line = line_of(item.index, item.frame.time, item.position, checksum, item.programmed)
            item.recording.land(item.dataset, line)
        except OSError as error:
            item.recording.fail(f"frame {item.index} of {item.dataset} could not be written to {files.path}: {error}")
        except Exception as error:
            log.exception("writing frame %d of %s failed unexpectedly", item.index, files.path)
            kind = type(error).__name__
            item.recording.fail(f"frame {item.index} of {item.dataset} was not written: {kind}: {error}")
