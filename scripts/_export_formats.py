"""The formats of ``queuescope export``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import format_of, ngff
from ..reading import ZarrVolume
from ._export import ExportError, Format, Source
from ._image_facts import described, image_facts

CLASSIC_TIFF_BYTES = 2**32 - 2**25
"""Beyond it a TIFF needs 64-bit offsets."""


class OmeTiff:
    """One file a dataset, its OME-XML complete and checked against the schema."""

    def name(self, source: Source) -> str:
        return f"{source.run_uid}_{source.dataset.name}.ome.tiff"

    def write(self, source: Source, folder: Path, tell: Callable[[], None]) -> Path:
        import tifffile

        path = folder / "image.part"
        with tifffile.TiffWriter(path, bigtiff=_is_big(source)) as tiff:
            tiff.write(
                _told(source, tell),
                shape=(source.frames, *source.volume.frame_shape),
                dtype=source.volume.dtype,
                photometric="minisblack",
                description=described(source).encode("utf-8"),
                metadata=None,
                software="queuescope",
            )
        return path

    def frames(self, path: Path) -> contextlib.AbstractContextManager[Iterator[np.ndarray]]:
        return _tiff_frames(path)


class TiffStack:
    """One plain TIFF a dataset, one page a frame, written by suitcase-tiff."""

    def name(self, source: Source) -> str:
        return f"{source.run_uid}-{source.dataset.stream}-{source.dataset.name}.tiff"

    def write(self, source: Source, folder: Path, tell: Callable[[], None]) -> Path:
        from suitcase.tiff_stack import Serializer

        # astype: suitcase makes uint16 of everything, silently
        with Serializer(folder, astype=source.volume.dtype, bigtiff=_is_big(source)) as serializer:
            for name, document in _filled(source):
                serializer(name, document)
                if name == "event":
                    tell()
        return _only(folder, serializer)

    def frames(self, path: Path) -> contextlib.AbstractContextManager[Iterator[np.ndarray]]:
        return _tiff_frames(path)


class TiffSeries:
    """A folder a dataset, one plain TIFF a frame, written by suitcase-tiff."""

    def name(self, source: Source) -> str:
        return f"{source.run_uid}_{source.dataset.name}_tiffs"

    def write(self, source: Source, folder: Path, tell: Callable[[], None]) -> Path:
        from suitcase.tiff_series import Serializer

        with Serializer(folder, astype=source.volume.dtype) as serializer:
            for name, document in _filled(source):
                serializer(name, document)
                if name == "event":
                    _close_files(serializer)
                    tell()
        return folder

    @contextlib.contextmanager
    def frames(self, path: Path) -> Iterator[Iterator[np.ndarray]]:
        import tifffile

        yield (tifffile.imread(file) for file in sorted(path.iterdir()))


class OmeZarr:
    """A copy of the dataset as OME-Zarr 0.5, with its frame list inside: whole, for another disk or another group."""

    def name(self, source: Source) -> str:
        return f"{source.run_uid}_{source.dataset.name}.ome.zarr"

    def write(self, source: Source, folder: Path, tell: Callable[[], None]) -> Path:
        made = folder / "volume"
        array = made / "0"
        array.mkdir(parents=True)
        leading = source.stack.shape[:-2]
        for index in range(source.frames):
            where = np.unravel_index(index, leading)
            chunk = array / "c" / "/".join(str(int(i)) for i in where) / "0" / "0"
            chunk.parent.mkdir(parents=True)
            chunk.write_bytes(np.ascontiguousarray(source.frame(index)).tobytes())
            tell()
        lines = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in source.lines)
        (made / "frames.jsonl").write_text(lines, encoding="utf-8")
        for of, content in ((array, _raw_array(source)), (made, _group(source))):
            (of / "zarr.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        return made

    @contextlib.contextmanager
    def frames(self, path: Path) -> Iterator[Iterator[np.ndarray]]:
        volume = ZarrVolume(path)
        yield (volume.frame(index, from_disk=True) for index in range(volume.frames))


FORMATS: dict[str, type[Format]] = {
    "ome-tiff": OmeTiff,
    "tiff-stack": TiffStack,
    "tiff-series": TiffSeries,
    "ome-zarr": OmeZarr,
}


def _is_big(source: Source) -> bool:
    return source.frames * (source.volume.frame_bytes + 1024) > CLASSIC_TIFF_BYTES


def _told(source: Source, tell: Callable[[], None]) -> Iterator[np.ndarray]:
    for index in range(source.frames):
        yield source.frame(index)
        tell()


def _filled(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents that suitcase wants: one event a frame, its pixels in it.

    The run's own documents tell where frames are (stream_datum); of those suitcase writes nothing, and says nothing. Every frame
    is an event of two dimensions, whatever the axes that count them, since it drops what has four.
    """
    name, stream = source.dataset.name, source.dataset.stream
    start = source.log.start or {}
    yield "start", {"uid": source.run_uid, "time": start.get("time", 0.0)}
    key = {
        "source": name,
        "dtype": "array",
        "dtype_numpy": source.volume.dtype.str,
        "shape": list(source.volume.frame_shape),
    }
    descriptor = {"uid": "frames", "run_start": source.run_uid, "time": start.get("time", 0.0), "name": stream}
    yield "descriptor", {**descriptor, "data_keys": {name: key}, "configuration": {}, "object_keys": {name: [name]}}
    for index in range(source.frames):
        when = float(source.lines[index].get("time") or 0.0)
        yield (
            "event",
            {
                "uid": f"frame-{index}",
                "descriptor": "frames",
                "seq_num": index + 1,
                "time": when,
                "data": {name: source.frame(index)},
                "timestamps": {name: when},
                "filled": {},
            },
        )
    yield "stop", {"uid": "stop", "run_start": source.run_uid, "time": 0.0, "exit_status": "success"}


