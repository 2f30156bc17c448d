"""Which channels a plan's parameters ask for."""

from __future__ import annotations

from typing import Any


def channel_names(parameters: Any) -> list[str]:
    """The channels that a plan with these parameters takes frames in, also through what it repeats (``do``, ``steps``)."""
    steps = getattr(parameters, "steps", None)
    if isinstance(steps, list):  # of a protocol
        return list(dict.fromkeys(name for step in steps for name in channel_names(step.kwargs)))
    while (do := getattr(parameters, "do", None)) is not None:
        parameters = do.kwargs
    return [channel.name for channel in getattr(parameters, "channels", None) or []]
