"""The hardware may be another process than a moment ago: what devices remember of the old one counts no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from ..hardware import Hardware, HardwareGoneError, HardwareInfo, HardwareTimeout, ReleasedError

log = logging.getLogger("queuescope.devices")

PAUSE_S = 0.1


class Reconnection:
    """Asked before a plan begins.

    Parameters
    ----------
    hardware
        Connects again by itself; a restarted process has another `HardwareInfo.instance`.
    devices
        Those with a method ``hardware_restarted`` are told when it has.
    """

    def __init__(self, hardware: Hardware, devices: Mapping[str, Any]) -> None:
        self._hardware, self._devices = hardware, devices
        self._instance = hardware.info().instance

    def wait(self, timeout_s: float) -> HardwareInfo:
        """Wait until the hardware would carry a plan out, and make every device forget the one before.

        A restarted process that waits for a person (`HardwareInfo.waits`) is waited for as long as the person takes.

        Raises
        ------
        ReleasedError
            Where a person has handed it to another program.
        HardwareGoneError, HardwareTimeout
            Where it has not come back within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                info = self._hardware.info()
                if info.stage == "ready":
                    break
                if info.stage == "released":  # perhaps for days: nothing must begin by itself when it ends
                    raise ReleasedError(str(info.waits), thing="hardware")
                if info.stage == "waiting":
                    deadline = time.monotonic() + timeout_s
            except (HardwareGoneError, HardwareTimeout):
                if time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)
        if info.instance != self._instance:
            log.warning("the hardware was restarted (pid %d): devices forget what they knew of it", info.pid)
            for device in self._devices.values():
                forget = getattr(device, "hardware_restarted", None)
                if forget is not None:
                    forget()
            self._instance = info.instance
        return info
