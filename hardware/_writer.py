"""Frames from the camera to the disk: a short queue and threads that write, so that exposing and writing overlap, and one
that makes durable, all together, what was written since it did so last.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from ._cameras import Frame
from ._direct import DirectBuffer
from ._recording import Recording, line_of

log = logging.getLogger("queuescope.hardware")

THREADS = 6
"""A thread copies and hashes its frame before it writes it: with two of them the disk was idle a third of the time."""
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


@dataclass(frozen=True)
class _Written:
    """A frame whose bytes the system has."""

    recording: Recording
    dataset: str
    index: int
    line: dict[str, object]


class FrameWriter:
    """`THREADS` and one that commits, for all recordings."""

    def __init__(self) -> None:
        self._queue: queue.Queue[_Item | None] = queue.Queue()
        self._held = 0
        self._largest = 0
        self._room = threading.Condition()
        self._written: list[_Written] = []
        self._news = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._write_all, name=f"frame-writer-{n}", daemon=True) for n in range(THREADS)
        ]
        self._committer = threading.Thread(target=self._commit_all, name="frame-committer", daemon=True)
        for thread in (*self._threads, self._committer):
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
        """Write what is queued and make it durable, then end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(5)
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._committer.join(5)

    def _write_all(self) -> None:
        buffer = DirectBuffer()
        while (item := self._queue.get()) is not None:
            written = None
            try:
                if not item.recording.failed:
                    written = self._write(item, buffer)
            finally:
                with self._room:
                    self._held -= item.frame.array.nbytes
                    self._room.notify_all()
                if written is None:
                    item.recording.done_with_one()
                else:
                    with self._news:
                        self._written.append(written)
                        self._news.notify_all()
            del item  # the frame's memory is free for the next

    @staticmethod
    def _write(item: _Item, buffer: DirectBuffer) -> _Written | None:
        """None where it could not be written; the recording says why."""
        files = item.recording.datasets[item.dataset].files
        try:
            checksum = files.write(item.index, item.frame.array, buffer)
        except OSError as error:
            item.recording.fail(f"frame {item.index} of {item.dataset} could not be written to {files.path}: {error}")
        except Exception as error:
            log.exception("writing frame %d of %s failed unexpectedly", item.index, files.path)
            kind = type(error).__name__
            item.recording.fail(f"frame {item.index} of {item.dataset} was not written: {kind}: {error}")
        else:
            line = line_of(item.index, item.frame.time, item.position, checksum, item.programmed)
            return _Written(item.recording, item.dataset, item.index, line)
        return None

    def _commit_all(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._written or self._closed)
                written, self._written = self._written, []
            if not written:
                return
            together: dict[tuple[str, str], list[_Written]] = {}
            for one in written:
                together.setdefault((one.recording.id, one.dataset), []).append(one)
            for frames in together.values():
                try:
                    self._commit(frames[0].recording, frames[0].dataset, sorted(frames, key=lambda one: one.index))
                finally:
                    for one in frames:
                        one.recording.done_with_one()

    @staticmethod
    def _commit(recording: Recording, dataset: str, frames: Iterable[_Written]) -> None:
        """Make these frames of a dataset durable; then they count."""
        files, indices = recording.datasets[dataset].files, [one.index for one in frames]
        try:
            files.sync(indices)
            for one in frames:
                recording.land(dataset, one.line)
        except OSError as error:
            recording.fail(
                f"frames {indices[0]} to {indices[-1]} of {dataset} could not be made durable in {files.path}: {error}"
            )
        except Exception as error:
            log.exception("committing frames of %s failed unexpectedly", files.path)
            recording.fail(f"frames {indices[0]} to {indices[-1]} of {dataset}: {type(error).__name__}: {error}")
