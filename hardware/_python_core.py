"""UniMMCore: Python devices beside Micro-Manager's own, from the `#py` lines of the same configuration.

`PythonCore` is pymmcore-plus's experimental core where that does what MMCore does, and corrected where it does not: properties
are strings, a device that can't be initialised is an error, cameras may run sequences at the same time, there are galvos, and
the current camera is the one that was set last. `Mixed` is how it is called: C++ devices as fast as without it, below
pymmcore-plus's signals.

A Python device may define, beside what its base class asks for: ``placed(folder)``, told before it is initialised where this
microscope's services keep their files; ``joined(hub)``, told its hub by a ``Parent`` line; ``stop_sequence()`` of a camera, to
be woken when its sequence ends; ``get_galvo_position()`` and ``set_galvo_position(x, y)`` of a galvo.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pymmcore
from pymmcore_plus import CMMCorePlus, DeviceType, Keyword, PropertyType
from pymmcore_plus.experimental.unicore import CameraDevice, Device, UniMMCore

from ._frame_queue import FramePool, FrameQueue, Overflow

log = logging.getLogger("queuescope.hardware")

BUFFER_MB = 250
STOP_S = 2.0
"""A camera that was asked to stop may take so long for its last frame."""


class PythonCore(UniMMCore):
    """The core of a configuration with Python devices; call it through `Mixed`."""

    def __init__(self, *args: Any, folder: Path, **named: Any) -> None:
        super().__init__(*args, **named)
        self._folder = folder
        self._pool = FramePool()
        self._seq_buffer = FrameQueue(BUFFER_MB)
        self._sequences: dict[str, _Sequence] = {}

    # ------------------------------------------------------------------ loading

    def loadPyDevice(self, label: str, device: Device) -> None:
        super().loadPyDevice(label, device)
        if hasattr(device, "placed"):
            device.placed(self._folder)

    def setParentLabel(self, deviceLabel: str, parentHubLabel: str) -> None:
        super().setParentLabel(deviceLabel, parentHubLabel)
        if deviceLabel in self._pydevices and parentHubLabel:
            device = self._pydevices[deviceLabel]
            if hasattr(device, "joined"):
                device.joined(self._pydevices[parentHubLabel])

    def initializeAllDevices(self) -> None:
        """C++ devices, then hubs, then the rest in the configuration's order.

        Raises
        ------
        RuntimeError
            Naming the Python device that can't be initialised.
        """
        pymmcore.CMMCore.initializeAllDevices(self)
        for label in sorted(self._pydevices, key=lambda label: self._pydevices[label].type() != DeviceType.Hub):
            self.initializeDevice(label)

    def initializeDevice(self, label: str) -> None:
        if label not in self._pydevices:
            pymmcore.CMMCore.initializeDevice(self, label)
            return
        device = self._pydevices[label]
        try:
            device.initialize()
        except Exception as error:
            device._initialized_ = error
            raise RuntimeError(f"the Python device {label!r} can't be initialised: {_said(error)}") from error
        device._initialized_ = True

    # ------------------------------------------------------------------ properties

    def setProperty(self, label: str, propName: str, propValue: Any) -> None:
        if label not in self._pydevices:
            pymmcore.CMMCore.setProperty(self, label, propName, propValue)
            return
        with self._pydevices[label] as device:
            info = device.get_property_info(propName)
            if info.is_pre_init and device._initialized_ is True:
                raise RuntimeError(f"{label}.{propName} can be set before initialisation only")
            device.set_property_value(propName, _typed(propValue, info.type, f"{label}.{propName}"))
            self._state_cache[(label, propName)] = propValue

    def getProperty(self, label: str, propName: str) -> str:
        if label not in self._pydevices:
            return str(pymmcore.CMMCore.getProperty(self, label, propName))
        with self._pydevices[label] as device:
            value = _text(device.get_property_value(propName))
        self._state_cache[(label, propName)] = value
        return value

    def getPropertyType(self, label: str, propName: str) -> PropertyType:
        found = super().getPropertyType(label, propName)
        return found if isinstance(found, PropertyType) else PropertyType(found)

    # ------------------------------------------------------------------ callbacks

    def tell(self, receiver: Any) -> None:
        """What Python devices emit reaches the same object as MMCore's own callbacks; None: nobody any more."""
        events = self.events
        told = {
            events.propertyChanged: "onPropertyChanged",
            events.stagePositionChanged: "onStagePositionChanged",
            events.XYStagePositionChanged: "onXYStagePositionChanged",
            events.exposureChanged: "onExposureChanged",
        }
        for signal, name in told.items():
            signal.disconnect()
            if receiver is not None:
                signal.connect(getattr(receiver, name))

    # ------------------------------------------------------------------ galvos

    def getGalvoPosition(self, galvoLabel: str) -> Any:
        if galvoLabel not in self._pydevices:
            return pymmcore.CMMCore.getGalvoPosition(self, galvoLabel)
        with self._galvo(galvoLabel) as device:
            return list(device.get_galvo_position())

    def setGalvoPosition(self, galvoLabel: str, x: float, y: float) -> None:
        if galvoLabel not in self._pydevices:
            pymmcore.CMMCore.setGalvoPosition(self, galvoLabel, x, y)
            return
        with self._galvo(galvoLabel) as device:
            device.set_galvo_position(x, y)

    def _galvo(self, label: str) -> Any:
        device = self._pydevices[label]
        if device.type() != DeviceType.GalvoDevice:
            raise RuntimeError(f"{label!r} is no galvo")
        return device

    # ------------------------------------------------------------------ cameras

    def _set_current_if_pydevice(self, keyword: Keyword, label: str) -> str:
        """Also forgets the Python device that was current when one of MMCore's own takes its place."""
        if label in self._pydevices:
            self._pycore.set_current(keyword, label)
            return ""
        self._pycore.set_current(keyword, None)
        return label

    def _do_snap_image(self) -> None:
        camera = self._py_camera()
        if camera is None:
            pymmcore.CMMCore.snapImage(self)
            return
        label = camera.get_label()
        if self.isSequenceRunning(label):
            raise RuntimeError(f"{label} runs a sequence")
        taken: list[np.ndarray] = []

        def get_buffer(shape: Any, dtype: Any) -> np.ndarray:
            taken.append(self._pool.take(shape, dtype))
            return taken[-1]

        self._current_image_buffer = None
        frames = camera.start_sequence(1, get_buffer)
        try:
            if next(iter(frames), None) is None or not taken:
                raise RuntimeError(f"{label} gave no image")
        finally:
            if hasattr(frames, "close"):
                frames.close()
        self._current_image_buffer = taken[0]

    def _start_sequence(self, cam: CameraDevice, n_images: int | None, stop_on_overflow: bool) -> None:
        label = cam.get_label()
        if self.isSequenceRunning(label):
            raise RuntimeError(f"{label} runs a sequence already")
        running = [one for one in self._sequences.values() if one.is_alive()]
        if not running:
            self._seq_buffer.clear()
            self._sequences.clear()
        self._seq_buffer.overwrite_on_overflow = not stop_on_overflow
        sequence = _Sequence(cam, n_images, self._seq_buffer, self._pool)
        self._sequences[label] = sequence
        sequence.start()

    def _do_stop_sequence_acquisition(self, cameraLabel: str) -> None:
        if cameraLabel not in self._pydevices:
            pymmcore.CMMCore.stopSequenceAcquisition(self, cameraLabel)
        elif cameraLabel in self._sequences:
            self._sequences[cameraLabel].stop()

    def _stop_acquisition_thread(self, timeout: float | None = STOP_S) -> None:
        for sequence in self._sequences.values():
            sequence.stop()

    def _cleanup_sequence_state(self, only_label: str | None = None) -> None:
        for label, sequence in list(self._sequences.items()):
            if only_label in (None, label):
                sequence.stop()
                del self._sequences[label]
        if not self._sequences:
            self._seq_buffer.clear()
        self._current_image_buffer = None

    def isSequenceRunning(self, cameraLabel: str | None = None) -> bool:
        label = cameraLabel or self.getCameraDevice()
        if label not in self._pydevices:
            return bool(label) and bool(pymmcore.CMMCore.isSequenceRunning(self, label))
        sequence = self._sequences.get(label)
        return sequence is not None and sequence.is_alive()

    def sequence_error(self, label: str) -> str | None:
        """Why the last sequence of a Python camera ended early, if its device said so."""
        sequence = self._sequences.get(label)
        return None if sequence is None or sequence.error is None else _said(sequence.error)

    def setCircularBufferMemoryFootprint(self, sizeMB: int) -> None:
        if self._py_camera() is None:
            pymmcore.CMMCore.setCircularBufferMemoryFootprint(self, sizeMB)
        else:
            self._seq_buffer.size_mb = sizeMB


