"""Why something waits, the same wherever it is told."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from ..described import Described

HoldReason = Literal[
    "paused",
    "interlock",
    "decision",
    "approval",
    "person",
    "disarmed",
    "disk",
    "queue_stopped",
    "restarting",
    "released",
    "halted",
]


class Hold(Described):
    """Something that waits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: HoldReason
    since: float | None = None
    """Seconds since the epoch; null where nobody knows."""
    needs: str | None = None
    """What a person does about it, as a command; null where it ends by itself."""
    deadline: float | None = None
    """When it ends by itself with `default`."""
    default: str | None = None
    detail: str = ""
    """In words."""
