"""What a plan tells a camera before its first frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..formats import Format
from ..hardware import DatasetPlan, FrameSettings


def in_series(camera: str, series: str) -> str:
    """The dataset of a camera's frames in a series (a channel, a place); the camera's own name where it has but one."""
    return f"{camera}_{series}" if series else camera


@dataclass(frozen=True)
class CameraPlan:
    """How frames are taken, and what their datasets are (``bps.prepare``)."""

    settings: FrameSettings = field(default_factory=FrameSettings)
    frames: int | None = None
    """Frames that will come, where the plan knows."""
    axis: Literal["t", "z"] = "t"
    step_um: float | None = None
    channel: str | None = None
    format: Format | None = None
    """None: the scope file's (`storage.format`)."""

    def datasets(self, cameras: Iterable[str], series: str) -> tuple[DatasetPlan, ...]:
        """One for each camera."""
        return tuple(
            DatasetPlan(
                name=in_series(camera, series),
                camera=camera,
                frames=self.frames,
                axis=self.axis,
                step_um=self.step_um,
                channel=self.channel,
                format=self.format,
                **of_image(self.settings),
            )
            for camera in cameras
        )


def of_image(settings: FrameSettings) -> dict[str, Any]:
    """What an image's own metadata say of how it was taken: fields of a `DatasetPlan`."""
    exposure_ms = settings.exposure_ms if settings.exposure_ms else None  # 0 is what no camera does
    return {"exposure_ms": exposure_ms, "light": settings.light, "power_pct": settings.power_pct}
