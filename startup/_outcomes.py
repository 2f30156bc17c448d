"""What a plan's end comes to for its operation."""

from __future__ import annotations

import json
from typing import Any

from bluesky.utils import FailedStatus

from ..hardware import (
    DeviceError,
    DisarmedError,
    DoseError,
    HaltedError,
    HardwareError,
    HardwareGoneError,
    InterlockError,
    LimitError,
    RecordingError,
    ReferenceLostError,
    ReleasedError,
)
from ..ledger import ApprovalError, Failure
from ..plans import FitError

_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (LimitError, "outside_limits"),
    (InterlockError, "interlock_open"),
    (HaltedError, "halted"),
    (DisarmedError, "disarmed"),
    (ReleasedError, "released"),
    (ReferenceLostError, "reference_lost"),
    (DoseError, "dose_refused"),
    (RecordingError, "recording_failed"),
    (HardwareGoneError, "hardware_gone"),
    (DeviceError, "hardware_failed"),
    (HardwareError, "hardware_failed"),
    (ApprovalError, "approval_missing"),
    (FitError, "fit_refused"),
)


def cause_of(error: BaseException) -> BaseException:
    """What went wrong, where a status only carried it."""
    return (error.__cause__ or error) if isinstance(error, FailedStatus) else error


def failure_of(error: BaseException) -> Failure:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "plan_failed")
    return Failure(code, text_of(error))


def text_of(error: BaseException) -> str:
    """With what was noted on its way up, such as the step of a protocol."""
    return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def jsonable(value: Any) -> Any:
    """A plan's result as JSON would give it back; what has no JSON form (NaN, an object) becomes its text."""
    try:
        return json.loads(json.dumps(value, default=str), parse_constant=str)
    except (TypeError, ValueError):
        return str(value)
