"""One dataset on disk: OME-Zarr 0.5, one uncompressed chunk file a frame, and a line in ``….frames.jsonl`` for each.

A frame counts when its line is there, and its line is written when its bytes are durable: written to a hidden file,
renamed, synced together with the folder's entry. The files are valid from the first moment.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ._surface import DatasetPlan
from ._unfinished import Unfinished, drop_chunks, sync_folder, write_json

PAGE = 4096
"""Direct writes need this alignment of address and length."""

PREPARED = 10_000
"""Folders of this many chunks are made beforehand; those of later ones when they come."""

_O_DIRECT = getattr(os, "O_DIRECT", 0)
_NO_DIRECT = {errno.EINVAL, errno.EOPNOTSUPP}


class DirectBuffer:
    """Page-aligned memory of one writer thread, reused: fresh memory costs more than the copy into it."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def holding(self, frame: np.ndarray) -> memoryview:
        """The frame's bytes at an aligned address."""
        if len(self._memory) < frame.nbytes:
            self._memory = np.frombuffer(mmap.mmap(-1, frame.nbytes), np.uint8)
        copy = self._memory[: frame.nbytes]
        np.copyto(
            copy.view(frame.dtype).reshape(frame.shape), frame
        )  # lets other threads run, unlike a memoryview's copy
        return copy.data


class DatasetFiles:
    """The files of one dataset of a run."""

    def __init__(
        self,
        volumes: Path,
        run_uid: str,
        plan: DatasetPlan,
        frame_shape: tuple[int, int],
        dtype: str,
        pixel_um: float,
        unfinished: Unfinished | None = None,
    ) -> None:
        stem = f"{run_uid}_{plan.name}"
        self.path = volumes / f"{stem}.ome.zarr"
        self.frames_jsonl = volumes / f"{stem}.frames.jsonl"
        self.plan = plan
        self.frame_shape = frame_shape
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.frame_bytes = frame_shape[0] * frame_shape[1] * self.dtype.itemsize
        self._pixel_um = pixel_um
        self._unfinished = unfinished
        self._direct = bool(_O_DIRECT) and self.frame_bytes % PAGE == 0
        self._lines = -1

    def create(self) -> None:
        """Make the metadata, the chunk folders of the frames planned, and the empty frame list.

        Raises
        ------
        FileExistsError
            Where any of it exists already.
        """
        self._lines = os.open(self.frames_jsonl, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
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
        """Write one frame; returns its checksum, taken before writing, when the bytes are durable.

        Raises
        ------
        OSError
            Where they could not be written; no chunk of that name exists then.
        """
        pixels = np.ascontiguousarray(frame, dtype=self.dtype)
        checksum = f"xxh3_128:{xxhash.xxh3_128_hexdigest(pixels.data.cast('B'))}"
        folder = self._folder(index)
        draft, chunk = folder / ".0", folder / "0"
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync_folder(folder.parent)
                sync_folder(folder.parent.parent)
            descriptor = self._written(draft, pixels, buffer)
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, chunk)
            sync_folder(folder)
        except OSError:
            draft.unlink(missing_ok=True)
            chunk.unlink(missing_ok=True)
            raise
        return checksum

    def append_line(self, line: dict[str, Any]) -> None:
        """Add a frame's line; one write, so that other processes see whole lines only."""
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        if os.write(self._lines, data) != len(data):
            raise OSError(errno.ENOSPC, "the disk is full", str(self.frames_jsonl))

    def finish(self, frames: int) -> None:
        """End with exactly this many frames: later chunks and empty folders go, the array's shape follows."""
        if self._lines < 0:
            return
        drop_chunks(self.path, frames)
        self.set_frames(frames)
        _sync(self._lines)
        self.release()
        if self._unfinished is not None:
            self._unfinished.remove(self.path)

    def release(self) -> None:
        """Close the frame list."""
        if self._lines >= 0:
            os.close(self._lines)
            self._lines = -1

    def _folder(self, index: int) -> Path:
        return self.path / "0" / "c" / str(index) / "0"

    def _written(self, path: Path, pixels: np.ndarray, buffer: DirectBuffer) -> int:
        """An open descriptor of a new file with these bytes."""
        if self._direct:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_DIRECT, 0o644)
            try:
                _write_all(descriptor, buffer.holding(pixels), path)
                return descriptor
            except OSError as error:
                os.close(descriptor)
                path.unlink()
                if error.errno not in _NO_DIRECT:
                    raise
                self._direct = False  # this file system takes no direct writes
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        try:
            _write_all(descriptor, pixels.data.cast("B"), path)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _group(self) -> dict[str, Any]:
        step = self.plan.step_um
        scale = [1.0 if step is None or step == 0 else abs(step), self._pixel_um, self._pixel_um]
        first = {"name": "t", "type": "time"} if self.plan.axis == "t" else {"name": "z", "type": "space"}
        if self.plan.axis == "z" and step:
            first["unit"] = "micrometer"
        elif self.plan.axis == "t":
            scale[0] = 1.0  # frames are counted; their times stand in frames.jsonl
        axes = [first, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
        image: dict[str, Any] = {
            "multiscales": [
                {
                    "name": self.plan.name,
                    "axes": axes,
                    "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
                }
            ]
        }
        if self.plan.channel is not None:
            top = float(np.iinfo(self.dtype).max)
            window = {"start": 0.0, "min": 0.0, "end": top, "max": top}
            image["omero"] = {"channels": [{"label": self.plan.channel, "color": "FFFFFF", "window": window}]}
        from yaozarrs import v05  # a third of what the hardware process imports, for the first recording only

        ome = v05.Image.model_validate({"version": "0.5", **image}).model_dump(mode="json", exclude_none=True)
        return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}

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


def _write_all(descriptor: int, data: memoryview, path: Path) -> None:
    written = 0
    while written < len(data):
        count = os.write(descriptor, data[written:])
        if count == 0:
            raise OSError(errno.ENOSPC, "nothing more could be written", str(path))
        written += count


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)
