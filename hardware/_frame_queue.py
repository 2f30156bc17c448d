"""Frames of Python cameras between the camera and who takes them: MMCore's circular buffer, for several cameras at once."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEPT_BYTES = 1 << 29
"""So much memory is kept for frames to come; the first touch of fresh memory costs milliseconds a frame."""


class Overflow(Exception):
    """The queue is full, and frames may not be dropped."""


def _references(blocks: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(block) for block in blocks]


_UNUSED = _references([np.empty(1, np.uint8)])[0]
"""References to a block that nobody has a view of."""


class FramePool:
    """Memory for frames, used again as soon as nobody holds the frame any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[np.ndarray] = []

    def take(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array with anything in it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._lock:
            if self._blocks and self._blocks[0].nbytes != size:
                self._blocks.clear()  # another frame size from now on; whoever holds one keeps it
            for index, references in enumerate(_references(self._blocks)):
                if references == _UNUSED:
                    return self._blocks[index].view(dtype).reshape(shape)
            block = np.empty(size, np.uint8)
            if (len(self._blocks) + 1) * size <= KEPT_BYTES:
                self._blocks.append(block)
            return block.view(dtype).reshape(shape)


class FrameQueue:
    """First in, first out, of at most so many MB."""

    def __init__(self, size_mb: float) -> None:
        self.size_mb = size_mb
        self.overwrite_on_overflow = False
        self.overflow_occurred = False
        self._lock = threading.Lock()
        self._frames: deque[tuple[np.ndarray, Mapping[str, Any]]] = deque()
        self._bytes = 0

    size_bytes = property(lambda self: int(self.size_mb * 2**20))
    free_bytes = property(lambda self: max(0, self.size_bytes - self._bytes))

    def make_room(self, size: int) -> None:
        """For one more frame.

        Raises
        ------
        Overflow
            Where there is none and nothing may be dropped.
        """
        with self._lock:
            while self._frames and self._bytes + size > self.size_bytes:
                self.overflow_occurred = True
                if not self.overwrite_on_overflow:
                    raise Overflow
                self._bytes -= self._frames.popleft()[0].nbytes

    def put(self, frame: np.ndarray, told: Mapping[str, Any]) -> None:
        with self._lock:
            self._frames.append((frame, told))
            self._bytes += frame.nbytes

    def pop_next(self) -> tuple[np.ndarray, Mapping[str, Any]] | None:
        """The oldest frame, which is the caller's from now on; None where there is none."""
        with self._lock:
            if not self._frames:
                return None
            frame, told = self._frames.popleft()
            self._bytes -= frame.nbytes
            return frame, told

    def peek_last(self, out: np.ndarray | None = None) -> tuple[np.ndarray, Mapping[str, Any]] | None:
        """A copy of the newest frame."""
        return self.peek_nth_from_last(0, out)

    def peek_nth_from_last(self, n: int, out: np.ndarray | None = None) -> tuple[np.ndarray, Mapping[str, Any]] | None:
        """A copy of the frame that came ``n`` before the newest."""
        with self._lock:
            if not 0 <= n < len(self._frames):
                return None
            frame, told = self._frames[-1 - n]
            return frame.copy(), dict(told)

    def clear(self) -> None:
        with self._lock:
            self._frames.clear()
            self._bytes = 0
            self.overflow_occurred = False

    def __len__(self) -> int:
        return len(self._frames)
