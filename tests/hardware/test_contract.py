"""One suite for the local object and for the proxy (R0.4): values, types, enums, arrays and errors are the same."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xxhash

from queuescope.hardware import (
    SURFACE,
    ArgumentError,
    CameraState,
    ConnectedHardware,
    DatasetPlan,
    DatasetState,
    DoseState,
    EventBatch,
    FrameAt,
    FrameSettings,
    HaltedError,
    HaltReport,
    HardwareError,
    HardwareEvent,
    HardwareInfo,
    LightOff,
    LightState,
    LimitError,
    NotAllowedError,
    RecordingError,
    RecordingPlan,
    RecordingState,
    ReleasedError,
    SafetyState,
    UnknownNameError,
    Verification,
    VolumeProgram,
    VolumeView,
)

Plan = Callable[..., RecordingPlan]
View = Callable[..., VolumeView]


def test_info_says_who_answers(hardware: ConnectedHardware) -> None:
    """R0.4: identity and versions."""
    info = hardware.info()
    assert isinstance(info, HardwareInfo)
    assert (info.scope, info.versions["mmcore"], info.versions["pymmcore_plus"]) == ("demo-dispim", "12.5.1", "0.18.1")
    assert (info.pid == os.getpid()) == (info.mode == "worker")
    assert hardware.info() == info


def test_the_state_holds_everything_and_nothing_is_missing(hardware: ConnectedHardware) -> None:
    """R0.4, R3.10: every axis, label, value, camera and light is read; nothing failed."""
    state = hardware.state()
    assert set(state.positions) == {
        *("xy.x", "xy.y", "z", "f", "piezo_a", "piezo_b"),
        *("galvo_a.x", "galvo_a.y", "galvo_b.x", "galvo_b.y"),
    }
    assert set(state.labels) == {"emission", "objective"}
    assert set(state.values) == {"chamber", "laser_line"}
    assert set(state.cameras) == {"cam_a", "cam_b", "overview"}
    assert set(state.lights) == {"l405", "l488", "l561", "l637", "led"}
    assert state.errors == {}
    assert isinstance(state.values["chamber"], float)
    assert isinstance(state.lights["l488"].state, Verification)
    assert isinstance(state.cameras["cam_a"].roi, tuple)


def test_a_move_returns_the_readbacks(hardware: ConnectedHardware) -> None:
    """R0.4: axes move together; a component that had no target stays where it is."""
    hardware.move({"xy.y": 33.3})
    got = hardware.move({"z": 12.5, "xy.x": 10, "galvo_a.x": -1.25, "piezo_b": np.float64(3)})
    assert got == pytest.approx({"z": 12.5, "xy.x": 10, "galvo_a.x": -1.25, "piezo_b": 3}, abs=0.02)
    assert list(got) == ["z", "xy.x", "galvo_a.x", "piezo_b"]
    before = hardware.positions(("xy.y",))["xy.y"]
    for x in range(5):
        hardware.move({"xy.x": x * 1.001})
    assert hardware.positions(["xy.y"]) == {"xy.y": before}  # type: ignore[arg-type]
    assert hardware.move({}) == {}


@pytest.mark.parametrize(
    ("target", "value"),
    [(250.001, 250.001), (-1e12, -1e12), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")],
)
def test_a_target_outside_the_limits_moves_nothing(hardware: ConnectedHardware, target: float, value: Any) -> None:
    """R0.4, R3.8: all targets are checked before the first axis moves; the error names thing, value and limit."""
    before = hardware.positions(("z", "piezo_a"))
    with pytest.raises(LimitError, match=r"devices\.z\.limits") as caught:
        hardware.move({"piezo_a": 5, "z": target})
    assert type(caught.value) is LimitError
    assert caught.value.fields == {"thing": "z", "value": value, "limit": [-50.0, 250.0]}
    assert hardware.positions(("z", "piezo_a")) == before


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("move", ({"z": True},), "move.targets.z: Input should be a valid number, not True (bool)"),
        ("move", ({"z": "1"},), "move.targets.z: Input should be a valid number, not '1' (str)"),
        ("move", ("z",), "move.targets: Input should be a valid dictionary, not 'z' (str)"),
        ("set_light", ("l488", 1), "set_light.on: Input should be a valid boolean, not 1 (int)"),
        ("positions", ("z",), "positions.axes: Input should be a valid tuple, not 'z' (str)"),
        (
            "snap",
            ("cam_a", {"exposure_ms": -1, "gate": 3}),
            "snap.settings.gate: Extra inputs are not permitted, not 3 (int)",
        ),
        ("snap", ("cam_a",), "snap: missing a required argument: 'settings'"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(
    hardware: ConnectedHardware, name: str, arguments: tuple[Any, ...], message: str
) -> None:
    """R0.4, R0.5: in both modes with the same words, and nothing happens."""
    before = hardware.state().model_dump(exclude={"time"})
    with pytest.raises(ArgumentError) as caught:
        hardware._call(name, *arguments)  # type: ignore[attr-defined]
    assert str(caught.value) == message
    assert hardware.state().model_dump(exclude={"time"}) == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("positions", (("nowhere",),)),
        ("move", ({"nowhere": 1.0},)),
        ("stop", (("nowhere",),)),
        ("select", ("nowhere", "BP525")),
        ("select", ("emission", "BP999")),
        ("labels", ("cam_a",)),
        ("label", ("z",)),
        ("light", ("sun",)),
        ("value", ("z",)),
        ("set_value", ("z", 1.0)),
        ("set_light", ("sun", True)),
        ("focus", ("z",)),
        ("lock_focus", ("z", True)),
        ("focus_state", ("z",)),
        ("apply_channel", ("nowhere",)),
        ("configure_camera", ("nowhere",)),
        ("snap", ("nowhere", FrameSettings())),
        ("snap", ("cam_a", FrameSettings(light="sun"))),
        ("recording", ("nowhere",)),
        ("close_recording", ("nowhere",)),
        ("stop_recording", ("nowhere",)),
        ("checksums", ("nowhere", "cam_a")),
        ("frame_lines", ("nowhere", "cam_a")),
        ("record_frame", ("nowhere", {"cam_a": FrameSettings()})),
        ("measure_frame", (FrameAt(recording="nowhere", dataset="cam_a", index=0), "laplacian")),
        ("frame_shift", (FrameAt(recording="nowhere", dataset="cam_a", index=0),) * 2),
        ("record_together", ("nowhere", "both", FrameSettings())),
        ("open_recording", (RecordingPlan(run_uid="12345678", datasets=(DatasetPlan(name="a", camera="nowhere"),)),)),
    ],
)
def test_unknown_names_are_named_with_what_is_known(
    hardware: ConnectedHardware, name: str, arguments: tuple[Any, ...]
) -> None:
    """R0.4: the error carries the thing, the value and the known names."""
    with pytest.raises(UnknownNameError) as caught:
        hardware._call(name, *arguments)  # type: ignore[attr-defined]
    assert set(caught.value.fields) == {"thing", "value", "known"}
    assert caught.value.fields["value"] in str(caught.value)


def test_errors_can_be_pickled(hardware: ConnectedHardware) -> None:
    """R0.4: with their type and fields, so they survive a worker's boundary as well."""
    with pytest.raises(LimitError) as caught:
        hardware.move({"z": 1e9})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.fields) == (LimitError, str(caught.value), caught.value.fields)


