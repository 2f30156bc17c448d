"""Statuses that say how far they are, to whoever watches (bluesky's progress bar)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..hardware import HardwareError
from ._status import WorkStatus

LOOK_EVERY_S = 0.2
"""Nothing is read oftener for those who watch, and nothing at all where nobody does."""


class Progress(WorkStatus):
    """The status of something that goes from one value to another.

    Parameters
    ----------
    read
        Where it is now: a number, or one for each component.
    target
        Where it goes.
    """

    def __init__(self, obj: Any, read: Callable[[], Any], target: Any, unit: str, timeout: float | None = None) -> None:
        super().__init__(obj=obj, timeout=timeout)
        self._name, self._read, self._target, self._unit = obj.name, read, target, unit
        self._watchers: list[Callable[..., Any]] = []
        self._started = time.time()
        self._initial: Any = None
        self._following = threading.Lock()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self.add_callback(lambda _: self._over.set())

    def watch(self, func: Callable[..., Any]) -> None:
        """Call ``func(name=, current=, initial=, target=, unit=, precision=, fraction=, time_elapsed=, time_remaining=)`` five
        times a second and at the end. ``fraction`` is what remains, of what there was when the first one began to watch.
        """
        with self._following:
            self._watchers.append(func)
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name=f"{self._name}-progress", daemon=True)
                self._thread.start()

    def _follow(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0 if self._initial is None else LOOK_EVERY_S)
            try:
                current = self._read()
            except HardwareError:  # the status itself says what is wrong
                continue
            self._initial = current if self._initial is None else self._initial
            self._tell(current, over)

    def _tell(self, current: Any, over: bool) -> None:
        whole = float(np.linalg.norm(np.subtract(self._target, self._initial)))
        rest = float(np.linalg.norm(np.subtract(self._target, current)))
        told = {
            "name": self._name,
            "current": current,
            "initial": self._initial,
            "target": self._target,
            "unit": self._unit,
            "precision": 3,
            "fraction": 0.0 if whole == 0 or (over and self.success) else min(rest / whole, 1.0),
            "time_elapsed": time.time() - self._started,
            "time_remaining": None,
        }
        for watcher in self._watchers.copy():
            watcher(**told)
