"""Autofocus and focus lock: what moves a stage past our checks is checked before, watched meanwhile, and read back (R3.8)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import (
    ConfigurationError,
    DatasetPlan,
    DeviceError,
    FocusError,
    FocusLockError,
    HaltedError,
    HardwareError,
    InterlockError,
    LimitError,
    NotAllowedError,
    ReferenceLostError,
    VolumeProgram,
    connect,
)
from queuescope.layout import Layout

Z = "ZStage:Z:32"
DOOR = (
    "Device,LaserLine,DemoCamera,DStateDevice",
    "Device,LaserLine,DemoCamera,DStateDevice\nDevice,Door,DemoCamera,DShutter",
)
SENSOR = (
    "  laser_line:",
    '  door: {label: Door, kind: property, property: State, choices: ["0", "1"]}\n'
    '  handle: {label: Door, kind: property, property: State, choices: ["0", "1"]}\n'
    "  laser_line:",
)
INTERLOCK = ("storage:", 'safety: {interlocks: [{device: door, open: "1", kind: door}]}\nstorage:')
BOX = ("storage:", "safety: {collision: [{z: [100, 250], f: [100, 200]}]}\nstorage:")


class Optics:
    """What the demo's autofocus lacks: it moves z. MMCore's calls to it, played on the demo's own stage."""

    def __init__(self, local: Any) -> None:
        self._core = local._microscope._core
        self.mm = self._core.mm
        self.finds: float | None = 10.0
        """Where it focuses; None: it finds nothing."""
        self.locks = True
        self.engaged = False
        self.obeys = True

    def functions(self) -> dict[str, Callable[..., Any]]:
        def focus() -> None:
            if self.finds is None:
                raise RuntimeError("no focus found")
            self.move(self.finds)

        def engage(on: bool) -> None:
            self.engaged = on or (self.engaged and not self.obeys)
            if on and self.finds is not None:
                self.move(self.finds)

        return {
            "fullFocus": focus,
            "incrementalFocus": focus,
            "enableContinuousFocus": engage,
            "isContinuousFocusEnabled": lambda: self.engaged,
            "isContinuousFocusLocked": lambda: self.engaged and self.locks,
        }

    def move(self, z: float) -> None:
        self.mm.setPosition(Z, z)
        self.mm.waitForDevice(Z)


@pytest.fixture
def optics(local: Any, disturb: Callable[..., Any]) -> Optics:
    found = Optics(local)
    disturb(**found.functions())
    return found


def ended(hardware: Any) -> str:
    """Why the lock ended; waits for the watch."""
    pause = threading.Event()
    for _ in range(2000):
        state = hardware.focus_state("autofocus")
        if state.ended is not None and not state.enabled and hardware._microscope._focusing._led == {}:
            return str(state.ended)
        pause.wait(0.01)
    raise AssertionError("the lock did not end")


def test_focusing_once_tells_where_the_stage_stands(local: Any, optics: Optics) -> None:
    """R3.10: the position that is returned was read."""
    assert local.focus("autofocus") == {"z": 10}
    optics.finds = -3
    assert local.focus("autofocus", "incremental") == {"z": -3}
    assert local.move({"z": 5}) == {"z": 5}


@pytest.mark.parametrize("taken", [51.0, 299.0])
def test_a_stage_that_was_taken_too_far_is_led_back(local: Any, optics: Optics, taken: float) -> None:
    """R3.8: past its reach or its limits; the error says where it was, what is allowed, and that it is back."""
    optics.finds = taken
    with pytest.raises(FocusError, match=rf"took z to {taken:g} um, outside \[-50, 50\]; .* moved back to 0") as caught:
        local.focus("autofocus")
    assert caught.value.fields == {"thing": "z", "value": taken, "limit": [-50.0, 50.0]}
    assert local.positions(("z",)) == {"z": 0}
    assert local.state().reference_lost == {}