def test_a_reference_is_confirmed_by_a_person(hardware: ConnectedHardware) -> None:
    """R0.4, R5.8: the position is returned; without a name it is refused."""
    assert hardware.confirm_reference("z", "Ada") == hardware.positions(("z",))["z"]
    with pytest.raises(ArgumentError, match="say who confirms"):
        hardware.confirm_reference("z", "")
    assert hardware.state().reference_lost == {}


def test_state_devices_are_selected_by_label(hardware: ConnectedHardware) -> None:
    """R0.4: tuples stay tuples."""
    assert hardware.labels("emission")[:2] == ("BP460", "BP525")
    assert hardware.select("emission", "LP664") == "LP664" == hardware.label("emission")


def test_values_are_bounded_and_read_back(hardware: ConnectedHardware) -> None:
    """R3.8: a temperature within its limits, a property within its choices."""
    assert hardware.set_value("chamber", 36.5) == 36.5
    assert 36.5 <= float(hardware.value("chamber")) <= 37
    assert hardware.set_value("laser_line", "561") == "561" == hardware.value("laser_line")
    for device, bad in (
        ("chamber", 42.01),
        ("chamber", math.nan),
        ("chamber", "warm"),
        ("laser_line", "700"),
        ("laser_line", 1.0),
    ):
        with pytest.raises(LimitError) as caught:
            hardware.set_value(device, bad)
        assert caught.value.fields["thing"] == device
    assert hardware.value("laser_line") == "561"


