"""A volume in software time: move, wait, expose, one slice after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ._axes import Axes
from ._cameras import Cameras, Frame
from ._errors import ArgumentError
from ._pace import Running, axes_of, in_order, targets_of
from ._recording import Recording
from ._surface import VolumeProgram, VolumeView
from ._together import MultiCameras


class SoftwarePace:
    """Needs nothing of the hardware but axes and cameras."""

    def __init__(self, axes: Axes, cameras: Cameras, together: MultiCameras) -> None:
        self._axes, self._cameras, self._together = axes, cameras, together

    def check(self, program: VolumeProgram) -> None:
        refuse_sheet(program, "in software time nothing sweeps the sheet; move the scanner's x axis to place it")

    def can_wait(self, program: VolumeProgram) -> bool:
        return True

    def dose(self, program: VolumeProgram) -> dict[str, float]:
        asked: dict[str, float] = {}
        for view in program.views:
            exposer = self._together if self._together.has(view.camera) else self._cameras
            for light, dose in exposer.dose(view.camera, view.settings).items():
                asked[light] = asked.get(light, 0.0) + len(view.piezo_um) * dose
        return asked

    def moves(self, program: VolumeProgram) -> list[str]:
        return axes_of(program)

    def run(self, run: Running[VolumeProgram]) -> None:
        for view, index in in_order(run.program):
            if not run.goes_on():
                return
            position = self._axes.move(targets_of(view, index))
            run.recording.exposing()
            for dataset, frame in self._frames(view, run.recording):
                run.record(dataset, frame, position)

    def _frames(self, view: VolumeView, recording: Recording) -> Iterator[tuple[str, Frame]]:
        """One exposure: a frame, or one of each camera that exposes together."""
        if not self._together.has(view.camera):
            yield view.dataset, self._cameras.take(view.camera, view.settings, recording.account)
            return
        datasets = self._together.datasets(view.camera, recording)
        for camera, frame in self._together.take(view.camera, view.settings, recording.account).items():
            yield datasets[camera], frame

    def halt_steps(self) -> Mapping[str, Callable[[], object]]:
        return {}


def refuse_sheet(program: VolumeProgram, why: str) -> None:
    """
    Raises
    ------
    ArgumentError
        Where a view asks for a swept sheet.
    """
    for view in program.views:
        for name in ("sheet_width_deg", "sheet_offset_deg"):
            value = getattr(view, name)
            if value is not None:
                raise ArgumentError(
                    f"{view.dataset}: {name} {value:g} needs volume.trigger: tiger_spim (scope file): {why}",
                    thing=f"program.views.{name}",
                    value=value,
                )
