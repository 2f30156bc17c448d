"""Events of the hardware, as they cross the boundary."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from ..described import Described

EventKind = Literal["position", "label", "value", "light", "exposure", "focus", "interlock", "halt"]


class _Value(Described):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HardwareEvent(_Value):
    """Something changed."""

    number: int
    """Counts up from 1 in each instance of the hardware."""
    time: float
    """Seconds since the epoch, as the hardware's clock has it."""
    kind: EventKind
    name: str
    """As in the scope file: an axis (``xy.x``), a device, a light or a camera."""
    value: bool | float | str
    """Position in µm or degrees, label, property, gate open or not, focus locked or not, exposure in ms."""


class EventBatch(_Value):
    """What happened since a subscriber asked last."""

    instance: str
    """Another one than last time: the hardware restarted, and everything must be read anew."""
    cursor: int
    """To be passed as ``seen`` next time."""
    missed: int
    """Events that were older than what is kept: read anew what matters."""
    events: tuple[HardwareEvent, ...]
