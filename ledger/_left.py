"""Where an operation left the microscope, and whether it is still there (R1.12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Left:
    axes: Mapping[str, float] = field(default_factory=dict)
    """Positions by axis, µm or deg as in the scope file."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What is in place on the objective turret, every state device and every group: objective and channel."""
    sample: str | None = None
    """The sample that is open."""

    def told(self) -> dict[str, Any]:
        """As JSON; `of` reads it."""
        return {**asdict(self), "axes": dict(self.axes), "labels": dict(self.labels)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Left:
        return cls(told["axes"], told["labels"], told["sample"])

    def differences(self, now: Left, tolerances: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        """``{what, was, now}`` for each thing that isn't as it was left; what can't be read now is one, too.

        Parameters
        ----------
        tolerances
            By axis: how far it may be off.
        """
        for axis, was in self.axes.items():
            here = now.axes.get(axis)
            if axis in tolerances and (here is None or abs(here - was) > tolerances[axis]):
                yield {"what": axis, "was": was, "now": here}
        for device, label in self.labels.items():
            if now.labels.get(device) != label:
                yield {"what": device, "was": label, "now": now.labels.get(device)}
        if now.sample != self.sample:
            yield {"what": "sample", "was": self.sample, "now": now.sample}
