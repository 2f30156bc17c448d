"""What the hardware tells by itself reaches ophyd's subscribers: one thread for all devices of a session."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..hardware import Hardware, HardwareError

log = logging.getLogger("queuescope.devices")

ASK_S = 20.0
"""One long poll."""

RETRY_S = 0.5

Told = Callable[[float, float], None]
"""Takes a position in the axis's units and its time (seconds since the epoch)."""


class HardwareEvents:
    """Follows the hardware's events from the first subscriber on, over restarts, until the hardware is closed."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._lock = threading.Lock()
        self._axes: dict[str, Told] = {}
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, axis: str, told: Told) -> None:
        """Tell every position of this axis from now on; a second one for the same axis takes the first one's place.

        Returns when nothing that happens later can be missed (or after 5 s, where the hardware is away: positions are
        told when it is back).
        """
        with self._lock:
            self._axes[axis] = told
            if self._thread is None or not self._thread.is_alive():
                self._ready.clear()
                self._thread = threading.Thread(target=self._run, name="hardware-events", daemon=True)
                self._thread.start()
        self._ready.wait(5.0)

    def _run(self) -> None:
        instance, seen = "", -1
        while True:
            try:
                batch = self._hardware.events(seen, ASK_S)
                if batch.instance != instance or batch.missed:
                    lost = instance != ""
                    instance, seen = batch.instance, batch.cursor
                    if lost:
                        self._read_anew()
                    self._ready.set()
                    continue
                seen = batch.cursor
                for event in batch.events:
                    if event.kind == "position" and event.name in self._axes:
                        self._tell(event.name, float(event.value), event.time)
            except HardwareError as error:
                if error.fields.get("closed"):
                    return
                time.sleep(RETRY_S)

    def _read_anew(self) -> None:
        """Events were lost: where is everything now?"""
        for axis, position in self._hardware.positions(tuple(self._axes)).items():
            self._tell(axis, position, time.time())

    def _tell(self, axis: str, position: float, at: float) -> None:
        try:
            self._axes[axis](position, at)
        except Exception:  # one subscriber's fault is not the others'
            log.exception("a subscriber of %s failed", axis)