def test_a_stage_that_can_not_be_led_back_is_lost(local: Any, optics: Optics, tmp_path: Path) -> None:
    """R3.8, R5.8: it is locked until a person confirms it, over a restart too, though its reference is never compared."""
    optics.finds = 299

    def refuse(*_: Any) -> None:
        raise RuntimeError("the motor is hot")

    local._microscope._core.mm._replaced["setPosition"] = refuse
    with pytest.raises(FocusError, match=r"could not be led back .*the motor is hot.*queuescope confirm z"):
        local.focus("autofocus")
    del local._microscope._core.mm._replaced["setPosition"]
    for call in (lambda: local.move({"z": 0}), lambda: local.focus("autofocus")):
        with pytest.raises(ReferenceLostError, match="z was taken to 299 um"):
            call()
    kept = json.loads((tmp_path / "data" / "services" / "references.json").read_text())
    assert list(kept["lost"]) == ["z"]
    assert local.confirm_reference("z", "Ada") == 299
    assert local.move({"z": 0}) == {"z": 0}


def test_a_stage_that_is_led_is_nowhere_in_a_programs_frames(
    local: Any, optics: Optics, new_plan: Callable[..., Any], view: Callable[..., Any], follow: Callable[..., Any]
) -> None:
    """Where the other axes stand is read once, before the first frame; the lock moves z all the while."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=4)))
    for locked in (False, True):
        if locked:
            local.lock_focus("autofocus", True)
        state = follow(local, local.start_volume(state.recording, VolumeProgram(views=(view("cam_a", "a", 2),))))
        assert state.error is None
    local.lock_focus("autofocus", False)
    found = local.frame_lines(state.recording, "cam_a")
    assert ["z" in line.position for line in found] == [True, True, False, False]
    assert all("xy.x" in line.position for line in found)


def test_an_autofocus_that_finds_nothing_says_so(local: Any, optics: Optics) -> None:
    """R3.10: in the adapter's words; the stage is where it reads."""
    optics.finds = None
    with pytest.raises(DeviceError, match="no focus found"):
        local.focus("autofocus")
    assert local.move({"z": 1}) == {"z": 1}


def test_it_begins_only_where_all_that_it_could_reach_is_allowed(
    tmp_path: Path, make_scope: Callable[..., Any]
) -> None:
    """R3.8: a stage outside its limits, a lost reference, a forbidden box in reach: nothing moves."""
    hardware: Any = connect(make_scope(tmp_path, scope=[BOX]), Layout(tmp_path / "data"))
    try:
        called: list[str] = []
        real = hardware._microscope._core.mm
        mm = real.setPosition
        mm(Z, 290.0)
        with pytest.raises(LimitError, match=r"z 290.* is outside \[-50, 250\]"):
            hardware.focus("autofocus")
        mm(Z, 0.0)
        hardware.move({"f": 150})
        hardware.move({"z": 40})
        hardware.focus("autofocus")
        hardware.move({"z": 60})
        for call in (lambda: hardware.focus("autofocus"), lambda: hardware.lock_focus("autofocus", True)):
            with pytest.raises(LimitError, match=r"safety\.collision\[0\]"):
                call()
        assert not hardware.focus_state("autofocus").enabled
        hardware.move({"z": 0})
        hardware.lock_focus("autofocus", True)
        with pytest.raises(FocusLockError, match="f can't be moved while the focus lock autofocus is engaged"):
            hardware.move({"f": 0})
        assert called == []
    finally:
        hardware.close()