class _Sequence(threading.Thread):
    """One camera's sequence; its frames go into the queue that all share, each with its camera's label."""

    def __init__(self, camera: CameraDevice, images: int | None, frames: FrameQueue, pool: FramePool) -> None:
        super().__init__(name=f"sequence-{camera.get_label()}", daemon=True)
        self.error: BaseException | None = None
        self._camera, self._images, self._queue, self._pool = camera, images, frames, pool
        self._stopping = threading.Event()
        self._buffer: np.ndarray | None = None
        shape, dtype = camera.shape(), np.dtype(camera.dtype())
        x, y, *_ = camera.get_roi()
        self._told = {
            Keyword.Metadata_CameraLabel: camera.get_label(),
            Keyword.Metadata_Height: str(shape[0]),
            Keyword.Metadata_Width: str(shape[1]),
            Keyword.Metadata_ROI_X: str(x),
            Keyword.Metadata_ROI_Y: str(y),
            Keyword.PixelType: f"GRAY{8 * dtype.itemsize}",
        }
        self._frames = iter(camera.start_sequence(images, self._get_buffer))  # armed from here on

    def _get_buffer(self, shape: Any, dtype: Any) -> np.ndarray:
        self._buffer = self._pool.take(shape, dtype)
        self._queue.make_room(self._buffer.nbytes)
        return self._buffer

    def run(self) -> None:
        began, numbers = time.perf_counter(), count()
        try:
            for told in self._frames:
                if self._stopping.is_set() or self._buffer is None:
                    break
                number = next(numbers)
                frame, self._buffer = self._buffer, None
                self._queue.put(
                    frame,
                    {
                        **self._told,
                        **told,
                        Keyword.Metadata_TimeInCore: datetime.now().isoformat(sep=" "),
                        Keyword.Metadata_ImageNumber: str(number),
                        Keyword.Elapsed_Time_ms: f"{1000 * (time.perf_counter() - began):.2f}",
                    },
                )
                del frame
                if self._images is not None and number + 1 >= self._images:
                    break
        except Overflow:
            log.warning("%s: the buffer is full, the sequence ends", self._camera.get_label())
        except Exception as error:
            self.error = error
            log.exception("the sequence of %s failed", self._camera.get_label())
        finally:
            if hasattr(self._frames, "close"):
                with suppress(Exception):
                    self._frames.close()

    def stop(self) -> None:
        """End it; returns when it has ended, or after `STOP_S`."""
        self._stopping.set()
        if self.is_alive():
            if hasattr(self._camera, "stop_sequence"):
                self._camera.stop_sequence()
            self.join(STOP_S)


