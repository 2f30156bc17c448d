"""Runs that the hardware process takes by itself: volumes, stacks and bursts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp

from ..devices import ProgramFlyer, ProgramPlan
from ._template import PlanBody


def fly(flyer: ProgramFlyer, plan: ProgramPlan, metadata: Mapping[str, Any], *, waits: bool) -> PlanBody:
    """One run with everything that a program takes, to its end.

    Parameters
    ----------
    flyer
        The device, staged.
    waits
        The program can be held before each exposure: a pause takes effect there. Else it takes effect when all frames are
        taken.

    Returns
    -------
    dict
        ``run_uid``; frames written by dataset (``datasets``); ``seconds`` from the first exposure until the last frame was on
        disk.
    """

    def frames() -> PlanBody:
        yield from bps.checkpoint()
        yield from bps.kickoff(flyer, wait=True)
        while not flyer.ended:
            if waits:
                yield from bps.checkpoint()
            yield from bps.trigger(flyer, wait=True)
            yield from bps.collect(flyer, name="primary")

    def end() -> PlanBody:
        """However it ended: stop what still runs, then tell of every frame that is on disk."""
        yield from bps.stop(flyer)
        yield from bps.collect(flyer, name="primary")

    run_uid = yield from bps.open_run({"detectors": [dataset.camera for dataset in plan.datasets], **metadata})
    yield from bps.prepare(flyer, plan, wait=True)
    yield from bps.declare_stream(flyer, name="primary", collect=True)
    yield from bpp.finalize_wrapper(frames(), end)
    yield from bps.checkpoint()  # a pause that was asked for meanwhile takes effect now
    taken, seconds = flyer.frames_written, flyer.seconds
    yield from bps.close_run()
    return {"run_uid": run_uid, "datasets": taken, "seconds": round(seconds, 3)}
