"""The files of one dataset, in whatever format: what the recorder and its writer threads ask of them."""

from __future__ import annotations

import errno
import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..formats import Format
from ._direct import DirectBuffer, sync
from ._surface import DatasetPlan


class DatasetFiles(Protocol):
    """A volume and its frame list. Valid from `create` on, at every moment, also after SIGKILL; a frame counts by its line in the
    list, which comes after its bytes are durable.
    """

    format: Format
    path: Path
    """The volume."""
    frames_jsonl: Path
    plan: DatasetPlan
    frame_shape: tuple[int, int]
    dtype: np.dtype
    frame_bytes: int

    def create(self) -> None:
        """Make everything that can be made before the first frame.

        Raises
        ------
        FileExistsError
            Where any of it exists already.
        OSError
            Where it can't be made; `discard` takes back what was.
        """
        ...

    def discard(self) -> None:
        """Take back what `create` made, when a sibling could not be made."""
        ...

    def set_frames(self, frames: int, durable: bool = True) -> None:
        """Let the metadata say so many frames."""
        ...

    def write(self, index: int, frame: np.ndarray, buffer: DirectBuffer) -> str:
        """Write one frame; returns its checksum, taken before writing. `sync` makes it durable. Frames come in any order, and
        from several threads.

        Raises
        ------
        OSError
            Where it could not be written.
        """
        ...

    def sync(self, indices: Sequence[int]) -> None:
        """Make frames durable that were written: many cost little more than one.

        Raises
        ------
        OSError
            Where that can't be done: none of them counts.
        """
        ...

    def read(self, index: int) -> np.ndarray:
        """A frame that was written, shape (height, width).

        Raises
        ------
        OSError
            Where it can't be read, or isn't all there.
        """
        ...

    def append_line(self, line: dict[str, Any]) -> None:
        """Add a frame's line, in their order: it counts."""
        ...

    def lines(self, start: int) -> list[dict[str, Any]]:
        """The lines of all frames that count, from this one on; `OSError` where they can't be read."""
        ...

    def finish(self, frames: int) -> None:
        """End with exactly this many frames; twice is no error."""
        ...

    def release(self) -> None:
        """Close what is open, as it is."""
        ...


def read_frame(path: Path, offset: int, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """A frame's uncompressed bytes, which lie in one piece."""
    pixels = np.fromfile(path, dtype, shape[0] * shape[1], offset=offset)
    if pixels.size != shape[0] * shape[1]:
        raise OSError(errno.ENODATA, f"only {pixels.size} of {shape[0] * shape[1]} pixels are there", str(path))
    return pixels.reshape(shape)


class FrameList:
    """``….frames.jsonl``: a line a frame that counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._ends = array("Q", [0])
        """Where each line ends, in bytes."""

    @property
    def open(self) -> bool:
        return self._descriptor >= 0

    def create(self) -> None:
        """Raises FileExistsError where it exists."""
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def append(self, line: dict[str, Any]) -> None:
        """One write, so that other processes see whole lines only."""
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        if os.write(self._descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, "the disk is full", str(self._path))
        self._ends.append(self._ends[-1] + len(data))

    def lines(self, start: int) -> list[dict[str, Any]]:
        """Read back from this line on: a long run's lines aren't kept in memory."""
        ends = self._ends[start:]
        if len(ends) < 2:
            return []
        with self._path.open("rb") as file:
            file.seek(ends[0])
            return [json.loads(line) for line in file.read(ends[-1] - ends[0]).splitlines()]

    def sync(self) -> None:
        sync(self._descriptor)

    def close(self) -> None:
        if self.open:
            os.close(self._descriptor)
            self._descriptor = -1
