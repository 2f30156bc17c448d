"""Whether an RE worker lives: what silence means, and lights off before a worker that is silent is ended."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from ..config import Scope
from ..hardware import HardwareError, connect
from ..layout import Layout

logger = logging.getLogger("queuescope.startup")

LOOK_S = 0.4
"""Between two looks of the manager at its worker."""
SILENT_S = 1.2
"""A worker, or its RunEngine, that has not answered for so long is said to be unresponsive: with a look, within 2 s."""
FROZEN_S = 5.0
"""A worker that has not answered for so long is ended (SIGSTOP, native code that keeps the interpreter); as the supervisor's."""
STUCK_S = 60.0
"""One whose RunEngine has not turned for so long, too: a plan in native code. Longer than any call to the hardware may take,
which has deadlines of its own."""
DARK_S = 3.0
"""Lights that are not off by then are left to the hardware process, which misses its client when the worker is ended."""


class Silence:
    """How long a worker has not answered, and how long its RunEngine's loop hasn't."""

    def __init__(self) -> None:
        self._heard_at = time.monotonic()
        self._stuck_since: float | None = None
        self._said: str | None = None

    def heard(self, state: Mapping[str, Any] | None) -> None:
        """An answer to ``request_state``; None where none came."""
        if state is None:
            return
        self._heard_at = time.monotonic()
        if not state.get("loop_stuck"):
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = self._heard_at

    def told(self) -> str | None:
        """What there is to say of it; None where there is nothing."""
        silent_s = time.monotonic() - self._heard_at
        if silent_s > SILENT_S:
            return f"the RE worker has not answered for {silent_s:.0f} s (limit {FROZEN_S:g} s)"
        if self._stuck_since is not None:
            stuck_s = time.monotonic() - self._stuck_since
            return f"the RE worker's plan has kept the RunEngine for {stuck_s:.0f} s (limit {STUCK_S:g} s)"
        return None

    def over(self) -> str | None:
        """The same, once it has lasted too long."""
        now = time.monotonic()
        stuck_s = 0.0 if self._stuck_since is None else now - self._stuck_since
        return self.told() if now - self._heard_at > FROZEN_S or stuck_s > STUCK_S else None

    def changed(self) -> bool:
        """Whether there is something else to say than when this was asked last."""
        before, self._said = self._said, self.told()
        return before != self._said


class LoopBeat:
    """Asks an event loop of another thread for a sign of life, one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked_at: float | None = None

    def silent_s(self) -> float:
        """How long the last question has waited for its answer; asks the next one where it has come."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)
            return 0.0
        return time.monotonic() - self._asked_at

    def _answer(self) -> None:
        self._asked_at = None


def darken(scope: Scope, layout: Layout) -> None:
    """Every gate closed and motion stopped behind a worker's back; at most `DARK_S`.

    In mode ``worker`` nobody but the worker has the lights: they go off when its successor opens them.
    """
    if scope.micromanager.process == "worker":
        return

    def off() -> None:
        try:
            hardware = connect(scope, layout, timeout_s=1.0)
            try:
                hardware.lights_off()
                hardware.stop()
            finally:
                hardware.close()
        except HardwareError as error:
            logger.error("the lights could not be closed before a worker was ended: %s", error)

    work = threading.Thread(target=off, name="lights-off", daemon=True)
    work.start()
    work.join(DARK_S)
