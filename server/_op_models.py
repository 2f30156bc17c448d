"""An operation, everywhere the same JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from ..described import Described
from ..ledger import Hold, State


class _Part(Described):
    model_config = ConfigDict(extra="forbid")


Name = Annotated[str, Field(min_length=1, max_length=128)]


class Submit(_Part):
    """What is asked for."""

    plan: Name
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """The plan's parameters, by name: `GET /api/plans/allowed`."""
    sample_id: Name | None = None
    session_id: Name | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None
    """For people."""
    after: Name | None = None
    """Key of the script's step before: the microscope must be as that one left it, where it may have moved since."""
    restore: bool = False
    """Where it isn't: move it back before the plan, instead of refusing (`state_drift`)."""


class Again(_Part):
    attempt: Annotated[int, Field(ge=2)] | None = None
    """Which attempt this will be: sent twice it is made once."""


class CheckProblem(_Part):
    loc: list[str | int]
    """Where it stands in the request; for a move, the axis after ``kwargs``."""
    msg: str
    value: Any = None
    limit: Any = None


class Check(_Part):
    """What a plan would do, from where the microscope is now. Nothing was queued, nothing has moved."""

    ok: bool
    problems: list[CheckProblem]
    """The first move that isn't allowed, and whatever else would stop it."""
    seconds: float
    """Estimated."""
    dose: dict[str, float]
    """By light, in % × s."""
    frames: dict[str, int]
    """By dataset."""
    bytes: int | None
    """Of all frames; null where a camera could not be asked how large they are."""
    moves: int
    """Targets of axes that were checked; of a time-lapse's rounds, which are alike, the first."""


class OperationFailure(_Part):
    code: str
    """Stable; `docs/reference/rest.md` lists them."""
    detail: str


class OperationProgress(_Part):
    done: int
    """Frames on disk, all datasets of the newest run together."""
    total: int


class OperationView(_Part):
    """An operation with its last attempt. Times are seconds since the epoch."""

    key: str | None
    """Null for a plan that was started without one."""
    attempt: int
    state: State
    hold: Hold | None
    """Why it waits; null where nothing holds it."""
    plan: str
    kwargs: dict[str, Any]
    sample_id: str | None
    session_id: str | None
    user: str
    item_uid: str | None
    """In the queue server; null until it is queued."""
    run_uids: list[str]
    result: Any
    """What the plan returned."""
    error: OperationFailure | None
    progress: OperationProgress | None
    """While it runs and records."""
    submitted_at: float
    started_at: float | None
    finished_at: float | None


class OperationPage(_Part):
    items: list[OperationView]
    """In the order of submission."""
    next: int
    """For `after`: what comes after these, also what isn't submitted yet."""