def test_a_light_is_opened_at_a_power_within_its_limits(hardware: ConnectedHardware) -> None:
    """R0.4, R3.9: enums arrive as enums; without a power a light opens at its lowest."""
    shone = hardware.set_light("l488", True, 2.0)
    assert shone == LightState(on=True, power_pct=2.0, emission=True, state=Verification.VERIFIED)
    assert shone.state is Verification.VERIFIED
    assert hardware.light("l488").on
    assert hardware.set_light("l488", False) == LightState(
        on=False, power_pct=shone.power_pct, emission=True, state=Verification.VERIFIED
    )
    assert hardware.set_light("led", True).power_pct == 0
    for power in (6.01, -0.1, math.nan):
        with pytest.raises(LimitError, match=r"lights\.l488\.power\.limits_pct"):
            hardware.set_light("l488", True, power)
    assert not hardware.light("l488").on
    off = hardware.lights_off(emission=True)
    assert [o.light for o in off] == ["l405", "l488", "l561", "l637", "led"]
    assert all(o == LightOff(light=o.light, off=True, state=Verification.VERIFIED) for o in off)
    assert not any(light.on or light.emission for light in hardware.state().lights.values())


def test_a_channel_sets_preset_and_filter_and_opens_no_gate(hardware: ConnectedHardware) -> None:
    hardware.apply_channel("mcherry")
    state = hardware.state()
    assert (state.values["laser_line"], state.labels["emission"]) == ("561", "BP605")
    assert not any(light.on for light in state.lights.values())


def test_a_dose_is_told_by_sample(hardware: ConnectedHardware, lit: FrameSettings) -> None:
    """R0.4, R5.6: opening a sample and its dose; all else stands in `test_dose`."""
    told = hardware.set_sample("contract", {"l488": 5})
    assert told == DoseState(sample_id="contract", open=True, used={}, by_position={}, assumed={}, budget={"l488": 5.0})
    hardware.snap("cam_a", lit)
    assert hardware.dose("contract").used["l488"] > 0
    assert hardware.set_sample(None, {}).sample_id is None
    assert not hardware.dose("contract").open


def test_a_camera_is_configured_and_read_back(hardware: ConnectedHardware, sensor: int) -> None:
    """R0.4: frame size and pixel size follow the binning and the objective."""
    hardware.select("objective", "Nikon 20X Water 0.5")
    half = hardware.configure_camera("cam_a", exposure_ms=12, binning=2)
    assert half == CameraState(
        width=sensor // 2,
        height=sensor // 2,
        dtype="uint16",
        bit_depth=16,
        exposure_ms=12.0,
        binning=2,
        roi=(0, 0, sensor, sensor),
        pixel_um=0.65,
        gain=0.0,
    )
    hardware.select("objective", "Nikon 40X Water 0.8")
    assert hardware.configure_camera("cam_a", binning=1).pixel_um == 0.1625
    assert hardware.configure_camera("overview").pixel_um == 3.45
    for bad in (
        {"exposure_ms": 0.5},
        {"exposure_ms": math.nan},
        {"exposure_ms": 1000.1},
        {"binning": 3},
        {"binning": -1},
    ):
        with pytest.raises(LimitError):
            hardware.configure_camera("cam_a", **bad)  # type: ignore[arg-type]
    assert hardware.configure_camera("cam_a").exposure_ms == 12


