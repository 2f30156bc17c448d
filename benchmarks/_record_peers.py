"""The recorder's peers, each in a process: ``python -m queuescope.benchmarks._record_peers '{…}'`` prints one JSON line.

What they share with the recorder: the adapters, the camera's settings, MMCore's buffer size, a buffer that was touched before
(the first touch of fresh memory costs more than a frame), and a clock that stops when every byte is on the disk.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

CAMERA_ALONE = "camera alone"
WRITERS = ("tifffile", "tensorstore", "zarrs-python", "acquire-zarr")
"""Of ome-writers, which pymmcore-plus's ``mda.run`` writes with."""


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """
    Parameters
    ----------
    asked
        ``config`` and ``adapters`` (paths), ``cameras`` (labels), ``frames``, ``exposure_ms``, ``buffer_mb``, ``folder``,
        ``case``: `CAMERA_ALONE` or one of `WRITERS`. For a z-stack also ``step_um`` and the ``shutter`` of its light.

    Returns
    -------
    dict
        ``seconds``; ``frames`` that were delivered; ``peak_mb`` of this process.
    """
    warnings.simplefilter("ignore")
    from ..hardware._mmcore import import_mmcore

    core = import_mmcore().CMMCorePlus(mm_path=asked["adapters"], adapter_paths=[asked["adapters"]])
    core.loadSystemConfiguration(asked["config"])
    for camera in asked["cameras"]:
        # The fast image is the last real one. Without one it is all zeros, which Zarr's writers leave out of their files.
        core.setCameraDevice(camera)
        core.snapImage()
        if not core.getImage().any():
            raise RuntimeError(f"{camera} gives an image of zeros")
        core.setProperty(camera, "FastImage", "1")
        core.setExposure(camera, asked["exposure_ms"])
    core.setCameraDevice(asked["cameras"][0])
    core.definePixelSizeConfig("unbinned", asked["cameras"][0], "Binning", "1")  # OME-XML takes no pixels of 0 µm
    core.setPixelSizeUm("unbinned", 6.5)
    core.setCircularBufferMemoryFootprint(asked["buffer_mb"])
    _touch(core, asked)
    take = camera_alone if asked["case"] == CAMERA_ALONE else mda
    seconds, frames = take(core, asked)
    core.unloadAllDevices()
    return {"seconds": seconds, "frames": frames, "peak_mb": peak_mb(os.getpid())}


def _touch(core: Any, asked: dict[str, Any]) -> None:
    core.startSequenceAcquisition(asked["frames"], 0, True)
    while core.isSequenceRunning():
        time.sleep(0.01)
    core.clearCircularBuffer()


def camera_alone(core: Any, asked: dict[str, Any]) -> tuple[float, int]:
    """Frames are taken out of the buffer and dropped."""
    cameras, total = asked["cameras"], asked["frames"] * len(asked["cameras"])
    began, got = time.perf_counter(), 0
    for camera in cameras:
        core.startSequenceAcquisition(camera, asked["frames"], 0, True)
    while got < total:
        if core.getRemainingImageCount():
            core.popNextImage()
            got += 1
        elif any(core.isSequenceRunning(camera) for camera in cameras):
            time.sleep(0.0005)
        elif not core.getRemainingImageCount():
            break
    return time.perf_counter() - began, got


def mda(core: Any, asked: dict[str, Any]) -> tuple[float, int]:
    """pymmcore-plus's own engine, a hardware-timed sequence, and one of its writers."""
    import useq

    _write(core, useq.MDASequence(time_plan={"interval": 0, "loops": 2}), asked)  # what it imports and makes once
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": asked["frames"]})
    if "step_um" in asked:
        core.setShutterDevice(asked["shutter"])
        core.setAutoShutter(True)
        z_plan = {"range": (asked["frames"] - 1) * asked["step_um"], "step": asked["step_um"]}
        sequence = useq.MDASequence(z_plan=z_plan)
    return _write(core, sequence, asked)


def _write(core: Any, sequence: Any, asked: dict[str, Any]) -> tuple[float, int]:
    """Seconds until everything is on the disk, and frames that reached the writer."""
    from ome_writers import AcquisitionSettings

    suffix = ".ome.tiff" if asked["case"] == "tifffile" else ".ome.zarr"
    delivered = 0

    def count(*_: Any) -> None:
        nonlocal delivered
        delivered += 1

    core.mda.events.frameReady.connect(count)
    with tempfile.TemporaryDirectory(dir=asked["folder"]) as folder:
        output = AcquisitionSettings(root_path=str(Path(folder) / f"run{suffix}"), format=asked["case"])
        began = time.perf_counter()
        core.mda.run(sequence, output=output)
        sync(Path(folder))
        seconds = time.perf_counter() - began
    core.mda.events.frameReady.disconnect(count)
    return seconds, delivered


def sync(folder: Path) -> None:
    """Every byte below a folder is on the disk when this returns."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def peak_mb(pid: int) -> float:
    """Most memory that a process has had in use (Linux), in MB; 0 elsewhere."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    told: Callable[[str], Any] = print
    told(json.dumps(main(json.loads(sys.argv[1]))))
