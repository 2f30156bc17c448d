"""The controllers that can run a sequence by themselves, and the way to stop them: ``SPIMState=Idle``, read back.

A controller keeps firing when its client has died. So it is idled at every start before anything else may move, at every end of
a volume, and by halt, stop, a vanished client and a hanging adapter, without waiting for any lock of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ._errors import DeviceError, HardwareError
from ._mmcore import Core

log = logging.getLogger("queuescope.hardware")

STATE, IDLE = "SPIMState", "Idle"
REFRESH = "RefreshPropertyValues"
"""With No, ASI's adapter answers from a cache of what was last written: such a readback proves nothing."""


class Scanners:
    """Every loaded device that has a state machine (scanner and piezo cards)."""

    def __init__(self, core: Core) -> None:
        self._core = core
        mm = core.mm
        self.labels = tuple(x for x in mm.getLoadedDevices() if x != "Core" and mm.hasProperty(x, STATE))

    def idle_one(self, label: str) -> None:
        """Stop what this one runs.

        Raises
        ------
        HardwareError
            Where it doesn't read Idle afterwards: it may still move, fire cameras and open a laser line.
        """
        mm = self._core.mm
        if mm.hasProperty(label, REFRESH) and self._core.read(label, label, REFRESH) == "No":
            self._core.ask(label, mm.setProperty, label, REFRESH, "Yes")
        self._core.write_exactly(label, label, STATE, IDLE)

    def idle(self) -> None:
        """Stop all of them; one failure keeps none from being tried.

        Raises
        ------
        DeviceError
            Naming those that may still be running.
        """
        failed = {}
        for label in self.labels:
            try:
                self.idle_one(label)
            except HardwareError as error:
                failed[label] = str(error)
        if failed:
            told = "; ".join(failed.values())
            raise DeviceError(
                f"the controller may still be running its sequence (moving, triggering cameras, opening a laser line): {told}:"
                " switch its laser output off by hand, then power-cycle the controller",
                thing=next(iter(failed)),
            )

    def idle_steps(self) -> dict[str, Callable[[], None]]:
        """`idle_one` of each, by label; takes no lock."""
        return {f"{label} {STATE}": partial(self.idle_one, label) for label in self.labels}
