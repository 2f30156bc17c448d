"""Readings that survive a pause: the RunEngine answers the message that a pause interrupts with None.

After the pause it repeats the messages since the last checkpoint, without telling their answers to the plan. A plan that takes
that None for a position would centre a stack on 0.
"""

from __future__ import annotations

from typing import Any

from bluesky import Msg

from ._messages import read_together
from ._template import PlanBody

TRIES = 10


def answer(msg: Msg) -> PlanBody:
    """The answer to a message that may be sent again."""
    for _ in range(TRIES):
        found = yield msg
        if found is not None:
            return found
    raise RuntimeError(f"{msg.command} of {getattr(msg.obj, 'name', msg.obj)} was interrupted {TRIES} times")


def value(device: Any) -> PlanBody:
    """The one value that a device reads."""
    (entry,) = (yield from answer(Msg("read", device))).values()
    return entry["value"]


def observe(*devices: Any, stream: str = "primary") -> PlanBody:
    """An event with these devices' readings; returns their values by name."""
    found: dict[str, Any] = {}
    readings = yield from read_together(*devices, stream=stream)
    for device, reading in zip(devices, readings, strict=True):
        if reading is None:  # a pause came
            reading = yield from answer(Msg("read", device))
        found |= {name: entry["value"] for name, entry in reading.items()}
    return found
