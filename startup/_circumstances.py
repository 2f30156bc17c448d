"""What the microscope is like, for a dry run: from what its hardware and its disk say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bluesky import Msg

from ..config import Scope
from ..hardware import (
    DoseError,
    DoseState,
    Hardware,
    HardwareState,
    LimitError,
    RecordingError,
)
from ..layout import Layout
from ..ledger import room_for
from ..plans import Circumstances, DryRun, Template, go_through


def circumstances_of(scope: Scope, layout: Layout, state: HardwareState, dose: DoseState | None) -> Circumstances:
    """``dose``: of the sample that light would count for; None: nobody asks."""
    turret = next(iter(scope.of_kind("objective")), None)
    label = state.labels.get(turret or "")
    names = [name for name, objective in scope.objectives.items() if objective.label == label]
    room = room_for(scope, layout)
    budget = {} if dose is None else dose.budget
    used = {} if dose is None else dose.used
    return Circumstances(
        positions=state.positions,
        objective=next(iter(names), None),
        dose_left={light: limit - used.get(light, 0.0) for light, limit in budget.items()},
        cameras=state.cameras,
        free_bytes=None if room is None else room.free - room.reserve,
        layout=layout,
    )


class First:
    """The RunEngine's side of a `protocol`: before its first step all of it is gone through."""

    def __init__(self, scope: Scope, layout: Layout, hardware: Hardware, templates: Mapping[str, Template]) -> None:
        self._scope, self._layout, self._hardware, self._templates = scope, layout, hardware, templates
        self.sample_id: str | None = None
        """For whom the plan says that its light counts."""

    async def look(self, msg: Msg) -> bool:
        """``Msg("check_first", None, name, parameters)``: True where the plan may begin.

        Raises
        ------
        LimitError, DoseError, RecordingError
            With everything that would stop it. Nothing has moved.
        """
        name, parameters = msg.args
        # In a thread: reading every device takes its time, and a pause must not wait for it.
        found = await asyncio.get_running_loop().run_in_executor(None, self._go_through, name, parameters)
        if not found.ok:
            kind = {"dose": DoseError, "frames": RecordingError}.get(found.problems[0].loc, LimitError)
            words = "; ".join(problem.msg for problem in found.problems)
            raise kind(f"{name} refused before its first step, nothing has moved: {words}")
        return True

    def _go_through(self, name: str, parameters: Any) -> DryRun:
        state, dose = self._hardware.state(), self._hardware.dose(self.sample_id)
        here = circumstances_of(self._scope, self._layout, state, dose)
        return go_through(self._templates[name], parameters, self._scope, here)
