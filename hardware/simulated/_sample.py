"""A sample of beads as a camera would see it: sharp in one plane, or where the light sheet lies in the focus; moving with the
stage; nothing beside it. What is true is said by properties, so that a calibration can be held against it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ._sensor import GetBuffer, SensorCamera

TILE = 512
BEADS = 160
SHARPEST_PX = 1.2
"""Sigma of a bead in the focus, in unbinned pixels."""


class Stages(Protocol):
    """What of a core is asked for."""

    def getPosition(self, label: str, /) -> float: ...
    def getXYPosition(self, label: str, /) -> Sequence[float]: ...
    def getGalvoPosition(self, label: str, /) -> Sequence[float]: ...


class SampleCamera(SensorCamera):
    """16 bit, free running only. Positions are asked of the stages named, when a frame is taken.

    A bead's sigma grows with the distance from the focus, by ``BlurPxPerUm``. That is ``FocusStage − FocusUm``, or with a
    ``Galvo`` ``FocusStage − (SlopeUmPerDeg × galvo y + OffsetUm)``: the light sheet's plane against the focal plane. Beyond
    ``FieldUm`` from the stage's origin there is no sample.
    """

    def __init__(self) -> None:
        super().__init__(256, 256)
        self._taken = 0
        for name in ("FocusStage", "XYStage", "Galvo"):
            self.register_property(name, default_value="", is_pre_init=True)
        for name, value in (
            ("FocusUm", 0.0),
            ("SlopeUmPerDeg", 100.0),
            ("OffsetUm", 0.0),
            ("BlurPxPerUm", 0.5),
            ("PixelUm", 0.5),
            ("RotationDeg", 0.0),
            ("FieldUm", 1000.0),
            ("ShiftXPx", 0.0),
            ("ShiftYPx", 0.0),
            ("NoiseCounts", 3.0),
        ):
            self.register_property(name, default_value=value, property_type=float)
        self._limit_settings()

    def sees(self, stages: Stages) -> None:
        """Where other devices stand."""
        self._stages = stages

    def get_camera_name(self) -> str:
        return "beads (simulated)"

    def start_sequence(self, n: int | None, get_buffer: GetBuffer) -> Iterator[Mapping[str, Any]]:
        while n is None or n > 0:
            n = None if n is None else n - 1
            time.sleep(self._exposure_ms / 1000)
            frame = get_buffer(self.shape(), np.uint16)
            frame[:] = self._render()
            self._taken += 1
            yield {}

    def _number(self, name: str) -> float:
        return float(self.get_property_value(name))

    def _defocus_um(self) -> float:
        focus = self._stages.getPosition(str(self.get_property_value("FocusStage")))
        galvo = str(self.get_property_value("Galvo"))
        if not galvo:
            return focus - self._number("FocusUm")
        _, angle = self._stages.getGalvoPosition(galvo)
        return focus - (self._number("SlopeUmPerDeg") * angle + self._number("OffsetUm"))

    def _render(self) -> np.ndarray:
        """A stage that moves by +x moves the image to the right, turned by ``RotationDeg``."""
        x, y = self._stages.getXYPosition(str(self.get_property_value("XYStage")))
        random = np.random.default_rng(self._taken)
        left, top, width, height = (self._bin * value for value in self.get_roi())
        frame = random.normal(100, self._number("NoiseCounts"), (height, width))
        if math.hypot(x, y) <= self._number("FieldUm"):
            turn = math.radians(self._number("RotationDeg"))
            right = (math.cos(turn) * x - math.sin(turn) * y) / self._number("PixelUm") + self._number("ShiftXPx")
            down = (math.sin(turn) * x + math.cos(turn) * y) / self._number("PixelUm") + self._number("ShiftYPx")
            sigma = math.hypot(SHARPEST_PX, self._number("BlurPxPerUm") * self._defocus_um())
            frame += _beads(round(sigma, 3), right, down)[top : top + height, left : left + width]
        frame = frame.reshape(height // self._bin, self._bin, width // self._bin, self._bin).mean(axis=(1, 3))
        return np.clip(frame, 0, 65535).astype(np.uint16)


@lru_cache(maxsize=1)
def _spectrum() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of light on a torus of `TILE` pixels as their Fourier transform, with its frequencies: shifts are exact there."""
    random = np.random.default_rng(7)
    rows, columns = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]
    points = np.zeros((TILE, TILE))
    points[tuple(random.integers(0, TILE, (2, BEADS)))] = random.uniform(5_000, 40_000, BEADS)
    return np.fft.rfft2(points), rows, columns


def _beads(sigma: float, right: float, down: float) -> np.ndarray:
    """All beads with this sigma, moved: shape (`TILE`, `TILE`)."""
    spectrum, rows, columns = _spectrum()
    blur = np.exp(-2 * np.pi**2 * sigma**2 * (rows**2 + columns**2))
    return np.fft.irfft2(spectrum * blur * np.exp(-2j * np.pi * (rows * down + columns * right)), s=(TILE, TILE))