def test_a_snap_is_an_array_of_the_cameras_type(hardware: ConnectedHardware, lit: FrameSettings, sensor: int) -> None:
    """R0.4: shape, dtype and contents; the array belongs to the caller."""
    frame = hardware.snap("cam_a", lit)
    assert (frame.shape, frame.dtype) == ((sensor, sensor), np.dtype("uint16"))
    assert frame.max() > 0
    frame[:] = 0
    assert not hardware.light("l488").on
    with pytest.raises(LimitError):
        hardware.snap("cam_a", FrameSettings(exposure_ms=0.1))
    with pytest.raises(LimitError):
        hardware.snap("cam_a", FrameSettings(power_pct=1))


def test_frames_are_recorded_and_counted(
    hardware: ConnectedHardware, new_plan: Plan, lit: FrameSettings, sensor: int
) -> None:
    """R0.4, R3.12: frame by frame; the checksum is that of the bytes on disk; what is missing is told."""
    state = hardware.open_recording(
        new_plan(
            DatasetPlan(name="cam_a", camera="cam_a", frames=3), DatasetPlan(name="wide", camera="overview", frames=2)
        )
    )
    for _ in range(2):
        state = hardware.record_frame(state.recording, {"cam_a": lit, "wide": FrameSettings()})
    assert {n: d.frames_written for n, d in state.datasets.items()} == {"cam_a": 2, "wide": 2}
    with pytest.raises(RecordingError, match="planned for 2 frames and has them all") as caught:
        hardware.record_frame(state.recording, {"wide": FrameSettings()})
    assert caught.value.fields == {"frames_written": {"cam_a": 2, "wide": 2}}
    closed = hardware.close_recording(state.recording)
    assert closed.phase == "closed"
    assert closed.datasets["cam_a"].shape == (2, sensor, sensor)
    assert closed.error is not None
    assert "2 of 3 frames of cam_a" in closed.error
    assert hardware.close_recording(state.recording) == closed
    for name, dataset in closed.datasets.items():
        for index, checksum in enumerate(hardware.checksums(state.recording, name)):
            with open(f"{dataset.path}/0/c/{index}/0/0", "rb") as chunk:
                assert checksum == "xxh3_128:" + xxhash.xxh3_128_hexdigest(chunk.read())
    with pytest.raises(RecordingError, match="the recording is closed"):
        hardware.record_frame(state.recording, {"cam_a": lit})


def test_a_two_camera_volume_is_followed_to_its_end(hardware: ConnectedHardware, new_plan: Plan, view: View) -> None:
    """R0.4, R3.9: the long poll sees every change; afterwards axes are back and lights are off."""
    before = hardware.move({"piezo_a": 7.0, "piezo_b": -7.0, "galvo_a.y": 0.5, "galvo_b.y": -0.5})
    plans = (DatasetPlan(name=c, camera=c, frames=6, axis="z", step_um=1) for c in ("cam_a", "cam_b"))
    state = hardware.open_recording(new_plan(*plans))
    views = (view("cam_a", "a", 6), view("cam_b", "b", 6))
    state = hardware.start_volume(state.recording, VolumeProgram(views=views))
    versions = [state.version]
    while state.phase == "running":
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
        versions.append(state.version)
    assert versions == sorted(set(versions))
    assert (state.phase, state.error) == ("done", None)
    assert [d.frames_written for d in state.datasets.values()] == [6, 6]
    assert hardware.positions(tuple(before)) == pytest.approx(before)
    assert not any(light.on for light in hardware.state().lights.values())
    assert hardware.close_recording(state.recording).error is None


