"""Order: all cases on one microscope, then the next one."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A case's ``bench`` names scope and mode; loading a microscope takes longer than most cases."""
    places = [i for i, item in enumerate(items) if "bench" in getattr(getattr(item, "callspec", None), "params", {})]
    ordered = sorted((items[i] for i in places), key=lambda item: item.callspec.params["bench"][:2])  # type: ignore[attr-defined]
    for place, item in zip(places, ordered, strict=True):
        items[place] = item
