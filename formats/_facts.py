"""What is known of a dataset's image, whatever format it goes to. What nobody recorded is None, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LightFacts:
    """The light of a channel."""

    name: str
    wavelength_nm: float | None = None
    power_pct: float | None = None
    laser: bool = False

    @property
    def color(self) -> str:
        """RRGGBB in which a channel that it excites is shown: about that of the fluorescence; white where unknown."""
        for below, color in ((430, "0000FF"), (475, "00FFFF"), (520, "00FF00"), (580, "FFBF00"), (700, "FF0000")):
            if self.wavelength_nm is not None and self.wavelength_nm < below:
                return color
        return "FFFFFF" if self.wavelength_nm is None else "FF00FF"


@dataclass(frozen=True)
class ObjectiveFacts:
    label: str | None = None
    na: float | None = None
    magnification: float | None = None
    """Pitch of the camera's pixels / their size in the sample."""


@dataclass(frozen=True)
class CameraFacts:
    name: str
    label: str | None = None
    """In the Micro-Manager configuration."""
    binning: int | None = None


@dataclass(frozen=True)
class ImageFacts:
    """One dataset."""

    run_uid: str
    name: str
    frame_shape: tuple[int, int]
    dtype: str
    """NumPy's name."""
    axes: tuple[str, ...] = ("t",)
    """What counts the frames, slowest first."""
    sizes: tuple[int, ...] = (1,)
    pixel_um: float | None = None
    step_um: float | None = None
    """Distance of two frames along z."""
    channel: str | None = None
    exposure_ms: float | None = None
    light: LightFacts | None = None
    emission: str | None = None
    """Emission filter."""
    objective: ObjectiveFacts | None = None
    camera: CameraFacts | None = None
    bit_depth: int | None = None
    """Bits of a pixel that mean something."""
    acquired_at: float | None = None
    """Seconds since the epoch."""
    about: Mapping[str, str] = field(default_factory=dict)
    """Names of what it belongs to: scope, sample_id, session_id, position …"""

    @property
    def color(self) -> str:
        return self.light.color if self.light is not None else "FFFFFF"
