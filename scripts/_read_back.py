"""The other end of the line: a run's frames from the catalog, held against what was taken at the cameras."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..formats import frame_list


class ReadBackError(Exception):
    """The catalog does not hold what was acquired. Names the dataset and the frame."""


def frame_checksums(dataset: dict[str, Any]) -> list[str]:
    """Checksums taken in the camera's process before each frame was written, from the file beside the dataset."""
    lines = frame_list(Path(dataset["path"])).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["checksum"] for line in lines]


def checksum(frame: np.ndarray) -> str:
    """Of a frame (height, width), as the recorder computes it: XXH3-128 of its little-endian bytes."""
    data = np.ascontiguousarray(frame, dtype=frame.dtype.newbyteorder("<"))
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(data.data)}"


def read_back(tiled: str, key: str, run: dict[str, Any], timeout_s: float) -> dict[str, np.ndarray]:
    """Wait for a run in the catalog, read every frame of it and compare checksums.

    Parameters
    ----------
    tiled
        Base address, ending in ``/api/v1``.
    key
        Key of a role that may read.
    run
        As ``GET /api/runs/{uid}`` gives it, of a run that has ended.
    timeout_s
        How long to wait for the courier to bring it.

    Returns
    -------
    dict
        By dataset: all frames, shape (N, height, width), dtype of the camera.

    Raises
    ------
    ReadBackError
        Where the run does not come, or a frame differs.
    """
    node = _wait_for(tiled, key, run["uid"], timeout_s)
    volumes: dict[str, np.ndarray] = {}
    for dataset in run["datasets"]:
        name, expected = dataset["name"], frame_checksums(dataset)
        array = node["primary"][name]
        if array.shape[0] != len(expected):
            raise ReadBackError(f"{name}: the catalog has {array.shape[0]} frames, {len(expected)} were taken")
        volumes[name] = np.empty(array.shape, dtype=array.dtype)
        for index, at_camera in enumerate(expected):
            volumes[name][index] = array[index]
            if checksum(volumes[name][index]) != at_camera:
                raise ReadBackError(f"{name}: frame {index} from the catalog differs from the one taken at the camera")
    return volumes


def _wait_for(tiled: str, key: str, run_uid: str, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    from tiled.client import from_uri  # slow to import, and `checksum` is all that most want of this module

    catalog = from_uri(tiled, api_key=key)
    while time.monotonic() < deadline:
        try:
            node = catalog[run_uid]
        except KeyError:
            pass
        else:
            if node.metadata.get("stop"):
                return node
        time.sleep(0.2)
    raise ReadBackError(
        f"the catalog at {tiled} has no complete run {run_uid} after {timeout_s:g} s: see logs/courier.log"
    )


def save_projection(volumes: dict[str, np.ndarray], path: Path, bins: int = 2) -> Path:
    """Maximum projection of every dataset, side by side, as an 8-bit PNG.

    Each is binned by ``bins`` and its contrast stretched from its 1st to its 99.8th percentile.
    """
    views = []
    for volume in volumes.values():
        projection = volume.max(axis=0).astype(np.float32)
        height, width = (n // bins * bins for n in projection.shape)
        binned = projection[:height, :width].reshape(height // bins, bins, width // bins, bins).mean(axis=(1, 3))
        low, high = np.percentile(binned, (1, 99.8))
        views.append((np.clip((binned - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8))
    tallest = max(view.shape[0] for view in views)
    padded = [np.pad(view, ((0, tallest - view.shape[0]), (0, 4))) for view in views]
    from PIL import Image

    Image.fromarray(np.hstack(padded)).save(path)
    return path
