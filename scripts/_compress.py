"""Lossless compression of volumes whose chunks are raw frames: the same chunks, encoded, and metadata that say so.

Two threads encode; a frame is held against its checksum before it is encoded, so what was damaged before isn't made to last.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..layout import sync_names
from ..reading import Volume, VolumeError
from ._read_back import checksum

ENCODERS = 2
"""Threads: one reads and writes while the other encodes."""
WORTH = 0.98
"""A dataset whose samples don't get smaller than this share of their bytes stays as it is."""

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


class CompressionError(Exception):
    """A dataset that can't be compressed. Names it and says why."""


@dataclass(frozen=True)
class Codec:
    """What encodes a chunk, as Zarr 3 names it. All of them are lossless, and every reader of Zarr 3 knows them."""

    name: str
    """For people."""
    configuration: dict[str, Any]
    """Of the one codec behind ``bytes``."""

    def encoder(self) -> Callable[[np.ndarray], bytes]:
        """Encodes a frame (height, width); for one thread."""
        from numcodecs import Blosc, Zstd

        settings = self.configuration["configuration"]
        if self.configuration["name"] == "zstd":
            zstd = Zstd(level=settings["level"], checksum=settings["checksum"])
            return lambda frame: bytes(zstd.encode(frame))
        shuffle = {"shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}[settings["shuffle"]]
        blosc = Blosc(settings["cname"], settings["clevel"], shuffle, settings["blocksize"])
        return lambda frame: bytes(blosc.encode(frame))

    def metadata(self, itemsize: int) -> list[dict[str, Any]]:
        """The array's ``codecs``."""
        configuration = dict(self.configuration["configuration"])
        if self.configuration["name"] == "blosc":
            configuration["typesize"] = itemsize
        return [_BYTES, {"name": self.configuration["name"], "configuration": configuration}]


def _blosc(level: int, shuffle: str) -> dict[str, Any]:
    settings = {"cname": "zstd", "clevel": level, "shuffle": shuffle, "blocksize": 0}
    return {"name": "blosc", "configuration": settings}


CODECS = (
    Codec("zstd", {"name": "zstd", "configuration": {"level": 3, "checksum": False}}),
    Codec("blosc zstd, bytes shuffled", _blosc(1, "shuffle")),
    Codec("blosc zstd, bits shuffled", _blosc(3, "bitshuffle")),
)
"""Plain zstd wins where images repeat themselves (128:1 on Micro-Manager's demo camera), shuffled bits or bytes on the noise of
a real camera (1.9:1 where zstd gets 1.4:1, and three times as fast). A dataset takes what its own frames say."""
CLEARLY = 0.95
"""Plain zstd gives way only to what is smaller than this share of it."""


def is_raw(volume: Path) -> bool:
    """Whether it is an OME-Zarr whose chunks are raw frames, as the recorder writes it.

    Raises
    ------
    CompressionError
        Where it is something else that can't be compressed: another format, or chunks of another shape.
    """
    try:
        meta = json.loads((volume / "0" / "zarr.json").read_text(encoding="utf-8"))
        grid, shape, codecs = meta["chunk_grid"]["configuration"]["chunk_shape"], meta["shape"], meta["codecs"]
        encoding = meta["chunk_key_encoding"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CompressionError(f"{volume.name} is no OME-Zarr 0.5: only these are compressed") from None
    if list(grid) != [1] * (len(grid) - 2) + list(shape[-2:]) or encoding.get("name") != "default":
        raise CompressionError(f"{volume.name} has chunks of {grid}, which aren't frames: it stays as it is")
    return [codec["name"] for codec in codecs] == ["bytes"]


def choose(volume: Volume) -> Codec | None:
    """The codec for a dataset, by its first, middle and last frame; None where none makes them smaller."""
    frames = volume.frames
    if frames == 0:
        return None
    picked = sorted({0, frames // 2, frames - 1})
    sizes = {codec.name: 0 for codec in CODECS}
    for index in picked:
        frame = volume.frame(index)
        for codec in CODECS:
            sizes[codec.name] += len(codec.encoder()(frame))
    best = min(CODECS, key=lambda codec: sizes[codec.name])
    plain = CODECS[0]
    if sizes[best.name] > CLEARLY * sizes[plain.name]:
        best = plain
    return best if sizes[best.name] < WORTH * len(picked) * volume.frame_bytes else None


def missing() -> str | None:
    """What must be installed first, as a sentence."""
    try:
        import numcodecs  # noqa: F401
        import zarr  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed in this Python: pip install 'queuescope[all]', or zarr"
    return None


def recode(
    volume: Volume, lines: list[dict[str, Any]], target: Path, codec: Codec, tell: Callable[[int], None]
) -> None:
    """Write a volume's frames anew, encoded, into a folder that isn't there yet; everything else is copied.

    Parameters
    ----------
    lines
        The frame list.
    tell
        Called with the number of frames written, after each.

    Raises
    ------
    CompressionError
        Where a frame can't be read, or isn't the one that was taken.
    OSError
        Where it can't be written.
    """
    array = target / "0"
    array.mkdir(parents=True)
    (target / "zarr.json").write_bytes((volume.path / "zarr.json").read_bytes())
    meta = json.loads((volume.path / "0" / "zarr.json").read_text(encoding="utf-8"))
    separator = meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    (array / "zarr.json").write_text(
        json.dumps({**meta, "codecs": codec.metadata(volume.dtype.itemsize)}, indent=1), encoding="utf-8"
    )
    waiting: Iterator[dict[str, Any]] = iter(lines)
    lock, failures, done = threading.Lock(), list[Exception](), 0

    def work() -> None:
        nonlocal done
        frame = np.empty(volume.frame_shape, volume.dtype)
        encode = codec.encoder()
        while True:
            with lock:
                line = None if failures else next(waiting, None)
            if line is None:
                return
            try:
                _one(volume, line, frame, encode, array / _key(volume, line["index"], separator))
            except Exception as error:  # told by whoever started the threads
                with lock:
                    failures.append(error)
                return
            with lock:
                done += 1
                tell(done)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(ENCODERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0] if isinstance(failures[0], OSError | CompressionError) else CompressionError(str(failures[0]))
    sync_names(array)


def _one(
    volume: Volume, line: dict[str, Any], frame: np.ndarray, encode: Callable[[np.ndarray], bytes], chunk: Path
) -> None:
    index = line["index"]
    try:
        volume.frame(index, frame, from_disk=True)
    except VolumeError as error:
        raise CompressionError(str(error)) from None
    if checksum(frame) != line.get("checksum"):
        raise CompressionError(f"{volume.path.name}: frame {index} differs from the one that was taken")
    chunk.parent.mkdir(parents=True, exist_ok=True)
    chunk.write_bytes(encode(frame))


def _key(volume: Volume, index: int, separator: str) -> str:
    where = np.unravel_index(index, volume.shape[:-2]) if len(volume.shape) > 3 else (index,)
    return separator.join(["c", *(str(int(i)) for i in where), "0", "0"])