def test_a_lock_is_engaged_read_and_released(hardware: Any) -> None:
    """R0.4 both modes, on Micro-Manager's own demo: its state is read, its stage is moved by nobody else."""
    state = hardware.lock_focus("autofocus", True, 12.5)
    assert (state.enabled, state.locked, state.offset, state.axis, state.ended) == (True, True, 12.5, "z", None)
    assert hardware.state().focus == {"autofocus": state}
    for call in (lambda: hardware.move({"z": 1}), lambda: hardware.move({"f": 1, "z": 1})):
        with pytest.raises(FocusLockError, match=r"z can't be moved .* release it first") as caught:
            call()
        assert caught.value.fields == {"thing": "z", "value": "autofocus"}
    with pytest.raises(FocusLockError, match="its lock is engaged"):
        hardware.focus("autofocus")
    with pytest.raises(FocusLockError, match="the objective turret can't turn"):
        hardware.select("objective", "Nikon 20X Water 0.5")
    hardware.move({"f": 1})
    for bad in (100.1, float("nan")):
        with pytest.raises(LimitError, match=r"devices\.autofocus\.offset"):
            hardware.lock_focus("autofocus", True, bad)
    assert hardware.focus_state("autofocus").offset == 12.5
    assert not hardware.lock_focus("autofocus", False).enabled
    assert hardware.move({"z": 1, "f": 0}) == {"z": 1, "f": 0}
    hardware.lock_focus("autofocus", True)
    hardware.stop(("z",))
    assert not hardware.focus_state("autofocus").enabled
    assert not hardware.lock_focus("autofocus", False).enabled


