"""Parameters that are the same everywhere: channels, roi, binning, focus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from bluesky.utils import FailedStatus

from queuescope.hardware import FocusError, LimitError, RecordingError
from queuescope.startup._session import Session, open_session

from .test_templates import documents, run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A widefield microscope: frames of 512 × 512."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(tmp_path_factory.mktemp("small")))
        patch.setenv("QUEUESCOPE_SCOPE", "demo-widefield")
        patch.setenv("QUEUESCOPE_MICROMANAGER__PROCESS", "worker")
        patch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "0")
        opened = open_session()
    yield opened
    opened.hardware.close()


def told(docs: list[tuple[str, dict[str, Any]]]) -> dict[str, list[int]]:
    """By dataset: the indices that stream documents tell, in order."""
    resources = {doc["uid"]: doc["data_key"] for kind, doc in docs if kind == "stream_resource"}
    found: dict[str, list[int]] = {name: [] for name in resources.values()}
    for kind, doc in docs:
        if kind == "stream_datum":
            found[resources[doc["stream_resource"]]] += range(doc["indices"]["start"], doc["indices"]["stop"])
    return found


TWO = [{"name": "fitc"}, {"name": "cy5"}]
MANY: dict[str, tuple[str, dict[str, Any]]] = {
    "snap": ("snap", {"n": 3, "channels": TWO}),
    "one stack after the other": ("z_stack", {"range_um": 4, "step_um": 2, "channels": TWO, "order": "cz"}),
    "all channels at each slice": ("z_stack", {"range_um": 4, "step_um": 2, "channels": TWO, "order": "zc"}),
}


@pytest.mark.parametrize("case", sorted(MANY))
def test_each_channel_has_a_dataset_of_its_own(small: Session, case: str) -> None:
    """R4 channels: [...]: one dataset for each camera and channel, and each descriptor says which light and filters."""
    name, kwargs = MANY[case]
    before = small.hardware.positions(("z",))
    outcome = run(small, name, kwargs)
    docs = documents(small, outcome.run_start_uids[0])
    assert outcome.plan_result["datasets"] == {"camera_fitc": 3, "camera_cy5": 3} == docs[-1][1]["frames"]
    assert told(docs) == {"camera_fitc": [0, 1, 2], "camera_cy5": [0, 1, 2]}
    assert docs[0][1]["channels"] == ["fitc", "cy5"]
    for stream, emission in (("fitc", "Chroma-HQ535"), ("cy5", "Chroma-HQ700")):
        (descriptor,) = (doc for kind, doc in docs if kind == "descriptor" and doc["name"] == stream)
        data = next(c["data"] for c in descriptor["configuration"].values() if f"camera_{stream}_channel" in c["data"])
        assert data[f"camera_{stream}_channel"] == stream
        assert data[f"camera_{stream}_emission"] == emission
        assert data[f"camera_{stream}_pixel_um"] > 0
    estimate = small.templates[name].estimate(small.templates[name].check(kwargs), small.scope)
    assert estimate.frames == outcome.plan_result["datasets"]
    assert docs[-1][1]["dose"]["lamp"] >= 0.999 * estimate.dose["lamp"]
    assert small.hardware.positions(("z",)) == pytest.approx(before)
    lines = (small.layout.volumes / f"{outcome.run_start_uids[0]}_camera_cy5.frames.jsonl").read_text().splitlines()
    if name == "z_stack":
        z = before["z"]
        assert [json.loads(line)["position"]["z"] for line in lines] == pytest.approx([z - 2, z, z + 2])


def test_roi_and_binning_are_set_before_and_put_back_after(small: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4 roi, binning: whatever happens to the run."""
    roi = {"x_px": 64, "y_px": 128, "width_px": 256, "height_px": 128}
    before = small.hardware.configure_camera("camera")
    outcome = run(small, "z_stack", {"range_um": 4, "step_um": 2, "roi": roi, "binning": 2})
    docs = documents(small, outcome.run_start_uids[0])
    (descriptor,) = (doc for kind, doc in docs if kind == "descriptor")
    assert descriptor["data_keys"]["camera"]["shape"] == [64, 128]
    data = descriptor["configuration"]["volume"]["data"]
    assert (data["camera_binning"], data["camera_roi"]) == (2, [64, 128, 256, 128])
    assert small.hardware.configure_camera("camera") == before

    with monkeypatch.context() as patch:

        def no_frame(*_: Any) -> Any:
            raise RecordingError("camera gave no frame", frames_written={"camera": 0})

        patch.setattr(small.hardware, "record_frame", no_frame)
        with pytest.raises(FailedStatus):
            run(small, "snap", {"roi": roi})
    assert small.hardware.configure_camera("camera") == before

    with pytest.raises(FailedStatus) as refused:
        run(small, "snap", {"roi": {**roi, "x_px": 500}})
    assert isinstance(refused.value.__cause__, LimitError)
    assert "must lie on its chip of 512 × 512" in str(refused.value)
    assert small.hardware.configure_camera("camera") == before


@pytest.mark.parametrize("on_focus_fail", ["fail", "skip", "last"])
def test_what_happens_where_the_focus_is_not_found(
    small: Session, monkeypatch: pytest.MonkeyPatch, on_focus_fail: str
) -> None:
    """R4 focus: none | lock, on_focus_fail: fail | skip | last."""
    kwargs = {"n": 2, "focus": "lock", "on_focus_fail": on_focus_fail}
    outcome = run(small, "snap", kwargs)
    assert outcome.plan_result["datasets"] == {"camera": 2}
    assert not small.hardware.focus_state("autofocus").enabled, "the lock is released after the frames"
    lock_focus = small.hardware.lock_focus

    def lost(name: str, on: bool, offset: float | None = None) -> Any:
        if on:
            raise FocusError("autofocus has not locked")
        return lock_focus(name, on, offset)

    with monkeypatch.context() as patch:
        patch.setattr(small.hardware, "lock_focus", lost)
        if on_focus_fail == "fail":
            with pytest.raises(FailedStatus, match="autofocus has not locked"):
                run(small, "snap", kwargs)
            return
        outcome = run(small, "snap", kwargs)
    assert outcome.exit_status == "success"
    assert outcome.plan_result["datasets"] == {"camera": 0 if on_focus_fail == "skip" else 2}
    assert outcome.plan_result.get("without_focus", 0) == (1 if on_focus_fail == "skip" else 0)


def test_a_stack_of_the_locked_axis_lets_the_lock_go_first(small: Session) -> None:
    outcome = run(small, "z_stack", {"range_um": 4, "step_um": 2, "focus": "lock"})
    assert outcome.plan_result["datasets"] == {"camera": 3}
    assert not small.hardware.focus_state("autofocus").enabled
