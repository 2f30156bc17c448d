"""A TIFF on disk: the recorder's own by its layout, others through tifffile."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import ImageFacts, NotOurTiff, TiffLayout, format_of, parsed
from ._volume import FrameError, Volume, VolumeError, ZarrVolume, fill


def open_volume(path: Path) -> Volume:
    """The volume at a path, whichever format it has.

    Raises
    ------
    VolumeError
        Where there is none, or it isn't an image of at least three axes.
    """
    if format_of(path) == "ome-zarr":
        return ZarrVolume(path)
    try:
        return TiffVolume(path)
    except NotOurTiff:
        return OtherTiff(path)


class TiffVolume(Volume):
    """A TIFF of the recorder, which may be growing. Read without tifffile: opening it costs the same however many frames it has.

    Raises
    ------
    NotOurTiff
        Where somebody else wrote it.
    VolumeError
        Where it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layout, _, _ = self._head()
        super().__init__(path, self._layout.frame_shape, np.dtype(f"<u{self._layout.itemsize}"))

    def _head(self) -> tuple[TiffLayout, int, tuple[int, int]]:
        try:
            with self.path.open("rb") as file:
                return TiffLayout.read(file)
        except FileNotFoundError:
            raise VolumeError(f"{self.path} is not there") from None
        except OSError as error:
            raise VolumeError(f"{self.path}: can't be read: {error}") from None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._head()[1], *self.frame_shape)

    @cached_property
    def _said(self) -> ImageFacts | None:
        _, _, (offset, size) = self._head()
        with self.path.open("rb") as file:
            file.seek(offset)
            return parsed(file.read(size).rstrip(b"\0"))

    @property
    def axes(self) -> list[str]:
        return [*self.facts.axes, "y", "x"]

    @property
    def scale(self) -> list[float] | None:
        return _scale(self.facts)

    @property
    def pixel_um(self) -> float | None:
        return self.facts.pixel_um

    @property
    def channel(self) -> str | None:
        return self.facts.channel

    @property
    def facts(self) -> ImageFacts:
        frames = self.shape[:1]
        if self._said is None or len(self._said.axes) != 1:
            return ImageFacts("", self.path.name, self.frame_shape, self.dtype.name, ("t",), frames)
        return replace(self._said, sizes=frames)

    def _fill(self, index: int, out: np.ndarray, from_disk: bool) -> None:
        try:
            _read_at(self.path, self._layout.frame(index), out, from_disk)
        except FileNotFoundError:
            raise FrameError(f"{self.path.name}: frame {index} is missing ({self.path} is not there)") from None
        except FrameError as error:
            raise FrameError(f"{self.path.name}: frame {index} is missing: {error}") from None
        except OSError as error:
            raise FrameError(f"{self.path.name}: frame {index} can't be read: {error}") from None


class OtherTiff(Volume):
    """A TIFF that somebody else wrote: its first series of images, one grey image of at least three axes. Needs tifffile.

    Raises
    ------
    VolumeError
        Where there is none, tifffile isn't installed, or it isn't such an image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as tiff:
            try:
                series = tiff.series[0]
                self._names = series.axes.lower()
                self._shape = tuple(int(n) for n in series.shape)
                frames = math.prod(self._shape[:-2])
                swapped = tiff.byteorder != "<" and series.dtype.itemsize > 1
                self._raw = None if swapped else series.dataoffset
                """Where the pixels begin that are read as they lie; None: page by page."""
                self._pages = [page.index for page in series.pages if page is not None] if self._raw is None else []
                whole = len(series.pages) == frames and tuple(series.keyframe.shape) == self._shape[-2:]
                self._xml = tiff.ome_metadata
                dtype = np.dtype(series.dtype).newbyteorder("<")
            except Exception as error:  # whatever a damaged file makes it raise
                raise VolumeError(f"{path} is no TIFF that can be read: {type(error).__name__}: {error}") from None
        if len(self._shape) < 3 or not self._names.endswith("yx"):
            raise VolumeError(
                f"{path}: {len(self._shape)} axes ({self._names}) of {self._shape}; a volume has frames, height and width, of"
                " numbers"
            )
        if self._raw is None and (not whole or len(self._pages) != frames):
            raise VolumeError(f"{path}: {frames} frames, of which not each is an image of this one file")
        super().__init__(path, (self._shape[-2], self._shape[-1]), dtype)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            import tifffile
        except ImportError:
            raise VolumeError(
                f"{self.path}: a TIFF that this software didn't record; reading it needs tifffile (pip install tifffile)"
            ) from None
        try:
            # One file: OME-XML may name others, which could lie outside the storage root.
            tiff = tifffile.TiffFile(self.path, _multifile=False)
        except FileNotFoundError:
            raise VolumeError(f"{self.path} is not there") from None
        except Exception as error:  # whatever a damaged file makes it raise
            raise VolumeError(f"{self.path} is no TIFF that can be read: {error}") from None
        with tiff:
            yield tiff

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def axes(self) -> list[str]:
        names = [name if name in "tzc" else f"dim_{place}" for place, name in enumerate(self._names[:-2])]
        return [*names, "y", "x"]

    @property
    def scale(self) -> list[float] | None:
        return _scale(self.facts)

    @property
    def pixel_um(self) -> float | None:
        return self.facts.pixel_um

    @property
    def channel(self) -> str | None:
        return self.facts.channel

    @cached_property
    def facts(self) -> ImageFacts:
        said = parsed(self._xml.encode()) if self._xml else None
        plain = ImageFacts("", self.path.name, self.frame_shape, self.dtype.name)
        return replace(said or plain, axes=tuple(self.axes[:-2]), sizes=self.shape[:-2])

    def _fill(self, index: int, out: np.ndarray, from_disk: bool) -> None:
        try:
            if self._raw is not None:
                _read_at(self.path, self._raw + index * self.frame_bytes, out, from_disk)
            else:
                with self._opened() as tiff:
                    np.copyto(out, tiff.pages[self._pages[index]].asarray())
        except VolumeError as error:
            raise FrameError(f"{self.path.name}: frame {index} is missing: {error}") from None
        except Exception as error:  # whatever its codecs raise
            raise FrameError(f"{self.path.name}: frame {index} can't be read: {error}") from None


def _read_at(path: Path, offset: int, out: np.ndarray, from_disk: bool) -> None:
    with path.open("rb", buffering=0) as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), offset, out.nbytes, os.POSIX_FADV_DONTNEED)
        fill(file.fileno(), offset, out, path)


def _scale(facts: ImageFacts) -> list[float] | None:
    if facts.pixel_um is None:
        return None
    return [(facts.step_um or 1.0) if axis == "z" else 1.0 for axis in facts.axes] + [facts.pixel_um] * 2
