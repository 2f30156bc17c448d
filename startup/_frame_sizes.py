"""How many bytes a frame of each camera has: what its camera said last, kept where the manager finds it.

The manager asks no hardware: it answers submissions while adapters hang. So the worker writes down what the cameras say when
its environment opens, and what each run's descriptors say from then on. A binning that was changed since shows in the next
run; until then the recorder's own check, which knows, is the last word.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import Scope
from ..hardware import Hardware, HardwareError
from ..layout import Layout

logger = logging.getLogger("queuescope.startup")


class FrameSizes:
    """``services/frame_sizes.json``: ``{camera: {bytes, shape, dtype, told_by, at}}``. A RunEngine subscription."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        self._cameras = {f"mm:{camera.label}": name for name, camera in scope.of_kind("camera").items()}
        self._file = layout.services / "frame_sizes.json"

    def ask(self, hardware: Hardware) -> None:
        """Write down what every camera says now; one that can't be asked keeps what it said last."""
        for name in self._cameras.values():
            try:
                state = hardware.configure_camera(name)
            except HardwareError as error:
                logger.warning("the frame size of %s is not known: %s", name, error)
            else:
                self._note(name, (state.height, state.width), state.dtype, "camera")

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "descriptor":
            for key in doc["data_keys"].values():
                camera = self._cameras.get(key["source"])
                if camera is not None and "external" in key and "dtype_numpy" in key:
                    self._note(camera, tuple(key["shape"][-2:]), np.dtype(key["dtype_numpy"]).name, doc["run_start"])

    def bytes_of(self, frames: Mapping[str, int]) -> int:
        """Bytes of these frames, by dataset: a camera's name, or one that begins with it. A camera that never spoke counts 0."""
        known = self._read()
        return sum(count * known.get(self._camera(dataset), {}).get("bytes", 0) for dataset, count in frames.items())

    def _camera(self, dataset: str) -> str:
        named = [name for name in self._cameras.values() if dataset == name or dataset.startswith(f"{name}_")]
        return max(named, key=len, default=dataset)

    def _note(self, camera: str, shape: tuple[int, ...], dtype: str, told_by: str) -> None:
        known = self._read()
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if known.get(camera, {}).get("bytes") == size:
            return
        known[camera] = {"bytes": size, "shape": list(shape), "dtype": dtype, "told_by": told_by, "at": time.time()}
        draft = self._file.with_name(f".{self._file.name}.{secrets.token_hex(4)}")
        try:
            draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
            os.replace(draft, self._file)
        except OSError as error:  # a full disk must not fail the run; the recorder checks again
            logger.error("the frame size of %s could not be noted: %s", camera, error)

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}
