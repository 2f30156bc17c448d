"""Cameras: settings read back, and frames taken one at a time, since MMCore has one current camera."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..config import Camera, Objective, Scope
from ._dose import Account
from ._errors import ArgumentError, DeviceError, HardwareTimeout, LimitError, ReadbackError, UnknownNameError
from ._lights import Lights
from ._mmcore import Core
from ._optics import Optics
from ._surface import CameraState, FrameSettings

DTYPES = {1: "uint8", 2: "uint16"}
RECORDED = frozenset(map(np.dtype, DTYPES.values()))
"""What can be recorded: monochrome, 8 or 16 bit."""
Roi = tuple[int, int, int, int]
"""x, y, width, height in unbinned pixels."""


@dataclass(frozen=True)
class Frame:
    """A frame and when its exposure began."""

    array: np.ndarray
    """Height × width, uint8 or uint16, owned (never a view of MMCore's buffer)."""
    time: float
    """Seconds since the epoch."""


class Cameras:
    """All cameras of the scope, by name."""

    def __init__(self, core: Core, scope: Scope, lights: Lights, optics: Optics) -> None:
        self._core, self._scope, self._lights, self._optics = core, scope, lights, optics
        self._cameras: dict[str, Camera] = scope.of_kind("camera")
        self._lock = threading.RLock()
        self._noted: dict[str, CameraState] = {}
        """The states when a sequence began, which nobody can change while it runs."""
        self._exposure_s = max((camera.exposure_ms[1] for camera in self._cameras.values()), default=0) / 1000

    def camera(self, name: str) -> Camera:
        """The camera of this name.

        Raises
        ------
        UnknownNameError
            Where there is none.
        """
        if name not in self._cameras:
            known = sorted(self._cameras)
            raise UnknownNameError(f"{name!r} is none of the cameras {known}", thing="camera", value=name, known=known)
        return self._cameras[name]

    def core(self, name: str) -> Core:
        """The core that this camera is loaded in."""
        return self._core.of(self.camera(name).label)

    def check_same_size(self, names: list[str]) -> None:
        """
        Raises
        ------
        ArgumentError
            Where cameras that record together into one core's buffer give frames of different sizes.
        """
        sizes: dict[int, dict[str, tuple[int, int, str]]] = {}
        for name in names:
            state = self.state(name)
            sizes.setdefault(id(self.core(name)), {})[name] = (state.width, state.height, state.dtype)
        for found in sizes.values():
            if len(set(found.values())) > 1:
                raise ArgumentError(
                    f"cameras that record together must give frames of one size and type, these give {found}: set the same"
                    " binning and ROI, acquire one view after the other, or give them an MMCore each"
                    " (micromanager.core_per_camera, scope file)",
                    thing="program.views.camera",
                    value=list(found),
                )

    def check(self, name: str, settings: FrameSettings) -> None:
        """Exposure, light and power against their limits.

        Raises
        ------
        LimitError, UnknownNameError
            Naming the value and its limit. Nothing was changed.
        """
        if settings.exposure_ms is not None:
            self._check_exposure(name, settings.exposure_ms)
        else:
            self.camera(name)
        if settings.light is not None:
            self._lights.check(settings.light, settings.power_pct)
        elif settings.power_pct is not None:
            raise LimitError(
                f"power_pct {settings.power_pct} without a light: name the light",
                thing="power_pct",
                value=settings.power_pct,
            )

    def _check_exposure(self, name: str, exposure_ms: float) -> None:
        low, high = self.camera(name).exposure_ms
        if not math.isfinite(exposure_ms) or not low <= exposure_ms <= high:
            raise LimitError(
                f"{name} exposure {exposure_ms} ms is outside [{low:g}, {high:g}] (scope file: devices.{name}.exposure_ms)",
                thing=name,
                value=exposure_ms if math.isfinite(exposure_ms) else repr(exposure_ms),
                limit=[low, high],
            )

    def configure(
        self, name: str, exposure_ms: float | None, binning: int | None, roi: Roi | None = None
    ) -> CameraState:
        """Set what is not None and read it back; see `Hardware.configure_camera`."""
        label = self.camera(name).label
        if exposure_ms is not None:
            self._check_exposure(name, exposure_ms)
        text = None if binning is None else self._binning_text(name, label, binning)
        with self._current(name):
            if text is not None and binning is not None:
                x, y, width, height = self.state(name).roi
                kept = x - x % binning, y - y % binning, width - width % binning, height - height % binning
                roi = kept if roi is None else roi
                self.core(name).write(name, label, "Binning", text)
                got = self._binning(name, label)
                if got != binning:
                    raise ReadbackError(
                        f"{name} binning was set to {binning} and reads {got}",
                        thing=name,
                        value=binning,
                        got=got,
                        limit=0,
                    )
            if roi is not None:
                self._set_roi(name, label, roi)
            if exposure_ms is not None:
                self._set_exposure(name, label, exposure_ms)
            return self.state(name)

    def state(self, name: str, patience_s: float | None = None) -> CameraState:
        """The camera as it reads now."""
        camera = self.camera(name)
        if (noted := self._noted.get(name)) is not None:
            return noted
        mm, ask = self.core(name).mm, self.core(name).ask
        with self._current(name, patience_s):
            dtype = self._dtype(name)
            binning = self._binning(name, camera.label)
            x, y, width, height = (int(n) * binning for n in ask(name, mm.getROI, camera.label))
            return CameraState(
                width=ask(name, mm.getImageWidth),
                height=ask(name, mm.getImageHeight),
                dtype=dtype,
                bit_depth=ask(name, mm.getImageBitDepth),
                exposure_ms=ask(name, mm.getExposure, camera.label),
                binning=binning,
                roi=(x, y, width, height),
                pixel_um=self._pixel_um(name) * binning,
                gain=self._gain(name, camera.label),
            )

    @contextmanager
    def held(self, names: list[str]) -> Iterator[None]:
        """Keep a camera of each core its current one while a sequence runs; meanwhile every camera's state is what it is now."""
        with self._current(names[0]):
            states = {camera: self.state(camera) for camera in self._cameras}
            for name in reversed(names):
                core = self.core(name)
                core.ask(name, core.mm.setCameraDevice, self.camera(name).label)
            self._noted = states
            try:
                yield
            finally:
                self._noted = {}

    def exposure_s(self, name: str, settings: FrameSettings) -> float:
        """The exposure that these settings mean, in seconds."""
        if settings.exposure_ms is not None:
            return settings.exposure_ms / 1000
        core = self.core(name)
        return float(core.ask(name, core.mm.getExposure, self.camera(name).label)) / 1000

    def dose(self, name: str, settings: FrameSettings) -> dict[str, float]:
        """By light: what one frame will give, in % × s."""
        if settings.light is None:
            return {}
        return {
            settings.light: self._lights.check(settings.light, settings.power_pct) * self.exposure_s(name, settings)
        }

    def take(self, name: str, settings: FrameSettings, account: Account | None = None) -> Frame:
        """One frame with its light's gate open during the exposure only. The settings must have passed `check`.

        The light counts for ``account``; None: for the sample that is open.
        """
        label = self.camera(name).label
        mm, ask = self.core(name).mm, self.core(name).ask
        with self._current(name):
            if settings.exposure_ms is not None:
                self._set_exposure(name, label, settings.exposure_ms)
            exposure_s = self.exposure_s(name, settings) if settings.light else 0.0
            with self._lights.exposing(settings.light, settings.power_pct, account, exposure_s):
                began = time.time()
                ask(name, mm.snapImage)
            image = ask(name, mm.getImage)
        if image.ndim != 2 or image.dtype not in RECORDED:
            raise DeviceError(
                f"{name} gave an image of shape {image.shape}, {image.dtype}; only monochrome 8 or 16 bit can be recorded:"
                f" set the camera's PixelType",
                thing=name,
            )
        return Frame(image, began)

    def _set_exposure(self, name: str, label: str, exposure_ms: float) -> None:
        """Cameras round an exposure to their line time: 2 % or 0.1 ms are taken for that."""
        mm, ask = self.core(name).mm, self.core(name).ask
        limit = max(0.02 * exposure_ms, 0.1)
        if ask(name, mm.getExposure, label) == exposure_ms:
            return
        ask(name, mm.setExposure, label, exposure_ms)
        self.core(name).wait(name, label)
        got = ask(name, mm.getExposure, label)
        if not abs(got - exposure_ms) <= limit:
            raise ReadbackError(
                f"{name} exposure was set to {exposure_ms} ms and reads {got} ms",
                thing=name,
                value=exposure_ms,
                got=got,
                limit=limit,
            )

    def _set_roi(self, name: str, label: str, roi: Roi) -> None:
        """In unbinned pixels. Call with the camera current; a refusal leaves what was."""
        core = self.core(name)
        binning, before = self._binning(name, label), core.ask(name, core.mm.getROI, label)
        core.ask(name, core.mm.clearROI)
        chip = [core.ask(name, size) * binning for size in (core.mm.getImageWidth, core.mm.getImageHeight)]
        x, y, width, height = roi
        fits = min(x, y) >= 0 and min(width, height) >= binning and x + width <= chip[0] and y + height <= chip[1]
        if not fits or any(pixel % binning for pixel in roi):
            core.ask(name, core.mm.setROI, *before)
            raise LimitError(
                f"{name} roi {list(roi)} (x, y, width, height) must lie on its chip of {chip[0]} × {chip[1]} pixels and be"
                f" multiples of its binning {binning}",
                thing=name,
                value=list(roi),
                limit=[0, 0, *chip],
            )
        if [width, height] != chip:
            core.ask(name, core.mm.setROI, *(pixel // binning for pixel in roi))
        got = tuple(int(pixel) * binning for pixel in core.ask(name, core.mm.getROI, label))
        if got != tuple(roi):
            raise ReadbackError(
                f"{name} roi was set to {list(roi)} and reads {list(got)}: ask for what the camera can do",
                thing=name,
                value=list(roi),
                got=list(got),
                limit=0,
            )

    def _binning_text(self, name: str, label: str, binning: int) -> str:
        core = self.core(name)
        texts = core.ask(name, core.mm.getAllowedPropertyValues, label, "Binning")
        allowed = {factor: text for text in texts if (factor := _factor(text)) is not None}
        if binning not in allowed:
            raise LimitError(
                f"{name} binning {binning} is none of {sorted(allowed)}",
                thing=name,
                value=binning,
                limit=sorted(allowed),
            )
        return allowed[binning]

    def _binning(self, name: str, label: str) -> int:
        text = self.core(name).read(name, label, "Binning")
        factor = _factor(text)
        if factor is None:
            raise DeviceError(f"{name}: its binning reads {text!r}, which is no factor", thing=name)
        return factor

    def _gain(self, name: str, label: str) -> float | None:
        if not self.core(name).mm.hasProperty(label, "Gain"):
            return None
        try:
            return float(self.core(name).read(name, label, "Gain"))
        except ValueError:  # a name, not a number
            return None

    def _dtype(self, name: str) -> str:
        size = self.core(name).ask(name, self.core(name).mm.getBytesPerPixel)
        if size not in DTYPES:
            raise DeviceError(
                f"{name} gives {size} bytes a pixel; only monochrome 8 or 16 bit can be recorded: set its PixelType",
                thing=name,
            )
        return DTYPES[size]

    def _pixel_um(self, name: str) -> float:
        """Unbinned pixel in the sample."""
        objective = self.objective(name)
        return self._cameras[name].pixel_um if objective is None else objective.pixel_um

    def objective(self, name: str) -> Objective | None:
        """The objective in place before a camera. Where cameras have views, one without a view looks through other optics."""
        if any(camera.view for camera in self._cameras.values()) and self._cameras[name].view is None:
            return None
        turrets = list(self._scope.of_kind("objective"))
        if turrets:
            in_place = self._optics.label(turrets[0])
            return next((one for one in self._scope.objectives.values() if one.label == in_place), None)
        return next(iter(self._scope.objectives.values())) if len(self._scope.objectives) == 1 else None

    def set_exposure(self, name: str, settings: FrameSettings) -> None:
        """Set and read back a camera's exposure, where the settings name one."""
        if settings.exposure_ms is not None:
            self._set_exposure(name, self.camera(name).label, settings.exposure_ms)

    @contextmanager
    def _current(self, name: str, patience_s: float | None = None) -> Iterator[None]:
        """Hold its core's one current camera; ``patience_s`` is how long to wait while a frame is taken elsewhere."""
        with self.current(name, self.camera(name).label, patience_s):
            yield

    @contextmanager
    def current(self, name: str, label: str, patience_s: float | None = None) -> Iterator[None]:
        """The same for the device with this label, called ``name``: a camera, or a multi-camera."""
        core = self._core.of(label)
        limit = self._exposure_s + (core.call_timeout_s if patience_s is None else patience_s)
        if not self._lock.acquire(timeout=limit):
            raise HardwareTimeout(
                f"{name}: a camera has been busy for {limit:.1f} s, longer than any exposure", thing=name, limit=limit
            )
        try:
            if core.mm.getCameraDevice() != label:
                core.ask(name, core.mm.setCameraDevice, label)
            yield
        finally:
            self._lock.release()


def _factor(text: str) -> int | None:
    """``2`` and ``2x2`` are 2; None where it is neither."""
    first = text.lower().split("x")[0]
    return int(first) if first.isdecimal() else None
