"""Frames by the clock while a temperature changes. R4 temperature_burst."""

from __future__ import annotations

from typing import Any

import pytest

from queuescope.plans import ParameterError
from queuescope.startup._session import Session

from .test_adaptive import events
from .test_templates import documents, run

BURST = {"frames": 2, "cameras": ["overview"], "binning": 4, "channels": [{"name": "gfp"}]}


def ramp(session: Session, by_c: float, **more: Any) -> dict[str, Any]:
    target = round(float(session.hardware.value("chamber")) + by_c, 3)
    return {"target_c": target, "do": {"plan": "burst", "kwargs": BURST}, "interval_s": 0.3, "rounds": 60, **more}


def test_bursts_follow_a_temperature_until_it_is_reached(session: Session) -> None:
    """One before, and the last one finds it reached; the setpoint stays; each reading is an event."""
    kwargs = ramp(session, -0.52)  # the tolerance is 0.5
    outcome = run(session, "temperature_burst", kwargs)
    result, docs = outcome.plan_result, documents(session, outcome.run_start_uids[0])
    assert result["reached"] is True
    seen = [one["chamber"] for one in events(docs, "temperature")]
    assert 2 <= len(seen) < 60
    assert (seen[0], seen[-1]) == (result["before"], result["after"])
    assert abs(seen[-1] - kwargs["target_c"]) <= 0.5
    assert all(abs(one - kwargs["target_c"]) > 0.5 for one in seen[:-1])
    assert result["datasets"] == {"overview": 2 * len(seen)} == docs[-1][1]["frames"]
    assert [one["due_s"] for one in events(docs, "rounds")] == pytest.approx([0.3 * n for n in range(len(seen))])
    assert docs[0][1]["channels"] == ["gfp"]
    assert not any(light.on for light in session.hardware.state().lights.values())


def test_a_temperature_that_isnt_reached_is_told(session: Session) -> None:
    outcome = run(session, "temperature_burst", ramp(session, -3.0, rounds=2))
    assert outcome.plan_result["reached"] is False
    assert outcome.plan_result["datasets"] == {"overview": 4}


def test_a_temperature_outside_its_limits_is_refused(session: Session) -> None:
    template = session.templates["temperature_burst"]
    with pytest.raises(ParameterError, match="target_c"):
        template.check({**ramp(session, 0), "target_c": 60.0})
    estimate = template.estimate(template.check(ramp(session, 0)), session.scope)
    assert estimate.frames == {"overview": 120}
