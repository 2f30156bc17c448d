"""After a process that died: lights off first, then the rest, with a person where the scope says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import load_scope
from queuescope.hardware import HardwareError, RestartPendingError, connect
from queuescope.hardware._restart import Note, first_lines, idle_sequences, needs_person
from queuescope.layout import Layout

MakeScope = Callable[..., Any]
Start = Callable[..., Any]
ASK = ("process: own", "process: own\n  restart: ask")


def died(start_process: Start, scope: Any, layout: Layout) -> int:
    """Pid of a hardware process that was killed."""
    process = start_process(scope.path, layout.data).started()
    process.signal(signal.SIGKILL)
    process.wait()
    return int(process.pid)


def test_lights_go_off_before_anything_else_is_loaded(
    tmp_path: Path, make_scope: MakeScope, start_process: Start
) -> None:
    """R0.3: the first thing a restarted process tells is that every light is off; then it loads the rest by itself."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    pid = died(start_process, scope, layout)
    process = start_process(scope.path, layout.data)
    first, second = process.event(), process.event()
    assert (first["event"], first["died"], second["event"]) == ("lights-off-first", pid, "ready")
    assert [(light["light"], light["off"]) for light in first["lights"]] == [
        (name, True) for name in ("l405", "l488", "l561", "l637", "led")
    ]
    assert second["stage"] == "ready"


def test_an_orderly_end_needs_no_restart(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.3: only a process that died is followed by two stages, and `restart: ask` asks nobody then."""
    scope, layout = make_scope(tmp_path, "own", scope=[ASK]), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    process.signal(signal.SIGTERM)
    assert process.event()["event"] == "stopped"
    assert process.wait() == 0
    assert start_process(scope.path, layout.data).event()["event"] == "ready"


MOVER = (
    '"ZStage:Z:32", move_s: 0, kind: stage,',
    '"ZStage:Z:32", move_s: 0, kind: stage, moves_on_init: true,',
)


@pytest.mark.parametrize(("edit", "why"), [(ASK, "micromanager.restart is `ask`"), (MOVER, "loading moves z")])
def test_the_rest_waits_for_a_person(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, edit: tuple[str, str], why: str
) -> None:
    """R0.3: with `restart: ask`, or a device that moves when it is loaded, nothing but lights is loaded until a rearm."""
    scope, layout = make_scope(tmp_path, "own", scope=[edit]), Layout(tmp_path / "data")
    pid = died(start_process, scope, layout)
    process = start_process(scope.path, layout.data)
    assert process.event()["event"] == "lights-off-first"
    hardware = connect(scope, layout, timeout_s=60)
    info = hardware.info()
    assert info.stage == "waiting"
    assert info.waits is not None
    assert info.waits.startswith(f"process {pid} died, and {why}")
    for call in (hardware.state, lambda: hardware.move({"z": 1.0}), lambda: hardware.set_light("led", True)):
        with pytest.raises(RestartPendingError, match="an operator must rearm"):
            call()
    assert all(off.off for off in hardware.lights_off(emission=True)), "lights can be closed meanwhile"
    hardware.rearm("a person")
    assert process.event()["event"] == "ready"
    assert hardware.info().stage == "ready"
    assert hardware.move({"z": 1.0}) == {"z": 1.0}
    hardware.close()


def test_a_process_that_waits_can_be_stopped(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.7: SIGTERM before a person came; the next start is still one after a death."""
    scope, layout = make_scope(tmp_path, "own", scope=[ASK]), Layout(tmp_path / "data")
    died(start_process, scope, layout)
    process = start_process(scope.path, layout.data)
    assert process.event()["event"] == "lights-off-first"
    connect(scope, layout, timeout_s=60).close()
    process.signal(signal.SIGTERM)
    assert process.event()["event"] == "stopped"
    assert process.wait() == 0
    assert start_process(scope.path, layout.data).event()["event"] == "lights-off-first"


def test_somebody_else_who_starts_it_is_the_person(tmp_path: Path, make_scope: MakeScope) -> None:
    """R0.3: after a power failure somebody starts the stack anew, and is there."""
    scope = make_scope(tmp_path, "own", scope=[ASK])
    layout = Layout(tmp_path / "data")
    layout.create()
    note = Note(layout)
    assert note.left() is None
    note.begin()
    left = note.left()
    assert left is not None
    assert needs_person(scope, left) == "micromanager.restart is `ask`"
    assert needs_person(scope, {**left, "parent": left["parent"] + 1}) is None
    (layout.services / "hardware.json").write_text("half a no")
    assert needs_person(scope, note.left()) is not None, "what can't be read asks"
    note.end()
    assert note.left() is None


def test_the_first_stage_holds_lights_scanners_and_what_they_need() -> None:
    """R0.3: their hubs and ports too, but no camera, no stage and no preset."""
    cfg = """
Device,COM3,SerialManager,COM3
Device,TigerHub,ASITiger,TigerCommHub
Device,Laser488 TTL,ASITiger,PLogic
Device,ZStage:Z:32,ASITiger,ZStage
Device,HamCam1,HamamatsuHam,HamamatsuHam_DCAM
Property,TigerHub,SerialPort,COM3
Property,HamCam1,Port,COM3
Parent,Laser488 TTL,TigerHub
Parent,ZStage:Z:32,TigerHub
Property,Core,Initialize,1
Property,Core,Camera,HamCam1
Property,COM3,BaudRate,115200
ConfigGroup,System,Startup,Laser488 TTL,State,1
"""
    kept = first_lines(cfg.splitlines(), load_scope("demo-dispim"))
    assert kept == [
        "Device,COM3,SerialManager,COM3",
        "Device,TigerHub,ASITiger,TigerCommHub",
        "Device,Laser488 TTL,ASITiger,PLogic",
        "Property,TigerHub,SerialPort,COM3",
        "Parent,Laser488 TTL,TigerHub",
        "Property,Core,Initialize,1",
        "Property,COM3,BaudRate,115200",
    ]


def test_sequences_of_controllers_are_idled(local: Any, disturb: Callable[..., Any]) -> None:
    """R0.3: a controller goes on firing when its client has died; one that can't be asked keeps no other from it."""
    real, written = disturb(), {}

    def write(label: str, name: str, value: str) -> None:
        if label == "Scanner:AB:33":
            raise RuntimeError("serial line is dead")
        written[label, name] = value

    disturb(
        hasProperty=lambda label, name: name == "SPIMState" and label.startswith("Scanner"),
        setProperty=write,
        getProperty=lambda label, name: written.get((label, name), "Running"),
    )
    assert idle_sequences(local._microscope._core) == ["Scanner:CD:33"]
    assert written == {("Scanner:CD:33", "SPIMState"): "Idle"}
    assert real is not None


def test_a_call_that_waits_for_the_rest_does_not_block_a_rearm(
    tmp_path: Path, make_scope: MakeScope, start_process: Start
) -> None:
    """R0.3: two people may rearm at once."""
    scope, layout = make_scope(tmp_path, "own", scope=[ASK]), Layout(tmp_path / "data")
    died(start_process, scope, layout)
    process = start_process(scope.path, layout.data)
    assert process.event()["event"] == "lights-off-first"
    hardware = connect(scope, layout, timeout_s=60)
    failed: list[HardwareError] = []

    def rearm() -> None:
        try:
            hardware.rearm("a person")
        except HardwareError as error:
            failed.append(error)

    threads = [threading.Thread(target=rearm) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert hardware.info().stage == "ready"
    hardware.close()
