"""A run as a person or an agent reads it: its frames, tables and pictures, on top of Tiled's client."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3

from ..reading import PERCENTILES, Preview, RunLog, Volume, check_projection, preview_of, render
from ._card import card
from ._where import Whereabouts

if TYPE_CHECKING:
    import dask.array
    import pandas

THUMBNAIL_PIXELS = 240
"""Longest side of the pictures in a notebook's card."""


class NoSuchRunError(KeyError):
    """The catalog has no run of this uid, or not yet. The text says where it was looked for and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


class NoSuchDatasetError(KeyError):
    """The run has no dataset or stream of this name. Names those it has."""

    def __str__(self) -> str:
        return str(self.args[0])


class NotOnThisMachineError(LookupError):
    """Only the files tell, and this machine doesn't see them."""


class NapariMissingError(ImportError):
    """napari isn't installed in this Python."""


class Run(BlueskyRunV3):
    """One run: ``catalog[uid]``.

    A Tiled client like any other, ``run["primary"]["cam_a"]``, with what reading a microscope's run needs on top. Frames come
    from the files where this machine sees them (`path`), otherwise through Tiled; both give the same pixels.
    """

    where: Whereabouts
    """Set on the class that a catalog makes for its runs."""
    _told: dict[str, str] | None = None

    @property
    def uid(self) -> str:
        return str(self.metadata["start"]["uid"])

    @property
    def datasets(self) -> dict[str, str]:
        """Names of the arrays, each with the stream it belongs to."""
        log = self._log()
        if log is not None:
            return {name: dataset.stream for name, dataset in log.datasets.items()} or log.announced
        if self._told is None or not self.metadata.get("stop"):
            self._told = {}
            for stream in self._stream_names:
                described = self.base[stream].metadata.get("data_keys", {})
                self._told |= {name: stream for name, key in described.items() if "external" in key}
        return self._told

    def frames(self, name: str | None = None) -> dask.array.Array:
        """All frames of a dataset that are there now, as a lazy array (frames, height, width): one chunk a frame.

        Nothing is read before ``.compute()``, ``numpy.asarray`` or a viewer asks for it, and then only what it asks for.

        Parameters
        ----------
        name
            The dataset: a camera's name. May be left out where the run has one.

        Raises
        ------
        NoSuchDatasetError
            Naming the datasets that there are.
        """
        import dask.array

        name = self._dataset(name)
        volume = self._volume(name)
        if volume is not None:
            stack = volume.stack()
            if 0 in stack.shape:
                return dask.array.zeros(stack.shape, dtype=stack.dtype)
            token = f"frames-{self.uid}-{name}-{stack.shape[0]}"
            return dask.array.from_array(stack, chunks=stack.chunks, name=token, asarray=False, inline_array=True)
        client = self._client(name)
        if client is None:
            raise NoSuchDatasetError(f"no frame of {name} has come yet")
        from tiled.client.array import DaskArrayClient

        lazy = DaskArrayClient(client.context, item=client.item, structure_clients=client.structure_clients)
        return lazy.read()

    def path(self, name: str | None = None) -> Path | None:
        """Folder of a dataset's OME-Zarr on this machine; None where it doesn't see it."""
        volume = self._volume(self._dataset(name))
        return None if volume is None else volume.path

    def table(self, name: str | None = None) -> pandas.DataFrame:
        """What was recorded with the frames, one row each.

        Parameters
        ----------
        name
            A stream (``primary``): its scalar readings, one row an event, with the time (seconds since the epoch) and units as
            in the descriptor. A dataset (``cam_a``): its frames, one row each, with time, the position of every axis, and
            checksum. Left out: the readings of ``primary`` where it has any, else the frames of the first dataset.

        Raises
        ------
        NoSuchDatasetError
            Naming the streams and datasets that there are.
        NotOnThisMachineError
            For a dataset's frames where this machine doesn't see the files.
        """
        datasets = self.datasets
        if name is None:
            readings = self._readings("primary") if "primary" in self._stream_names else None
            if readings is not None or not datasets:
                return _frame_of(readings)
            name = next(iter(datasets))
        if name in datasets:
            return self._frame_table(name)
        if name not in self._stream_names:
            raise NoSuchDatasetError(
                f"run {self.uid[:8]} has no stream or dataset {name!r}: it has {', '.join([*self._stream_names, *datasets])}"
            )
        return _frame_of(self._readings(name))

    def preview(
        self,
        name: str | None = None,
        index: int | None = None,
        project: Literal["max", "mean"] | None = None,
        scale: int = 1,
        percentiles: tuple[float, float] = PERCENTILES,
    ) -> Preview:
        """A picture of a frame (the middle one unless ``index`` says which), or of all frames projected.

        A notebook shows it; ``.png`` are its bytes, ``.save(path)`` writes them. Contrast is stretched between the percentiles
        of the pixels, and each ``scale`` × ``scale`` of them becomes one.

        Raises
        ------
        IndexError
            Where there is no such frame.
        PreviewTooLarge
            Where the projection would read more than 2 GB.
        """
        name = self._dataset(name)
        volume = self._volume(name)
        frames = self.frames(name)
        count = math.prod(frames.shape[:-2])
        first, stop = _which(name, count, index, project)
        log = self._log()
        saturation = None if log is None else log.saturation(name, str(frames.dtype))
        if volume is not None:
            return preview_of(volume, first, stop, project, scale, percentiles, saturation)
        check_projection(name, stop - first, frames.dtype.itemsize * math.prod(frames.shape[-2:]))
        flat = frames.reshape((count, *frames.shape[-2:]))[first:stop]
        image = flat[0] if project is None else flat.max(axis=0) if project == "max" else flat.mean(axis=0).round()
        pixels = np.asarray(image).astype(frames.dtype)
        top = int(np.iinfo(frames.dtype).max)
        return render(pixels, first, stop - first, scale, None, percentiles, top)

    def to_napari(self, viewer: Any = None, names: list[str] | None = None) -> Any:
        """Show the datasets in napari, one lazy layer each, in µm where the scale is known. Returns the viewer.

        Parameters
        ----------
        viewer
            Where to add them; a new window by default.

        Raises
        ------
        NapariMissingError
            Where napari isn't installed.
        """
        if viewer is None:
            try:
                import napari
            except ImportError as error:
                raise NapariMissingError(
                    "napari is not installed in this Python: pip install 'napari[all]', or open run.path() in Fiji or"
                    " another viewer of OME-Zarr"
                ) from error
            viewer = napari.Viewer(title=f"run {self.uid[:8]}")
        for name in names or self.datasets:
            volume, frames = self._volume(self._dataset(name)), self.frames(name)
            if 0 in frames.shape:
                continue
            shown = self.preview(name, scale=max(1, max(frames.shape[-2:]) // THUMBNAIL_PIXELS))
            scale = volume.scale if volume is not None and volume.scale else [1.0] * frames.ndim
            viewer.add_image(
                frames,
                name=name,
                scale=scale[-frames.ndim :],
                contrast_limits=(shown.black, max(shown.white, shown.black + 1)),
                blending="additive",
                metadata={"run_uid": self.uid, "dataset": name},
            )
        return viewer

    def _repr_html_(self) -> str:
        return card(self)

    def _log(self) -> RunLog | None:
        return self.where.log(self.uid)

    def _dataset(self, name: str | None) -> str:
        there = self.datasets
        if name is None and len(there) == 1:
            return next(iter(there))
        if name not in there:
            which = "which dataset?" if name is None else f"no dataset {name!r}:"
            raise NoSuchDatasetError(f"run {self.uid[:8]}: {which} it has {', '.join(there) or 'none'}")
        return name

    def _client(self, name: str) -> Any:
        """Tiled's client of a dataset; None before its first frame is announced."""
        try:
            return self[self.datasets[name]][name]
        except KeyError:
            return None

    def _volume(self, name: str) -> Volume | None:
        return self.where.volume(self.uid, name, self._log(), lambda: self._client(name))

    def _readings(self, stream: str) -> pandas.DataFrame | None:
        parts = self.base[stream].base if hasattr(self.base[stream], "base") else self.base[stream]
        if "internal" not in list(parts):
            return None
        rows = parts["internal"].read()
        rows = rows[[column for column in rows.columns if not column.startswith("ts_")]]
        return rows.set_index("seq_num") if "seq_num" in rows.columns else rows

    def _frame_table(self, name: str) -> pandas.DataFrame:
        import pandas

        volume = self._volume(name)
        if volume is None:
            raise NotOnThisMachineError(
                f"times and positions of the frames of {name} stand beside its file, which this machine doesn't see: mount the"
                " microscope's storage and name it, queuescope.catalog(address, key, roots={'DATA': '/mnt/…'})"
            )
        rows = [
            {"index": line["index"], "time": line["time"], **(line["position"] or {}), "checksum": line["checksum"]}
            for line in volume.lines()
        ]
        return pandas.DataFrame(rows, columns=None if rows else ["index", "time", "checksum"]).set_index("index")


def _which(name: str, count: int, index: int | None, project: str | None) -> tuple[int, int]:
    """Frames to show: first, and one past the last."""
    if count == 0:
        raise IndexError(f"{name} has no frames yet")
    if project is not None and index is None:
        return 0, count
    at = count // 2 if index is None else index
    if not -count <= at < count:
        raise IndexError(f"frame {at} of {name}: there are {count}, {-count} to {count - 1}")
    return at % count, at % count + 1


def _frame_of(rows: pandas.DataFrame | None) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame() if rows is None else rows
