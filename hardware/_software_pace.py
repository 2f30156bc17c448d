"""A volume in software time: move, wait, expose, one slice after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ._axes import Axes
from ._cameras import Cameras
from ._errors import ArgumentError
from ._pace import Running, axes_of, in_order, targets_of
from ._surface import VolumeProgram


class SoftwarePace:
    """Needs nothing of the hardware but axes and cameras."""

    can_wait = True

    def __init__(self, axes: Axes, cameras: Cameras) -> None:
        self._axes, self._cameras = axes, cameras

    def check(self, program: VolumeProgram) -> None:
        refuse_sheet(program, "in software time nothing sweeps the sheet; move the scanner's x axis to place it")

    def dose(self, program: VolumeProgram) -> dict[str, float]:
        asked: dict[str, float] = {}
        for view in program.views:
            for light, dose in self._cameras.dose(view.camera, view.settings).items():
                asked[light] = asked.get(light, 0.0) + len(view.piezo_um) * dose
        return asked

    def moves(self, program: VolumeProgram) -> list[str]:
        return axes_of(program)

    def run(self, run: Running[VolumeProgram]) -> None:
        for view, index in in_order(run.program):
            if not run.goes_on():
                return
            position = self._axes.move(targets_of(view, index))
            frame = self._cameras.take(view.camera, view.settings, run.recording.account)
            run.record(view.dataset, frame, position)

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
