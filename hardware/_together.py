"""Cameras that expose together: Micro-Manager's `Multi Camera`, one snap of which gives a frame of each physical camera.

MMCore tells the frames of one snap apart by a channel's number, and shapes all of them by the first camera's size; so before
each exposure the sizes are compared and each channel's camera is asked for, and no frame is ever taken for another camera's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ..config import MultiCamera, Scope
from ._cameras import RECORDED, Cameras, Frame
from ._dose import Account
from ._errors import ArgumentError, DeviceError, UnknownNameError
from ._lights import Lights
from ._mmcore import Core
from ._recording import Recording
from ._surface import FrameSettings


class MultiCameras:
    """All multi-cameras of the scope, by name."""

    def __init__(self, core: Core, scope: Scope, cameras: Cameras, lights: Lights) -> None:
        self._core, self._cameras, self._lights = core, cameras, lights
        self._parts: dict[str, MultiCamera] = scope.of_kind("multi_camera")

    def of(self, name: str) -> MultiCamera:
        """The multi-camera of this name.

        Raises
        ------
        UnknownNameError
            Where there is none.
        """
        if name not in self._parts:
            known = sorted(self._parts)
            raise UnknownNameError(
                f"{name!r} is none of the multi-cameras {known}", thing="multi_camera", value=name, known=known
            )
        return self._parts[name]

    def has(self, name: str) -> bool:
        """Whether this is the name of a multi-camera."""
        return name in self._parts

    def datasets(self, name: str, recording: Recording) -> dict[str, str]:
        """By camera: the dataset of this recording that its frames go to.

        Raises
        ------
        ArgumentError
            Where the recording was not opened with one dataset for each of the multi-camera's cameras.
        """
        cameras = self.of(name).cameras
        found = {dataset.plan.camera: dataset_name for dataset_name, dataset in recording.datasets.items()}
        if sorted(d.plan.camera for d in recording.datasets.values()) != sorted(cameras):
            raise ArgumentError(
                f"{name} exposes {list(cameras)}, the recording has datasets of {sorted(found)}: open it with one dataset for"
                " each of them",
                thing="recording",
                value=sorted(found),
            )
        return found

    def check(self, name: str, settings: FrameSettings) -> None:
        """Exposure, light and power against the limits of each camera; nothing is changed."""
        for camera in self.of(name).cameras:
            self._cameras.check(camera, settings)

    def dose(self, name: str, settings: FrameSettings) -> dict[str, float]:
        """By light: what one exposure will give, in % × s: the light is on for the longest of them, once."""
        doses = [self._cameras.dose(camera, settings) for camera in self.of(name).cameras]
        return {light: max(dose.get(light, 0.0) for dose in doses) for light in (doses[0] if doses else {})}

    def take(self, name: str, settings: FrameSettings, account: Account | None = None) -> dict[str, Frame]:
        """One frame of each camera, of one exposure. The settings must have passed `check`.

        Raises
        ------
        ArgumentError
            Where the cameras' frames have different sizes or types. Nothing was exposed.
        DeviceError
            Where the frames could not be told apart.
        """
        part = self.of(name)
        mm, ask = self._core.mm, self._core.ask
        with self._cameras.current(name, part.label):
            for camera in part.cameras:
                self._cameras.set_exposure(camera, settings)
            self._check_sizes(name, part)
            exposure_s = max(self._cameras.exposure_s(camera, settings) for camera in part.cameras)
            with self._cameras.current(name, part.label):  # the cameras were asked one by one meanwhile
                self._check_channels(name, part)
                with self._lights.exposing(settings.light, settings.power_pct, account, exposure_s):
                    began = time.time()
                    ask(name, mm.snapImage)
                frames = {camera: Frame(ask(name, mm.getImage, i), began) for i, camera in enumerate(part.cameras)}
        _check_frames(name, frames)
        return frames

    def _check_sizes(self, name: str, part: MultiCamera) -> None:
        found = {}
        for camera in part.cameras:
            state = self._cameras.state(camera)
            found[camera] = f"{state.width} × {state.height} {state.dtype}"
        if len(set(found.values())) > 1:
            raise ArgumentError(
                f"{name}: its cameras give {found}: one exposure of all needs one size and type: set binning, ROI and PixelType"
                " alike",
                thing=name,
                value=found,
            )

    def _check_channels(self, name: str, part: MultiCamera) -> None:
        mm, ask = self._core.mm, self._core.ask
        wanted = [self._cameras.camera(camera).label for camera in part.cameras]
        channels = [
            str(ask(name, mm.getCameraChannelName, i)) for i in range(int(ask(name, mm.getNumberOfCameraChannels)))
        ]
        if channels != wanted:
            raise DeviceError(
                f"{name} ({part.label}) has the cameras {channels}, the scope file says {wanted} (devices.{name}.cameras)",
                thing=name,
            )


def _check_frames(name: str, frames: Mapping[str, Frame]) -> None:
    kinds = {camera: (frame.array.shape, frame.array.dtype.name) for camera, frame in frames.items()}
    monochrome = all(frame.array.ndim == 2 and frame.array.dtype in RECORDED for frame in frames.values())
    arrays = [frame.array for frame in frames.values()]
    apart = not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    if not monochrome or not apart or len(set(kinds.values())) > 1:
        raise DeviceError(
            f"{name} gave frames of {kinds}; only monochrome frames of one size, 8 or 16 bit, can be recorded",
            thing=name,
        )