def _only(folder: Path, serializer: Any) -> Path:
    """The one file that suitcase says it has written."""
    written = [Path(path) for paths in serializer.artifacts.values() for path in paths]
    if len(written) != 1 or not written[0].is_file():
        raise ExportError(f"suitcase-tiff wrote {len(written)} files instead of one in {folder}")
    return written[0]


def _close_files(serializer: Any) -> None:
    """suitcase keeps every file of a series open to the end (private name `_tiff_writers`, suitcase-tiff 0.4.0)."""
    for writers in serializer._tiff_writers.values():
        while writers:
            writers.popitem()[1].close()


@contextlib.contextmanager
def _tiff_frames(path: Path) -> Iterator[Iterator[np.ndarray]]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        yield (tiff.pages[index].asarray() for index in range(len(tiff.pages)))


def _group(source: Source) -> dict[str, Any]:
    """The original's group; one made of what is known where there is none, or only an array."""
    if isinstance(source.volume, ZarrVolume) and source.volume.ome:
        return dict(json.loads((source.volume.path / "zarr.json").read_text(encoding="utf-8")))
    return {"zarr_format": 3, "node_type": "group", "attributes": ngff(image_facts(source))}


def _raw_array(source: Source) -> dict[str, Any]:
    """One uncompressed chunk a frame, whatever the original had."""
    shape, frame = source.stack.shape, source.volume.frame_shape
    original: dict[str, Any] = {"zarr_format": 3, "node_type": "array", "fill_value": 0, "attributes": {}}
    if format_of(source.volume.path) == "ome-zarr":
        original = json.loads((source.volume.path / "0" / "zarr.json").read_text(encoding="utf-8"))
    elif len(shape) == len(source.volume.axes):
        original["dimension_names"] = source.volume.axes
    return {
        **original,
        "shape": list(shape),
        "data_type": source.volume.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * (len(shape) - 2) + list(frame)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }


def missing(form: str) -> str | None:
    """What must be installed for a format; None where it is."""
    from importlib.util import find_spec

    modules = {"ome-tiff": ("tifffile", "ome_types"), "tiff-stack": ("suitcase",), "tiff-series": ("suitcase",)}
    gone = [name for name in modules.get(form, ()) if find_spec(name) is None]
    return f"{form} needs {' and '.join(gone)}: pip install 'queuescope[export]'" if gone else None


__all__ = ["FORMATS", "OmeTiff", "OmeZarr", "TiffSeries", "TiffStack", "missing"]
