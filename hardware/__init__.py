"""The process that owns MMCore: devices, lights, cameras and the recorder behind one allow-list of calls.

``connect(scope, layout)`` gives the microscope, wherever MMCore lives. The process is started by
``python -m queuescope.hardware --scope NAME|PATH --data DIR``.
Importing this package imports neither MMCore nor an RPC library.
"""

from ._connect import ConnectedHardware, connect
from ._errors import (
    ERRORS,
    ArgumentError,
    ConfigurationError,
    DeviceError,
    HardwareError,
    HardwareGoneError,
    HardwareTimeout,
    LimitError,
    NotAllowedError,
    ReadbackError,
    RecordingError,
    UnknownNameError,
)
from ._surface import (
    SURFACE,
    CameraState,
    DatasetPlan,
    DatasetState,
    FrameSettings,
    Hardware,
    HardwareInfo,
    HardwareState,
    LightOff,
    LightState,
    RecordingPlan,
    RecordingState,
    Verification,
    VolumeProgram,
    VolumeView,
)

__all__ = [
    "ERRORS",
    "SURFACE",
    "ArgumentError",
    "CameraState",
    "ConfigurationError",
    "ConnectedHardware",
    "DatasetPlan",
    "DatasetState",
    "DeviceError",
    "FrameSettings",
    "Hardware",
    "HardwareError",
    "HardwareGoneError",
    "HardwareInfo",
    "HardwareState",
    "HardwareTimeout",
    "LightOff",
    "LightState",
    "LimitError",
    "NotAllowedError",
    "ReadbackError",
    "RecordingError",
    "RecordingPlan",
    "RecordingState",
    "UnknownNameError",
    "Verification",
    "VolumeProgram",
    "VolumeView",
    "connect",
]
