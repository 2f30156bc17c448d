"""What an operation asks for. It is no part of the key: the same key with another body is refused (R1.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._items import meta_of


@dataclass(frozen=True)
class Body:
    plan: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()
    sample_id: str | None = None
    session_id: str | None = None

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Body:
        """Of a queue item."""
        meta = meta_of(item)
        return cls(
            plan=str(item.get("name")),
            kwargs=item.get("kwargs") or {},
            args=tuple(item.get("args") or ()),
            sample_id=_text(meta.get("sample_id")),
            session_id=_text(meta.get("session_id")),
        )

    @property
    def digest(self) -> str:
        """The same for the same request, whatever the order of its names."""
        parts = [self.plan, list(self.args), dict(self.kwargs), self.sample_id, self.session_id]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest_of_columns(plan: str, kwargs: str) -> str:
    """Of what a ledger of version 2 knew."""
    return Body(plan, json.loads(kwargs)).digest


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
