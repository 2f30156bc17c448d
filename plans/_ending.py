"""What a plan does at its end, whatever happens."""

from __future__ import annotations

from collections.abc import Callable

from bluesky import preprocessors as bpp
from bluesky.utils import RunEngineControlException

from ._template import PlanBody


def ending(plan: PlanBody, end: Callable[[], PlanBody]) -> PlanBody:
    """The plan, then ``end()`` however it ended, but for a halt; returns what the plan does.

    As bluesky's `finalize_wrapper`; but where a stop or an abort comes in the middle of the end, that is begun again: else half
    of what it puts back would stay as it is. So it must do no harm twice.
    """

    def whole() -> PlanBody:
        try:
            yield from end()
        except RunEngineControlException:
            yield from end()
            raise

    return (yield from bpp.finalize_wrapper(plan, whole))
