"""One dataset on disk: OME-Zarr 0.5, one uncompressed chunk file a frame, and a line in ``….frames.jsonl`` for each.

A frame counts when its line is there, and its line is written when its bytes are durable: written to a hidden file, renamed,
synced together with the folder's entry and whatever was written meanwhile. The files are valid from the first moment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..formats import PAGE, SUFFIXES, Format, ImageFacts, ngff
from ._dataset_files import FrameList, read_frame
from ._direct import NO_DIRECT, O_DIRECT, DirectBuffer, sync, sync_all, write_all
from ._surface import DatasetPlan
from ._unfinished import Unfinished, drop_chunks, sync_folder, write_json

PREPARED = 10_000
"""Folders of this many chunks are made beforehand; those of later ones when they come."""

TOGETHER = 3
"""From so many frames on, one commit of the whole file system is cheaper than a sync of each chunk and of its folder."""


class ZarrFiles:
    """`DatasetFiles` as OME-Zarr."""

    format: Format = "ome-zarr"

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
        self._direct = bool(O_DIRECT) and self.frame_bytes % PAGE == 0
        self._list = FrameList(self.frames_jsonl)

    def create(self) -> None:
        """Make the metadata, the chunk folders of the frames planned, and the empty frame list; see `DatasetFiles`."""
        self._list.create()
        if self._unfinished is not None:
            self._unfinished.add(self.path)
        self.path.mkdir()
        (self.path / "0").mkdir()
        write_json(self.path / "zarr.json", self._group())
        self.set_frames(self.plan.frames or 0)
        (self.path / "0" / "c").mkdir()
        for index in range(min(self.plan.frames or 0, PREPARED)):
            self._folder(index).mkdir(parents=True)
        for folder in (self.path / "0" / "c", self.path / "0", self.path, self.path.parent):
            sync_folder(folder)

    def discard(self) -> None:
        """Take back what `create` made, when a sibling could not be made."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)
        self.frames_jsonl.unlink(missing_ok=True)
        if self._unfinished is not None:
            self._unfinished.remove(self.path)

    def set_frames(self, frames: int, durable: bool = True) -> None:
        """Write the array's metadata for this many frames, atomically."""
        write_json(self.path / "0" / "zarr.json", self._array(frames), durable)

    def write(self, index: int, frame: np.ndarray, buffer: DirectBuffer) -> str:
        """Write one frame; see `DatasetFiles`. No chunk of that name exists before its bytes are complete."""
        pixels = np.ascontiguousarray(frame, dtype=self.dtype)
        checksum = f"xxh3_128:{xxhash.xxh3_128_hexdigest(pixels.data.cast('B'))}"
        folder = self._folder(index)
        draft, chunk = folder / ".0", folder / "0"
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync_folder(folder.parent)
                sync_folder(folder.parent.parent)
            os.close(self._written(draft, pixels, buffer))
            os.replace(draft, chunk)
        except OSError:
            draft.unlink(missing_ok=True)
            chunk.unlink(missing_ok=True)
            raise
        return checksum

    def sync(self, indices: Sequence[int]) -> None:
        """One after the other; from `TOGETHER` on all at once, where the system can do that."""
        if len(indices) >= TOGETHER and sync_all(self.path):
            return
        for index in indices:
            folder = self._folder(index)
            descriptor = os.open(folder / "0", os.O_RDONLY | getattr(os, "O_BINARY", 0))
            try:
                sync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(folder)

    def read(self, index: int) -> np.ndarray:
        """See `DatasetFiles`."""
        return read_frame(self._folder(index) / "0", 0, self.frame_shape, self.dtype)

    def append_line(self, line: dict[str, Any]) -> None:
        """Add a frame's line: it counts."""
        self._list.append(line)

    def lines(self, start: int) -> list[dict[str, Any]]:
        return self._list.lines(start)

    def finish(self, frames: int) -> None:
        """End with exactly this many frames: later chunks and empty folders go, the array's shape follows."""
        if not self._list.open:
            return
        drop_chunks(self.path, frames)
        self.set_frames(frames)
        self._list.sync()
        self.release()
        if self._unfinished is not None:
            self._unfinished.remove(self.path)

    def release(self) -> None:
        """Close the frame list."""
        self._list.close()

    def _folder(self, index: int) -> Path:
        return self.path / "0" / "c" / str(index) / "0"

    def _written(self, path: Path, pixels: np.ndarray, buffer: DirectBuffer) -> int:
        """An open descriptor of a new file with these bytes."""
        if self._direct:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_DIRECT, 0o644)
            try:
                write_all(descriptor, buffer.holding(pixels), path)
                return descriptor
            except OSError as error:
                os.close(descriptor)
                path.unlink()
                if error.errno not in NO_DIRECT:
                    raise
                self._direct = False  # this file system takes no direct writes
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        try:
            write_all(descriptor, pixels.data.cast("B"), path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _group(self) -> dict[str, Any]:
        attributes = ngff(self._facts)
        from yaozarrs import v05  # a third of what the hardware process imports, for the first recording only

        ome = v05.Image.model_validate(attributes["ome"]).model_dump(mode="json", exclude_none=True)
        return {"zarr_format": 3, "node_type": "group", "attributes": {**attributes, "ome": ome}}

    def _array(self, frames: int) -> dict[str, Any]:
        height, width = self.frame_shape
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [frames, height, width],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, height, width]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
            "dimension_names": [self.plan.axis, "y", "x"],
        }
