"""Alarms: what happens at a time, unless it is called off before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable


class Alarms:
    """By key: a time and a function, called then in a thread of its own. The thread that waits starts with the first."""

    def __init__(self) -> None:
        self._due: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def set(self, key: Hashable, after_s: float, call: Callable[[], None]) -> None:
        """Call after this time; an earlier alarm of the same key is called off."""
        with self._changed:
            self._due[key] = (time.monotonic() + after_s, call)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                self._thread.start()
            self._changed.notify()

    def call_off(self, key: Hashable) -> None:
        with self._changed:
            self._due.pop(key, None)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for key in [key for key, (at, _) in self._due.items() if at <= now]:
                    _, call = self._due.pop(key)
                    threading.Thread(target=call, name=f"alarm-{key}", daemon=True).start()
                next_at = min((at for at, _ in self._due.values()), default=None)
                self._changed.wait(None if next_at is None else next_at - now)
