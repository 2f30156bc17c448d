"""What the hardware tells by itself reaches ophyd's subscribers: one thread for all devices of a session."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ..hardware import EventKind, Hardware, HardwareError

log = logging.getLogger("queuescope.devices")

ASK_S = 20.0
"""One long poll."""

RETRY_S = 0.5

Told = Callable[[Any, float], None]
"""Takes the value (a position in the axis's units, a label, a number …) and its time (seconds since the epoch)."""


class HardwareEvents:
    """Follows the hardware's events from the first subscriber on, over restarts, until the hardware is closed."""

    def __init__(self, hardware: Hardware) -> None:
        self._hardware = hardware
        self._lock = threading.Lock()
        self._followers: dict[tuple[EventKind, str], tuple[Told, Callable[[], Any]]] = {}
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, kind: EventKind, name: str, told: Told, read: Callable[[], Any]) -> None:
        """Tell every value of this thing from now on; a second one for the same thing takes the first one's place.

        ``read`` reads it, where events were lost. Returns when nothing that happens later can be missed (or after 5 s, where
        the hardware is away: it is told when that is back).
        """
        with self._lock:
            self._followers[kind, name] = told, read
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
                    follower = self._followers.get((event.kind, event.name))
                    if follower is not None:
                        _tell(event.name, follower[0], event.value, event.time)
            except HardwareError as error:
                if error.fields.get("closed"):
                    return
                time.sleep(RETRY_S)

    def _read_anew(self) -> None:
        """Events were lost: how is everything now?"""
        for (_, name), (told, read) in self._followers.copy().items():
            try:
                value = read()
            except HardwareError as error:  # nothing is told that wasn't read
                log.warning("%s could not be read after events were lost: %s", name, error)
                continue
            _tell(name, told, value, time.time())


def _tell(name: str, told: Told, value: Any, at: float) -> None:
    try:
        told(value, at)
    except Exception:  # one subscriber's fault is not the others'
        log.exception("a subscriber of %s failed", name)