def test_where_frames_were_taken(hardware: ConnectedHardware, new_plan: Plan, view: View, lit: FrameSettings) -> None:
    """As their frame list has it, from any number on; a program that stays leaves its axes at its last frame."""
    before = hardware.move({"piezo_a": 7.0, "galvo_a.y": 0.5})
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=8)))
    hardware.record_frame(state.recording, {"cam_a": lit})
    for stays in (False, True):
        state = hardware.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 3),), stays=stays))
        while state.phase == "running":
            state = hardware.recording(state.recording, seen=state.version, wait_s=20)
        assert state.error is None
        there = hardware.positions(tuple(before))
        assert there == pytest.approx({"piezo_a": 2.0, "galvo_a.y": 0.02} if stays else before)
    found = hardware.frame_lines(state.recording, "cam_a")
    assert [line.position["piezo_a"] for line in found] == pytest.approx([7.0, 0.0, 1.0, 2.0, 0.0, 1.0, 2.0])
    assert [line.time for line in found] == sorted(line.time for line in found)
    assert not any(line.programmed for line in found)
    assert {tuple(line.position) == tuple(found[1].position) for line in found[1:]} == {True}
    assert hardware.frame_lines(state.recording, "cam_a", 5) == found[5:]
    assert hardware.frame_lines(state.recording, "cam_a", 7) == () == hardware.frame_lines(state.recording, "cam_a", 99)
    with pytest.raises(LimitError, match="start -1"):
        hardware.frame_lines(state.recording, "cam_a", -1)
    closed = hardware.close_recording(state.recording)
    assert hardware.frame_lines(closed.recording, "cam_a") == found
    hardware.move(before)


def test_a_volume_can_be_stopped(hardware: ConnectedHardware, new_plan: Plan, view: View) -> None:
    """R3.12: after the slice in hand; the frames that exist are counted and the recording failed."""
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=500)))
    state = hardware.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 150),)))
    while state.datasets["cam_a"].frames_written < 2:
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    with pytest.raises(RecordingError, match="a volume or burst is running"):
        hardware.move({"z": 1})
    state = hardware.stop_recording(state.recording)
    assert state.phase == "failed"
    assert state.error is not None
    assert f"{state.datasets['cam_a'].frames_written} of 500 frames" in state.error
    assert hardware.stop_recording(state.recording) == state
    hardware.move({"z": 1})
    closed = hardware.close_recording(state.recording)
    assert closed.datasets["cam_a"].shape[0] == closed.datasets["cam_a"].frames_written >= 2


def test_a_wait_is_bounded(hardware: ConnectedHardware, new_plan: Plan) -> None:
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a")))
    assert hardware.recording(state.recording) == state
    assert hardware.recording(state.recording, seen=state.version, wait_s=0.01) == state
    for wait_s in (-1.0, 31.0, math.nan):
        with pytest.raises(LimitError):
            hardware.recording(state.recording, seen=99, wait_s=wait_s)
    hardware.close_recording(state.recording)


