"""A run's frames as a picture, read from the files only: never a frame that doesn't count, never more than a picture may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from ..config import Scope
from ..layout import Layout
from ..reading import (
    LARGEST_SCALE,
    PERCENTILES,
    Preview,
    PreviewTooLarge,
    RunLog,
    RunLogError,
    UnknownRunError,
    Volume,
    VolumeError,
    look,
    open_volume,
    preview_of,
    render,
)
from ._problems import Problem

_INDEX = re.compile(r"(-?\d{1,9})|(\d{0,9}):(\d{0,9})")


def read_image(
    scope: Scope,
    layout: Layout,
    uid: str,
    dataset: str | None,
    index: str | None,
    project: Literal["max", "mean"] | None,
    scale: int,
) -> tuple[Preview, dict[str, str]]:
    """A picture of a run's frame, or of a projection, and the headers that say what it shows.

    Parameters
    ----------
    dataset
        May be left out where the run has one.
    index
        ``"3"``, ``"-1"`` the newest; with ``project`` also ``"10:20"``, frames 10 to 19. None: the newest frame, or all.
    scale
        Pixels along each axis that become one.

    Raises
    ------
    Problem
        Where there is no such run, dataset or frame, where it would cost too much, or can't be read.
    """
    try:
        log = RunLog.read(layout, uid)
    except UnknownRunError as error:
        raise Problem("unknown_run", str(error)) from None
    except RunLogError as error:
        raise Problem("unreadable_run", str(error)) from None
    name, volume = _volume(scope, layout, uid, log, dataset)
    try:
        count = volume.frames
        first, stop = _frames(name, count, index, project is not None)
        saturation = log.saturation(name, volume.dtype.name)
        shown = preview_of(volume, first, stop, project, scale, PERCENTILES, saturation)
    except PreviewTooLarge as error:
        raise Problem("preview_too_large", str(error)) from None
    except (VolumeError, OSError) as error:
        raise Problem("unreadable_frame", str(error)) from None
    return shown, _headers(name, count, shown)


def live_image(layout: Layout, scale: int) -> tuple[Preview, dict[str, str]]:
    """A picture of what is live now, and the headers that say what it shows. To ask for it is to look.

    Raises
    ------
    Problem
        ``not_live``, ``preview_too_large``.
    """
    shown = look(layout.live_socket)
    if shown is None:
        raise Problem("not_live", "no plan shows anything live now: start the plan live, and ask again within 10 s")
    try:
        found = render(shown.image, shown.index, 1, scale, shown.pixel_um * scale, PERCENTILES, shown.saturation)
    except PreviewTooLarge as error:
        raise Problem("preview_too_large", str(error)) from None
    facts = {"Live-Camera": shown.camera, "Live-Frame": str(shown.index), "Live-Time": f"{shown.time:.3f}"}
    return found, {**_headers(shown.camera, shown.index + 1, found), **facts}


def _volume(scope: Scope, layout: Layout, uid: str, log: RunLog, name: str | None) -> tuple[str, Volume]:
    datasets = log.datasets
    if name is None and len(datasets) == 1:
        name = next(iter(datasets))
    if name is None or name not in datasets:
        asked = "dataset=… is missing" if name is None else f"no dataset {name[:80]!r}"
        raise Problem("unknown_dataset", f"{asked}: run {uid} has {', '.join(datasets) or 'none yet'}")
    path = datasets[name].path(layout, scope, "tiled")
    try:
        if path is None:
            raise VolumeError(
                f"{datasets[name].uri} lies under none of the storage roots {sorted(scope.storage.roots)}"
            )
        return name, open_volume(path)
    except VolumeError as error:
        raise Problem("volume_unreachable", f"this machine can't see the file of {name}: {error}") from None


def _frames(name: str, count: int, index: str | None, projected: bool) -> tuple[int, int]:
    """First frame, and one past the last."""
    words = ("-1" if not projected else ":") if index is None else index
    match = _INDEX.fullmatch(words)
    if match is None or (match[1] is None and not projected):
        allowed = "a whole number, or with project a range such as 10:20"
        raise Problem("invalid_query", f"index={words[:40]!r} is not {allowed}")
    if match[1] is not None:
        at = int(match[1])
        if not -count <= at < count:
            raise Problem(
                "unknown_frame", f"{name} has {count} frames on disk: index {at} is outside [{-count}, {count - 1}]"
            )
        return at % count, at % count + 1
    first, stop = int(match[2] or 0), int(match[3] or count)
    if not 0 <= first < stop <= count:
        raise Problem(
            "unknown_frame", f"{name} has {count} frames on disk: {first}:{stop} is not a range within 0:{count}"
        )
    return first, stop


def _headers(name: str, count: int, shown: Preview) -> dict[str, str]:
    """Facts of the picture; lengths in µm, grey values of the camera."""
    facts: Mapping[str, object] = {
        "Dataset": name,
        "Frames": f"{shown.first}:{shown.first + shown.frames}",
        "Frames-Written": count,
        "Scale": shown.scale,
        "Pixel-Um": "unknown" if shown.pixel_um is None else f"{shown.pixel_um:.6g}",
        "Percentiles": f"{PERCENTILES[0]:g}, {PERCENTILES[1]:g}",
        "Range": f"{shown.black:g}, {shown.white:g}",
        "Saturated": f"{shown.saturated:.6g}",
        "Saturation": shown.saturation,
    }
    return {f"Preview-{key}": str(value) for key, value in facts.items()}


__all__ = ["LARGEST_SCALE", "live_image", "read_image"]
