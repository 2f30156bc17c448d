"""Every template on the real MMCore: what its run holds, what it returns, what it leaves moved and lit."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import zarr
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.utils import FailedStatus, RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from queuescope.hardware import FrameSettings, HardwareError, LimitError, RecordingError
from queuescope.hardware.simulated import decode
from queuescope.layout import resolve_uri
from queuescope.startup._session import Session

ITEM = {"item_uid": "item-1", "user": "ada", "user_group": "agent", "meta": {"op_key": "night-3.1", "session_id": "s1"}}
IMAGING: dict[str, dict[str, Any]] = {
    "snap": {"camera": "overview", "n": 3, "channels": [{"name": "gfp"}]},
    "z_stack": {"camera": "overview", "range_um": 4, "step_um": 2.0, "channels": [{"name": "gfp", "power_pct": 3}]},
    "burst": {"frames": 3, "channels": [{"name": "gfp"}]},
    "acquire_volume": {"slices": 3, "channels": [{"name": "gfp"}], "sheet_offset_deg": 0.5},
}
STATE: dict[str, dict[str, Any]] = {
    "read_state": {},
    "move_axis": {"axis": "piezo_a", "by": 7.5},
    "move_xy": {"x_um": 15.0, "y_um": -4.0},
    "move_z": {"z_um": 12.0},
    "home": {"axis": "piezo_a"},
    "set_light": {"light": "l488", "on": True, "power_pct": 3.0, "max_s": 0.2},
    "set_objective": {"name": "water20"},
    "set_temperature": {"target_c": 30.0, "wait": False},
    "autofocus": {"mode": "once"},
    "mark_position": {"name": "embryo"},
    "shutdown_safe": {},
}
MOVED = {
    "move_axis": {"piezo_a"},
    "move_xy": {"xy.x", "xy.y"},
    "move_z": {"z"},
    "home": {"piezo_a"},
}
"""What stands elsewhere afterwards; nothing after the others."""
LIT = {"set_light", *IMAGING}
TEMPLATES: dict[str, dict[str, Any]] = {**STATE, **IMAGING}


def run(session: Session, name: str, kwargs: dict[str, Any]) -> Any:
    metadata = session.run_metadata({**ITEM, "name": name, "kwargs": kwargs})
    return session.run_engine(session.plans[name](**kwargs), **metadata)


def documents(session: Session, run_uid: str) -> list[tuple[str, dict[str, Any]]]:
    lines = session.layout.document_log(run_uid).read_text().splitlines()
    return [(entry["name"], entry["doc"]) for entry in map(json.loads, lines)]


def positions(session: Session) -> dict[str, float]:
    return session.hardware.positions(tuple(session.scope.axes()))


def begin(session: Session) -> None:
    """Everything where a test expects it, whatever ran before."""
    session.hardware.lock_focus("autofocus", False)
    session.hardware.move({"piezo_a": 5.0, "z": 3.0})
    session.hardware.move({"xy.x": 0.0, "xy.y": 0.0})
    session.hardware.select("objective", session.scope.objectives["water40"].label)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_run_is_complete(session: Session, name: str) -> None:
    """One run with a valid document stream; the start document's contract; the plan's result (R3.13)."""
    begin(session)
    before = positions(session)
    outcome = run(session, name, TEMPLATES[name])
    (run_uid,) = outcome.run_start_uids
    assert outcome.plan_result["run_uid"] == run_uid

    docs = documents(session, run_uid)
    for kind, doc in docs:
        schema_validators[DocumentNames[kind]].validate(doc)
    (start,), (stop,) = ([doc for kind, doc in docs if kind == wanted] for wanted in ("start", "stop"))
    assert stop["exit_status"] == "success"
    if name in IMAGING:  # R5.6: what the hardware measured, beside what the plan estimated
        assert set(stop["dose"]) == {"l488"}
        assert stop["dose"]["l488"] >= 0.999 * start["estimated_dose"]["l488"] > 0
    else:
        assert stop["dose"] == {}
    assert {
        "op_key": "night-3.1",
        "attempt": 1,
        "item_uid": "item-1",
        "user": "ada",
        "user_group": "agent",
        "session_id": "s1",
        "sample_id": None,
        "scope": "demo-dispim",
        "plan_name": name,
        "plan_args": TEMPLATES[name],
    }.items() <= start.items()
    assert start["objective"]["name"] == "water40"
    assert start["channels"] == (["gfp"] if name in IMAGING else [])
    assert set(start["estimated_dose"]) == ({"l488"} if name in LIT else set())
    assert "pymmcore" in start["versions"]

    moved = {axis for axis, value in positions(session).items() if abs(value - before[axis]) > 0.02}
    assert moved == MOVED.get(name, set())
    assert not any(light.on for light in session.hardware.state().lights.values())


@pytest.mark.parametrize("name", sorted(IMAGING))
def test_the_frames_on_disk_are_those_of_the_camera(session: Session, name: str) -> None:
    """R3.2 frames go to disk, documents and results carry where they are; checksums were taken at the camera."""
    import xxhash

    outcome = run(session, name, IMAGING[name])
    run_uid = outcome.plan_result["run_uid"]
    docs = documents(session, run_uid)
    resources = {doc["data_key"]: doc for kind, doc in docs if kind == "stream_resource"}
    assert dict.fromkeys(resources, 3) == outcome.plan_result["datasets"] == docs[-1][1]["frames"]
    for dataset, resource in resources.items():
        path = resolve_uri(session.layout, session.scope, resource["parameters"]["uri_client"], "clients")
        frames = zarr.open_array(path / "0", mode="r")[:]
        lines = path.with_name(path.name.replace(".ome.zarr", ".frames.jsonl")).read_text().splitlines()
        taken = [json.loads(line)["checksum"] for line in lines]
        assert [f"xxh3_128:{xxhash.xxh3_128_hexdigest(frame.tobytes())}" for frame in frames] == taken
        told = [d["indices"] for kind, d in docs if kind == "stream_datum" and d["stream_resource"] == resource["uid"]]
        assert [index for i in told for index in range(i["start"], i["stop"])] == [0, 1, 2], dataset
    size = session.layout.document_log(run_uid).stat().st_size
    assert size < 20_000  # metadata only


def test_a_stack_has_its_positions(session: Session) -> None:
    outcome = run(session, "z_stack", {**IMAGING["z_stack"], "centre_um": 30.0})
    run_uid = outcome.plan_result["run_uid"]
    docs = documents(session, run_uid)
    lines = (session.layout.volumes / f"{run_uid}_overview.frames.jsonl").read_text().splitlines()
    assert [json.loads(line)["position"] for line in lines] == [  # as read back
        {**session.hardware.positions(tuple(session.scope.axes())), "z": z} for z in (28.0, 30.0, 32.0)
    ]
    (descriptor,) = (doc for kind, doc in docs if kind == "descriptor")
    configuration = descriptor["configuration"]["volume"]["data"]
    assert configuration["overview_z"] == [28.0, 30.0, 32.0]
    assert descriptor["configuration"]["volume"]["data_keys"]["overview_z"]["units"] == "um"
    assert (configuration["overview_light"], configuration["overview_power_pct"]) == ("l488", 3.0)
    assert configuration["overview_pixel_um"] > 0


def test_a_relative_move_that_would_leave_the_limits_moves_nothing(session: Session) -> None:
    before = positions(session)
    with pytest.raises(LimitError, match=r"piezo_a .* outside \[-200.0, 200.0\]"):
        run(session, "move_axis", {"axis": "piezo_a", "by": 399.0})
    assert positions(session) == pytest.approx(before)
    assert documents(session, session.run_engine._run_start_uids[-1])[-1][1]["exit_status"] == "fail"


def test_a_failed_frame_fails_the_run_and_says_why(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.12 fewer frames than asked for is a failed run; those that exist are counted."""
    take, calls = session.hardware.record_frame, []

    def record_frame(recording: str, settings: dict[str, FrameSettings], durable: bool) -> Any:
        calls.append(recording)
        if len(calls) == 3:
            raise RecordingError("overview gave no frame", frames_written={"overview": 2})
        return take(recording, settings, durable)

    monkeypatch.setattr(session.hardware, "record_frame", record_frame)
    with pytest.raises(FailedStatus):
        run(session, "snap", IMAGING["snap"])
    docs = documents(session, session.run_engine._run_start_uids[-1])
    stop = docs[-1][1]
    assert (stop["exit_status"], stop["frames"]) == ("fail", {"overview": 2})
    assert "overview gave no frame" in stop["reason"]


