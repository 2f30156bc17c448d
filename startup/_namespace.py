"""The namespace of the RE worker: ``RE``, the devices, the plans and the functions that clients may call."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..hardware import HardwareError
from ._session import Session, open_session

BY_HAND = frozenset(("release", "reclaim", "confirm_reference", "set_sample", "dose"))
"""Calls that only people make."""

_session: Session | None = None


def namespace() -> dict[str, Any]:
    """Open the worker's session; the names that queueserver finds plans and devices by."""
    global _session
    _session = open_session()

    def scope_state() -> dict[str, Any]:
        """Everything of the microscope, read now, as JSON."""
        return current_session().hardware.state().model_dump(mode="json")

    def scope_arm(until: float | None, by: str) -> dict[str, Any]:
        """`Hardware.arm`, for mode ``worker``."""
        return current_session().hardware.arm(until, by).model_dump(mode="json")

    def scope_rearm(by: str) -> dict[str, Any]:
        """`Hardware.rearm`, for mode ``worker``."""
        return current_session().hardware.rearm(by).model_dump(mode="json")

    def scope_call(call: str, arguments: dict) -> dict[str, Any]:  # queueserver reads the annotation
        """What a person asks of the hardware (`BY_HAND`), for mode ``worker``: ``{"ok": …}`` or ``{"error": {…}}``."""
        if call not in BY_HAND:
            return {"error": {"type": "NotAllowedError", "message": f"{call!r} is not one of {sorted(BY_HAND)}"}}
        try:
            result = getattr(current_session().hardware, call)(**arguments)
        except HardwareError as error:
            return {"error": {"type": type(error).__name__, "message": str(error)}}
        return {"ok": result.model_dump(mode="json") if isinstance(result, BaseModel) else result}

    functions = {
        "scope_state": scope_state,
        "scope_arm": scope_arm,
        "scope_rearm": scope_rearm,
        "scope_call": scope_call,
    }
    # A device with a plan's name (autofocus) is for plans to use: queueserver lists the plan.
    return {"RE": _session.run_engine, **_session.devices, **_session.plans, **functions}


def current_session() -> Session:
    """The session of this worker.

    Raises
    ------
    RuntimeError
        Where `namespace` was not called: outside an RE worker, or with another startup module.
    """
    if _session is None:
        raise RuntimeError("no session is open in this process: the worker's startup module is not queuescope.startup")
    return _session


def session_or_none() -> Session | None:
    return _session
