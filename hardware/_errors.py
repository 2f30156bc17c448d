"""Errors of the hardware, the same in both modes: they cross the process boundary with their fields."""

from __future__ import annotations

from typing import Any


class HardwareError(Exception):
    """The base of them all. ``str(error)`` names the thing, the value, the limit and the remedy."""

    code = "hardware_error"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.fields = fields
        """JSON-able details: ``thing``, ``value``, ``limit`` …, as each error documents."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, str(self), self.fields)


class ConfigurationError(HardwareError):
    """The Micro-Manager configuration and the scope file don't fit: a missing label, adapter or property."""

    code = "configuration"


class LimitError(HardwareError):
    """A value that is not finite, or outside the scope's limits. Nothing moved. Fields ``thing, value, limit``."""

    code = "limit"


class CollisionError(LimitError):
    """A move into or through a forbidden box, or with an objective that must be retracted first. Nothing moved. Fields
    ``thing, value, limit``."""

    code = "collision"


class ReferenceLostError(HardwareError):
    """An axis isn't where it was left: its zero can't be trusted, and it is locked until a person confirms it. Fields
    ``thing`` (axis), ``value`` (where it stands), ``limit`` (where it was left)."""

    code = "reference_lost"


class FocusError(HardwareError):
    """An autofocus did not lock, or took its stage where it may not be; its lock is released. Fields ``thing, value, limit``."""

    code = "focus"


class FocusLockError(HardwareError):
    """A focus lock is engaged and moves this axis: nobody else may until it is released. Nothing moved. Fields ``thing``
    (axis), ``value`` (the autofocus)."""

    code = "focus_locked"


class DoseError(HardwareError):
    """The light asked for would exceed the rest of a sample's budget. No gate was opened. Fields ``thing`` (light),
    ``sample``, ``used``, ``value`` (asked) and ``limit`` (budget), in % × s."""

    code = "dose"


class ArgumentError(HardwareError):
    """An argument of the wrong type or form. Nothing was done. Fields ``thing`` (``call.argument``), ``value``."""

    code = "argument"


class UnknownNameError(HardwareError):
    """A device, axis, light, channel, label or recording that does not exist. Fields ``thing, value, known``."""

    code = "unknown_name"


class NotAllowedError(HardwareError):
    """A call that is not on the allow-list. Fields ``thing``."""

    code = "not_allowed"


class ReadbackError(HardwareError):
    """A device did not arrive where it was sent. Fields ``thing, value`` (asked), ``got, limit``."""

    code = "readback"


class DeviceError(HardwareError):
    """MMCore or an adapter raised. Fields ``thing``; the message holds MMCore's words."""

    code = "device"


class HardwareTimeout(HardwareError):
    """A call or a move took longer than its deadline. Fields ``thing, limit``."""

    code = "timeout"


class RecordingError(HardwareError):
    """Frames were lost, could not be written, or a recording is in the wrong state. Fields ``frames_written``."""

    code = "recording"


class HardwareGoneError(HardwareError):
    """The hardware process is not there, or the link to it broke: the outcome of the call is unknown."""

    code = "hardware_gone"


class RestartPendingError(HardwareError):
    """The process was restarted after it had died, and has loaded its lights only. Fields ``thing, value`` (why it waits)."""

    code = "restart_pending"


class ReleasedError(HardwareError):
    """A person has handed cameras and ports to another program; nothing is loaded until somebody reclaims. Fields ``by,
    reason, at``."""

    code = "released"


class BusyError(HardwareError):
    """Something runs that must end first: a recording, a move. Fields ``thing``."""

    code = "busy"


class HaltedError(HardwareError):
    """Somebody halted the microscope; it stays so until an operator rearms. Fields ``by, reason, at``."""

    code = "halted"


class InterlockError(HardwareError):
    """An interlock is open, unreadable or stale, or was and nobody has rearmed since. Fields ``thing`` (the interlock)."""

    code = "interlock"


class DisarmedError(HardwareError):
    """The scope asks for arming, and nobody has armed. Fields ``thing``."""

    code = "disarmed"


ERRORS: dict[str, type[HardwareError]] = {
    cls.__name__: cls
    for cls in (
        HardwareError,
        ConfigurationError,
        LimitError,
        CollisionError,
        ReferenceLostError,
        FocusError,
        FocusLockError,
        DoseError,
        ArgumentError,
        UnknownNameError,
        NotAllowedError,
        ReadbackError,
        DeviceError,
        HardwareTimeout,
        RecordingError,
        HardwareGoneError,
        RestartPendingError,
        ReleasedError,
        BusyError,
        HaltedError,
        InterlockError,
        DisarmedError,
    )
}


def _rebuild(name: str, message: str, fields: dict[str, Any]) -> HardwareError:
    return ERRORS.get(name, HardwareError)(message, **fields)
