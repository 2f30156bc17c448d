"""The microscope: MMCore and everything built on it, in whatever process it lives."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from typing import Literal

import numpy as np

from .. import __version__
from ..config import Scope
from ..layout import Layout
from ._axes import Axes
from ._cameras import Cameras
from ._configuration import find_adapters, load_configuration
from ._errors import DeviceError, HardwareError, HardwareGoneError
from ._fit import check_fit
from ._lights import Lights
from ._mmcore import Core, import_mmcore
from ._optics import Optics
from ._ownership import Ownership
from ._recorder import Recorder
from ._surface import (
    CameraState,
    FrameSettings,
    HardwareInfo,
    HardwareState,
    LightOff,
    LightState,
    RecordingPlan,
    RecordingState,
    VolumeProgram,
)

log = logging.getLogger("queuescope.hardware")


STEP_S = 1.5
"""At the end no step waits longer than this for something that hangs."""


class Microscope:
    """`Hardware` on MMCore. Arguments have the surface's types (`_wire` sees to that); values are checked here."""

    def __init__(self, scope: Scope, layout: Layout, mode: Literal["own", "worker"]) -> None:
        """Load the configuration, compare it with the scope, close every gate and switch emissions off.

        Raises
        ------
        ConfigurationError
            Where they don't fit. Everything is unloaded again.
        DeviceError
            Where a light could not be switched off.
        """
        self._scope, self._mode = scope, mode
        self._instance, self._started_at = str(uuid.uuid4()), time.time()
        self._closing = threading.Lock()
        self._closed = False
        self._ownership = Ownership(layout)
        try:
            adapters = find_adapters(scope)
            self._core = Core(adapters.folder, layout.logs / "mmcore.log", scope.micromanager.call_timeout_s)
        except BaseException:
            self._ownership.release()
            raise
        try:
            load_configuration(self._core, scope, adapters)
            check_fit(self._core, scope)
            self._core.mm.setAutoShutter(False)
            self._lights = Lights(self._core, scope)
            burning = [off for off in self._lights.all_off(emission=True) if not off.off]
            if burning:
                told = "; ".join(f"{off.light}: {off.error}" for off in burning)
                raise DeviceError(f"lights could not be switched off at start: {told}", thing=burning[0].light)
        except BaseException:
            self._core.close()
            self._ownership.release()
            raise
        self._axes = Axes(self._core, scope)
        self._optics = Optics(self._core, scope)
        self._cameras = Cameras(self._core, scope, self._lights, self._optics)
        self._recorder = Recorder(scope, layout, self._axes, self._cameras, self._lights)

    def close(self) -> tuple[tuple[LightOff, ...], list[RecordingState]]:
        """Stop motion and recordings, lights and emissions off, files finished, devices unloaded: each in its own step.

        Returns the outcome for each light and the recordings that were still open; nothing at a second call.
        """
        with self._closing:
            if self._closed:
                return (), []
            self._closed = True
        self._recorder.interrupt("the hardware is shutting down")
        motion = threading.Thread(target=self._stop_motion, name="stop-motion", daemon=True)
        motion.start()
        self._lights.all_off(emission=True)
        motion.join(STEP_S)
        ended = self._recorder.close(STEP_S)
        off = self._lights.all_off(emission=True)  # again: a frame in hand may have opened its gate meanwhile
        self._core.close()
        self._ownership.release()
        return off, ended

    def _stop_motion(self) -> None:
        try:
            self._axes.stop(None)
        except HardwareError as error:
            log.error("%s", error)

    def info(self) -> HardwareInfo:
        self._alive()
        versions = {
            "mmcore": self._core.mm.getVersionInfo().removeprefix("MMCore version "),
            "device_interface": self._core.mm.getAPIVersionInfo(),
            "pymmcore_plus": import_mmcore().__version__,
            "queuescope": __version__,
        }
        return HardwareInfo(
            scope=self._scope.name,
            instance=self._instance,
            pid=os.getpid(),
            mode=self._mode,
            started_at=self._started_at,
            versions=versions,
            config=str(self._scope.config_path),
            adapters=str(self._core.adapters),
        )

    def state(self) -> HardwareState:
        self._alive()
        positions, errors = self._axes.read_all()
        labels, values, more = self._optics.read_all()
        errors.update(more)
        cameras: dict[str, CameraState] = {}
        for name in self._scope.of_kind("camera"):
            try:
                cameras[name] = self._cameras.state(name, patience_s=1.0)
            except HardwareError as error:
                errors[name] = str(error)
        lights: dict[str, LightState] = {}
        for name in self._scope.lights:
            try:
                lights[name] = self._lights.state(name)
            except HardwareError as error:
                errors[name] = str(error)
        return HardwareState(
            time=time.time(),
            positions=positions,
            labels=labels,
            values=values,
            cameras=cameras,
            lights=lights,
            errors=errors,
        )

    def positions(self, axes: tuple[str, ...]) -> dict[str, float]:
        self._alive()
        return self._axes.read(axes)

    def move(self, targets: dict[str, float]) -> dict[str, float]:
        self._idle("move")
        return self._axes.move(targets)

    def stop(self, axes: tuple[str, ...] | None = None) -> None:
        self._alive()
        self._recorder.interrupt("motion was stopped", axes)
        self._axes.stop(axes)

    def select(self, device: str, label: str) -> str:
        self._idle("select")
        return self._optics.select(device, label)

    def labels(self, device: str) -> tuple[str, ...]:
        self._alive()
        return self._optics.labels(device)

    def label(self, device: str) -> str:
        self._alive()
        return self._optics.label(device)

    def light(self, light: str) -> LightState:
        self._alive()
        return self._lights.state(light)

    def value(self, device: str) -> float | str:
        self._alive()
        return self._optics.value(device)

    def set_value(self, device: str, value: float | str) -> float | str:
        self._idle("set_value")
        return self._optics.set_value(device, value)

    def set_light(self, light: str, on: bool, power_pct: float | None = None) -> LightState:
        self._idle("set_light")
        return self._lights.set(light, on, power_pct)

    def lights_off(self, emission: bool = False) -> tuple[LightOff, ...]:
        if self._closed:
            return ()
        return self._lights.all_off(emission)

    def apply_channel(self, channel: str) -> None:
        self._idle("apply_channel")
        self._optics.apply_channel(channel)

    def configure_camera(
        self, camera: str, exposure_ms: float | None = None, binning: int | None = None
    ) -> CameraState:
        self._idle("configure_camera")
        return self._cameras.configure(camera, exposure_ms, binning)

    def snap(self, camera: str, settings: FrameSettings) -> np.ndarray:
        self._idle("snap")
        self._cameras.check(camera, settings)
        return self._cameras.take(camera, settings).array

    def open_recording(self, plan: RecordingPlan) -> RecordingState:
        self._alive()
        return self._recorder.open(plan)

    def record_frame(self, recording: str, settings: dict[str, FrameSettings]) -> RecordingState:
        self._idle("record_frame")
        return self._recorder.record_frame(recording, settings)

    def start_volume(self, recording: str, program: VolumeProgram) -> RecordingState:
        self._idle("start_volume")
        return self._recorder.start_volume(recording, program)

    def stop_volume(self, recording: str) -> RecordingState:
        self._alive()
        return self._recorder.stop_volume(recording)

    def recording(self, recording: str, seen: int = -1, wait_s: float = 0.0) -> RecordingState:
        self._alive()
        return self._recorder.state(recording, seen, wait_s)

    def close_recording(self, recording: str) -> RecordingState:
        self._alive()
        return self._recorder.close_recording(recording)

    def checksums(self, recording: str, dataset: str) -> tuple[str, ...]:
        self._alive()
        return self._recorder.checksums(recording, dataset)

    def _alive(self) -> None:
        if self._closed:
            raise HardwareGoneError("the hardware was closed: connect again", thing="hardware")

    def _idle(self, call: str) -> None:
        """A running volume owns the microscope: nothing else may move, expose or switch meanwhile."""
        self._alive()
        self._recorder.check_idle(call)
