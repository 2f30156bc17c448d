"""Faults, by kind: how each is made, and when the stack has got over it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..hardware import HardwareError, connect
from ._fault_stack import FaultStack
from ._witness import CRASH, HANG

Renewed = Callable[[], bool]
"""Whether the part that was hit is another one, or itself again."""


@dataclass(frozen=True)
class Kind:
    name: str
    share: int
    """How often it is drawn, beside the others."""
    make: Callable[[FaultStack, random.Random], Renewed]
    ends_hardware: bool = False
    """At once: a light that is on then stays on until the next process switches it off."""
    remote: bool = False
    """Its hardware is at the end of a cable."""


def _instance(stack: FaultStack) -> str | None:
    try:
        hardware = connect(stack.scope, stack.layout, timeout_s=1)
    except HardwareError:
        return None
    try:
        info = hardware.info()
        return info.instance if info.stage == "ready" else None
    except HardwareError:
        return None
    finally:
        hardware.close()


def _other_hardware(stack: FaultStack, before: str | None) -> Renewed:
    return lambda: _instance(stack) not in (None, before)


def _signal(part: str, number: int) -> Callable[[FaultStack, random.Random], Renewed]:
    def make(stack: FaultStack, _: random.Random) -> Renewed:
        before = _pid(stack, part)
        instance = _instance(stack) if part == "hardware" else None
        os.kill(before, number)
        if part == "hardware":
            return _other_hardware(stack, instance)
        return lambda: stack.runtime["pids"].get(part) not in (None, before)

    return make


def _pid(stack: FaultStack, part: str) -> int:
    deadline = time.monotonic() + 20
    while (pid := stack.runtime["pids"].get(part)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"runtime.json names no {part}")
        time.sleep(0.01)
    return int(pid)


def _hang(stack: FaultStack, rng: random.Random) -> Renewed:
    """Whoever asks an adapter next is kept; where no plan does, that is a client who looks at everything now and then."""
    renewed = _signal("hardware", HANG)(stack, rng)

    def ask() -> None:
        with contextlib.suppress(HardwareError):
            hardware = connect(stack.scope, stack.layout, timeout_s=5)
            try:
                while True:
                    time.sleep(1.0)  # a plan comes first
                    hardware.state()
            finally:
                hardware.close()

    threading.Thread(target=ask, daemon=True).start()
    return renewed


def _cut(stack: FaultStack, rng: random.Random) -> Renewed:
    """For up to five seconds: shorter and longer than anybody's grace."""
    assert stack.cable is not None
    cable = stack.cable
    cable.cut()
    threading.Timer(rng.uniform(0.0, 5.0), cable.mend).start()
    return lambda: _instance(stack) is not None


KINDS = (
    Kind("kill", 40, _signal("hardware", signal.SIGKILL), ends_hardware=True),
    Kind("segfault", 40, _signal("hardware", CRASH)),
    Kind("hang", 30, _hang),
    Kind("cut link", 35, _cut, remote=True),
    Kind("stop", 30, _signal("hardware", signal.SIGSTOP), ends_hardware=True),
    Kind("kill worker", 13, _signal("worker", signal.SIGKILL)),
    Kind("kill manager", 4, _signal("manager", signal.SIGKILL)),
    Kind("kill http", 4, _signal("http", signal.SIGKILL)),
    Kind("kill courier", 4, _signal("courier", signal.SIGKILL)),
)


def drawn(count: int, rng: random.Random) -> list[Kind]:
    """So many faults: one of each kind first, then each kind by its share; in random order, those that need a cable last
    (they have a stack of their own).
    """
    more = rng.choices(KINDS, [kind.share for kind in KINDS], k=max(0, count - len(KINDS)))
    found = [*KINDS[:count], *more]
    rng.shuffle(found)
    return sorted(found, key=lambda kind: kind.remote)
