"""What is told of halt, interlocks and arming."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import ConfigDict

from ..described import Described
from ._errors import HaltedError, HardwareError, InterlockError


class _Value(Described):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latch(_Value):
    """Something that stays until an operator rearms."""

    by: str
    """Who halted, or which interlock opened."""
    reason: str
    at: float
    """Seconds since the epoch."""

    @property
    def clock(self) -> str:
        """When that was, in this computer's time, for messages."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.at))


class InterlockState(_Value):
    kind: Literal["door", "lid", "key", "emergency_stop"]
    closed: bool
    """False also where it can't be read, or the last reading is older than 1 s."""
    value: str | None = None
    """The last reading."""
    age_s: float | None = None
    """Age of that reading; None before the first one."""
    error: str | None = None
    """Why it can't be read."""


class SafetyState(_Value):
    halted: Latch | None
    interlock: Latch | None
    """An interlock of kind door, lid or emergency_stop opened: light stays refused until an operator rearms."""
    interlocks: dict[str, InterlockState]
    arming: bool
    """The scope asks for arming (scope file: safety.arm)."""
    armed_until: float | None
    """Seconds since the epoch; None while not armed."""
    armed_by: str | None


def stopped_by(state: SafetyState) -> type[HardwareError] | None:
    """The kind of error that a plan which was running now fails with; None where nobody stops it."""
    if state.halted is not None:
        return HaltedError
    opened = any(not interlock.closed for interlock in state.interlocks.values())
    return InterlockError if opened or state.interlock is not None else None


class HaltStep(_Value):
    """Stopping one device, or switching one light off."""

    name: str
    done: bool
    seconds: float
    error: str | None = None


class HaltReport(_Value):
    """What a halt did. The latch holds in any case."""

    halted: Latch
    steps: tuple[HaltStep, ...]
    seconds: float
    """Until the last step was done, or given up."""
    killed: bool
    """A step did not answer: the hardware process ends itself hard, and its successor switches lights off first."""


class HaltOutcome(HaltReport):
    """What became of a halt from outside."""

    confirmed: bool
    """Whoever owns the hardware said so. False: read `detail`."""
    detail: str
