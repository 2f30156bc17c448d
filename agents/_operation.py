"""An operation and its events as the server tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

State = Literal["accepted", "queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
ENDS: tuple[State, ...] = ("succeeded", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Failure:
    code: str
    """Stable; ``session_lost`` and ``client_closed`` are the client's own, the rest is the server's."""
    detail: str


@dataclass(frozen=True)
class Progress:
    done: int
    """Frames on disk, all datasets of the newest run together."""
    total: int


@dataclass(frozen=True)
class Operation:
    """With its last attempt. Times are seconds since the epoch."""

    key: str
    attempt: int
    state: State
    plan: str
    kwargs: Mapping[str, Any]
    hold: Mapping[str, Any] | None = None
    """Why it waits: ``{reason, since, needs, deadline, default, detail}``."""
    sample_id: str | None = None
    session_id: str | None = None
    user: str | None = None
    item_uid: str | None = None
    run_uids: tuple[str, ...] = ()
    result: Any = None
    """What the plan returned."""
    error: Failure | None = None
    progress: Progress | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    replayed: bool = False
    """It was there before: this call ran nothing."""

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @classmethod
    def of(cls, view: Mapping[str, Any], replayed: bool = False) -> Operation:
        """Of the server's JSON; what a later server adds is left out."""
        known = {field.name for field in fields(cls)}
        told = {name: value for name, value in view.items() if name in known}
        error, progress = view.get("error"), view.get("progress")
        told |= {
            "run_uids": tuple(view.get("run_uids", ())),
            "error": error and Failure(error["code"], error["detail"]),
            "progress": progress and Progress(progress["done"], progress["total"]),
            "replayed": replayed,
        }
        return cls(**told)


@dataclass(frozen=True)
class Event:
    """Something that happened to an operation."""

    type: str
    """``state progress output decision``."""
    data: Mapping[str, Any]
    """``{state, …}``, ``{done, total}``, ``{lines}``, ``{round, …}``."""
    key: str | None
    attempt: int | None
    time: float
    """Seconds since the epoch."""
    cursor: int | None = None
    """Where it stands in the audit; of ``progress``, which isn't kept, the event before; None for what the client itself says."""
    server_id: str | None = None

    @property
    def terminal(self) -> bool:
        """Nothing comes after it."""
        return self.type == "state" and self.data.get("state") in ENDS

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Event:
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in known})