_LABELLED = frozenset(
    [
        "deviceBusy",
        "getAllowedPropertyValues",
        "getDeviceDelayMs",
        "getDeviceDescription",
        "getDeviceLibrary",
        "getDeviceName",
        "getDevicePropertyNames",
        "getDeviceType",
        "getExposureSequenceMaxLength",
        "getFocusDirection",
        "getGalvoPosition",
        "getNumberOfStates",
        "getParentLabel",
        "getPosition",
        "getProperty",
        "getPropertyFromCache",
        "getPropertyLowerLimit",
        "getPropertySequenceMaxLength",
        "getPropertyType",
        "getPropertyUpperLimit",
        "getStageSequenceMaxLength",
        "getState",
        "getStateFromLabel",
        "getStateLabel",
        "getStateLabels",
        "getXPosition",
        "getXYPosition",
        "getXYStageSequenceMaxLength",
        "getYPosition",
        "hasProperty",
        "hasPropertyLimits",
        "home",
        "isContinuousFocusDrive",
        "isExposureSequenceable",
        "isPropertyPreInit",
        "isPropertyReadOnly",
        "isPropertySequenceable",
        "isStageLinearSequenceable",
        "isStageSequenceable",
        "isXYStageSequenceable",
        "loadExposureSequence",
        "loadPropertySequence",
        "loadStageSequence",
        "loadXYStageSequence",
        "setAdapterOrigin",
        "setAdapterOriginXY",
        "setFocusDirection",
        "setGalvoPosition",
        "setOrigin",
        "setOriginX",
        "setOriginXY",
        "setOriginY",
        "setPosition",
        "setProperty",
        "setRelativePosition",
        "setRelativeXYPosition",
        "setState",
        "setStateLabel",
        "setXYPosition",
        "startExposureSequence",
        "startPropertySequence",
        "startStageSequence",
        "startXYStageSequence",
        "stop",
        "stopExposureSequence",
        "stopPropertySequence",
        "stopStageSequence",
        "stopXYStageSequence",
        "usesDeviceDelay",
        "waitForDevice",
        "getShutterOpen",
        "setShutterOpen",
        "getExposure",
        "setExposure",
        "getROI",
        "setROI",
        "isSequenceRunning",
        "startSequenceAcquisition",
        "stopSequenceAcquisition",
    ]
)
"""Calls whose first argument is a label (some may do without it, and mean the current device)."""

