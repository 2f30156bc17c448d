"""What happens at the microscope, in order: MMCore's callbacks as events that any number of subscribers may follow.

One ring of events for all. A subscriber asks for what came after the last number it saw (`Hardware.events`): the hardware
keeps nothing for it, so that one that is slow or dead costs nothing, and is told how many events it missed.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from typing import Any

from ._event_types import EventBatch, EventKind, HardwareEvent

KEPT = 2000
"""Events that a slow subscriber can still get."""

LONGEST_WAIT_S = 30.0

ATTENTION_S = 5.0
"""Somebody who asked so recently is still listening."""


class Events:
    """The ring. Publishing never blocks; every method may be called from any thread."""

    def __init__(self, kept: int = KEPT) -> None:
        self._instance = str(uuid.uuid4())
        self._ring: deque[HardwareEvent] = deque(maxlen=kept)
        self._number = 0
        self._last: dict[tuple[str, str], Any] = {}
        self._changed = threading.Condition()
        self._asked_at = -ATTENTION_S
        self._waiting = 0
        self._closed = False
        self.listened = threading.Event()
        """Set by the first who listens."""

    def publish(self, kind: EventKind, name: str, value: float | str | bool) -> bool:
        """Tell everybody, unless the last event of this thing had the same value: an adapter and we may both tell it.

        Returns whether it was told.
        """
        with self._changed:
            if self._last.get((kind, name)) == value:
                return False
            self._last[kind, name] = value
            self._number += 1
            self._ring.append(HardwareEvent(number=self._number, time=time.time(), kind=kind, name=name, value=value))
            self._changed.notify_all()
            return True

    def known(self, kind: EventKind, name: str, value: float | str | bool) -> None:
        """How things stand already: no event."""
        with self._changed:
            self._last[kind, name] = value

    def after(self, seen: int, wait_s: float) -> EventBatch:
        """The events after number ``seen``; see `Hardware.events`."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            self._waiting += 1
            self.listened.set()
            try:
                while 0 <= seen == self._number and not self._closed:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
            finally:
                self._waiting -= 1
                self._asked_at = time.monotonic()
            if not 0 <= seen <= self._number:  # from now on; or a number of another process
                return EventBatch(instance=self._instance, cursor=self._number, missed=0, events=())
            found = tuple(event for event in self._ring if event.number > seen)
            missed = self._number - seen - len(found)
            return EventBatch(instance=self._instance, cursor=self._number, missed=missed, events=found)

    @property
    def followed(self) -> bool:
        """Whether anybody listens."""
        return self._waiting > 0 or time.monotonic() - self._asked_at < ATTENTION_S

    def close(self) -> None:
        """Whoever waits is answered now."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
