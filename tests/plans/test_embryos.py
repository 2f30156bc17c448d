"""Each embryo has a calibration, a power, datasets and a dose of its own. R4 multi_embryo_round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from queuescope.hardware.simulated import decode
from queuescope.plans import ParameterError
from queuescope.startup._session import Session

from .test_templates import begin, documents, positions, run

ROUND: dict[str, Any] = {
    "embryos": [
        {
            "id": "e1",
            "position": {"x_um": 10, "y_um": 0},
            "calibration": {"slope_um_per_deg": 50.0, "offset_um": 5.0},
            "power_pct": 3.0,
            "role": "test",
        },
        {"id": "e2", "position": {"x_um": 20, "y_um": 0}, "role": "control"},
    ],
    "do": {
        "plan": "acquire_volume",
        "kwargs": {"views": "A", "slices": 3, "centre_piezo_um": 20.0, "channels": [{"name": "gfp", "power_pct": 1.0}]},
    },
}


def test_each_embryo_is_taken_with_its_own_calibration_and_power(session: Session) -> None:
    """The sheet follows the piezo by each embryo's own slope, read from the frames; powers and roles are in the run."""
    begin(session)
    session.hardware.set_sample("fish", {})
    try:
        outcome = run(session, "multi_embryo_round", ROUND)
        by_position = session.hardware.dose("fish").by_position
    finally:
        session.hardware.set_sample(None, {})
    run_uid, docs = outcome.run_start_uids[0], documents(session, outcome.run_start_uids[0])
    assert outcome.plan_result["datasets"] == {"cam_a_e1": 3, "cam_a_e2": 3}
    start = docs[0][1]
    assert start["embryos"]["e1"]["role"] == "test"
    assert start["embryos"]["e1"]["calibration"] == {"slope_um_per_deg": 50.0, "offset_um": 5.0}
    assert start["positions"]["e2"] == {"x_um": 20.0, "y_um": 0.0, "z_um": None}
    assert start["channels"] == ["gfp"]
    powers = {}
    for kind, doc in docs:
        if kind == "descriptor":
            powers |= {k: v for c in doc["configuration"].values() for k, v in c["data"].items() if "power_pct" in k}
    assert powers == {"cam_a_e1_power_pct": 3.0, "cam_a_e2_power_pct": 1.0}
    assert set(by_position) == {"e1", "e2"}
    for name, slope, offset in (("e1", 50.0, 5.0), ("e2", 100.0, 0.0)):
        frames = zarr.open_array(session.layout.volumes / f"{run_uid}_cam_a_{name}.ome.zarr/0", mode="r")
        for frame in frames:
            stamp = decode(np.asarray(frame))
            assert stamp is not None
            assert stamp.galvo_y_deg == pytest.approx((stamp.piezo_um - offset) / slope, abs=1e-3)
    here = positions(session)
    assert (here["xy.x"], here["piezo_a"]) == (pytest.approx(20, abs=0.1), pytest.approx(5.0, abs=0.1))
    assert not any(light.on for light in session.hardware.state().lights.values())


def test_a_time_lapse_repeats_it(session: Session) -> None:
    do = {"plan": "multi_embryo_round", "kwargs": {**ROUND, "do": {"plan": "snap", "kwargs": {"camera": "overview"}}}}
    do["kwargs"]["embryos"] = [{"id": "e1", "position": {"x_um": 0, "y_um": 0}}]
    outcome = run(session, "time_lapse", {"do": do, "interval_s": 0, "rounds": 2})
    assert outcome.plan_result["datasets"] == {"overview_e1": 2}


def test_the_estimate_is_the_sum_over_the_embryos(session: Session) -> None:
    template = session.templates["multi_embryo_round"]
    estimate = template.estimate(template.check(ROUND), session.scope)
    assert estimate.frames == {"cam_a_e1": 3, "cam_a_e2": 3}
    assert estimate.dose["l488"] == pytest.approx(3 * 0.01 * (3.0 + 1.0))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "power": ({"power_pct": 7.0}, r"e1: .*power_pct"),
    "slope": (
        {"calibration": {"slope_um_per_deg": 1.0}},
        r"embryos: e1: slices: galvo_a\.y would go over \[19, 21\] deg, outside",
    ),
    "twice": ({"id": "e2"}, "names an embryo twice"),
    "id": ({"id": "E 1"}, r"embryos\.0\.id"),
    "position": ({"position": "nowhere"}, "there is no position 'nowhere'"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_an_embryo_cannot_have_is_refused(session: Session, case: str) -> None:
    more, words = REFUSED[case]
    first, second = ROUND["embryos"]
    with pytest.raises(ParameterError, match=words):
        session.templates["multi_embryo_round"].check({**ROUND, "embryos": [{**first, **more}, second]})


def test_a_calibration_is_for_volumes_and_a_power_for_channels(session: Session) -> None:
    check = session.templates["multi_embryo_round"].check
    snap = {"plan": "snap", "kwargs": {"camera": "overview"}}
    with pytest.raises(ParameterError, match="embryos: e1: snap takes no calibration"):
        check({**ROUND, "do": snap})
    embryo = {"id": "e1", "position": {"x_um": 0, "y_um": 0}, "power_pct": 1.0}
    with pytest.raises(ParameterError, match="embryos: e1: power_pct belongs to a channel"):
        check({"embryos": [embryo], "do": snap})
