"""MMCore's calls where a configuration has Python devices: each goes to one of them, or straight to MMCore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymmcore_plus import CMMCorePlus, Keyword

from ._python_core import PythonCore
from ._python_values import said

_LABELLED = frozenset(
    """
    deviceBusy getAllowedPropertyValues getDeviceDelayMs getDeviceDescription getDeviceLibrary getDeviceName
    getDevicePropertyNames getDeviceType getExposure getExposureSequenceMaxLength getFocusDirection getGalvoPosition
    getNumberOfStates getParentLabel getPosition getProperty getPropertyFromCache getPropertyLowerLimit
    getPropertySequenceMaxLength getPropertyType getPropertyUpperLimit getROI getShutterOpen
    getStageSequenceMaxLength getState getStateFromLabel getStateLabel getStateLabels getXPosition getXYPosition
    getXYStageSequenceMaxLength getYPosition hasProperty hasPropertyLimits home isContinuousFocusDrive
    isExposureSequenceable isPropertyPreInit isPropertyReadOnly isPropertySequenceable isSequenceRunning
    isStageLinearSequenceable isStageSequenceable isXYStageSequenceable loadExposureSequence loadPropertySequence
    loadStageSequence loadXYStageSequence setAdapterOrigin setAdapterOriginXY setExposure setFocusDirection
    setGalvoPosition setOrigin setOriginX setOriginXY setOriginY setPosition setProperty setROI setRelativePosition
    setRelativeXYPosition setShutterOpen setState setStateLabel setXYPosition startExposureSequence
    startPropertySequence startSequenceAcquisition startStageSequence startXYStageSequence stop stopExposureSequence
    stopPropertySequence stopSequenceAcquisition stopStageSequence stopXYStageSequence usesDeviceDelay waitForDevice
    """.split()  # noqa: SIM905 (shorter to read)
)
"""Calls whose first argument is a label (some may do without it, and mean the current device)."""

_OF_CAMERA = frozenset(
    """
    clearCircularBuffer clearROI getBufferFreeCapacity getBufferTotalCapacity getBytesPerPixel
    getCircularBufferMemoryFootprint getImage getImageBitDepth getImageBufferSize getImageHeight getImageWidth
    getLastImage getLastImageMD getNBeforeLastImageMD getNumberOfCameraChannels getNumberOfComponents
    getRemainingImageCount initializeCircularBuffer isBufferOverflowed popNextImage popNextImageMD
    prepareSequenceAcquisition setCircularBufferMemoryFootprint snapImage startContinuousSequenceAcquisition
    """.split()  # noqa: SIM905 (shorter to read)
)
"""Calls that mean the current camera."""

_OF_ALL = frozenset(
    """
    defineConfig defineStateLabel deleteConfig getCameraDevice getCurrentConfig getFocusDevice getLoadedDevices
    getLoadedDevicesOfType getShutterDevice getXYStageDevice initializeAllDevices initializeDevice loadDevice
    loadSystemConfiguration setCameraDevice setConfig setFocusDevice setParentLabel setShutterDevice
    setXYStageDevice systemBusy unloadAllDevices unloadDevice updateSystemStateCache waitForSystem
    """.split()  # noqa: SIM905 (shorter to read)
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

    def sequence_error(self, label: str) -> str | None:
        """Why the last sequence of a Python camera ended early, if its device said so."""
        return self._core.sequence_error(label)

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
            raise RuntimeError(said(error)) from error

    return plain
