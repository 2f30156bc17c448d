"""What a plan that takes many rounds does before each: wait, if the disk has no room for it, instead of dying."""

from __future__ import annotations

from collections.abc import Mapping

from bluesky import Msg
from bluesky import plan_stubs as bps

from ._ending import ending
from ._template import PlanBody, PlanContext

LOOK_AGAIN_S = 1.0


def lights_off(context: PlanContext) -> PlanBody:
    """Close every light's gate, before something is waited for."""
    for light in context.scope.lights:
        yield from bps.abs_set(context.devices[light], False, wait=True)


def wait_for_space(context: PlanContext, frames: Mapping[str, int] | None = None) -> PlanBody:
    """Wait until the disk has room for the next round, with every light's gate closed; return at once where it has.

    While it waits the operation has ``hold: disk`` (`GET /api/ready`), and may be paused, stopped and aborted. Call it between
    rounds: outside `bps.create` … `bps.save`, with no volume under way.

    Parameters
    ----------
    frames
        Of the next round, by dataset; None: only what `storage.min_free_gb` keeps free counts.
    """
    look = Msg("disk_hold", None, dict(frames or {}))

    def wait() -> PlanBody:
        yield from lights_off(context)
        while True:
            yield from bps.checkpoint()
            yield from bps.sleep(LOOK_AGAIN_S)
            if (yield look) is None:
                return

    def over() -> PlanBody:
        yield Msg("disk_hold_over")

    if (yield look) is not None:
        yield from ending(wait(), over)
