"""Datasets that are being written, noted on disk: what a dead process left half-written is finished by the next one.

Frames count by their line in the frame list, so finishing needs no knowledge of the dead process: the volume gets as many
frames as there are lines, and what lies beyond them goes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ..formats import NotOurTiff, TiffLayout, format_of, frame_list, of_frames

log = logging.getLogger("queuescope.hardware")


class Unfinished:
    """A folder of this data directory with one small file a dataset, from its creation to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, volume: Path) -> None:
        """Before the first byte of a volume is written.

        Raises
        ------
        OSError
            Where that can't be noted.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._note(volume).write_text(str(volume), encoding="utf-8")

    def remove(self, volume: Path) -> None:
        """It is whole."""
        self._note(volume).unlink(missing_ok=True)

    def mend(self) -> dict[str, int]:
        """Finish what dead processes left; call it while no recording is open. Returns frames by dataset's file name.

        A volume that can't be mended (its disk is away) is told in the log and tried again at the next start.
        """
        mended: dict[str, int] = {}
        for note in sorted(self._folder.glob("*")) if self._folder.is_dir() else ():
            try:
                volume = Path(note.read_text(encoding="utf-8"))
                if volume.exists():
                    mended[volume.name] = finish_volume(volume)
                elif not volume.parent.is_dir():
                    raise FileNotFoundError(f"{volume.parent} is not there")
                note.unlink()
            except (OSError, ValueError, KeyError) as error:
                log.error("%s was left unfinished by a dead process and can't be finished: %s", note.name, error)
        for name, frames in mended.items():
            log.warning("%s was left unfinished by a dead process: finished with its %d frames", name, frames)
        return mended

    def _note(self, volume: Path) -> Path:
        return self._folder / volume.name


def finish_volume(volume: Path) -> int:
    """Give a volume as many frames as its frame list has lines; returns them.

    Raises
    ------
    OSError, ValueError, KeyError
        Where it can't be read or written, or its metadata is no array's.
    """
    lines = frame_list(volume)
    data = lines.read_bytes() if lines.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):  # a line that was being written when the process died: its frame doesn't count
        os.truncate(lines, len(whole))
    frames = whole.count(b"\n")
    if format_of(volume) == "ome-tiff":
        return finish_tiff(volume, lines, frames)
    return _finish_zarr(volume, frames)


def _finish_zarr(volume: Path, frames: int) -> int:
    metadata = volume / "0" / "zarr.json"
    if not metadata.exists():  # it died while the files were being made
        return 0
    array = json.loads(metadata.read_text(encoding="utf-8"))
    array["shape"] = [frames, *array["shape"][1:]]
    drop_chunks(volume, frames)
    write_json(metadata, array)
    return frames


def finish_tiff(volume: Path, lines: Path, frames: int) -> int:
    """End a TIFF of the recorder behind this many frames, with a plane in its OME-XML for each of their lines; returns them.

    Every step leaves a TIFF that can be read, and may be done again after a crash: the new OME-XML takes the place behind the
    last frame, then the first image points to it, then the chain of images ends, then the file.
    """
    with volume.open("rb+") as file:
        try:
            layout, _, (offset, size) = TiffLayout.read(file)
        except NotOurTiff:  # it died while the file was being made
            file.truncate(0)
            return 0
        file.seek(offset)
        described = file.read(size).rstrip(b"\0").decode()
        end = layout.end(frames)
        if frames:
            with lines.open("rb") as listed:
                told = [json.loads(line) for line in islice(listed, frames)]
            xml = of_frames(described, told).encode() + b"\0"
            _put(file, end, xml)
            os.fsync(file.fileno())
            _put(file, *layout.description(end, len(xml)))
            os.fsync(file.fileno())
            _put(file, layout.link(frames - 1), bytes(8))
            end += len(xml)
        else:
            _put(file, 0, layout.start(0))
        _put(file, *layout.count(frames))
        os.fsync(file.fileno())
        file.truncate(end)
        os.fsync(file.fileno())
    return frames


def _put(file: BinaryIO, offset: int, data: bytes) -> None:
    file.seek(offset)
    file.write(data)
    file.flush()


def drop_chunks(volume: Path, frames: int) -> None:
    """Remove chunks and empty folders of frames from ``frames`` on."""
    chunks = volume / "0" / "c"
    if chunks.is_dir():
        for folder in chunks.iterdir():
            if int(folder.name) >= frames:
                shutil.rmtree(folder)


def write_json(path: Path, content: dict[str, Any], durable: bool = True) -> None:
    """Replace a file atomically."""
    draft = path.with_name(f".{path.name}.draft")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(draft, path)
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system has that (Windows syncs names with the file)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
