"""`bench plans` on the tests' session: what it measures is there (how long it takes is no test's business)."""

from __future__ import annotations

import pytest

from queuescope.benchmarks import plans
from queuescope.startup._session import Session


@pytest.mark.parametrize("case", plans.CASES, ids=lambda case: case.plan)
def test_each_case_takes_as_many_frames_as_it_has_steps(session: Session, case: plans.Case) -> None:
    """A step is a frame: by the plan's own result."""
    result = plans.run(session, case.plan, case.kwargs(3)).plan_result
    assert list(result["datasets"].values()) == [3]


def test_jitter_is_told_for_every_round_but_the_first(session: Session) -> None:
    assert len(plans.jitter(session, 2)) == 1


def test_a_volume_that_the_controller_steps_has_one_view(session: Session) -> None:
    """The same by whoever steps it: what a slice takes is divided by their number."""
    result = plans.run(session, "acquire_volume", plans.volume(3)).plan_result
    assert result["datasets"] == {plans.FLOWN_CAMERA: 3}


def test_what_the_check_tells_is_held_against_what_is_taken(session: Session) -> None:
    """With the distances of the moves, from where the axes stand."""
    template = session.templates["tile_scan"]
    alone = template.estimate(template.check(template.example), session.scope).seconds
    assert plans.estimated_s(session, template) > alone
