"""Where a run's frames are for this machine: in its own data directory, under a mounted storage root, or only in Tiled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..formats import volume_of
from ..layout import Layout, Moved, Place
from ..reading import RunDataset, RunLog, RunLogError, UnknownRunError, Volume, VolumeError, open_volume


class Whereabouts:
    """What this machine may see of the microscope's files.

    Parameters
    ----------
    layout
        The data directory, where it is this machine's.
    roots
        Storage roots as this machine sees them, by the name in ``data://ROOT/…``.
    """

    def __init__(self, layout: Layout | None, roots: Mapping[str, str | os.PathLike[str]]) -> None:
        self.layout = layout
        self.roots = {name: Path(path).expanduser() for name, path in roots.items()}
        self._found: dict[tuple[str, str], tuple[Volume, object]] = {}
        """Each with what its metadata's file was: archived or compressed since, a volume is looked for again."""
        self._ended: dict[str, RunLog] = {}

    def log(self, run_uid: str) -> RunLog | None:
        """The run's document log, as it is now; None where it isn't on this machine."""
        if self.layout is None:
            return None
        if run_uid in self._ended:
            return self._ended[run_uid]
        try:
            log = RunLog.read(self.layout, run_uid)
        except (UnknownRunError, RunLogError, OSError):
            return None
        if not log.unfinished:
            self._ended[run_uid] = log
        return log

    def volume(self, run_uid: str, name: str, log: RunLog | None, node: Any) -> Volume | None:
        """A dataset's volume, where this machine sees the very same file; None where it doesn't.

        Parameters
        ----------
        log
            The run's document log, where it is here.
        node
            Gives the dataset's Tiled client, for what the log doesn't tell; called at most once.
        """
        known, stamp = self._found.get((run_uid, name), (None, None))
        if known is not None and _stamp(known.path) == stamp:
            return known
        dataset = log.datasets.get(name) if log is not None else None
        if dataset is not None:
            found = self._first(self._by_log(dataset), lambda volume: _is_described(volume, dataset))
        else:
            client = node()
            found = None if client is None else self._first(self._by_tiled(client), lambda v: _is_same(v, client))
        if found is not None:
            self._found[run_uid, name] = found, _stamp(found.path)
        return found

    def _first(self, paths: Iterator[Path], is_it: Any) -> Volume | None:
        for path in paths:
            try:
                volume = open_volume(path)
                if is_it(volume):
                    return volume
            except (VolumeError, OSError):
                continue
        return None

    def _by_log(self, dataset: RunDataset) -> Iterator[Path]:
        """Where it was moved to, where that is known; by the uri, which never changes; then where it was when it was acquired,
        and in the data directory.
        """
        for place in self._moved(dataset.uri):
            yield from self._under_root(place.uri)
            yield Path(place.path)
        relative = _relative(dataset.uri)
        yield from self._under_root(dataset.uri)
        if dataset.recorded_path is not None:
            yield volume_of(dataset.recorded_path)
        if relative is not None and self.layout is not None:
            yield self.layout.data / relative

    def _moved(self, uri: str) -> tuple[Place, ...]:
        if self.layout is None or _relative(uri) is None:
            return ()
        try:
            moved = Moved.read(self.layout, uri)
        except (ValueError, OSError):
            return ()
        return () if moved is None else moved.places

    def _under_root(self, uri: str) -> Iterator[Path]:
        """The file of a uri in the storage roots that this machine has mounted."""
        root, relative = uri.partition("://")[2].partition("/")[0], _relative(uri)
        if relative is not None and root in self.roots:
            yield self.roots[root] / relative

    def _by_tiled(self, client: Any) -> Iterator[Path]:
        """Tiled tells where it opens the file itself: it may lie there for us too, or under one of the roots."""
        sources = client.data_sources() or ()
        for source in sources:
            for asset in source.assets:
                recorded = volume_of(asset.data_uri)
                for root in self.roots.values():
                    yield root / "volumes" / recorded.name
                yield recorded


def _relative(uri: str) -> PurePosixPath | None:
    """The path within its root of ``data://ROOT/relative``; None for anything else."""
    scheme, _, rest = uri.partition("://")
    text = rest.partition("/")[2]
    if scheme != "data" or text.startswith("/") or ".." in text.split("/"):
        return None
    return PurePosixPath(text)


def _stamp(volume: Path) -> object:
    """Of a volume that is there and unchanged it stays the same."""
    try:
        found = (volume / "0" / "zarr.json" if volume.is_dir() else volume).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns if volume.is_dir() else 0


def _is_described(volume: Volume, dataset: RunDataset) -> bool:
    """The log is the truth about this data directory, and the volume's name holds the run's uid: shape and type are enough."""
    shape, kind = dataset.described.get("shape"), dataset.described.get("dtype_numpy")
    return (not shape or list(volume.frame_shape) == list(shape)[-2:]) and (not kind or volume.dtype == np.dtype(kind))


def _is_same(volume: Volume, client: Any) -> bool:
    """The file that Tiled reads, not an old copy or another machine's: it has all frames that Tiled tells of, and the middle
    row of the newest is the same through both ways.
    """
    frames, *shape = client.shape
    if frames == 0 or len(shape) != 2:  # nothing to compare yet; or a stack an event, which only Tiled knows how to cut
        return False
    if volume.frame_shape != tuple(shape) or volume.dtype != client.dtype or volume.frames < frames:
        return False
    row = shape[0] // 2
    return np.array_equal(volume.frame(frames - 1)[row], client[frames - 1, row])