def test_a_lock_that_does_not_lock_is_released(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R3.10: after the scope's time; it is never said to be locked."""
    hardware: Any = connect(
        make_scope(tmp_path, scope=[("axis: z, reach: 50", "axis: z, reach: 50, lock_s: 0.2")]),
        Layout(tmp_path / "data"),
    )
    try:
        real = hardware._microscope._core.mm
        hardware._microscope._core.mm = Slow(real)
        with pytest.raises(FocusError, match=r"did not lock within 0\.2 s .*lock_s\); its lock is released"):
            hardware.lock_focus("autofocus", True)
        assert not real.isContinuousFocusEnabled()
        assert hardware.move({"z": 1}) == {"z": 1}
    finally:
        hardware.close()


class Slow:
    def __init__(self, mm: Any) -> None:
        self._mm = mm

    def __getattr__(self, name: str) -> Any:
        return (lambda: False) if name == "isContinuousFocusLocked" else getattr(self._mm, name)


def test_a_lock_that_leads_its_stage_astray_is_released(local: Any, optics: Optics) -> None:
    """R3.8: past its reach; released, led back, told in the state and in an event."""
    local.lock_focus("autofocus", True)
    seen = local.events().cursor
    optics.move(70)
    assert "led z to 70" in ended(local) or "took z to 70" in ended(local)
    assert local.positions(("z",)) == {"z": 0}
    told = [(event.kind, event.name, event.value) for event in local.events(seen).events]
    assert ("focus", "autofocus", False) in told
    assert local.move({"z": 1}) == {"z": 1}
    assert local.lock_focus("autofocus", True).ended is None


def test_a_lock_that_somebody_released_at_the_microscope_is_over(local: Any, optics: Optics) -> None:
    """R3.10, R5.7: it is not said to be engaged, and the stage may be moved again."""
    local.lock_focus("autofocus", True)
    optics.engaged = False
    assert "or somebody at the microscope" in ended(local)
    assert local.move({"z": 1}) == {"z": 1}


def test_a_lock_that_somebody_engaged_at_the_microscope_counts(local: Any, optics: Optics) -> None:
    """R3.8: what we move is refused as if it were ours; releasing it works."""
    optics.engaged = True
    with pytest.raises(FocusLockError):
        local.move({"z": 1})
    local.lock_focus("autofocus", False)
    assert local.move({"z": 1}) == {"z": 1}


def test_a_lock_whose_stage_can_not_be_read_is_released(local: Any, optics: Optics) -> None:
    """R3.10: unread is not in place."""
    local.lock_focus("autofocus", True)

    def silent(*_: Any) -> float:
        raise RuntimeError("no answer")

    local._microscope._core.mm._replaced["getPosition"] = silent
    assert "z" in ended(local)
    assert not optics.engaged
    assert "no answer" in local.state().reference_lost["z"]


def test_a_lock_that_can_not_be_released_is_never_said_to_be(local: Any, optics: Optics) -> None:
    """R3.10: the error says that it may still be engaged, and nothing moves the stage."""
    local.lock_focus("autofocus", True)
    optics.obeys = False
    with pytest.raises(HardwareError, match="still ENGAGED"):
        local.lock_focus("autofocus", False)
    assert local.focus_state("autofocus").enabled
    with pytest.raises(FocusLockError):
        local.move({"z": 1})
    optics.obeys = True


def test_a_halt_releases_the_lock(hardware: Any) -> None:
    """R3.11: a step of its own; it can't be engaged while halted."""
    hardware.lock_focus("autofocus", True)
    report = hardware.halt("drifting", "agent")
    assert {step.name: step.done for step in report.steps}["autofocus"]
    try:
        assert not hardware.focus_state("autofocus").enabled
        for call in (lambda: hardware.lock_focus("autofocus", True), lambda: hardware.focus("autofocus")):
            with pytest.raises(HaltedError):
                call()
        assert not hardware.focus_state("autofocus").enabled
    finally:
        hardware.rearm("operator")
    assert hardware.move({"z": 1}) == {"z": 1}


def test_a_halt_that_slips_in_while_it_engages_wins(local: Any, optics: Optics) -> None:
    """R3.11: it is released again, whichever came first."""
    mm = local._microscope._core.mm
    engage = mm._replaced["enableContinuousFocus"]

    def halted_meanwhile(on: bool) -> None:
        if on:
            local.halt("now", "agent")
        engage(on)

    mm._replaced["enableContinuousFocus"] = halted_meanwhile
    with pytest.raises(HaltedError):
        local.lock_focus("autofocus", True)
    assert not optics.engaged


def test_an_opened_interlock_releases_the_lock(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R5.1 to R5.7: a door that opens; it can't be engaged before an operator has rearmed."""
    scope = make_scope(tmp_path, scope=[SENSOR, INTERLOCK], cfg=[DOOR])
    hardware: Any = connect(scope, Layout(tmp_path / "data"))
    try:
        hardware.lock_focus("autofocus", True)
        hardware.set_value("handle", "1")
        pause = threading.Event()
        for _ in range(1000):
            if not hardware.focus_state("autofocus").enabled:
                break
            pause.wait(0.01)
        assert not hardware.focus_state("autofocus").enabled
        with pytest.raises(InterlockError, match="a focus lock is refused"):
            hardware.lock_focus("autofocus", True)
    finally:
        hardware.close()


@pytest.fixture
def closing(tmp_path: Path, make_scope: Callable[..., Any]) -> Any:
    return connect(make_scope(tmp_path), Layout(tmp_path / "data"))


def test_the_end_of_client_or_process_releases_the_lock(closing: Any) -> None:
    """R0.3: a driver that vanishes, and an orderly end."""
    microscope, mm = closing._microscope, closing._microscope._core.mm
    closing.lock_focus("autofocus", True)
    microscope.make_safe("its client is gone")
    assert not mm.isContinuousFocusEnabled()
    closing.lock_focus("autofocus", True)
    released: list[bool] = []
    unload = microscope._core.close
    microscope._core.close = lambda: (released.append(not mm.isContinuousFocusEnabled()), unload())
    closing.close()
    assert released == [True]


PROPERTY = (
    "  laser_line:",
    "  way_round: {label: Autofocus, kind: property, property: Name, choices: [a]}\n  laser_line:",
)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("{label: Autofocus, kind", "{label: Objective, kind"), "needs a AutoFocusDevice"),
        (PROPERTY, "belongs to a light, an axis, the objective or the autofocus"),
    ],
)
def test_a_scope_that_does_not_fit_is_refused(
    tmp_path: Path, make_scope: Callable[..., Any], edit: tuple[str, str], message: str
) -> None:
    """R3.8: another device's label; a property of the autofocus as a way round."""
    with pytest.raises(ConfigurationError, match=message):
        connect(make_scope(tmp_path, scope=[edit]), Layout(tmp_path / "data"))


