"""UniMMCore: Python devices beside Micro-Manager's own, from the `#py` lines of the same configuration.

`PythonCore` is pymmcore-plus's experimental core where that does what MMCore does, and corrected where it does not: properties
are strings, a device that can't be initialised is an error, cameras may run sequences at the same time, there are galvos, and
the current camera is the one that was set last. `Mixed` is how it is called: C++ devices below pymmcore-plus's signals, as
without it.

A Python device may define, beside what its base class asks for: ``placed(folder)``, told before it is initialised where this
microscope's services keep their files; ``sees(stages)``, given what tells where other devices stand (a simulated camera
draws by it); ``joined(hub)``, told its hub by a ``Parent`` line; ``stop_sequence()`` of a camera, to
be woken when its sequence ends; ``get_galvo_position()`` and ``set_galvo_position(x, y)`` of a galvo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pymmcore
from pymmcore_plus import DeviceType, Keyword, PropertyType
from pymmcore_plus.experimental.unicore import CameraDevice, Device, UniMMCore

from ._frame_queue import FramePool, FrameQueue
from ._python_sequence import STOP_S, CameraSequence
from ._python_values import said, text_of, typed

BUFFER_MB = 250


class PythonCore(UniMMCore):
    """The core of a configuration with Python devices; call it through `Mixed`."""

    def __init__(self, *args: Any, folder: Path, **named: Any) -> None:
        super().__init__(*args, **named)
        self._folder = folder
        self._pool = FramePool()
        self._seq_buffer: Any = FrameQueue(BUFFER_MB)  # instead of one buffer for one camera
        self._sequences: dict[str, CameraSequence] = {}

    # ------------------------------------------------------------------ loading

    def loadPyDevice(self, label: str, device: Device) -> None:
        super().loadPyDevice(label, device)
        if hasattr(device, "placed"):
            device.placed(self._folder)
        if hasattr(device, "sees"):
            device.sees(self)

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
            raise RuntimeError(f"the Python device {label!r} can't be initialised: {said(error)}") from error
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
            device.set_property_value(propName, typed(propValue, info.type, f"{label}.{propName}"))
            self._state_cache[(label, propName)] = propValue

    def getProperty(self, label: str, propName: str) -> str:
        if label not in self._pydevices:
            return str(pymmcore.CMMCore.getProperty(self, label, propName))
        with self._pydevices[label] as device:
            value = text_of(device.get_property_value(propName))
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

    def getGalvoPosition(self, galvoLabel: str) -> Any:  # type: ignore[override]
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
        sequence = CameraSequence(cam, n_images, self._seq_buffer, self._pool)
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
        return None if sequence is None or sequence.error is None else said(sequence.error)

    def setCircularBufferMemoryFootprint(self, sizeMB: int) -> None:
        if self._py_camera() is None:
            pymmcore.CMMCore.setCircularBufferMemoryFootprint(self, sizeMB)
        else:
            self._seq_buffer.size_mb = sizeMB
