"""Cameras and ports go to another program and come back without anything moving (R5.7)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import (
    BusyError,
    ConfigurationError,
    ConnectedHardware,
    DatasetPlan,
    DeviceError,
    DisarmedError,
    FrameSettings,
    LatchFile,
    ReferenceLostError,
    ReleasedError,
    RestartPendingError,
    connect,
)
from queuescope.layout import Layout

WATCHED = ("kind: stage, limits: [-50, 250], home: 0, reference: none}", "kind: stage, limits: [-50, 250], home: 0}")
MOVER = ('"ZStage:V:37", kind: stage,', '"ZStage:V:37", kind: stage, moves_on_init: true,')
ARMED = ("storage:", "safety: {arm: {hours: 2}}\nstorage:")
STARTUP = ("ConfigGroup,System,Startup,Bottom,BitDepth,12", "ConfigGroup,System,Startup,ZStage:Z:32,Position,50")
MOVING = ("set", "home", "stop", "Origin", "load", "apply", "fullFocus", "incrementalFocus")
"""Beginnings (``Origin``: parts) of MMCore's functions that could move something."""


@pytest.fixture
def open_scope(tmp_path: Path, make_scope: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """``open_scope(*edits)``: a microscope in this process; again: the same data directory in the next process."""
    with ExitStack() as opened:

        def open_it(*edits: tuple[str, str], cfg: tuple[tuple[str, str], ...] = ()) -> Any:
            found = connect(make_scope(tmp_path, scope=edits, cfg=cfg), Layout(tmp_path / "data"))
            opened.callback(found.close)
            return found

        yield open_it


class Watched:
    """MMCore that remembers what is asked of it."""

    def __init__(self, mm: Any) -> None:
        self._mm = mm
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._mm, name)
        if not callable(found):
            return found

        def ask(*args: Any) -> Any:
            self.asked.append((name, *args))
            return found(*args)

        ask.__name__ = name
        return ask


def test_nothing_moves_when_it_is_released_and_reclaimed(open_scope: Callable[..., Any]) -> None:
    """R5.7: of all that MMCore is asked nothing moves an axis or a turret, and System/Startup moves none either."""
    hardware = open_scope(cfg=(STARTUP,))
    core = hardware._microscope._core
    core.mm = watched = Watched(core.mm)
    hardware.move({"z": 20.0})
    assert ("setPosition", "ZStage:Z:32", 20.0) in watched.asked, "what the test looks for is seen"
    watched.asked.clear()
    info = hardware.release("Ada", "alignment in Micro-Manager")
    assert (info.stage, core.mm.getLoadedDevices()) == ("released", ("Core",))
    assert hardware.reclaim("Ada").stage == "ready"
    lights = {light.gate.label for light in hardware._microscope._scope.lights.values()}
    lights |= {
        part.label
        for light in hardware._microscope._scope.lights.values()
        for part in (light.power, light.emission)
        if part is not None and part != "fixed"
    }
    could_move = [
        call
        for call in watched.asked
        if call[0].startswith(MOVING)
        and not (call[0] == "setProperty" and (call[1] in lights or call[2:] == ("SPIMState", "Idle")))
    ]
    assert {call[0] for call in could_move} <= {"setAutoShutter", "loadSystemConfiguration"}, could_move
    assert hardware.positions(("z",)) == {"z": 0.0}, "where the demo adapter stands when it is loaded, not 50"


