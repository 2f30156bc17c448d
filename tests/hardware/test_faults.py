"""What happens when a device fails: lights go off all the same, nothing is invented, errors say which device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from queuescope.hardware import (
    DatasetPlan,
    DeviceError,
    FrameSettings,
    HaltedError,
    HardwareError,
    HardwareTimeout,
    ReadbackError,
    RecordingError,
    Verification,
    VolumeProgram,
)

Disturb = Callable[..., Any]


def broken(*_: Any) -> Any:
    raise RuntimeError("serial line is dead")


def test_the_gate_is_open_during_the_exposure_only(local: Any, disturb: Disturb, lit: FrameSettings) -> None:
    """R3.9: the gate opens right before the exposure and is closed when the frame is read out."""
    seen = []

    def watched(name: str) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            seen.append((name, real.getProperty("Laser488 TTL", "State")))
            return getattr(real, name)(*args)

        return function

    real = disturb()
    disturb(snapImage=watched("snapImage"), getImage=watched("getImage"), setExposure=watched("setExposure"))
    local.snap("cam_a", lit)
    assert seen == [("setExposure", "0"), ("snapImage", "1"), ("getImage", "0")]
    assert local.light("l488").emission, "a laser's emission stays on between frames"


def test_a_failed_exposure_closes_the_gate(local: Any, disturb: Disturb, lit: FrameSettings) -> None:
    """R3.9, R3.10: no image is made up, the error names the camera in Micro-Manager's words."""
    disturb(snapImage=broken)
    with pytest.raises(DeviceError, match="cam_a: serial line is dead") as caught:
        local.snap("cam_a", lit)
    assert caught.value.fields == {"thing": "cam_a"}
    assert not local.light("l488").on


