"""Joysticks and wheels rest while a plan runs, and work again after it, whatever way it ended (R5.7).

Those that were switched off for a plan stand in a file from before until after: a process that dies in between is followed by
one that switches them on. One that a person had switched off before stays off.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from ..config import Joystick
from ._errors import DeviceError, HardwareError
from ._mmcore import Core, same

log = logging.getLogger("queuescope.hardware")


class Joysticks:
    """The scope's ``safety.joysticks``. For any number of threads."""

    def __init__(self, core: Core, joysticks: tuple[Joystick, ...], file: Path) -> None:
        self._core, self._file = core, file
        self._lock = threading.Lock()
        self._by_name = {f"{one.label}.{one.property}": one for one in joysticks}
        self._held = self._left()
        for problem in self.restore():
            log.error("%s", problem)

    def hold(self) -> tuple[str, ...]:
        """Switch off those that are on; returns the names (``LABEL.PROPERTY``) of all that rest.

        Raises
        ------
        DeviceError
            Where one can't be switched off. The others are on again.
        """
        try:
            with self._lock:
                for name, one in self._by_name.items():
                    if name not in self._held and same(self._core.read(name, one.label, one.property), one.on):
                        self._held.append(name)
                        self._write()
                        self._core.write_exactly(name, one.label, one.property, one.off)
                return tuple(self._held)
        except HardwareError as error:
            self.restore()
            raise DeviceError(f"{error}: a hand could move the axes during a plan", thing=name) from error

    def restore(self) -> list[str]:
        """Switch on what `hold` switched off, each in its own step; returns what did not work, which is tried again at the
        next plan's end and at the next start. Never raises.
        """
        problems = []
        with self._lock:
            for name in list(self._held):
                one = self._by_name.get(name)
                try:
                    if one is not None:
                        self._core.write_exactly(name, one.label, one.property, one.on)
                    self._held.remove(name)
                except HardwareError as error:
                    problems.append(f"{name} was not switched on again: {error}")
            self._write()
        return problems

    def _left(self) -> list[str]:
        try:
            return [str(name) for name in json.loads(self._file.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError):
            log.error("%s can't be read: every joystick is switched on", self._file)
            return list(self._by_name)

    def _write(self) -> None:
        if not self._by_name and not self._file.exists():
            return
        try:
            if self._held:
                self._file.write_text(json.dumps(self._held), encoding="utf-8")
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            log.error("%s could not be written: %s", self._file, error)
