"""A light's switches and its power as properties or shutters, each set, waited for and read back."""

from __future__ import annotations

from ..config import Light, Scope, Switch
from ._errors import DeviceError, ReadbackError
from ._mmcore import Core, same
from ._surface import Verification

POWER_TOLERANCE = 0.0005
"""Allowed difference of a power's readback, as a share of full scale."""


class LightControls:
    """What `Lights` does to MMCore, one control at a time."""

    def __init__(self, core: Core, scope: Scope) -> None:
        self._core = core
        self._lights = scope.lights

    def _power_pct(self, name: str) -> float:
        power = self._lights[name].power
        if power == "fixed":
            return 100.0
        return 100 * self._core.read_number(name, power.label, power.property) / power.full_scale

    def _set_power(self, name: str, power_pct: float) -> None:
        power = self._lights[name].power
        if power == "fixed":
            return
        value = power.full_scale * power_pct / 100
        self._core.write_number(name, power.label, power.property, value, POWER_TOLERANCE * power.full_scale)

    def _set_switch(self, name: str, switch: Switch, on: bool) -> None:
        if switch.property is not None:
            self._core.write_exactly(name, switch.label, switch.property, switch.on if on else switch.off)
            return
        self._core.ask(name, self._core.mm.setShutterOpen, switch.label, on)
        self._core.wait(name, switch.label)
        if self._is_on(name, switch) != on:
            wanted, got = ("open", "closed") if on else ("closed", "open")
            raise ReadbackError(
                f"{name}: {switch.label} was set {wanted} and reads {got}",
                thing=name,
                value=wanted,
                got=got,
                limit=0,
            )

    def _is_on(self, name: str, switch: Switch) -> bool:
        if switch.property is None:
            return bool(self._core.ask(name, self._core.mm.getShutterOpen, switch.label))
        reads = self._core.read(name, switch.label, switch.property)
        if same(reads, switch.on):
            return True
        if same(reads, switch.off):
            return False
        raise DeviceError(
            f"{name}: {switch.label}.{switch.property} reads {reads!r}, which is neither on ({switch.on!r})"
            f" nor off ({switch.off!r})",
            thing=name,
        )

    @staticmethod
    def _verification(light: Light) -> Verification:
        return Verification.VERIFIED if light.verify == "refresh" else Verification.ASSUMED
