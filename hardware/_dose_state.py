"""What is told of a sample's dose."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from ..described import Described


class DoseState(Described):
    """Light that a sample has had, by light: power × time on, in % × s."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_id: str | None
    """None: light while no sample was open or named."""
    open: bool
    """All light counts for this sample now."""
    used: dict[str, float]
    by_position: dict[str, dict[str, float]]
    """The same by the position that the run named; ``""`` where it named none."""
    assumed: dict[str, float]
    """Part of `used` that nobody measured: a process died with the gate open, so it counts until it was found closed."""
    budget: dict[str, float] = Field(default_factory=dict)
    """What may be used, by light; a light that isn't named has no budget."""
