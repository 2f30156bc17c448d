"""The pace of a microscope's volumes, by what its scope file says."""

from __future__ import annotations

from pathlib import Path

from ..config import Scope
from ._axes import Axes
from ._cameras import Cameras
from ._lights import Lights
from ._mmcore import Core
from ._pace import Pace
from ._scanners import Scanners
from ._software_pace import SoftwarePace
from ._spim_pace import SpimPace
from ._stage_pace import StagePace
from ._surface import VolumeProgram
from ._together import MultiCameras


def pace_of(
    core: Core,
    scope: Scope,
    axes: Axes,
    cameras: Cameras,
    together: MultiCameras,
    lights: Lights,
    scanners: Scanners,
    kept: Path,
) -> Pace[VolumeProgram]:
    """`Volume.trigger` of the scope file; ``kept`` remembers what a controller's run has changed (`Kept`)."""
    match scope.volume.trigger:
        case "tiger_spim":
            return SpimPace(core, scope, axes, cameras, lights, scanners, kept)
        case "mm_sequence":
            return StagePace(core, scope, axes, cameras, lights)
        case _:
            return SoftwarePace(axes, cameras, together)
