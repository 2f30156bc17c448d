"""The bundled sample of beads: every template with its example, and those that find something without any parameter too."""

from __future__ import annotations

from typing import Any

import pytest

from queuescope.config import load_scope
from queuescope.plans import Circumstances, FitError, check, templates
from queuescope.startup._session import Session

from .test_templates import documents, positions, run

TEMPLATES = templates(load_scope("demo-beads", environ={}))
NEED_A_CLIENT = {"center_on_pixel": ("a client says in which run's frame it saw something", "no run 5e8f6c1a-run-uid")}
"""Examples that can't do anything by themselves: why, and what they are refused with. `test_focus` has them with a run."""
TRUE = {
    "focus_um": pytest.approx(12.3, abs=0.25),
    "slope_um_per_deg": pytest.approx(87.5, rel=0.02),
    "offset_um": pytest.approx(3.2, abs=0.5),
    "pixel_um": pytest.approx(0.65, rel=0.01),
    "rotation_deg": pytest.approx(17, abs=0.3),
    "x_px": pytest.approx(7.4, abs=0.2),
    "y_px": pytest.approx(-4.6, abs=0.2),
}
"""scopes/demo-beads/mm.cfg, as plans call it."""
FINDS = ("focus_sweep", "head_focus_descent", "calibrate_piezo_galvo", "calibrate_stage_camera", "register_views")
NO_PARAMETER = [name for name in FINDS if not any(f.is_required() for f in TEMPLATES[name].model.model_fields.values())]
CASES = [
    *((name, dict(one.example)) for name, one in sorted(TEMPLATES.items())),
    *((name, {}) for name in NO_PARAMETER),
]


@pytest.fixture
def started(beads: Session) -> Session:
    """As it stands after `queuescope up`."""
    beads.hardware.move({"z": 10.0, "piezo_a": 0.0, "piezo_b": 0.0, "galvo_a.y": 0.0})
    return beads


@pytest.mark.parametrize(
    ("name", "kwargs"), CASES, ids=lambda value: value if isinstance(value, str) else "" if value else "defaults"
)
def test_it_succeeds_as_its_check_said(started: Session, name: str, kwargs: dict[str, Any]) -> None:
    here = Circumstances(positions=positions(started), layout=started.layout)
    checked = check(started.templates[name], kwargs, started.scope, here)
    assert (checked.ok, not checked.problems) == (name not in NEED_A_CLIENT,) * 2
    if name in NEED_A_CLIENT:
        _, words = NEED_A_CLIENT[name]
        with pytest.raises(FitError, match=words):
            run(started, name, kwargs)
        return
    outcome = run(started, name, kwargs)
    assert outcome.exit_status == "success"
    told = outcome.plan_result if isinstance(outcome.plan_result, dict) else {}  # a protocol's is a list
    found = {key: value for key, value in told.items() if key in TRUE}
    assert found == {key: TRUE[key] for key in found}
    assert bool(found) == (name in FINDS)
    for uid in outcome.run_start_uids:
        assert documents(started, uid)[-1][1]["exit_status"] == "success"
    assert not any(light.on for light in started.hardware.state().lights.values())