def test_a_failed_frame_fails_the_recording(
    local: Any, disturb: Disturb, new_plan: Callable[..., Any], lit: FrameSettings
) -> None:
    """R3.12: the frames before it are kept and counted."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=3)))
    local.record_frame(state.recording, {"cam_a": lit})
    disturb(getImage=broken)
    with pytest.raises(DeviceError):
        local.record_frame(state.recording, {"cam_a": lit})
    disturb()
    state = local.recording(state.recording)
    assert state.phase == "failed"
    assert "1 of 3 frames of cam_a" in state.error
    with pytest.raises(RecordingError, match="the recording is failed"):
        local.record_frame(state.recording, {"cam_a": lit})
    assert local.close_recording(state.recording).datasets["cam_a"].shape[0] == 1


def test_a_gate_that_does_not_close_is_told(local: Any, disturb: Disturb, lit: FrameSettings) -> None:
    """R3.9: no frame is returned under a light that may still be on."""
    real = disturb()

    def stuck(label: str, name: str, value: str) -> None:
        if (label, value) != ("Laser488 TTL", "0"):
            real.setProperty(label, name, value)

    disturb(setProperty=stuck)
    with pytest.raises(ReadbackError, match="the gate of l488 may still be OPEN"):
        local.snap("cam_a", lit)
    disturb()
    assert all(off.off for off in local.lights_off())


def test_an_exposure_that_a_halt_darkened_says_so(local: Any, disturb: Disturb, lit: FrameSettings) -> None:
    """R3.11: not that the gate was closed by somebody, but who halted and why."""
    real = disturb()
    disturb(snapImage=lambda: (local.halt("it bleaches", "a person"), real.snapImage()))
    with pytest.raises(HaltedError, match="halted by a person"):
        local.snap("cam_a", lit)
    disturb()
    local.rearm("a person")


def test_a_volume_that_a_stop_darkened_says_why_it_was_stopped(
    local: Any, disturb: Disturb, new_plan: Callable[..., Any], view: Callable[..., Any], follow: Callable[..., Any]
) -> None:
    """R3.12: the reason comes before what failed for it."""
    real = disturb()
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=3, axis="z", step_um=1)))
    meter = local._microscope._lights.meter

    def darkened() -> None:
        threading.Thread(target=local._microscope.make_safe, args=("its client is gone",), daemon=True).start()
        while meter.is_open("l488"):
            time.sleep(0.001)
        real.snapImage()

    disturb(snapImage=darkened)
    state = follow(local, local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 3),))))
    disturb()
    assert state.phase == "failed"
    assert state.error.startswith("its client is gone; the gate of l488 was closed")
    local.close_recording(state.recording)


def test_one_light_that_fails_or_hangs_keeps_no_other_from_being_switched_off(local: Any, disturb: Disturb) -> None:
    """R3.9: each light in its own step; what could not be done is said."""
    real = disturb()
    released = threading.Event()
    local.set_light("led", True, 10.0)
    local.set_light("l637", True, 1.0)

    def faulty(label: str, name: str, value: str) -> None:
        if label == "Laser405 TTL":
            raise RuntimeError("serial line is dead")
        if label == "Laser488 TTL":
            released.wait(30)
        real.setProperty(label, name, value)

    disturb(setProperty=faulty)
    try:
        off = {one.light: one for one in local.lights_off(emission=True)}
    finally:
        released.set()
    disturb()
    assert [one.off for one in off.values()] == [False, False, True, True, True]
    assert "serial line is dead" in off["l405"].error
    assert "no answer" in off["l488"].error
    assert off["l488"].state is Verification.ASSUMED
    assert not local.light("led").on
    assert not local.light("l637").on
    assert not local.light("l637").emission


def test_a_light_that_nobody_can_ask_is_assumed(tmp_path: Any, make_scope: Callable[..., Any]) -> None:
    """R3.9: never `verified` where no real query is possible."""
    from queuescope.hardware import connect
    from queuescope.layout import Layout

    hardware = connect(make_scope(tmp_path, scope=[("verify: refresh", "verify: none")]), Layout(tmp_path / "data"))
    state = hardware.set_light("l488", True, 1.0)
    off = hardware.lights_off()
    hardware.close()
    assert (state.on, state.state) == (True, Verification.ASSUMED)
    assert off[1].state is Verification.ASSUMED


def test_a_failed_read_raises_and_is_missing_in_the_state(local: Any, disturb: Disturb) -> None:
    """R3.10: nothing returns 0.0; the state says which device could not be read."""
    disturb(getPosition=broken, getStateLabel=broken)
    with pytest.raises(DeviceError, match="piezo_a: serial line is dead"):
        local.positions(("piezo_a",))
    state = local.state()
    assert set(state.positions) == {"xy.x", "xy.y", "galvo_a.x", "galvo_a.y", "galvo_b.x", "galvo_b.y"}
    assert state.labels == {}
    assert set(state.cameras) == {"overview"}, "the pixel size of the others depends on the objective"
    assert set(state.errors) == {"z", "f", "piezo_a", "piezo_b", "emission", "objective", "cam_a", "cam_b"}


@pytest.mark.parametrize("reads", ["", "warm", "nan", "inf"])
def test_a_reading_that_is_no_number_raises(local: Any, disturb: Disturb, reads: str) -> None:
    """R3.10."""
    disturb(getProperty=lambda *_: reads)
    with pytest.raises(DeviceError, match="chamber"):
        local.value("chamber")
    assert "chamber" in local.state().errors


def test_an_axis_that_does_not_arrive_is_told(local: Any, disturb: Disturb) -> None:
    """A readback outside the tolerance is an error with what was asked and what was got."""
    real = disturb()
    disturb(setPosition=lambda label, target: real.setPosition(label, target + 3))
    with pytest.raises(ReadbackError) as caught:
        local.move({"z": 10.0})
    assert caught.value.fields == {"thing": "z", "value": 10.0, "got": 13.0, "limit": 0.5}


def test_a_stopped_axis_says_where_it_stands(local: Any, disturb: Disturb) -> None:
    """R3.11: `stop` gets through while another thread waits for the move."""
    moving = threading.Event()
    stopped = threading.Event()
    real = disturb()

    def busy(label: str) -> bool:
        if label == "ZStage:Z:32" and moving.is_set():
            return not stopped.is_set()
        return bool(real.deviceBusy(label))

    def stop(label: str) -> None:
        stopped.set()

    disturb(deviceBusy=busy, setPosition=lambda *_: moving.set(), stop=stop)
    failed: list[HardwareError] = []

    def move() -> None:
        try:
            local.move({"z": 100.0})
        except HardwareError as error:
            failed.append(error)

    thread = threading.Thread(target=move)
    thread.start()
    assert moving.wait(20)
    local.stop(("z",))
    thread.join(20)
    assert isinstance(failed[0], ReadbackError)
    assert "z was stopped at 0" in str(failed[0])


def test_a_device_that_stays_busy_times_out_and_is_stopped(
    tmp_path: Any, make_scope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R0.3: a wait has a deadline."""
    from queuescope.hardware import _deadlines, connect
    from queuescope.layout import Layout

    monkeypatch.setitem(_deadlines.SLOWEST_PER_S, "um", 1e6)
    hardware: Any = connect(
        make_scope(tmp_path, scope=[("call_timeout_s: 10", "call_timeout_s: 0.2")]), Layout(tmp_path / "data")
    )
    core = hardware._microscope._core
    real, stopped, sent = core.mm, [], []

    class Hanging:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def setPosition(self, *args: Any) -> None:
            sent.append(args)

        def deviceBusy(self, label: str) -> bool:
            return bool(sent)

        def stop(self, label: str) -> None:
            stopped.append(label)

    core.mm = Hanging()
    with pytest.raises(HardwareTimeout, match=r"z .* is still busy after") as caught:
        hardware.move({"z": 5.0})
    core.mm = real
    hardware.close()
    assert caught.value.fields["thing"] == "z"
    assert stopped == ["ZStage:Z:32"]


