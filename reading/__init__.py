"""Runs and frames straight from their files, for whoever sees them: the client, the HTTP process, the terminal. And what is live.

The document log says what a run has, the frame list which frames count, the volume holds them. Everything here only reads, and
needs neither a server nor Tiled nor Bluesky.
"""

from ._preview import (
    LARGEST_SCALE,
    LONGEST_PROJECTION_BYTES,
    PERCENTILES,
    Preview,
    PreviewTooLarge,
    check_projection,
    preview_of,
    render,
)
from ._run_log import RUN_UID, RunDataset, RunLog, RunLogError, UnknownRunError, check_uid
from ._tiff_volume import open_volume
from ._volume import FrameError, Stack, Volume, VolumeError, ZarrVolume
from ._window import Shown, Window, look

__all__ = [
    "LARGEST_SCALE",
    "LONGEST_PROJECTION_BYTES",
    "PERCENTILES",
    "RUN_UID",
    "FrameError",
    "Preview",
    "PreviewTooLarge",
    "RunDataset",
    "RunLog",
    "RunLogError",
    "Shown",
    "Stack",
    "UnknownRunError",
    "Volume",
    "VolumeError",
    "Window",
    "ZarrVolume",
    "check_projection",
    "check_uid",
    "look",
    "open_volume",
    "preview_of",
    "render",
]
