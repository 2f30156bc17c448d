"""Names of a volume and of what lies beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

Format = Literal["ome-zarr", "ome-tiff"]
FORMATS: tuple[Format, ...] = ("ome-zarr", "ome-tiff")
SUFFIXES: dict[Format, str] = {"ome-zarr": ".ome.zarr", "ome-tiff": ".ome.tiff"}
MIMETYPES: dict[Format, str] = {"ome-zarr": "application/x-zarr", "ome-tiff": "image/tiff"}
"""By which a stream_resource says what it is, and Tiled chooses who reads it."""
_TIFF = (".tif", ".tiff", ".tf2", ".tf8", ".btf")


def format_of(volume: Path) -> Format:
    """By its name: one that doesn't end like a TIFF is a Zarr folder."""
    return "ome-tiff" if volume.name.lower().endswith(_TIFF) else "ome-zarr"


def frame_list(volume: Path) -> Path:
    """``….frames.jsonl`` beside a volume."""
    name = volume.name
    for suffix in SUFFIXES.values():
        name = name.removesuffix(suffix)
    return volume.with_name(f"{name}.frames.jsonl")


def array_uri(volume: Path) -> str:
    """``file://localhost/…`` of what a stream_resource points to: the array in a Zarr folder, the TIFF itself."""
    uri = volume.as_uri().replace("file:///", "file://localhost/", 1)
    return f"{uri}/0" if format_of(volume) == "ome-zarr" else uri


def volume_of(uri: str) -> Path:
    """The volume of such a uri."""
    text = unquote(urlsplit(uri).path)
    path = Path(text.lstrip("/") if os.name == "nt" else text)
    return path if format_of(path) == "ome-tiff" else path.parent