def test_files_that_cant_be_closed_fail_the_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def close_recording(_: str) -> Any:
        raise HardwareError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(session.hardware, "close_recording", close_recording)
        run_uid = run(session, "snap", IMAGING["snap"]).run_start_uids[0]
    stop = documents(session, run_uid)[-1][1]
    assert stop["exit_status"] == "fail"
    assert "the disk is gone" in stop["reason"]


def test_a_controllers_volume_is_told_as_it_was_programmed(session: Session) -> None:
    """Issue 3, item 4: the start document says who paced it; each frame's line says where it was and that nobody read it back."""
    outcome = run(session, "acquire_volume", {**IMAGING["acquire_volume"], "sheet_width_deg": 1.0})
    run_uid = outcome.run_start_uids[0]
    docs = documents(session, run_uid)
    assert docs[0][1]["volume_trigger"] == "tiger_spim"
    assert docs[0][1]["plan_args"]["sheet_width_deg"] == 1.0
    for camera, side in (("cam_a", "a"), ("cam_b", "b")):
        path = session.layout.data / "volumes" / f"{run_uid}_{camera}"
        lines = [json.loads(line) for line in path.with_suffix(".frames.jsonl").read_text().splitlines()]
        frames = zarr.open_array(f"{path}.ome.zarr/0", mode="r")
        for line, frame in zip(lines, frames, strict=True):
            stamp = decode(np.asarray(frame))
            assert stamp is not None
            assert line["programmed"] is True
            assert line["position"][f"piezo_{side}"] == pytest.approx(stamp.piezo_um, abs=2e-3)
            assert line["position"][f"galvo_{side}.y"] == pytest.approx(stamp.galvo_y_deg, abs=2e-4)
            assert stamp.galvo_x_deg == pytest.approx(0.5, abs=1e-3)
            assert stamp.lines == {6}