def test_every_call_says_who_has_it(open_scope: Callable[..., Any]) -> None:
    """R5.7: a typed error with name, time and remedy; halt tells that it can't reach the lights; the second release is none."""
    hardware = open_scope()
    hardware.release("Ada", "alignment")
    for call in (
        hardware.state,
        hardware.safety,
        hardware.events,
        hardware.dose,
        lambda: hardware.positions(("z",)),
        lambda: hardware.move({"z": 1.0}),
        lambda: hardware.snap("cam_a", FrameSettings()),
        lambda: hardware.set_light("led", False),
        lambda: hardware.stop(),
        lambda: hardware.confirm_reference("z", "Ada"),
    ):
        with pytest.raises(ReleasedError, match=r"released by Ada at 20.* \(alignment\): queuescope reclaim") as caught:
            call()
        assert (caught.value.fields["by"], caught.value.fields["reason"]) == ("Ada", "alignment")
    assert "released by Ada" in str(hardware.info().waits)
    assert hardware.release("Grace", "me too").waits == hardware.info().waits
    assert {(off.off, str(off.error)[:15]) for off in hardware.lights_off()} == {(False, "released by Ada")}
    report = hardware.halt("smoke", "agent")
    assert [(step.name, step.done) for step in report.steps] == [("released", False)]
    hardware.rearm("Ada")
    hardware.reclaim("Ada")
    assert hardware.safety().halted is None
    assert hardware.snap("cam_a", FrameSettings()).any()


def test_lights_and_emissions_are_off_and_it_is_disarmed(open_scope: Callable[..., Any], lit: FrameSettings) -> None:
    """R5.7, R5.4: before the devices are unloaded, as MMCore says itself."""
    hardware = open_scope(ARMED)
    hardware.arm(hardware.state().time + 3600, "Ada")
    hardware.set_light("l488", True, 2.0)
    core, seen = hardware._microscope._core, []
    unload, scope = core.close, hardware._microscope._scope
    core.close = lambda: (
        seen.extend(
            core.mm.getProperty(switch.label, switch.property) == switch.off
            for light in scope.lights.values()
            for switch in (light.gate, light.emission)
            if switch is not None
        ),
        unload(),
    )
    hardware.release("Ada", "alignment")
    assert len(seen) == 9
    assert all(seen)
    core.close = unload
    hardware.reclaim("Ada")
    with pytest.raises(DisarmedError):
        hardware.snap("cam_a", lit)


def test_a_light_that_stays_on_keeps_it(local: Any, disturb: Callable[..., Any]) -> None:
    """R5.7: refused with the light's name; nothing was unloaded."""
    real = disturb()
    local.set_light("l488", True, 2.0)

    label = local._microscope._scope.lights["l488"].gate.label
    disturb(setProperty=lambda one, name, value: None if one == label else real.setProperty(one, name, value))
    with pytest.raises(DeviceError, match="not released: lights could not be switched off: l488"):
        local.release("Ada", "alignment")
    disturb()
    assert local.light("l488").on
    assert local.info().stage == "ready"
    local.set_light("l488", False)


def test_it_is_refused_while_something_runs(local: Any, new_plan: Callable[..., Any]) -> None:
    """R5.7: an open recording, or a move under way; without a name."""
    state = local.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a")))
    with pytest.raises(BusyError, match=f"run {state.run_uid} is being recorded"):
        local.release("Ada", "alignment")
    local.close_recording(state.recording)
    drive = local._microscope._axes._drives["z"]
    drive.moving = True
    with pytest.raises(BusyError, match="z is moving"):
        local.release("Ada", "alignment")
    drive.moving = False
    with pytest.raises(Exception, match="say who"):
        local.release(" ", "alignment")
    assert local.positions(("z",)) == {"z": 0.0}


def test_what_was_known_before_is_known_no_more(open_scope: Callable[..., Any]) -> None:
    """R5.7, R5.8: another instance, another stream of events that tells again; watched axes wait for a person."""
    hardware = open_scope(WATCHED)
    hardware.move({"z": 20.0})
    before, events = hardware.info().instance, hardware.events()
    woken: list[BaseException] = []

    def follow() -> None:
        try:
            hardware.events(events.cursor, 30)
        except ReleasedError as error:
            woken.append(error)

    following = threading.Thread(target=follow)
    following.start()
    hardware.release("Ada", "alignment")
    following.join(20)
    assert len(woken) == 1, "whoever waits for events is told"
    hardware.reclaim("Ada")
    assert hardware.info().instance != before
    assert hardware.events().instance != events.instance
    with pytest.raises(ReferenceLostError, match="z may have been moved and zeroed by others: it was released by Ada"):
        hardware.move({"z": 1.0})
    assert list(hardware.state().reference_lost) == ["z"]
    hardware.confirm_reference("z", "Ada")
    seen = hardware.events().cursor
    hardware.move({"z": 1.0})
    batch = hardware.events(seen, 20)
    assert [(event.name, event.value) for event in batch.events] == [("z", 1.0)], "callbacks are registered again"


