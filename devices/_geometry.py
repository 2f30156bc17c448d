"""Which part of its chip a camera reads out, and how it bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ophyd.status import Status

from ..hardware import CameraState, Hardware, LimitError
from ._settings import Setting
from ._status import in_turn


@dataclass(frozen=True)
class Geometry:
    """``None`` leaves a part as it is."""

    binning: int | None = None
    roi: tuple[int, int, int, int] | None = None
    """x, y, width, height in unbinned pixels."""
    field_um: tuple[float, float] | None = None
    """Width and height of a frame in the sample: read, never set."""


class CameraGeometry(Setting):
    """``set(Geometry(binning=2))`` changes it and reads it back; `locate` tells what to set to have it as it is now."""

    group = "cameras"

    def __init__(self, *, camera: str, hardware: Hardware, label: str, parent: Any) -> None:
        super().__init__(name=f"{camera}_geometry", hardware=hardware, label=label, parent=parent)
        self._camera = camera

    def get(self) -> str:
        state = self._hardware.configure_camera(self._camera)
        return f"binning {state.binning}, roi {list(state.roi)}"

    def check_value(self, value: Geometry) -> None:
        if not isinstance(value, Geometry) or value.field_um is not None:
            raise LimitError(
                f"{self.name} is set to a Geometry of binning and roi, not to {value!r}",
                thing=self.name,
                value=repr(value),
                limit=None,
            )

    def set(self, value: Geometry) -> Status:
        self.check_value(value)
        return in_turn(lambda: self._hardware.configure_camera(self._camera, None, value.binning, value.roi), self)

    def locate(self) -> dict[str, Geometry]:
        state: CameraState = self._hardware.configure_camera(self._camera)
        field = (state.width * state.pixel_um, state.height * state.pixel_um)
        here = Geometry(state.binning, state.roi)
        return {"setpoint": here, "readback": Geometry(state.binning, state.roi, field)}
