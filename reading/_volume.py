"""A dataset on disk: which of its frames count, and their pixels."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import ImageFacts, frame_list, of_ngff
from ..layout import frames_on_disk

_RAW = [
    [{"name": "bytes", "configuration": {"endian": "little"}}],
    [{"name": "bytes"}],
]


class VolumeError(Exception):
    """A volume that can't be read as one. Names the file and what is wrong."""


class FrameError(VolumeError):
    """A frame that counts and can't be read. Names the file, the frame and what is wrong."""


class Volume:
    """Frames on disk, in either format: the last two axes are a frame, all other axes count frames, the last of them fastest.

    A frame counts when its line stands in the frame list beside the volume (decision 0010). A volume without such a list, one
    that somebody else wrote, has all frames of its shape. `open_volume` opens one.
    """

    def __init__(self, path: Path, frame_shape: tuple[int, int], dtype: np.dtype) -> None:
        self.path, self.frame_shape, self.dtype = path, frame_shape, dtype
        self.frame_bytes = math.prod(frame_shape) * dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    @property
    def shape(self) -> tuple[int, ...]:
        """As the metadata say now: while a planned run grows, with all frames that will come."""
        raise NotImplementedError

    @property
    def axes(self) -> list[str]:
        """Names of the axes, ``["z", "y", "x"]``."""
        raise NotImplementedError

    @property
    def scale(self) -> list[float] | None:
        """Distance of two elements along each axis: µm for axes in space, 1 for those that only count; None where unknown."""
        raise NotImplementedError

    @property
    def pixel_um(self) -> float | None:
        """Width of a pixel in the sample; None where unknown."""
        raise NotImplementedError

    @property
    def channel(self) -> str | None:
        """Name of the channel."""
        raise NotImplementedError

    @property
    def facts(self) -> ImageFacts:
        """Everything that the metadata say of the image."""
        raise NotImplementedError

    def _fill(self, index: int, out: np.ndarray, from_disk: bool) -> None:
        """Read a frame into ``out``; see `frame`."""
        raise NotImplementedError

    @property
    def frames(self) -> int:
        """Frames that count now."""
        count = frames_on_disk(self.path) if self.frame_list.exists() else None
        return math.prod(self.shape[:-2]) if count is None else count

    @property
    def frame_list(self) -> Path:
        """``….frames.jsonl``."""
        return frame_list(self.path)

    def lines(self) -> list[dict[str, Any]]:
        """The frame list: index, time (seconds since the epoch), position, checksum of each frame that counts.

        Raises
        ------
        VolumeError
            Where it is damaged, or not there.
        """
        lines: list[dict[str, Any]] = []
        try:
            with self.frame_list.open("rb") as file:
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):
                        break
                    entry = json.loads(line)
                    if entry["index"] != number:
                        raise ValueError(f"frame {entry['index']} stands in the place of {number}")
                    lines.append(entry)
        except FileNotFoundError:
            raise VolumeError(f"{self.frame_list} is not there") from None
        except (ValueError, KeyError, TypeError) as error:
            raise VolumeError(f"{self.frame_list}, line {len(lines) + 1}: not a frame's line ({error})") from None
        return lines

    def frame(self, index: int, out: np.ndarray | None = None, from_disk: bool = False) -> np.ndarray:
        """One frame (height, width).

        Parameters
        ----------
        index
            From 0; it isn't held against the number of frames that count.
        out
            Where to put it: of the frame's shape and dtype. Fresh memory costs more than reading.
        from_disk
            Let the system forget what it has of the file in memory, and read what the disk gives.

        Raises
        ------
        FrameError
            Where its bytes are missing or not as many as they must be.
        """
        if out is None:
            out = np.empty(self.frame_shape, self.dtype)
        self._fill(index, out, from_disk)
        return out

    def stack(self) -> Stack:
        """The frames that count now, as something that is indexed like an array and read when it is."""
        return Stack(self)