def test_a_device_that_moves_when_loaded_waits_for_a_person(open_scope: Callable[..., Any]) -> None:
    """R5.7: reclaiming loads the lights alone, and moves nothing; rearming lets it load the rest."""
    hardware = open_scope(MOVER)
    hardware.release("Ada", "alignment")
    info = hardware.reclaim("Ada")
    assert (info.stage, info.waits) == ("waiting", "reclaimed, and loading moves f (moves_on_init)")
    loaded = hardware._microscope._core.mm.getLoadedDevices()
    assert "ZStage:V:37" not in loaded
    assert hardware._microscope._scope.lights["l488"].gate.label in loaded
    with pytest.raises(RestartPendingError, match="an operator must rearm"):
        hardware.move({"z": 1.0})
    hardware.rearm("Ada")
    assert hardware.info().stage == "ready"
    assert hardware.move({"z": 1.0}) == {"z": 1.0}


def test_closed_while_it_waits_it_stays_released(open_scope: Callable[..., Any]) -> None:
    """R5.7: reclaimed is only what has been loaded."""
    hardware = open_scope(MOVER)
    hardware.release("Ada", "alignment")
    hardware.reclaim("Ada")
    hardware.close()
    assert open_scope(MOVER).info().stage == "released"


def test_the_next_process_comes_up_released(open_scope: Callable[..., Any], tmp_path: Path) -> None:
    """R5.7: after an orderly end too; it loads nothing until somebody reclaims, who needn't be the same."""
    hardware = open_scope()
    hardware.release("Ada", "alignment")
    hardware.close()
    again = open_scope()
    assert again._microscope._core.mm.getLoadedDevices() == ("Core",)
    with pytest.raises(ReleasedError, match="released by Ada"):
        again.state()
    again.reclaim("Grace")
    assert again.state().errors == {}
    assert not LatchFile.released(Layout(tmp_path / "data")).exists()
    log = (tmp_path / "data" / "logs" / "safety.jsonl").read_text()
    assert '"event": "release", "by": "Ada"' in log
    assert '"event": "reclaim", "by": "Grace"' in log


def test_what_cannot_be_loaded_stays_released(open_scope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """R5.7: the other program still has a port: the error is told, nothing is half loaded, and it can be tried again."""
    hardware = open_scope()
    hardware.release("Ada", "alignment")

    def taken(*_: Any) -> None:
        raise ConfigurationError("COM3 is in use by another program", thing="COM3")

    with monkeypatch.context() as patch:
        patch.setattr("queuescope.hardware._microscope.load_configuration", taken)
        with pytest.raises(ConfigurationError, match="COM3 is in use"):
            hardware.reclaim("Ada")
    assert hardware.info().stage == "released"
    assert hardware._microscope._core.mm.getLoadedDevices() == ("Core",)
    assert hardware.reclaim("Ada").stage == "ready"
    assert hardware.move({"z": 1.0}) == {"z": 1.0}


def test_a_killed_process_is_followed_by_a_released_one(
    tmp_path: Path, make_scope: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    """R5.7: not even its lights are loaded, since the ports belong to somebody else, until somebody reclaims."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware: ConnectedHardware = connect(scope, layout)
    assert hardware.release("Ada", "alignment").stage == "released"
    process.signal(signal.SIGKILL)
    process.wait()
    second = start_process(scope.path, layout.data)
    event = second.event()
    assert (event["event"], event["stage"]) == ("ready", "released"), "no lights-off-first"
    hardware.close()
    hardware = connect(scope, layout)
    with pytest.raises(ReleasedError):
        hardware.positions(("z",))
    assert hardware.reclaim("Ada").stage == "ready"
    assert hardware.move({"z": 3.0}) == {"z": 3.0}
    hardware.release("Ada", "again")
    second.signal(signal.SIGTERM)
    assert second.event()["event"] == "stopped"
    assert second.wait() == 0
    hardware.close()
