"""One dataset on disk: one OME-TIFF, laid out before the first frame, and a line in ``….frames.jsonl`` for each.

Nothing else than the pixels is written for a frame, at a place that was known beforehand: so frames come in any order, as fast as
the disk takes them, and the file is a valid TIFF from the first moment. Frames that have not come yet read zeros.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..formats import SUFFIXES, XML_AT, Format, ImageFacts, TiffLayout, counted, ome_xml, pages
from . import _direct
from ._dataset_files import FrameList, read_frame
from ._direct import NO_DIRECT, DirectBuffer, reserve, sync, write_at
from ._surface import DatasetPlan
from ._unfinished import Unfinished, finish_tiff, sync_folder

GROWTH_BYTES = 64 * 2**20
"""A recording whose length nobody knows grows by about as much at once."""
LARGEST_BLOCK = 1024


class TiffFiles:
    """`DatasetFiles` as OME-TIFF."""

    format: Format = "ome-tiff"

    def __init__(
        self, volumes: Path, plan: DatasetPlan, facts: ImageFacts, unfinished: Unfinished | None = None
    ) -> None:
        stem = f"{facts.run_uid}_{plan.name}"
        self.path = volumes / f"{stem}{SUFFIXES[self.format]}"
        self.frames_jsonl = volumes / f"{stem}.frames.jsonl"
        self.plan = plan
        self.frame_shape = facts.frame_shape
        self.dtype = np.dtype(facts.dtype).newbyteorder("<")
        self.frame_bytes = self.frame_shape[0] * self.frame_shape[1] * self.dtype.itemsize
        self._facts = facts
        self._unfinished = unfinished
        self._list = FrameList(self.frames_jsonl)
        self._file = self._straight = -1
        """Descriptors: by way of the system's cache, and past it; -1 where there is none."""
        self._growing = threading.Lock()
        self._blocks = 0
        self._writing = 0
        self._ended = False

    def create(self) -> None:
        """Make the file with room for all frames planned, and the empty frame list; see `DatasetFiles`."""
        self._xml = ome_xml(self._facts)
        self._room = pages(len(self._xml.encode()) + 64)
        frames = self.plan.frames
        grown = max(1, min(LARGEST_BLOCK, GROWTH_BYTES // pages(self.frame_bytes)))
        self._layout = TiffLayout(
            self.frame_shape,
            self.dtype.itemsize,
            block_frames=grown if frames is None else frames,
            first_block=XML_AT + 2 * self._room,  # the OME-XML twice: the new one is whole before it counts
            pixel_um=self._facts.pixel_um,
        )
        self._list.create()
        if self._unfinished is not None:
            self._unfinished.add(self.path)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        self._grow()
        described = self._description(frames or 0)
        write_at(self._file, described, XML_AT, self.path)
        os.fsync(self._file)  # what the header speaks of is there before it
        write_at(self._file, self._layout.head(frames or 1, len(described), frames is not None), 0, self.path)
        self._count(frames or 0)
        os.fsync(self._file)
        sync_folder(self.path.parent)
        self._xml_at = XML_AT
        if _direct.O_DIRECT:
            try:
                self._straight = os.open(self.path, os.O_WRONLY | _direct.O_DIRECT)
            except OSError as error:
                if error.errno not in NO_DIRECT:
                    raise

    def discard(self) -> None:
        """Take back what `create` made, when a sibling could not be made."""
        self.release()
        self.path.unlink(missing_ok=True)
        self.frames_jsonl.unlink(missing_ok=True)
        if self._unfinished is not None:
            self._unfinished.remove(self.path)

    def set_frames(self, frames: int, durable: bool = True) -> None:
        """Let the file end after this many frames, each step whole by itself: the OME-XML, then the chain of images."""
        described = self._description(frames)
        self._xml_at = XML_AT + self._room if self._xml_at == XML_AT else XML_AT
        write_at(self._file, described, self._xml_at, self.path)
        if frames > 1:
            self._link(frames - 2, self._layout.ifd(frames - 1))
        where, said = self._layout.description(self._xml_at, len(described))
        write_at(self._file, said, where, self.path)
        self._count(frames)
        if durable:
            os.fsync(self._file)

    def write(self, index: int, frame: np.ndarray, buffer: DirectBuffer) -> str:
        """Write one frame to its place; see `DatasetFiles`."""
        pixels = np.ascontiguousarray(frame, dtype=self.dtype)
        checksum = f"xxh3_128:{xxhash.xxh3_128_hexdigest(pixels.data.cast('B'))}"
        with self._growing:
            if self._ended:
                raise OSError(errno.EBADF, "the file has been finished", str(self.path))
            self._writing += 1
            try:
                while index >= self._blocks * self._layout.block_frames:
                    self._grow()
            except OSError:
                self._writing -= 1
                raise
        try:
            self._written(self._layout.frame(index), pixels, buffer)
        finally:
            with self._growing:
                self._writing -= 1
        return checksum

    def sync(self, indices: Sequence[int]) -> None:
        """They are all in one file."""
        sync(self._file)

    def read(self, index: int) -> np.ndarray:
        """See `DatasetFiles`."""
        return read_frame(self.path, self._layout.frame(index), self.frame_shape, self.dtype)

    def append_line(self, line: dict[str, Any]) -> None:
        """Add a frame's line: it counts."""
        self._list.append(line)

    def lines(self, start: int) -> list[dict[str, Any]]:
        return self._list.lines(start)

    def finish(self, frames: int) -> None:
        """End with exactly this many frames: the chain of images ends there and so does the file, behind its OME-XML, which now
        tells of every plane.

        Raises
        ------
        OSError
            Where it can't be written, or a frame is still on its way: it would land behind the end. The next process finishes it.
        """
        if not self._list.open:
            return
        with self._growing:
            if self._writing:
                raise OSError(errno.EBUSY, f"{self._writing} frames are still being written", str(self.path))
            self._ended = True
        self._list.sync()
        finish_tiff(self.path, self.frames_jsonl, frames)
        self.release()
        if self._unfinished is not None:
            self._unfinished.remove(self.path)

    def release(self) -> None:
        """Close the file and the frame list."""
        self._list.close()
        for descriptor in (self._file, self._straight):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._straight = -1

    def _written(self, offset: int, pixels: np.ndarray, buffer: DirectBuffer) -> None:
        if self._straight >= 0:
            try:
                write_at(self._straight, buffer.holding(pixels), offset, self.path)
                return
            except OSError as error:
                if error.errno not in NO_DIRECT:
                    raise  # else this file system takes no direct writes
        write_at(self._file, pixels.data.cast("B"), offset, self.path)

    def _grow(self) -> None:
        """Room for one more block of frames, and its directories."""
        start, end = self._layout.block(self._blocks), self._layout.block(self._blocks + 1)
        reserve(self._file, end)
        table = self._layout.table(self._blocks, linked=self.plan.frames is not None)
        write_at(self._file, table, start, self.path)
        os.fsync(self._file)
        self._blocks += 1

    def _description(self, frames: int) -> bytes:
        return counted(self._xml, frames).encode() + b"\0"

    def _link(self, index: int, following: int) -> None:
        write_at(self._file, following.to_bytes(8, "little"), self._layout.link(index), self.path)

    def _count(self, frames: int) -> None:
        where, said = self._layout.count(frames)
        write_at(self._file, said, where, self.path)
