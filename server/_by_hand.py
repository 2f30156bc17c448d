"""What a person asks of the hardware itself, in both modes: over the process's socket, or through the RE worker."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from ..hardware import (
    ERRORS,
    ArgumentError,
    BusyError,
    HaltedError,
    HardwareError,
    HardwareGoneError,
    HardwareTimeout,
    InterlockError,
    LimitError,
    RecordingError,
    ReleasedError,
    RestartPendingError,
    UnknownNameError,
    connect,
)
from ._context import LOOK_FOR_HARDWARE_S, Context
from ._microscope import from_worker
from ._probe import in_thread_of_its_own
from ._problems import Problem
from ._queue import QueueUnreachable

CALL = "scope_call"
"""Function in the RE worker's namespace that carries a person's call out, for mode ``worker``."""

_CODES: dict[type[HardwareError], str] = {
    ReleasedError: "released",
    RestartPendingError: "restart_pending",
    BusyError: "busy",
    RecordingError: "busy",
    HaltedError: "halted",
    InterlockError: "interlock_open",
    ArgumentError: "invalid_body",
    UnknownNameError: "unknown_name",
    LimitError: "outside_limits",
    HardwareGoneError: "hardware_unreachable",
    HardwareTimeout: "hardware_unreachable",
}

M = TypeVar("M", bound=BaseModel)


async def by_hand(context: Context, answer: type[M], call: str, **arguments: Any) -> M:
    """Carry out a call of the hardware's surface for a person; its result as ``answer``.

    Raises
    ------
    Problem
        With the code of the hardware's error.
    """
    return answer.model_validate(await _carry(context, call, arguments))


async def number_by_hand(context: Context, call: str, **arguments: Any) -> float:
    """The same for a call that answers with a number."""
    return float(await _carry(context, call, arguments))


async def _carry(context: Context, call: str, arguments: dict[str, Any]) -> Any:
    def directly() -> Any:
        hardware = connect(context.scope, context.layout, timeout_s=LOOK_FOR_HARDWARE_S)
        try:
            result = getattr(hardware, call)(**arguments)
        finally:
            hardware.close()
        return result.model_dump(mode="json") if isinstance(result, BaseModel) else result

    try:
        if context.scope.micromanager.process == "own":
            return await in_thread_of_its_own(directly)
        told = await from_worker(context, CALL, call=call, arguments=arguments)
        if "error" in told:
            raise ERRORS.get(told["error"]["type"], HardwareError)(told["error"]["message"])
        return told["ok"]
    except HardwareError as error:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "refused_by_hardware")
        raise Problem(code, str(error)) from None
    except QueueUnreachable as error:
        raise Problem("hardware_unreachable", str(error)) from None
