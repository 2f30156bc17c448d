"""An autofocus: ``set`` focuses once, or engages and releases the focus lock."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

from ophyd.status import Status

from ..config import Autofocus as AutofocusSettings
from ..hardware import FocusState, Hardware, LimitError, NotAllowedError
from ._events import HardwareEvents
from ._settings import Setting, is_number
from ._status import Pauses, in_turn

ONCE = ("full", "incremental")


class FocusOffset(Setting):
    """The offset that an autofocus keeps from what it looks at, as its adapter counts it."""

    dtype = "number"

    def __init__(self, *, name: str, parent: AutofocusDevice) -> None:
        super().__init__(name=name, hardware=parent._hardware, label=parent.label, parent=parent, events=parent._events)
        self.settings = parent.settings
        self.units = parent.settings.offset_units

    def get(self) -> float:
        offset = self._hardware.focus_state(self.parent.name).offset
        if offset is None:
            raise NotAllowedError(f"{self.name} has no limits (scope.yml: devices.{self.parent.name}.offset)")
        return offset

    def _extra_description(self) -> dict[str, Any]:
        if self.settings.offset is None:
            return {}
        low, high = self.settings.offset
        return {"lower_ctrl_limit": low, "upper_ctrl_limit": high}

    def check_value(self, value: float) -> None:
        low, high = self.settings.offset or (math.inf, -math.inf)
        if not is_number(value) or not low <= value <= high:
            raise LimitError(
                f"{self.name} {value!r} {self.units} is outside [{low:g}, {high:g}]"
                f" (scope.yml: devices.{self.parent.name}.offset)",
                thing=self.name,
                value=repr(value),
                limit=[low, high],
            )

    def set(self, value: float) -> Status:
        """Engage the lock at this offset; done when it has locked."""
        self.check_value(value)
        return self.parent.engage(float(value))


class AutofocusDevice(Setting):
    """``set(True)`` engages the focus lock and is done when it has locked, ``set(False)`` releases it; ``set("full")`` and
    ``set("incremental")`` focus once, and are done when the stage stands still and was read back inside its limits.

    It reads whether it has locked. While it is engaged nobody else moves its stage (`FocusLockError`). It has no ``trigger``:
    whoever reads a microscope must not move it.

    A lock outlives the plan that engaged it, and a pause: the RunEngine's ``stop(success=True)`` at both ends only what
    hasn't locked yet. ``stop()`` by itself releases.
    """

    group = "autofocus"
    event = "focus"
    dtype = "boolean"

    def __init__(
        self, *, name: str, hardware: Hardware, settings: AutofocusSettings, events: HardwareEvents | None = None
    ) -> None:
        super().__init__(name=name, hardware=hardware, label=settings.label, events=events)
        self.settings = settings
        self.offset = FocusOffset(name=f"{name}_offset", parent=self)
        self._pauses = Pauses()

    def state(self) -> FocusState:
        return self._hardware.focus_state(self.name)

    def get(self) -> bool:
        return self.state().locked

    def check_value(self, value: bool | str) -> None:
        if not isinstance(value, bool) and not (isinstance(value, str) and value in ONCE):
            raise LimitError(
                f"{self.name} is set to True (lock), False (release) or one of {list(ONCE)} (once), not to {value!r}",
                thing=self.name,
                value=repr(value),
                limit=[False, True, *ONCE],
            )

    def set(self, value: bool | Literal["full", "incremental"]) -> Status:
        self.check_value(value)
        if value is True:
            return self.engage()
        if value is False:
            return in_turn(lambda: self._hardware.lock_focus(self.name, False), self)
        self._pauses.busy = in_turn(self._pauses.allow(lambda: self._hardware.focus(self.name, value)), self)
        return self._pauses.busy

    def engage(self, offset: float | None = None) -> Status:
        """Engage the lock, at an offset; done when it has locked."""
        self._pauses.busy = in_turn(
            self._pauses.allow(lambda: self._hardware.lock_focus(self.name, True, offset)), self
        )
        return self._pauses.busy

    def stop(self, *, success: bool = False) -> None:
        if self._pauses.stops(success):
            self._hardware.stop((self.settings.axis,))

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        state, now = self.state(), time.time()
        values: dict[str, Any] = {f"{self.name}_axis": state.axis}
        if state.offset is not None:
            values[self.offset.name] = state.offset
        return {key: {"value": value, "timestamp": now} for key, value in values.items()}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        source = f"mm:{self.label}"
        described: dict[str, dict[str, Any]] = {f"{self.name}_axis": {"source": source, "dtype": "string", "shape": []}}
        return described if self.settings.offset is None else described | self.offset.describe()
