"""What is needed to take the same image again, as every descriptor of an image carries it."""

from __future__ import annotations

import time
from typing import Any

from ..config import Scope
from ..hardware import CameraState, FrameSettings, Hardware

_UNITS = {"exposure_ms": "ms", "pixel_um": "um", "power_pct": "%"}


class ImagingConfiguration:
    """Of any camera: exposure, binning, ROI, gain and pixel size; light and power; objective, filters, presets, properties.

    Keys are ``{dataset}_exposure_ms``, ``{dataset}_objective``, ``{dataset}_emission`` …: what stands in the light path stands
    under each dataset (a camera's name, or one that begins with it), since a descriptor is often all that a reader has.
    """

    def __init__(self, scope: Scope, hardware: Hardware) -> None:
        self._scope, self._hardware = scope, hardware
        self._labelled = scope.of_kind("objective", "state", "config_group")
        self._properties = scope.of_kind("property")

    def label(self, camera: str) -> str:
        """A camera's label in the Micro-Manager configuration."""
        return str(self._scope.devices[camera].label)

    def values(
        self, camera: str, settings: FrameSettings, channel: str | None, dataset: str | None = None
    ) -> dict[str, Any]:
        """Read now; what can't be read raises. ``dataset``: None where it has its camera's name."""
        state: CameraState = self._hardware.configure_camera(camera)
        found: dict[str, Any] = {
            "exposure_ms": state.exposure_ms if settings.exposure_ms is None else settings.exposure_ms,
            "binning": state.binning,
            "roi": list(state.roi),
            "bit_depth": state.bit_depth,
            "pixel_um": state.pixel_um,
            "light": settings.light or "",
            "power_pct": self._power_pct(settings),
            "channel": channel or "",
        }
        if state.gain is not None:
            found["gain"] = state.gain
        found |= {name: self._hardware.label(name) for name in self._labelled}
        found |= {name: self._hardware.value(name) for name in self._properties}
        return {f"{dataset or camera}_{key}": value for key, value in found.items()}

    def _power_pct(self, settings: FrameSettings) -> float:
        """What the light's power will be: the hardware takes the lowest that is allowed where none is asked for."""
        if settings.light is None:
            return 0.0
        if settings.power_pct is not None:
            return float(settings.power_pct)
        light = self._scope.lights.get(settings.light)
        return 0.0 if light is None else light.limits_pct[0]

    def describe(self, camera: str, values: dict[str, Any], dataset: str | None = None) -> dict[str, dict[str, Any]]:
        """Data keys of `values`."""
        own = f"mm:{self.label(camera)}"
        described: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            name = key.removeprefix(f"{dataset or camera}_")
            part = self._scope.devices.get(name)
            source = own if part is None else f"mm:{part.label}"
            units = _UNITS.get(name) or getattr(part, "units", "")
            described[key] = {"source": source, **_kind(value)} | ({"units": units} if units else {})
        return described

    @staticmethod
    def reading(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The same as ophyd's readings."""
        now = time.time()
        return {key: {"value": value, "timestamp": now} for key, value in values.items()}


def _kind(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"dtype": "array", "shape": [len(value)]}
    if isinstance(value, str):
        return {"dtype": "string", "shape": []}
    return {"dtype": "number" if isinstance(value, float) else "integer", "shape": []}
