"""The process that owns MMCore: devices, lights, cameras and the recorder behind one allow-list of calls.

``connect(scope, layout)`` gives the microscope, wherever MMCore lives. The process is started by
``python -m queuescope.hardware --scope NAME|PATH --data DIR``.
Importing this package imports neither MMCore nor an RPC library.
"""

from ._connect import ConnectedHardware, connect, pinger
from ._dose_state import DoseState
from ._envelope import Envelope
from ._errors import (
    ERRORS,
    ArgumentError,
    CollisionError,
    ConfigurationError,
    DeviceError,
    DisarmedError,
    DoseError,
    HaltedError,
    HardwareError,
    HardwareGoneError,
    HardwareTimeout,
    InterlockError,
    LimitError,
    NotAllowedError,
    ReadbackError,
    RecordingError,
    ReferenceLostError,
    RestartPendingError,
    UnknownNameError,
)
from ._event_types import EventBatch, EventKind, HardwareEvent
from ._halting import halt_hardware, urgent
from ._latch import LatchFile, log_safety
from ._safety_state import HaltOutcome, HaltReport, HaltStep, InterlockState, Latch, SafetyState, stopped_by
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
    "CollisionError",
    "ConfigurationError",
    "ConnectedHardware",
    "DatasetPlan",
    "DatasetState",
    "DeviceError",
    "DisarmedError",
    "DoseError",
    "DoseState",
    "Envelope",
    "EventBatch",
    "EventKind",
    "FrameSettings",
    "HaltOutcome",
    "HaltReport",
    "HaltStep",
    "HaltedError",
    "Hardware",
    "HardwareError",
    "HardwareEvent",
    "HardwareGoneError",
    "HardwareInfo",
    "HardwareState",
    "HardwareTimeout",
    "InterlockError",
    "InterlockState",
    "Latch",
    "LatchFile",
    "LightOff",
    "LightState",
    "LimitError",
    "NotAllowedError",
    "ReadbackError",
    "RecordingError",
    "RecordingPlan",
    "RecordingState",
    "ReferenceLostError",
    "RestartPendingError",
    "SafetyState",
    "UnknownNameError",
    "Verification",
    "VolumeProgram",
    "VolumeView",
    "connect",
    "halt_hardware",
    "log_safety",
    "pinger",
    "stopped_by",
    "urgent",
]
