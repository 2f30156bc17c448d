"""All lights at once, in one direction only."""

from __future__ import annotations

from typing import Any

from ophyd.status import Status

from ..hardware import DeviceError, LightOff, LimitError
from ._settings import Setting
from ._status import in_thread


class LightsOff(Setting):
    """``set(False)`` closes every gate and switches every emission off, each in its own step: one failure keeps no other
    light from being tried. It fails where a light may still be on, naming it. There is no way on.
    """

    group = "lights"
    dtype = "boolean"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outcome: tuple[LightOff, ...] = ()
        """What became of each light, the last time."""

    def get(self) -> bool:
        """Whether any light was left on, the last time."""
        return not all(light.off for light in self.outcome)

    def check_value(self, value: bool) -> None:
        if value is not False:
            raise LimitError(
                f"{self.name} can only be set to False (all off), not to {value!r}: switch lights on one by one",
                thing=self.name,
                value=repr(value),
                limit=[False],
            )

    def set(self, value: bool) -> Status:
        self.check_value(value)
        return in_thread(self._off, self)

    def _off(self) -> None:
        self.outcome = self._hardware.lights_off(emission=True)
        burning = [light for light in self.outcome if not light.off]
        if burning:
            told = "; ".join(f"{light.light}: {light.error}" for light in burning)
            raise DeviceError(f"lights that may still be on: {told}: switch them off by hand", thing=burning[0].light)