def test_one_that_was_left_engaged_is_released_at_start(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R0.3: where that fails the microscope starts, its stage is moved by nobody, and the state says why."""
    from queuescope.hardware._focusing import Focusing

    hardware: Any = connect(make_scope(tmp_path), Layout(tmp_path / "data"))
    try:
        microscope = hardware._microscope
        mm = microscope._core.mm
        mm.enableContinuousFocus(True)

        def again() -> Focusing:
            quiet = {"publish": print, "tell": lambda *_: None, "interrupt": print}
            return Focusing(microscope._core, microscope._scope, microscope._axes, microscope._safety, **quiet)

        again()
        assert not mm.isContinuousFocusEnabled()
        microscope._core.mm = Mute(mm)
        found = again()
        assert "no answer" in found.read_all()[1]["autofocus"]
        with pytest.raises(DeviceError, match="no answer"):
            hardware.move({"z": 1})
        microscope._core.mm = mm
    finally:
        hardware.close()


class Mute:
    def __init__(self, mm: Any) -> None:
        self._mm = mm

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: Any) -> None:
            raise RuntimeError("no answer")

        return refuse if "ContinuousFocusE" in name or name.startswith("enableCont") else getattr(self._mm, name)


def test_an_offset_needs_limits(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R3.8: without them it is neither set nor told."""
    hardware: Any = connect(make_scope(tmp_path, scope=[(", offset: [-100, 100]", "")]), Layout(tmp_path / "data"))
    try:
        with pytest.raises(NotAllowedError, match=r"devices\.autofocus\.offset states no limits"):
            hardware.lock_focus("autofocus", True, 1.0)
        assert hardware.lock_focus("autofocus", True).offset is None
    finally:
        hardware.close()


TESTER = (
    "Device,Autofocus,DemoCamera,DAutoFocus",
    "Device,THub,SequenceTester,THub\nDevice,Autofocus,SequenceTester,TAutofocus-0\nParent,Autofocus,THub",
)


def test_another_adapter_and_its_own_switch(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R3.10, nothing played: Micro-Manager's SequenceTester; its property is the switch at the microscope."""
    hardware: Any = connect(make_scope(tmp_path, cfg=[TESTER]), Layout(tmp_path / "data"))
    try:
        mm = hardware._microscope._core.mm
        assert hardware.focus("autofocus") == {"z": 0}
        assert hardware.lock_focus("autofocus", True, 3.5).locked
        assert hardware.focus_state("autofocus").offset == 3.5
        with pytest.raises(FocusLockError):
            hardware.move({"z": 1})
        mm.setProperty("Autofocus", "ContinuousFocus", "Off")
        assert "somebody at the microscope" in ended(hardware)
        assert hardware.move({"z": 1}) == {"z": 1}
        mm.setProperty("Autofocus", "ContinuousFocus", "On")
        with pytest.raises(FocusLockError):
            hardware.move({"z": 2})
        assert hardware.halt("enough", "operator").steps
        assert mm.getProperty("Autofocus", "ContinuousFocus") == "Off"
    finally:
        hardware.close()


@pytest.mark.parametrize(("found", "lost"), [(10.0, False), (70.0, True)])
def test_a_halt_during_a_focusing_is_told(local: Any, optics: Optics, found: float, lost: bool) -> None:
    """R3.11: it isn't said to have focused; where it ran out of its reach, nothing moves it back and a person must look."""
    mm = local._microscope._core.mm
    focus = mm._replaced["fullFocus"]

    def halted_meanwhile() -> None:
        local.halt("now", "agent")
        focus()

    optics.finds = found
    mm._replaced["fullFocus"] = halted_meanwhile
    with pytest.raises(HaltedError, match="halted by agent"):
        local.focus("autofocus")
    assert local.positions(("z",)) == {"z": found}
    assert ("z" in local.state().reference_lost) == lost
