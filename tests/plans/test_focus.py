"""Focus and calibration on a sample whose focus plane, sheet, pixels and views are known (R4, issue 5 item 6)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators

from queuescope.hardware import LimitError
from queuescope.layout import Layout
from queuescope.plans import Circumstances, FitError, ParameterError, check, templates
from queuescope.startup._outcomes import failure_of
from queuescope.startup._session import Session

from .test_templates import documents, positions, run

FOCUS_UM, SLOPE, OFFSET, PIXEL_UM, TURN_DEG = 12.3, 87.5, 3.2, 0.65, 17.0
"""What is true: scopes/demo-beads/mm.cfg."""
WHITE = {"channels": [{"name": "white"}]}
SWEEP = {"axis": "z", "range_um": 20.0, "step_um": 1.0, "camera": "wide", **WHITE}
PIEZO = {"view": "A", "piezo_um": [-20.0, 0.0, 20.0], "galvo_range_deg": 0.3, "steps": 15, **WHITE}
STAGE = {"camera": "wide", "step_um": 12.0, **WHITE}


def refused(session: Session, name: str, kwargs: dict[str, Any], words: str) -> FitError:
    """The error of a plan that must leave everything as it was, in the dark."""
    before = positions(session)
    with pytest.raises(FitError, match=words) as caught:
        run(session, name, kwargs)
    assert positions(session) == pytest.approx(before, abs=1e-3)
    assert session.hardware.light("lamp").on is False
    assert set(caught.value.fields) == {"thing", "value", "limit"}
    assert failure_of(caught.value).code == "fit_refused"
    return caught.value


def last_run(session: Session) -> list[tuple[str, dict[str, Any]]]:
    return documents(session, session.run_engine._run_start_uids[-1])


@pytest.mark.parametrize(
    ("metric", "form"), [("tenengrad", None), ("laplacian", "ome-tiff"), ("variance", None), ("dct_entropy", None)]
)
def test_the_focus_is_found(beads: Session, metric: str, form: str | None) -> None:
    """R4 focus_sweep: to a quarter of a step, with R², and the axis goes back; the frames read back from either format."""
    found = run(beads, "focus_sweep", {**SWEEP, "metric": metric, "format": form}).plan_result
    assert found["focus_um"] == pytest.approx(FOCUS_UM, abs=0.25)
    assert found["r2"] > 0.8
    assert len(found["positions_um"]) == len(found["sharpness"]) == 21
    assert found["datasets"] == {"wide": 21}
    assert (found["applied"], positions(beads)["z"]) == (False, 10.0)


def test_the_focus_found_is_gone_to_where_that_is_asked_for(beads: Session) -> None:
    found = run(beads, "focus_sweep", {**SWEEP, "apply": True}).plan_result
    assert positions(beads)["z"] == pytest.approx(found["focus_um"], abs=0.01)
    assert found["before_um"] == 10.0


def test_a_sweep_can_be_understood_from_its_run_alone(beads: Session) -> None:
    """Positions and sharpness with units, the image beside them, the fit in a stream of its own; valid documents."""
    outcome = run(beads, "focus_sweep", SWEEP)
    docs = documents(beads, outcome.run_start_uids[0])
    for kind, doc in docs:
        schema_validators[DocumentNames[kind]].validate(doc)
    streams = {doc["name"]: doc for kind, doc in docs if kind == "descriptor"}
    assert set(streams) == {"primary", "fit"}
    keys = streams["primary"]["data_keys"]
    assert keys["z"]["units"] == "um"
    assert keys["wide_sharpness"]["metric"] == "tenengrad"
    assert keys["wide"]["external"] == "STREAM:"
    (fit,) = (doc for kind, doc in docs if kind == "event" and doc["descriptor"] == streams["fit"]["uid"])
    assert fit["data"]["fit_centre"] == outcome.plan_result["focus_um"]
    assert fit["data"]["fit_accepted"] is True
    assert streams["fit"]["data_keys"]["fit_centre"]["units"] == "um"
    assert docs[0][1]["estimated_dose"]["lamp"] > 0
    events = [doc for kind, doc in docs if kind == "event" and doc["descriptor"] == streams["primary"]["uid"]]
    assert [doc["data"]["wide_sharpness"] for doc in events] == outcome.plan_result["sharpness"]


def test_an_empty_field_is_refused(beads: Session) -> None:
    beads.hardware.move({"xy.x": 1500.0})
    error = refused(
        beads, "focus_sweep", {**SWEEP, "apply": True}, r"wide sees an empty field: structure .*bring the sample"
    )
    assert error.fields["thing"] == "structure"
    assert last_run(beads)[-1][1]["exit_status"] == "fail"
    assert "empty field" in last_run(beads)[-1][1]["reason"]


def test_a_peak_at_the_edge_is_refused(beads: Session) -> None:
    beads.hardware.move({"z": 22.5})
    refused(
        beads, "focus_sweep", {**SWEEP, "apply": True}, r"peak at the edge: z 1\d.* move towards 12\.5 um, or widen"
    )


def test_a_flat_curve_is_refused(beads: Session) -> None:
    """Everything is equally sharp: a range far smaller than the depth of field."""
    beads.hardware.move({"z": FOCUS_UM})
    refused(
        beads,
        "focus_sweep",
        {**SWEEP, "range_um": 0.1, "step_um": 0.01, "metric": "variance"},
        "focus curve is flat|R²|edge",
    )


def test_a_bad_fit_is_refused_and_told_in_its_run(beads: Session) -> None:
    """R² against the limit that was asked for; the run keeps the fit that was refused."""
    error = refused(
        beads, "focus_sweep", {**SWEEP, "min_r2": 1.0, "apply": True}, r"R² 0\.\d+, at least 1 is asked for \(min_r2\)"
    )
    assert error.fields["limit"] == 1.0
    fits = [doc["data"] for kind, doc in last_run(beads) if kind == "event" and "fit_r2" in doc["data"]]
    assert [fit["fit_accepted"] for fit in fits] == [False]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"axis": "nowhere"}, "axis"),
        ({"range_um": math.nan}, "range_um.*finite"),
        ({"range_um": 3.0}, "4 positions, 5 to 1000"),
        ({"range_um": 200.0, "centre_um": 240.0}, r"leaves \[-50"),
        ({"metric": "beauty"}, "metric"),
        ({"min_r2": True}, "min_r2"),
    ],
)
def test_what_makes_no_sense_is_refused_at_submission(beads: Session, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        templates(beads.scope, beads.layout)["focus_sweep"].check({**SWEEP, **kwargs})


def test_a_sweep_over_a_limit_moves_nothing(beads: Session) -> None:
    beads.hardware.move({"z": 245.0})
    before = positions(beads)
    with pytest.raises(LimitError, match=r"z 25\d.0 um is outside"):
        run(beads, "focus_sweep", SWEEP)
    assert positions(beads) == before


def test_a_camera_that_fails_leaves_the_axis_where_it_was(beads: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = beads.hardware.measure_frame, iter(range(100))

    def failing(frame: Any, metric: Any) -> Any:
        if next(calls) == 4:
            raise LimitError("the disk is gone", thing="disk")
        return measure(frame, metric)

    monkeypatch.setattr(beads.hardware, "measure_frame", failing)
    with pytest.raises(FailedStatus):
        run(beads, "focus_sweep", SWEEP)
    assert positions(beads)["z"] == 10.0


def test_a_descent_stops_past_the_focus(beads: Session) -> None:
    """R4 head_focus_descent: never further than needed, then to the focus."""
    beads.hardware.move({"z": 40.0})
    lowest = [40.0]
    beads.run_engine.msg_hook = lambda msg: lowest.append(positions(beads)["z"]) if msg.command == "trigger" else None
    found = run(
        beads, "head_focus_descent", {"axis": "z", "descent_um": -80.0, "step_um": 2.0, "camera": "wide", **WHITE}
    ).plan_result
    assert found["focus_um"] == pytest.approx(FOCUS_UM, abs=0.6)
    assert positions(beads)["z"] == pytest.approx(found["focus_um"], abs=0.01)
    assert min(lowest) > 0, "it stopped soon after the focus"
    beads.run_engine.msg_hook = None
    beads.hardware.move({"xy.x": 1500.0})
    refused(
        beads,
        "head_focus_descent",
        {"axis": "z", "descent_um": -20.0, "step_um": 2.0, "camera": "wide", **WHITE},
        "empty",
    )


def test_the_sheet_is_calibrated_against_the_piezo(beads: Session) -> None:
    """R4 calibrate_piezo_galvo: slope to 2 %, offset to 1 µm; stored, acquire_volume uses it."""
    before = positions(beads)
    found = run(beads, "calibrate_piezo_galvo", {**PIEZO, "store": True}).plan_result
    assert found["slope_um_per_deg"] == pytest.approx(SLOPE, rel=0.02)
    assert found["offset_um"] == pytest.approx(OFFSET, abs=1.0)
    assert found["r2"] > 0.99
    assert [round(peak["piezo_um"]) for peak in found["peaks"]] == [-20, 0, 20]
    assert positions(beads) == pytest.approx(before, abs=1e-3)
    kept = json.loads(beads.layout.calibrations.read_text())["piezo_galvo"]["galvo_a"]
    assert (kept["objective"], kept["run_uid"], kept["r2"]) == ("air10", found["run_uid"], found["r2"])

    volume = {"views": "A", "slices": 3, "step_um": 10.0, "centre_piezo_um": 0.0, "calibration": "stored", **WHITE}
    asked: list[Any] = []
    beads.run_engine.msg_hook = lambda msg: asked.append(msg.args[0].program) if msg.command == "prepare" else None
    run(beads, "acquire_volume", volume)
    (view,) = asked[0].views
    middle = (0.0 - found["offset_um"]) / found["slope_um_per_deg"]
    assert view.galvo_deg[1] == pytest.approx(middle)


def test_a_calibration_that_is_not_stored_changes_nothing(beads: Session) -> None:
    run(beads, "calibrate_piezo_galvo", PIEZO)
    assert not beads.layout.calibrations.exists()


def test_a_sheet_that_is_not_found_is_refused(beads: Session) -> None:
    """An empty field, and a range in which the sheet never meets the focus; nothing is stored, all is back."""
    far = {**PIEZO, "galvo_range_deg": 0.02, "store": True}
    refused(beads, "calibrate_piezo_galvo", far, "at the edge|flat|R²|no peak")
    beads.hardware.move({"xy.x": 1500.0})
    refused(beads, "calibrate_piezo_galvo", {**PIEZO, "store": True}, "side_a sees an empty field")
    assert not beads.layout.calibrations.exists()


def test_the_stage_is_calibrated_against_the_camera(beads: Session) -> None:
    """R4 calibrate_stage_camera: pixel to 1 %, rotation to 0.3°; with binning the same, in unbinned pixels."""
    for binning in (None, 2):
        found = run(beads, "calibrate_stage_camera", {**STAGE, "binning": binning}).plan_result
        assert found["pixel_um"] == pytest.approx(PIXEL_UM, rel=0.01)
        assert found["rotation_deg"] == pytest.approx(TURN_DEG, abs=0.3)
        assert (found["mirrored"], found["objective"]) == (False, "air10")
        assert positions(beads)["xy.x"] == pytest.approx(0.0, abs=0.01)
    beads.hardware.move({"xy.x": 1500.0})
    refused(beads, "calibrate_stage_camera", STAGE, "wide sees an empty field")


def test_the_views_are_registered(beads: Session) -> None:
    """R4 register_views: the shift to a fifth of a pixel."""
    beads.hardware.move({"piezo_a": 3.2, "galvo_a.y": 0.0})
    found = run(beads, "register_views", {**WHITE, "store": True}).plan_result
    assert (found["x_px"], found["y_px"]) == pytest.approx((7.4, -4.6), abs=0.2)
    assert found["correlation"] > 0.5
    assert found["datasets"] == {"side_a": 1, "side_b": 1}
    assert json.loads(beads.layout.calibrations.read_text())["views"]["air10"]["x_px"] == found["x_px"]
    beads.hardware.move({"xy.x": 1500.0})
    refused(beads, "register_views", WHITE, "side_a sees an empty field")


def test_a_pixel_is_brought_into_the_middle(beads: Session) -> None:
    """R4 center_on_pixel: by the stored calibration; what lay there is then in the middle, seen in a second frame."""
    beads.hardware.move({"z": FOCUS_UM})
    run(beads, "calibrate_stage_camera", {**STAGE, "store": True})
    roi = {"roi": {"x_px": 0, "y_px": 0, "width_px": 256, "height_px": 256}}
    shot = run(beads, "snap", {"camera": "wide", **WHITE, **roi}).plan_result["run_uid"]
    where = {"run_uid": shot, "dataset": "wide", "index": 0, "x_frac": 0.625, "y_frac": 0.4375}
    found = run(beads, "center_on_pixel", where).plan_result
    turn = math.radians(TURN_DEG)
    right, down = -0.125 * 256 * PIXEL_UM, 0.0625 * 256 * PIXEL_UM  # the image must move by so much
    expected = (math.cos(turn) * right + math.sin(turn) * down, -math.sin(turn) * right + math.cos(turn) * down)
    assert (found["target"]["x_um"], found["target"]["y_um"]) == pytest.approx(expected, abs=0.3)
    assert (positions(beads)["xy.x"], positions(beads)["xy.y"]) == pytest.approx(expected, abs=0.3)

    refused(
        beads, "center_on_pixel", where, r"stale: the stage stands 2\d\.\d um from where it was taken.*go back there"
    )
    beads.hardware.move({"xy.x": 0.0, "xy.y": 0.0})
    beads.hardware.select("objective", beads.scope.objectives["air20"].label)
    refused(beads, "center_on_pixel", where, "taken with air10, air20 is in place")
    beads.hardware.select("objective", beads.scope.objectives["air10"].label)
    refused(beads, "center_on_pixel", {**where, "index": 5}, "has 1 frames, there is no frame 5")
    refused(beads, "center_on_pixel", {**where, "dataset": "moon"}, r"no dataset 'moon', it has \['wide'\]")
    refused(beads, "center_on_pixel", {**where, "run_uid": "0" * 36}, "no run 0000")
    beads.layout.calibrations.unlink()
    refused(beads, "center_on_pixel", where, "no stage calibration: run calibrate_stage_camera")


@pytest.mark.parametrize(
    ("name", "kwargs", "frames"),
    [
        ("focus_sweep", {**SWEEP, "apply": True}, {"wide": 21}),
        ("calibrate_piezo_galvo", {**PIEZO, "store": True}, {"side_a": 45}),
        ("calibrate_stage_camera", {**STAGE, "store": True}, {"wide": 5}),
        ("register_views", {**WHITE, "store": True}, {"side_a": 1, "side_b": 1}),
        ("head_focus_descent", {"axis": "z", "descent_um": -40.0, "camera": "wide", **WHITE}, {"wide": 9}),
    ],
)
def test_a_dry_run_goes_through_all_of_it(
    beads: Session, tmp_path: Path, name: str, kwargs: dict[str, Any], frames: dict[str, int]
) -> None:
    """Issue 5 item 3: moves checked, frames and dose told, nothing written."""
    here = Circumstances(positions=positions(beads), layout=Layout(tmp_path))
    found = check(templates(beads.scope, beads.layout)[name], kwargs, beads.scope, here)
    assert (found.ok, found.problems, found.frames) == (True, [], frames)
    assert found.dose["lamp"] > 0
    assert found.seconds > 0
    assert not list(tmp_path.iterdir())


def test_a_dry_run_knows_an_unknown_run(beads: Session, tmp_path: Path) -> None:
    here = Circumstances(positions=positions(beads), layout=Layout(tmp_path))
    where = {"run_uid": "0" * 36, "dataset": "wide", "index": 0, "x_frac": 0.5, "y_frac": 0.5}
    found = check(templates(beads.scope, beads.layout)["center_on_pixel"], where, beads.scope, here)
    assert not found.ok
    assert found.problems[0].loc == "run_uid"


def test_agents_may_not_descend() -> None:
    """R4 head_focus_descent: operators only, as home is."""
    import yaml

    import queuescope.startup as room

    rules = yaml.safe_load((Path(str(room.__file__)).parent / "user_group_permissions.yaml").read_text())
    assert ":^head_focus_descent$" in rules["user_groups"]["agent"]["forbidden_plans"]
    assert "forbidden_plans" not in rules["user_groups"]["operator"]


def test_the_arrays_are_the_files(beads: Session) -> None:
    """What is measured is what was stored: a frame read back has the mean that its event tells."""
    import zarr

    outcome = run(beads, "focus_sweep", {**SWEEP, "range_um": 8.0, "step_um": 2.0, "centre_um": 12.0})
    run_uid = outcome.run_start_uids[0]
    frames = np.asarray(zarr.open_array(beads.layout.volumes / f"{run_uid}_wide.ome.zarr" / "0", mode="r"))
    told = [
        doc["data"]["wide_mean"]
        for kind, doc in documents(beads, run_uid)
        if kind == "event" and "wide_mean" in doc["data"]
    ]
    assert told == pytest.approx([frame.mean() for frame in frames])
