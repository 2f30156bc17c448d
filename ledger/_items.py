"""What a queue item says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def meta_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item's meta as queueserver reads it: of a list of mappings the first one that has an entry counts.

    What is no mapping says nothing: items come from clients.
    """
    meta = item.get("meta")
    if isinstance(meta, Mapping):
        return dict(meta)
    merged: dict[str, Any] = {}
    for part in reversed(meta) if isinstance(meta, list | tuple) else ():
        merged.update(part if isinstance(part, Mapping) else {})
    return merged
