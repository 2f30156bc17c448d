"""Runs and frames straight from their files, for whoever sees them: the client, the HTTP process, the terminal.

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
    "Stack",
    "UnknownRunError",
    "Volume",
    "VolumeError",
    "ZarrVolume",
    "check_projection",
    "check_uid",
    "open_volume",
    "preview_of",
    "render",
]
