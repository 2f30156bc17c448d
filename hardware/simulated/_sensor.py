"""What the simulated cameras have in common: a 16 bit sensor with exposure, binning and a region of interest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pymmcore_plus.experimental.unicore import CameraDevice

GetBuffer = Callable[[Sequence[int], Any], np.ndarray]


class SensorCamera(CameraDevice):
    """Settings alone: frames are a subclass's."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self._exposure_ms = 10.0
        self._width, self._height = width, height
        self._roi: tuple[int, int, int, int] | None = None
        self._bin = 1

    def _limit_settings(self) -> None:
        """Of the standard properties, once the camera's own are registered."""
        self.set_property_limits("Exposure", (0.01, 10000.0))
        self.set_property_allowed_values("Binning", (1, 2, 4))

    def get_exposure(self) -> float:
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """In ms."""
        self._exposure_ms = float(exposure)
        self.core.events.exposureChanged.emit(self.get_label(), self._exposure_ms)

    def get_binning(self) -> int:
        return self._bin

    def set_binning(self, value: int) -> None:
        self._bin, self._roi = int(value), None

    def get_roi(self) -> tuple[int, int, int, int]:
        """x, y, width, height in binned pixels."""
        return self._roi or (0, 0, self._width // self._bin, self._height // self._bin)

    def set_roi(self, x: int, y: int, width: int, height: int) -> None:
        if (
            x < 0
            or y < 0
            or width < 1
            or height < 1
            or x + width > self._width // self._bin
            or y + height > self._height // self._bin
        ):
            raise ValueError(f"the region {(x, y, width, height)} is not on the sensor")
        self._roi = (x, y, width, height)

    def clear_roi(self) -> None:
        self._roi = None

    def shape(self) -> tuple[int, int]:
        _, _, width, height = self.get_roi()
        return height, width

    def dtype(self) -> Any:
        return np.uint16
