"""The first new step of a script after something may have moved the microscope: is it as the step before left it? (R1.12)"""

from __future__ import annotations

from anyio import to_thread

from ..hardware import DoseState
from ..ledger import Left, Operation, Operations, read_control
from ._by_hand import by_hand
from ._context import Context
from ._microscope import read_hardware
from ._op_models import Submit
from ._problems import Problem

MOST_FOLLOWED = 10_000
"""Operations of which is known that their script has gone on with them."""
ASK_S = 1.0


class Drift:
    """Compares where there is a reason: the step before was replayed, a person had control, something was restarted."""

    def __init__(self, context: Context, operations: Operations) -> None:
        self._context, self._operations = context, operations
        self._followed: dict[str, None] = {}

    def submitted(self, key: str, new: bool) -> None:
        """A script whose step is replayed may have been away for long; one whose step is new is there."""
        self._followed.pop(key, None)
        if new:
            self._followed[key] = None
            if len(self._followed) > MOST_FOLLOWED:
                del self._followed[next(iter(self._followed))]

    async def restoring(self, asked: Submit) -> Left | None:
        """What must be restored before this operation; None where nothing differs, or nothing says that it may.

        Raises
        ------
        Problem
            ``state_drift`` with ``diff``, unless ``restore`` was asked for and moves can do it; ``busy`` while something else is
            queued or runs; ``hardware_unreachable``.
        """
        before = None if asked.after is None else await to_thread.run_sync(self._operations.by_key, asked.after)
        if before is None or before.left is None or not await self._may_differ(before):
            return None
        if await to_thread.run_sync(self._operations.active):
            words = (
                f"whether the microscope is as {asked.after} left it can't be told while something is queued or runs"
            )
            raise Problem("busy", words, {"Retry-After": "1"})
        tolerances = {name: axis.tolerance for name, axis in self._context.scope.axes().items()}
        diff = list(before.left.differences(await self._now(), tolerances))
        if not diff:
            return None
        if asked.restore and not any(one["what"] == "sample" for one in diff):
            return before.left
        words = "; ".join(f"{one['what']} was {one['was']} and is {one['now']}" for one in diff)
        help_ = (
            "open that sample again, or a step under another key" if asked.restore else "`restore: true` moves it back"
        )
        raise Problem("state_drift", f"the microscope is not as {asked.after} left it: {words}: {help_}", diff=diff)

    async def _may_differ(self, before: Operation) -> bool:
        if not before.ended or before.finished_at is None:
            return False  # this one follows it in the queue
        if before.key not in self._followed or self._context.scope.micromanager.process == "worker":
            return True
        control = await to_thread.run_sync(read_control, self._context.layout)
        if control.since is not None and control.since > before.finished_at:
            return True
        try:
            info = await self._context.hardware_info.ask(ASK_S)
        except Exception as error:
            raise Problem("hardware_unreachable", f"the hardware gave no answer: {error}") from None
        return info.started_at > before.finished_at

    async def _now(self) -> Left:
        state = await read_hardware(self._context)
        dose = await by_hand(self._context, DoseState, "dose")
        return Left(state.positions, state.labels, dose.sample_id)