_OF_CAMERA = frozenset(
    [
        "clearCircularBuffer",
        "clearROI",
        "getBufferFreeCapacity",
        "getBufferTotalCapacity",
        "getBytesPerPixel",
        "getCircularBufferMemoryFootprint",
        "getImage",
        "getImageBitDepth",
        "getImageBufferSize",
        "getImageHeight",
        "getImageWidth",
        "getLastImage",
        "getLastImageMD",
        "getNBeforeLastImageMD",
        "getNumberOfCameraChannels",
        "getNumberOfComponents",
        "getRemainingImageCount",
        "initializeCircularBuffer",
        "isBufferOverflowed",
        "popNextImage",
        "popNextImageMD",
        "prepareSequenceAcquisition",
        "setCircularBufferMemoryFootprint",
        "snapImage",
        "startContinuousSequenceAcquisition",
    ]
)
"""Calls that mean the current camera."""

_OF_ALL = frozenset(
    [
        "defineConfig",
        "defineStateLabel",
        "deleteConfig",
        "getCameraDevice",
        "getCurrentConfig",
        "getFocusDevice",
        "getLoadedDevices",
        "getLoadedDevicesOfType",
        "getShutterDevice",
        "getXYStageDevice",
        "initializeAllDevices",
        "initializeDevice",
        "loadDevice",
        "loadSystemConfiguration",
        "setCameraDevice",
        "setConfig",
        "setFocusDevice",
        "setParentLabel",
        "setShutterDevice",
        "setXYStageDevice",
        "systemBusy",
        "unloadAllDevices",
        "unloadDevice",
        "updateSystemStateCache",
        "waitForSystem",
    ]
)
"""Calls that concern every device."""

_INSTEAD = {
    "snapImage": "_do_snap_image",
    "startSequenceAcquisition": "_do_start_sequence_acquisition",
    "stopSequenceAcquisition": "_do_stop_sequence_acquisition",
    "setShutterOpen": "_do_shutter_open",
    "setROI": "_do_set_roi",
}
"""Of a Python device: what stands below pymmcore-plus's signals."""


class Mixed:
    """MMCore's calls, each to a Python device or straight to MMCore, as its label or the current camera says."""

    def __init__(self, core: PythonCore) -> None:
        self._core = core
        self._below = super(CMMCorePlus, core)
        self._python = core._pydevices._devices
        for name in _LABELLED:
            self._route(name, self._labelled(name))
        for name in _OF_CAMERA:
            self._route(name, self._of_camera(name))
        for name in _OF_ALL:
            self._route(name, _plainly(getattr(core, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def device(self, label: str) -> Any:
        """The Python device of this label."""
        return self._python[label]

    def _route(self, name: str, call: Callable[..., Any]) -> None:
        call.__name__ = name  # errors and allowances go by it
        setattr(self, name, call)

    def _labelled(self, name: str) -> Callable[..., Any]:
        python = _plainly(getattr(self._core, _INSTEAD.get(name, name)))
        mmcore: Callable[..., Any] = getattr(self._below, name)
        devices, current = self._python, self._core._pycore.current

        def call(*args: Any) -> Any:
            if args and isinstance(args[0], str):
                return (python if args[0] in devices else mmcore)(*args)
            camera = current(Keyword.CoreCamera)
            if camera is None or not name.endswith(("Exposure", "ROI", "Running", "Acquisition")):
                return mmcore(*args)
            return python(camera, *args)

        return call

    def _of_camera(self, name: str) -> Callable[..., Any]:
        python = _plainly(getattr(self._core, _INSTEAD.get(name, name)))
        mmcore: Callable[..., Any] = getattr(self._below, name)
        current = self._core._pycore.current
        return lambda *args: (mmcore if current(Keyword.CoreCamera) is None else python)(*args)


def _plainly(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call with whatever a Python device raises as MMCore would raise it."""

    def plain(*args: Any) -> Any:
        try:
            return call(*args)
        except RuntimeError:
            raise
        except Exception as error:
            raise RuntimeError(_said(error)) from error

    return plain


def _said(error: BaseException) -> str:
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{words}" if isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__}: {words}"


def _typed(value: Any, kind: PropertyType, name: str) -> Any:
    """A configuration's text as the property's type."""
    try:
        if kind == PropertyType.Integer:
            return int(float(value))
        if kind == PropertyType.Float:
            return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a number, it can't be {value!r}") from None
    return str(value) if kind == PropertyType.String else value


def _text(value: Any) -> str:
    """A property's value as MMCore gives it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
