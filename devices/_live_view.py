"""A camera that is looked at: frames in no file, one after the other, as long as somebody looks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ophyd.ophydobj import OphydObject
from ophyd.status import Status

from ..hardware import FrameSettings, Hardware
from ..reading import Shown, Window
from ._recordings import RunRecordings
from ._status import Exposes, in_thread


@dataclass(frozen=True)
class LivePlan:
    """What is looked at (``bps.prepare``)."""

    camera: str
    settings: FrameSettings


class LiveView(Exposes, OphydObject):
    """Each ``trigger`` takes one frame, unrecorded, and shows it in the window that staging opens.

    Light is on during the exposures only, and counts for the sample that is open, as all light does.
    """

    def __init__(self, *, name: str, hardware: Hardware, recordings: RunRecordings, address: Path) -> None:
        super().__init__(name=name)
        self._hardware, self._recordings, self._address = hardware, recordings, address
        self._window: Window | None = None
        self._plan: LivePlan | None = None
        self._pixel_um, self._saturation = 0.0, 0
        self._before: dict[str, float] = {}
        self.frames = 0
        """Since it was staged."""
        self.dose: dict[str, float] = {}
        """By light: what they gave, in % × s, as the hardware measured it."""

    @property
    def looked(self) -> bool:
        """Whether anybody has looked since it was staged."""
        return self._window is not None and self._window.looked_at is not None

    @property
    def idle_s(self) -> float:
        """Seconds since anybody looked, or since it was staged."""
        if self._window is None:
            return 0.0
        looked_at = self._window.looked_at
        return time.monotonic() - (self._window.opened_at if looked_at is None else looked_at)

    def stage(self) -> list[Any]:
        self._address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.unstage()
        self._window, self.frames, self.dose = Window(self._address), 0, {}
        return [self]

    def unstage(self) -> list[Any]:
        if self._window is not None:
            self._window.close()
        self._window = self._plan = None
        return [self]

    def prepare(self, value: LivePlan) -> Status:
        """Say what is looked at; sets the exposure time."""

        def configure() -> None:
            state = self._hardware.configure_camera(value.camera, exposure_ms=value.settings.exposure_ms)
            self._pixel_um, self._saturation = state.pixel_um, 2**state.bit_depth - 1
            self._before = dict(self._hardware.dose().used)
            self._plan = value

        return in_thread(configure, self)

    def trigger(self) -> Status:
        self._exposing = in_thread(self._take, self)
        return self._exposing

    def _take(self) -> None:
        plan, window = self._plan, self._window
        if plan is None or window is None:
            raise RuntimeError(f"{self.name} looks at nothing: stage it, and prepare it with a LivePlan")
        began = time.time()
        try:
            image = self._hardware.snap(plan.camera, plan.settings)
        finally:
            self._count()
        window.show(Shown(image, plan.camera, self.frames, began, self._pixel_um, self._saturation))
        self.frames += 1

    def _count(self) -> None:
        """What the newest frame gave, for the run's stop document too."""
        used = dict(self._hardware.dose().used)
        given = {light: dose - self._before.get(light, 0.0) for light, dose in used.items()}
        self._before = used
        for light, dose in given.items():
            if dose > 0:
                self.dose[light] = self.dose.get(light, 0.0) + dose
                self._recordings.count({light: dose})

    def read(self) -> dict[str, dict[str, Any]]:
        now = time.time()
        return {
            f"{self.name}_frames": {"value": self.frames, "timestamp": now},
            f"{self.name}_idle_s": {"value": round(self.idle_s, 3), "timestamp": now},
        }

    def describe(self) -> dict[str, dict[str, Any]]:
        source = "plan:live"
        return {
            f"{self.name}_frames": {"source": source, "dtype": "integer", "shape": []},
            f"{self.name}_idle_s": {"source": source, "dtype": "number", "shape": [], "units": "s"},
        }

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    @property
    def hints(self) -> dict[str, list[str]]:
        return {"fields": []}
