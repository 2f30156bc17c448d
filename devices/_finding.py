"""What a plan found from its measurements, told in an event of its run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ophyd.ophydobj import OphydObject


class Finding(OphydObject):
    """Named numbers with their units, so that a run says what was made of it: ``bps.read`` in a stream of its own.

    Parameters
    ----------
    units
        By name, where one has a unit.
    """

    def __init__(self, name: str, units: Mapping[str, str]) -> None:
        super().__init__(name=name, labels={"findings"})
        self._values: dict[str, Any] = {}
        self._units, self._at = dict(units), 0.0

    def found(self, values: Mapping[str, Any]) -> None:
        """What the next event tells, by name: finite numbers, bools, texts, lists of numbers; the same names each time."""
        self._values, self._at = dict(values), time.time()

    def read(self) -> dict[str, dict[str, Any]]:
        return {f"{self.name}_{key}": {"value": value, "timestamp": self._at} for key, value in self._values.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        return {
            f"{self.name}_{key}": {"source": "computed", "units": self._units.get(key, ""), **_kind(value)}
            for key, value in self._values.items()
        }

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": []}


def _kind(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"dtype": "boolean", "shape": []}
    if isinstance(value, str):
        return {"dtype": "string", "shape": []}
    if isinstance(value, list):
        return {"dtype": "array", "shape": [len(value)]}
    return {"dtype": "number", "shape": []}