class ZarrVolume(Volume):
    """An OME-Zarr folder.

    Parameters
    ----------
    path
        The folder ``….ome.zarr``.

    Raises
    ------
    VolumeError
        Where there is none, or it isn't an image of at least three axes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._array = path, path / "0"
        meta = self._metadata
        super().__init__(path, tuple(meta["shape"][-2:]), np.dtype(meta["data_type"]).newbyteorder("<"))

    @property
    def _metadata(self) -> dict[str, Any]:
        """Of the array, read now: its length changes when the run ends."""
        try:
            meta: dict[str, Any] = json.loads((self._array / "zarr.json").read_text(encoding="utf-8"))
            dimensions = len(meta["shape"])
        except FileNotFoundError:
            raise VolumeError(f"{self.path} is not there, or is no OME-Zarr of version 0.5") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VolumeError(f"{self.path}: its metadata can't be read: {error}") from None
        if dimensions < 3 or not isinstance(meta.get("data_type"), str):
            raise VolumeError(
                f"{self.path}: {dimensions} axes of {meta.get('data_type')}; a volume has frames, height and width, of numbers"
            )
        return meta

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._metadata["shape"])

    def _fill(self, index: int, out: np.ndarray, from_disk: bool) -> None:
        self._read(index, out, from_disk)

    @cached_property
    def _read(self) -> Callable[[int, np.ndarray, bool], None]:
        meta = self._metadata
        grid = meta["chunk_grid"]["configuration"]["chunk_shape"]
        encoding = meta["chunk_key_encoding"]
        one_chunk = list(grid) == [1] * (len(grid) - 2) + list(self.frame_shape)
        if one_chunk and encoding["name"] == "default":
            separator = encoding.get("configuration", {}).get("separator", "/")
            raw = meta["codecs"] in _RAW
            return lambda index, out, from_disk: self._read_chunk(index, out, from_disk, separator, raw)
        return lambda index, out, _: self._read_with_zarr(index, out)

    def _read_chunk(self, index: int, out: np.ndarray, from_disk: bool, separator: str, raw: bool) -> None:
        """A frame that is one file: its raw bytes, or encoded. A chunk that is missing is an error, not zeros."""
        where = np.unravel_index(index, self.shape[:-2]) if len(self.shape) > 3 else (index,)
        path = self._array / separator.join(["c", *(str(int(i)) for i in where), "0", "0"])
        try:
            with path.open("rb", buffering=0) as file:
                if from_disk and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if raw:
                    size = os.fstat(file.fileno()).st_size
                    if size != self.frame_bytes:
                        raise FrameError(
                            f"{self.path.name}: frame {index} has {size} bytes instead of {self.frame_bytes} ({path})"
                        )
                    fill(file.fileno(), 0, out, path)
                    return
        except FileNotFoundError:
            raise FrameError(f"{self.path.name}: frame {index} is missing ({path} is not there)") from None
        except OSError as error:
            raise FrameError(f"{self.path.name}: frame {index} can't be read: {error}") from None
        self._read_with_zarr(index, out)

    def _read_with_zarr(self, index: int, out: np.ndarray) -> None:
        """Whatever else Zarr can hold: compressed, sharded, chunks of another shape."""
        try:
            import zarr
        except ImportError:
            raise VolumeError(
                f"{self.path}: compressed or in chunks that aren't frames; reading that needs zarr (pip install zarr)"
            ) from None
        array: Any = zarr.open_array(self._array, mode="r")
        where = np.unravel_index(index, array.shape[:-2])
        try:
            np.copyto(out, array[tuple(int(i) for i in where)])
        except Exception as error:  # whatever its codecs raise
            raise FrameError(f"{self.path.name}: frame {index} can't be read: {error}") from None

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / "zarr.json").read_text(encoding="utf-8"))["attributes"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def ome(self) -> dict[str, Any]:
        """The folder's OME metadata; empty where it has none."""
        found = self._attributes.get("ome")
        return found if isinstance(found, dict) else {}

    @property
    def axes(self) -> list[str]:
        try:
            return [axis["name"] for axis in self.ome["multiscales"][0]["axes"]]
        except (KeyError, IndexError, TypeError):
            names = self._metadata.get("dimension_names")
            return list(names) if names else [f"dim_{n}" for n in range(len(self.shape) - 2)] + ["y", "x"]

    @property
    def scale(self) -> list[float] | None:
        try:
            (transformation,) = self.ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
            return [float(x) for x in transformation["scale"]]
        except (KeyError, IndexError, TypeError, ValueError):
            return None

    @property
    def pixel_um(self) -> float | None:
        try:
            in_um = self.ome["multiscales"][0]["axes"][-1].get("unit") == "micrometer"
        except (KeyError, IndexError, TypeError, AttributeError):
            return None
        return self.scale[-1] if in_um and self.scale else None

    @property
    def channel(self) -> str | None:
        try:
            return str(self.ome["omero"]["channels"][0]["label"])
        except (KeyError, IndexError, TypeError):
            return None

    @property
    def facts(self) -> ImageFacts:
        facts = of_ngff(self._attributes, tuple(self.axes), self.shape, self.dtype.name, self.pixel_um)
        if facts.step_um is None and "z" in self.axes and self.pixel_um is not None and self.scale is not None:
            facts = replace(facts, step_um=self.scale[self.axes.index("z")])
        return replace(facts, channel=facts.channel or self.channel)


class Stack:
    """Frames of a volume: (frames, height, width), or its own axes where all its frames are there and it has more.

    Read-only; may be pickled: what is read is a path. Enough of an array for ``dask.array.from_array`` and ``numpy.asarray``.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        leading = volume.shape[:-2]
        whole = len(leading) > 1 and volume.frames == math.prod(leading)
        self.shape: tuple[int, ...] = (*(leading if whole else (volume.frames,)), *volume.frame_shape)
        self.dtype = volume.dtype
        self.ndim = len(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """One frame."""
        return (1,) * (self.ndim - 2) + self.volume.frame_shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        leading, within = self._split(key)
        numbers = np.arange(math.prod(self.shape[:-2])).reshape(self.shape[:-2])[leading]
        if np.ndim(numbers) == 0:
            return self.volume.frame(int(numbers))[within]
        found = np.empty((*numbers.shape, *self.volume.frame_shape), self.dtype)
        for place, index in np.ndenumerate(numbers):
            self.volume.frame(int(index), found[place])
        return found[(slice(None),) * numbers.ndim + within] if within else found

    def _split(self, key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """An index into the axes that count frames, and one into the frame."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(k is Ellipsis for k in keys):
            at = next(n for n, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        if len(keys) > self.ndim:
            raise IndexError(f"{len(keys)} indices for {self.ndim} axes {self.shape}")
        counting = self.ndim - 2
        return tuple(keys[:counting]), tuple(keys[counting:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


def fill(descriptor: int, offset: int, out: np.ndarray, path: Path) -> None:
    """Read an array from an offset of a file.

    Raises
    ------
    FrameError
        Where the file ends before.
    """
    whole = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    view = whole.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = _read_into(descriptor, view[done:], offset + done)
        if count == 0:
            raise FrameError(f"{path} ended after {done} of {len(view)} bytes")
        done += count
    if whole is not out:
        np.copyto(out, whole)


def _read_into(descriptor: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows: nobody else reads by this descriptor
    data = os.read(descriptor, len(view))
    view[: len(data)] = data
    return len(data)