def test_a_deferred_pause_takes_effect_at_the_volumes_end(session: Session) -> None:
    """Issue 3, item 4: nothing is interrupted; when the RunEngine pauses, all frames are there and every light is off."""
    run_engine, waits = session.run_engine, []

    def hook(msg: Any) -> None:
        if msg.command == "trigger" and not waits:
            waits.append(msg)  # on the RunEngine's loop, which must not wait for itself
            asyncio.run_coroutine_threadsafe(run_engine._request_pause_coro(defer=True), run_engine.loop)

    run_engine.msg_hook = hook
    try:
        with pytest.raises(RunEngineInterrupted):
            run(session, "acquire_volume", IMAGING["acquire_volume"])
    finally:
        run_engine.msg_hook = None
    assert run_engine.state == "paused"
    docs = documents(session, run_engine._run_start_uids[-1])
    assert sum(d["indices"]["stop"] - d["indices"]["start"] for kind, d in docs if kind == "stream_datum") == 6
    assert docs[-1][0] != "stop"
    assert not any(light.on for light in session.hardware.state().lights.values())
    run_engine.resume()
    assert documents(session, run_engine._run_start_uids[-1])[-1][1]["exit_status"] == "success"


def test_any_bluesky_plan_may_use_a_camera(session: Session) -> None:
    """`bp.count` with two cameras of different size and an axis: files, events and frames agree."""
    devices = session.devices
    outcome = session.run_engine(bp.count([devices["cam_a"], devices["overview"], devices["z"]], num=2))
    docs = documents(session, outcome.run_start_uids[0])
    assert docs[-1][1]["frames"] == {"cam_a": 2, "overview": 2}
    shapes = {key: d["shape"] for kind, doc in docs if kind == "descriptor" for key, d in doc["data_keys"].items()}
    assert shapes == {"cam_a": [2048, 2048], "overview": [1024, 1024], "z": []}


def test_a_camera_outside_a_run_takes_nothing(session: Session) -> None:
    def plan() -> Any:
        yield from bps.stage(session.devices["cam_a"])
        yield from bps.trigger(session.devices["cam_a"], wait=True)

    with pytest.raises(FailedStatus) as failed:
        session.run_engine(plan())
    assert "no run is open" in str(failed.value.__cause__ or failed.value)
    session.devices["cam_a"].unstage()


def test_pixels_are_not_all_the_same(session: Session) -> None:
    """The demo camera's frames are images, not zeros: what is stored is what was acquired."""
    frame = session.hardware.snap("cam_a", FrameSettings(exposure_ms=5.0))
    assert frame.shape == (2048, 2048)
    assert np.ptp(frame) > 0


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("z_stack", {"camera": "overview", "range_um": 100, "step_um": 1.0, "channels": [{"name": "gfp"}]}),
        ("burst", {"cameras": ["overview"], "frames": 100, "rate_hz": 20.0, "channels": [{"name": "gfp"}]}),
        ("mda", {"camera": "overview", "sequence": {"channels": ["gfp"], "z_plan": {"range": 99, "step": 1}}}),
        ("mda", {"camera": "overview", "sequence": {"channels": ["gfp"], "time_plan": {"interval": 0, "loops": 100}}}),
    ],
)
def test_a_pause_takes_effect_between_two_frames(session: Session, name: str, kwargs: dict[str, Any]) -> None:
    """While it is paused no frame is taken and no light is on; it goes on where it was, and no frame is taken twice."""
    run_engine, waits = session.run_engine, []

    def hook(msg: Any) -> None:
        if msg.command == "collect" and not waits:
            waits.append(msg)
            asyncio.run_coroutine_threadsafe(run_engine._request_pause_coro(defer=True), run_engine.loop)

    run_engine.msg_hook = hook
    try:
        with pytest.raises(RunEngineInterrupted):
            run(session, name, kwargs)
    finally:
        run_engine.msg_hook = None
    run_uid = run_engine._run_start_uids[-1]
    (recording,) = [r for r in session.hardware._microscope._recorder._recordings.values() if r.plan.run_uid == run_uid]
    assert recording.drain(10)
    before = session.hardware.recording(recording.id)
    assert 0 < before.datasets["overview"].frames_written < 100
    assert not any(light.on for light in session.hardware.state().lights.values())
    after = session.hardware.recording(recording.id, seen=before.version, wait_s=0.3)
    assert after.datasets["overview"].frames_written == before.datasets["overview"].frames_written
    run_engine.resume()
    docs = documents(session, run_uid)
    frames = 101 if name == "z_stack" else 100
    told = [d["indices"] for kind, d in docs if kind == "stream_datum"]
    assert [index for i in told for index in range(i["start"], i["stop"])] == list(range(frames))
    assert docs[-1][1]["frames"] == {"overview": frames}
