"""Interlocks: each is read by a thread of its own, plan or no plan; what is not known to be closed is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..config import Property, Scope
from ._mmcore import Core, same
from ._safety_state import InterlockState

READ_EVERY_S = 0.1
STALE_S = 1.0
"""An older reading counts as open."""


class _Sensor:
    def __init__(self, name: str, kind: str, open_value: str, read: Callable[[], str]) -> None:
        self.name, self.kind, self._open_value, self._read = name, kind, open_value, read
        self._value: str | None = None
        self._error: str | None = None
        self._read_at: float | None = None
        self.first = threading.Event()

    def look(self) -> None:
        try:
            self._value, self._error = self._read(), None
        except Exception as error:  # unreadable is open, whatever the reason
            self._error = str(error)
        self._read_at = time.monotonic()
        self.first.set()

    def state(self) -> InterlockState:
        value, error, read_at = self._value, self._error, self._read_at
        age = None if read_at is None else time.monotonic() - read_at
        fresh = age is not None and age <= STALE_S
        known = error is None and value is not None
        return InterlockState(
            kind=self.kind,
            closed=fresh and known and not same(str(value), self._open_value),
            value=value,
            age_s=age,
            error=error,
        )


class Interlocks:
    """The scope's interlocks (``safety.interlocks``)."""

    def __init__(self, core: Core, scope: Scope) -> None:
        self._sensors = [
            _Sensor(entry.device, entry.kind, entry.open, _reader(core, scope, entry.device))
            for entry in scope.safety.interlocks
        ]
        self._end = threading.Event()

    def start(self) -> None:
        """Begin to read; returns when each has been read once, or could not be for `STALE_S`."""
        for sensor in self._sensors:
            threading.Thread(target=self._follow, args=(sensor,), name=f"interlock-{sensor.name}", daemon=True).start()
        deadline = time.monotonic() + STALE_S
        for sensor in self._sensors:
            sensor.first.wait(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        self._end.set()

    def _follow(self, sensor: _Sensor) -> None:
        sensor.look()
        while not self._end.wait(READ_EVERY_S):
            sensor.look()

    def state(self) -> dict[str, InterlockState]:
        """By device, as the last readings say. Asks no adapter."""
        return {sensor.name: sensor.state() for sensor in self._sensors}

    def opened(self) -> dict[str, InterlockState]:
        """Those that are not known to be closed."""
        return {name: state for name, state in self.state().items() if not state.closed}


def _reader(core: Core, scope: Scope, name: str) -> Callable[[], str]:
    device = scope.devices[name]
    if isinstance(device, Property):
        return lambda: core.read(name, device.label, device.property)
    return lambda: core.ask(name, core.mm.getStateLabel, device.label)


def words(name: str, state: InterlockState) -> str:
    """One interlock that is not closed, for messages."""
    if state.error is not None:
        return f"the interlock {name} ({state.kind}) can't be read: {state.error}"
    if state.age_s is None or state.age_s > STALE_S:
        return f"the interlock {name} ({state.kind}) was not read within {STALE_S:g} s"
    return f"the interlock {name} ({state.kind}) is open (reads {state.value!r})"
