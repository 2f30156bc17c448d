"""A small picture of frames: projected, binned, its contrast stretched, as a PNG. Needs NumPy only."""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ._volume import Volume

LONGEST_PROJECTION_BYTES = 2_000_000_000
"""What one projection may read: 238 frames of 2048 × 2048 × 2 bytes, one to three seconds of this machine."""
LARGEST_IMAGE_PIXELS = 64_000_000
"""Of a frame: its picture is made in memory."""
PERCENTILES = (1.0, 99.8)
LARGEST_SCALE = 128
_SAMPLE = 1 << 18
"""Pixels that the percentiles are taken of, evenly spread: all of them would cost more than reading the frame."""
_ROWS = 16
"""Looked up at once: what NumPy makes of them on the way stays in the processor's cache."""

Projection = Literal["max", "mean"]


class PreviewTooLarge(ValueError):
    """More would have to be read than one picture may cost. Names the limit and what to ask for instead."""


@dataclass(frozen=True)
class Preview:
    """An 8-bit grey picture and what it shows."""

    png: bytes
    first: int
    """Index of the frame, or of the first one projected."""
    frames: int
    """How many it shows."""
    scale: int
    """Pixels of the camera, along each axis, that became one here."""
    pixel_um: float | None
    """Of a pixel here, in the sample, in µm; None where unknown."""
    black: float
    """Grey value shown as black: the lower percentile."""
    white: float
    """Grey value shown as white: the upper percentile."""
    saturated: float
    """Share of the camera's pixels at `saturation` or above, from 0 to 1; of a mean, in the mean."""
    saturation: int

    def _repr_png_(self) -> bytes:
        """For Jupyter."""
        return self.png

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the PNG; returns its path."""
        target = Path(path)
        target.write_bytes(self.png)
        return target


def preview_of(
    volume: Volume,
    first: int,
    stop: int,
    project: Projection | None = None,
    scale: int = 1,
    percentiles: tuple[float, float] = PERCENTILES,
    saturation: int | None = None,
) -> Preview:
    """A picture of a frame, or of the projection of frames ``first`` to ``stop`` − 1, all of which must count.

    Parameters
    ----------
    scale
        Bins of ``scale`` × ``scale`` pixels become their mean; what is left over at the edges is left out.
    saturation
        Grey value at which the camera saturates; by default the highest of the data type.

    Raises
    ------
    PreviewTooLarge
        Where that would read or hold more than a picture may.
    VolumeError
        Where a frame can't be read.
    """
    check_size(volume, stop - first)
    image = volume.frame(first) if project is None else _projected(volume, first, stop, project)
    frames = 1 if project is None else stop - first
    top = int(np.iinfo(volume.dtype).max) if saturation is None else saturation
    pixel_um = None if volume.pixel_um is None else volume.pixel_um * scale
    return render(image, first, frames, scale, pixel_um, percentiles, top)


def check_size(volume: Volume, frames: int) -> None:
    """Refuse what would cost too much, before anything is read."""
    if volume.dtype not in (np.dtype("u1"), np.dtype("<u2")):
        raise PreviewTooLarge(f"{volume.path.name} holds {volume.dtype.name}; pictures are made of uint8 and uint16")
    if math.prod(volume.frame_shape) > LARGEST_IMAGE_PIXELS:
        raise PreviewTooLarge(
            f"a frame of {volume.path.name} has {math.prod(volume.frame_shape)} pixels, a picture is made of at most"
            f" {LARGEST_IMAGE_PIXELS}"
        )
    check_projection(volume.path.name, frames, volume.frame_bytes)


def check_projection(name: str, frames: int, frame_bytes: int) -> None:
    """Refuse a projection that would read more than `LONGEST_PROJECTION_BYTES`."""
    if frames > 1 and frames * frame_bytes > LONGEST_PROJECTION_BYTES:
        raise PreviewTooLarge(
            f"projecting {frames} frames of {name} reads {frames * frame_bytes / 1e9:.1f} GB, the limit is"
            f" {LONGEST_PROJECTION_BYTES / 1e9:g} GB: at most {LONGEST_PROJECTION_BYTES // frame_bytes} frames at once"
        )


def _projected(volume: Volume, first: int, stop: int, project: Projection) -> np.ndarray:
    frame = volume.frame(first)
    if project == "max":
        image = frame.copy()
        for index in range(first + 1, stop):
            np.maximum(image, volume.frame(index, frame), out=image)
        return image
    total = frame.astype(np.uint32)  # 65536 frames of 65535 fit; the limit above is far below
    for index in range(first + 1, stop):
        np.add(total, volume.frame(index, frame), out=total)
    return _divided(total, stop - first, frame.dtype)


def _divided(total: np.ndarray, by: int, dtype: np.dtype) -> np.ndarray:
    """The mean, rounded to the nearest."""
    return ((total + by // 2) // by).astype(dtype)


def render(
    image: np.ndarray,
    first: int,
    frames: int,
    scale: int,
    pixel_um: float | None,
    percentiles: tuple[float, float],
    saturation: int,
) -> Preview:
    """Bin an image (height, width) of uint8 or uint16, stretch its contrast, encode it."""
    saturated = np.count_nonzero(image >= saturation) / image.size
    small = image if scale == 1 else _binned(image, scale)
    step = max(1, math.isqrt(small.size // _SAMPLE))
    black, white = (float(x) for x in np.percentile(small[::step, ::step], percentiles))
    levels = np.arange(int(np.iinfo(small.dtype).max) + 1, dtype=np.float32)
    table = np.clip((levels - black) * (255 / max(white - black, 1.0)) + 0.5, 0, 255).astype(np.uint8)
    return Preview(
        png=_png(small, table),
        first=first,
        frames=frames,
        scale=scale,
        pixel_um=pixel_um,
        black=black,
        white=white,
        saturated=saturated,
        saturation=saturation,
    )


def _binned(image: np.ndarray, scale: int) -> np.ndarray:
    """Means of ``scale`` × ``scale`` pixels; an image smaller than that has none."""
    if not 1 <= scale <= LARGEST_SCALE:
        raise PreviewTooLarge(f"scale {scale} is outside [1, {LARGEST_SCALE}]")
    height, width = (n // scale for n in image.shape)
    if height == 0 or width == 0:
        raise PreviewTooLarge(f"scale {scale} leaves nothing of {image.shape[0]} × {image.shape[1]} pixels")
    cut = image[: height * scale, : width * scale]
    rows = np.add.reduce(cut.reshape(height, scale, width * scale), axis=1, dtype=np.uint32)
    if scale <= 4:  # few long additions instead of many short ones
        total = rows[:, ::scale].copy()
        for column in range(1, scale):
            total += rows[:, column::scale]
    else:
        total = np.add.reduce(rows.reshape(height, width, scale), axis=2)
    return _divided(total, scale * scale, image.dtype)


def _png(image: np.ndarray, table: np.ndarray) -> bytes:
    """An 8-bit grey PNG of an image whose grey values become those of the table.

    Run-length coding: noise hardly gets smaller by anything, and this takes 30 ms of 2048².
    """
    height, width = image.shape
    lines = np.empty((height, width + 1), np.uint8)
    lines[:, 0] = 0  # no filter
    for row in range(0, height, _ROWS):
        np.take(table, image[row : row + _ROWS], out=lines[row : row + _ROWS, 1:], mode="clip")
    coder = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    packed = coder.compress(lines.data) + coder.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), _chunk(b"IDAT", packed), _chunk(b"IEND", b"")],
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
