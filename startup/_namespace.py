"""The namespace of the RE worker: ``RE``, the devices, the plans and the functions that clients may call."""

from __future__ import annotations

from typing import Any

from ._session import Session, open_session

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

    functions = {"scope_state": scope_state, "scope_arm": scope_arm, "scope_rearm": scope_rearm}
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