def test_a_fault_of_ours_is_named_and_never_lost(local: Any, disturb: Disturb) -> None:
    """R0.4: a programming error comes back as `HardwareError` with its type's name."""

    def fault(*_: Any) -> Any:
        raise KeyError("oops")

    disturb(getPosition=fault)
    with pytest.raises(HardwareError, match="KeyError: 'oops'") as caught:
        local.positions(("z",))
    assert type(caught.value) is HardwareError
    assert caught.value.fields == {"thing": "positions", "type": "KeyError"}


def test_after_close_everything_is_refused(local: Any) -> None:
    """R0.7: closed once; calls say so."""
    from queuescope.hardware import HardwareGoneError

    local.close()
    local.close()
    for call in (local.info, local.state, lambda: local.move({"z": 1.0})):
        with pytest.raises(HardwareGoneError):
            call()
    assert local.lights_off() == ()


@pytest.mark.parametrize("label", ["Laser488 TTL", "Laser488"])
def test_a_cached_switch_is_not_called_verified(local: Any, disturb: Disturb, label: str) -> None:
    """R3.9: ASI's adapters answer from a cache unless told otherwise; then a scope can't say `verify: refresh`."""
    from queuescope.hardware import ConfigurationError
    from queuescope.hardware._fit import check_fit

    cached = "RefreshPropertyValues"
    real = disturb()
    disturb(
        hasProperty=lambda of, name: (of, name) == (label, cached) or real.hasProperty(of, name),
        getProperty=lambda of, name: "No" if name == cached else real.getProperty(of, name),
    )
    with pytest.raises(ConfigurationError, match=rf"lights\.l488\.verify: {label} answers from a cache"):
        check_fit(local._microscope._core, local._microscope._scope)
    disturb()
    check_fit(local._microscope._core, local._microscope._scope)