def test_any_thread_may_call(hardware: ConnectedHardware, new_plan: Plan, lit: FrameSettings) -> None:
    """R0.4: also threads that live for one call, and while another one waits."""
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a")))
    woken: list[int] = []
    waiting = threading.Thread(
        target=lambda: woken.append(hardware.recording(state.recording, seen=state.version, wait_s=30).version)
    )
    waiting.start()
    found: list[dict[str, float]] = []
    threads = [threading.Thread(target=lambda: found.append(hardware.positions(("z",)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    hardware.record_frame(state.recording, {"cam_a": lit})
    waiting.join(20)
    assert woken == [state.version + 1]
    hardware.close_recording(state.recording)


def test_names_off_the_list_are_refused(hardware: ConnectedHardware) -> None:
    """R0.5: raw MMCore, underscores, dunders, anything else."""
    for name in (
        "setPosition",
        "loadSystemConfiguration",
        "_core",
        "__class__",
        "close",
        "_alive",
        "",
        "move.__call__",
    ):
        with pytest.raises(NotAllowedError) as caught:
            hardware._call(name)  # type: ignore[attr-defined]
        assert caught.value.fields == {"thing": name}


def test_the_surface_is_all_there_is(hardware: ConnectedHardware) -> None:
    """R0.5: what the connected object offers is the surface and `close`."""
    offered = {name for name in dir(hardware) if not name.startswith("_")} - {"load", "send"}
    assert offered == {*SURFACE, "close"}


def test_every_error_is_a_hardware_error() -> None:
    """R0.4: one base class, one code each."""
    from queuescope.hardware import ERRORS

    codes = [error.code for error in ERRORS.values()]
    assert len(set(codes)) == len(codes)
    assert all(issubclass(error, HardwareError) for error in ERRORS.values())


def test_a_halt_is_told_and_rearmed(hardware: ConnectedHardware) -> None:
    """R0.4, R5.3: reports and errors with their fields; `test_safety` has the rest."""
    assert hardware.safety().halted is None
    report = hardware.halt("a test", "operator")
    assert isinstance(report, HaltReport)
    assert (report.halted.by, report.halted.reason, report.killed) == ("operator", "a test", False)
    assert hardware.state().safety == hardware.safety()
    with pytest.raises(HaltedError, match="halted by operator") as caught:
        hardware.move({"z": 1})
    assert caught.value.fields == {"thing": "halt", "by": "operator", "reason": "a test", "at": report.halted.at}
    assert hardware.rearm("operator").halted is None
    with pytest.raises(NotAllowedError, match="nothing to arm"):
        hardware.arm(None, "operator")


def test_joysticks_are_held(hardware: ConnectedHardware) -> None:
    """R0.4, R5.7: this scope has none; `test_joysticks` has some."""
    assert hardware.hold_joysticks(True) == hardware.hold_joysticks(False) == ()


def test_it_is_released_and_reclaimed(hardware: ConnectedHardware) -> None:
    """R0.4, R5.7: both tell how it stands, and refusals have their fields; `test_release` has the rest."""
    before = hardware.info()
    assert hardware.release("Ada", "a test").stage == "released"
    with pytest.raises(ReleasedError, match="released by Ada") as caught:
        hardware.positions(("z",))
    assert set(caught.value.fields) == {"thing", "by", "reason", "at"}
    after = hardware.reclaim("Ada")
    assert (type(after), after.stage, after.pid) == (HardwareInfo, "ready", before.pid)
    assert after.instance != before.instance
    assert hardware.state().errors == {}


def test_following_ends(
    hardware: ConnectedHardware,
    new_plan: Plan,
    view: View,
    follow: Callable[[ConnectedHardware, RecordingState], RecordingState],
) -> None:
    """R3.12: a second volume goes into the same recording, up to the frames planned."""
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=4, axis="z", step_um=1)))
    program = VolumeProgram(views=(view("cam_a", "a", 2),))
    for _ in range(2):
        state = follow(hardware, hardware.start_volume(state.recording, program))
        assert state.phase == "done"
    with pytest.raises(RecordingError, match="room for 0 more frames"):
        hardware.start_volume(state.recording, program)
    assert hardware.close_recording(state.recording).error is None


def test_calls_may_be_awaited_and_come_back_typed(hardware: ConnectedHardware, new_plan: Plan) -> None:
    """R0.11: from an event loop, many at once, on the one object; what the run gives (its UID, the names of its files) and
    what comes back are values with types, in both modes.
    """

    async def ask() -> list[Any]:
        plan = new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=1))
        calls = (
            (hardware.info, ()),
            (hardware.safety, ()),
            (hardware.dose, ()),
            (hardware.light, ("led",)),
            (hardware.open_recording, (plan,)),
        )
        return await asyncio.gather(*(asyncio.to_thread(call, *arguments) for call, arguments in calls))

    found = asyncio.run(ask())
    assert [type(one) for one in found] == [HardwareInfo, SafetyState, DoseState, LightState, RecordingState]
    assert type(found[-1].datasets["cam_a"]) is DatasetState
    hardware.close_recording(found[-1].recording)


def test_events_are_typed(hardware: ConnectedHardware) -> None:
    """R0.4, R0.6: a batch with a cursor; what they tell stands in `test_events`."""
    batch = hardware.events()
    assert (type(batch), batch.events, batch.missed) == (EventBatch, (), 0)
    hardware.move({"z": hardware.positions(("z",))["z"] + 1})
    after = hardware.events(batch.cursor, 20)
    assert type(after.events[0]) is HardwareEvent
    assert (after.instance, after.events[0].name, type(after.events[0].value)) == (batch.instance, "z", float)
