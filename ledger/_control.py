"""Who has the microscope: one named holder, kept in the data directory (R5.1)."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError

from ..described import Described
from ..layout import Layout


class Control(Described):
    """Who has the microscope. While it is not ``agents``, agents' plans that move are refused and the queue is locked."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["agents", "person", "maintenance"]
    by: str
    reason: str
    since: float
    """Seconds since the epoch."""


def _file(layout: Layout) -> Path:
    return layout.data / "safety" / "control.json"


def read_control(layout: Layout) -> Control:
    """Who has it; agents, until somebody takes over. A record that can't be read is a person's."""
    try:
        return Control.model_validate(json.loads(_file(layout).read_bytes())["control"])
    except FileNotFoundError:
        return Control(mode="agents", by="queuescope", reason="nobody has taken over", since=0.0)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        return Control(mode="person", by="unknown", reason=f"{_file(layout)} can't be read: {error}", since=time.time())


def before_control(layout: Layout) -> dict[str, Any]:
    """What handing back restores: ``autostart`` was on, ``paused`` a plan of ours."""
    try:
        return dict(json.loads(_file(layout).read_bytes()).get("before") or {})
    except (OSError, ValueError, AttributeError):
        return {}


def write_control(layout: Layout, control: Control, before: dict[str, Any]) -> None:
    path = _file(layout)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".control.{secrets.token_hex(4)}")
    draft.write_text(json.dumps({"control": control.model_dump(), "before": before}), encoding="utf-8")
    draft.replace(path)
