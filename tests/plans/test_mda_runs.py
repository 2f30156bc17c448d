"""`mda` on the demo widefield microscope: what a run holds, what it leaves moved, what stops it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bluesky.utils import FailedStatus

from queuescope.hardware import FocusError, RecordingError
from queuescope.hardware._ome_zarr import ZarrFiles
from queuescope.startup._session import Session

from .test_common import small, told  # noqa: F401 (a fixture)
from .test_templates import documents, run

SEQUENCE: dict[str, Any] = {
    "channels": [{"config": "DAPI", "exposure": 2}, {"config": "FITC", "exposure": 1, "do_stack": False}],
    "stage_positions": [{"x": 10, "y": 20, "z": 5, "name": "first"}, {"x": -10, "y": 0, "z": -5}],
    "z_plan": {"range": 2, "step": 1},
    "time_plan": {"interval": 0.2, "loops": 2},
}


def lines(session: Session, run_uid: str, dataset: str) -> list[dict[str, Any]]:
    text = (session.layout.volumes / f"{run_uid}_{dataset}.frames.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def of_stream(docs: list[tuple[str, dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    uids = [doc["uid"] for kind, doc in docs if kind == "descriptor" and doc["name"] == name]
    return [doc["data"] for kind, doc in docs if kind == "event" and doc["descriptor"] in uids]


def test_frames_land_by_index_with_where_they_were_taken(small: Session) -> None:  # noqa: F811
    """Issue 5, item 4; R4 mda: datasets by channel, an event for each frame, time points in ``rounds``."""
    small.hardware.move({"xy.x": 1.0, "xy.y": 2.0})
    small.hardware.move({"z": 3.0})
    outcome = run(small, "mda", {"sequence": SEQUENCE, "binning": 2})
    run_uid = outcome.run_start_uids[0]
    docs = documents(small, run_uid)
    assert told(docs) == {"camera_dapi": list(range(12)), "camera_fitc": list(range(4))}
    assert outcome.plan_result["datasets"] == {"camera_dapi": 12, "camera_fitc": 4} == docs[-1][1]["frames"]
    template = small.templates["mda"]
    estimate = template.estimate(template.check({"sequence": SEQUENCE}), small.scope)
    assert estimate.frames == outcome.plan_result["datasets"]
    assert docs[-1][1]["dose"]["lamp"] >= 0.999 * estimate.dose["lamp"] > 0
    assert docs[0][1]["channels"] == ["dapi", "fitc"]
    assert docs[0][1]["axes"] == ["c", "p", "t", "z"]

    wanted = [(t, p, z) for t in (0, 1) for p in (0, 1) for z in (0, 1, 2)]
    events = of_stream(docs, "dapi")
    assert [(e["index_t"], e["index_p"], e["index_z"]) for e in events] == wanted
    assert {(e["index_c"], e["index_g"]) for e in events} == {(0, -1)}
    assert [e["position_name"] for e in events] == ["first"] * 3 + [""] * 3 + ["first"] * 3 + [""] * 3
    places = [[10, 20, z] for z in (4, 5, 6)] + [[-10, 0, z] for z in (-6, -5, -4)]
    assert [[e["xy_x"], e["xy_y"], e["z"]] for e in events] == [pytest.approx(p, abs=0.05) for p in places * 2]
    on_disk = [line["position"] for line in lines(small, run_uid, "camera_dapi")]
    assert [[at["xy.x"], at["xy.y"], at["z"]] for at in on_disk] == [pytest.approx(p, abs=0.05) for p in places * 2]
    assert [(e["index_t"], e["index_z"]) for e in of_stream(docs, "fitc")] == [(0, 1), (0, 1), (1, 1), (1, 1)]

    rounds = of_stream(docs, "rounds")
    assert [r["due_s"] for r in rounds] == [0.0, 0.2]
    assert [r["outcome"] for r in rounds] == ["taken", "taken"]
    assert outcome.plan_result["late"] == sum(r["late"] for r in rounds)
    after = small.hardware.positions(("xy.x", "xy.y", "z"))
    assert after == pytest.approx({"xy.x": 1.0, "xy.y": 2.0, "z": 3.0}, abs=0.05)
    assert not any(light.on for light in small.hardware.state().lights.values())


def test_a_time_point_keeps_its_time(small: Session) -> None:  # noqa: F811
    """A second phase goes on where the first ended; nothing begins early."""
    times = {"time_plan": [{"interval": 0.3, "loops": 2}, {"interval": 0.5, "loops": 2}]}
    outcome = run(small, "mda", {"sequence": {**times, "channels": [{"config": "fitc", "exposure": 1}]}})
    rounds = of_stream(documents(small, outcome.run_start_uids[0]), "rounds")
    assert [r["due_s"] for r in rounds] == [0.0, 0.3, 0.8]
    assert all(r["began_s"] >= r["due_s"] for r in rounds)


def test_tiles_are_a_frame_apart(small: Session) -> None:  # noqa: F811
    """A grid that says no size has that of a frame as it is taken."""
    small.hardware.move({"xy.x": 0.0, "xy.y": 0.0})
    small.hardware.select("objective", small.scope.objectives["air20"].label)
    sequence = {"grid_plan": {"rows": 1, "columns": 2, "overlap": 25}}
    outcome = run(
        small, "mda", {"sequence": sequence, "roi": {"x_px": 0, "y_px": 0, "width_px": 256, "height_px": 128}}
    )
    places = [line["position"]["xy.x"] for line in lines(small, outcome.run_start_uids[0], "camera")]
    assert places == pytest.approx([-48.0, 48.0], abs=0.05)


SMALL: dict[str, Any] = {**SEQUENCE, "time_plan": None}


@pytest.mark.parametrize(("what", "failing", "taken"), [("record_frame", 2, 7), ("start_volume", 2, 4), ("move", 3, 3)])
def test_a_move_or_a_frame_that_fails_fails_the_run(
    small: Session,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    failing: int,
    taken: int,
) -> None:
    """Issue 5, item 4: pymmcore-plus logs it and goes on, with frames at the wrong place or index."""
    calls: list[Any] = []
    real = getattr(small.hardware, what)

    def fails(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) == failing:
            raise RecordingError(f"{what} failed")
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(small.hardware, what, fails)
        with pytest.raises(FailedStatus, match=f"{what} failed"):
            run(small, "mda", {"sequence": SMALL})
    docs = documents(small, small.run_engine._run_start_uids[-1])
    stop = docs[-1][1]
    assert stop["exit_status"] == "fail"
    assert sum(stop["frames"].values()) == taken
    assert told(docs) == {dataset: list(range(count)) for dataset, count in stop["frames"].items()}
    assert [len(of_stream(docs, stream)) for stream in ("dapi", "fitc")] == [
        stop["frames"].get(f"camera_{stream}", 0) for stream in ("dapi", "fitc")
    ]


def test_a_frame_of_a_stack_that_cant_be_written_fails_the_run(small: Session, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """R3.12: those before it count and have their events, and no others."""
    write = ZarrFiles.write

    def full(self: ZarrFiles, index: int, *more: Any) -> str:
        if index == 4:
            raise OSError(28, "No space left on device")
        return write(self, index, *more)

    monkeypatch.setattr(ZarrFiles, "write", full)
    sequence = {"channels": ["fitc"], "z_plan": {"range": 9, "step": 1}}
    with pytest.raises(FailedStatus):
        run(small, "mda", {"sequence": sequence})
    docs = documents(small, small.run_engine._run_start_uids[-1])
    assert (docs[-1][1]["exit_status"], docs[-1][1]["frames"]) == ("fail", {"camera": 4})
    assert "frame 4 of camera could not be written" in docs[-1][1]["reason"]
    assert told(docs) == {"camera": [0, 1, 2, 3]}
    assert [e["index_z"] for e in of_stream(docs, "primary")] == [0, 1, 2, 3]
    assert small.hardware.positions(("z",)) == pytest.approx({"z": 3.0}, abs=0.05), "back where it was"


FOCUSED: dict[str, Any] = {
    "channels": [{"config": "FITC", "exposure": 1}],
    "stage_positions": [{"x": 0, "y": 0, "z": 5}, {"x": 10, "y": 0, "z": 5}],
    "z_plan": {"range": 2, "step": 1},
    "autofocus_plan": {"axes": ["p"]},
}


def test_frames_are_as_far_off_as_the_focus_was_found(small: Session, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def focus(name: str, mode: str) -> Any:
        small.hardware.move({"z": 7.5})  # 2.5 µm above what the sequence says

    with monkeypatch.context() as patch:
        patch.setattr(small.hardware, "focus", focus)
        outcome = run(small, "mda", {"sequence": FOCUSED})
    places = [line["position"]["z"] for line in lines(small, outcome.run_start_uids[0], "camera")]
    assert places == pytest.approx([6.5, 7.5, 8.5] * 2)


@pytest.mark.parametrize(("on_focus_fail", "frames"), [("fail", None), ("skip", 3), ("last", 6)])
def test_a_focus_that_is_not_found(
    small: Session,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    on_focus_fail: str,
    frames: int | None,
) -> None:
    """R4 on_focus_fail: skip leaves out the position's frames until the next focusing there."""
    calls: list[str] = []

    def focus(name: str, mode: str) -> Any:
        calls.append(mode)
        if len(calls) == 2:
            raise FocusError("nothing in focus")

    kwargs = {"sequence": FOCUSED, "on_focus_fail": on_focus_fail}
    with monkeypatch.context() as patch:
        patch.setattr(small.hardware, "focus", focus)
        if frames is None:
            with pytest.raises(FailedStatus, match="nothing in focus"):
                run(small, "mda", kwargs)
            return
        outcome = run(small, "mda", kwargs)
    assert outcome.plan_result["datasets"] == {"camera": frames}
    assert outcome.plan_result.get("without_focus", 0) == 6 - frames
