"""Between its rounds a plan waits for room on a real disk that fills up, with its lights off. Issue 4, item 9."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import plan_stubs as bps
from bluesky.utils import RunEngineInterrupted

from queuescope.config import load_scope
from queuescope.ledger import Waits
from queuescope.plans import PlanContext, wait_for_space
from queuescope.startup._session import Session
from queuescope.startup._space import RoundsWait, Space


class Disk:
    """Four megabytes, of which one must stay free."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"

    def fill(self) -> None:
        self.filler.write_bytes(bytes(3_500_000))

    def clear(self) -> None:
        self.filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    yield Disk(tmp_path)
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def rounds(session: Session, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """``rounds()``: a plan that waits before its round, on a RunEngine that looks at that disk."""
    roots = json.dumps({"SMALL": dict.fromkeys(("hardware", "tiled", "clients"), str(disk.folder))})
    storage = {"ROOTS": roots, "ROOT": "SMALL", "MIN_FREE_GB": "0.001"}
    scope = load_scope("demo-dispim", environ={f"QUEUESCOPE_STORAGE__{key}": value for key, value in storage.items()})
    watch = RoundsWait(Space(scope, session.layout, session.templates), Waits(session.layout))
    watch.item_uid = "item-7"
    for name, command in (("disk_hold", watch.look), ("disk_hold_over", watch.over)):
        session.run_engine.register_command(name, command)
    monkeypatch.setattr("queuescope.plans._space.LOOK_AGAIN_S", 0.05)
    context = PlanContext(scope, session.devices)

    def plan(frames: dict[str, int] | None = None) -> Any:
        yield from bps.open_run()
        yield from wait_for_space(context, frames)
        yield from bps.close_run()

    yield plan
    if session.run_engine.state != "idle":
        session.run_engine.abort()
    for name, command in (("disk_hold", session.rounds.look), ("disk_hold_over", session.rounds.over)):
        session.run_engine.register_command(name, command)


def when_held(session: Session, then: Callable[[], Any]) -> threading.Thread:
    """Do something as soon as the hold is told."""

    def watch() -> None:
        waits = Waits(session.layout)
        told = threading.Event()
        while "item-7" not in waits.told():
            told.wait(0.01)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_with_room_nothing_waits(session: Session, rounds: Callable[..., Any], disk: Disk) -> None:
    outcome = session.run_engine(rounds())
    assert outcome.exit_status == "success"
    assert Waits(session.layout).told() == {}


def test_it_waits_with_lights_off_and_goes_on_by_itself(
    session: Session, rounds: Callable[..., Any], disk: Disk
) -> None:
    light = next(iter(session.scope.lights))
    session.hardware.set_light(light, True)
    disk.fill()
    seen: list[Any] = []

    def room_again() -> None:
        deadline = time.monotonic() + 10
        while (lit := session.hardware.light(light).on) and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.extend([Waits(session.layout).told()["item-7"], lit])
        disk.clear()

    waiting = when_held(session, room_again)
    outcome = session.run_engine(rounds())
    waiting.join(10)
    assert outcome.exit_status == "success"
    hold, lit = seen
    assert hold.reason == "disk"
    assert hold.detail.startswith("the next round waits for room on the disk")
    assert str(disk.folder) in hold.detail
    assert not lit
    assert Waits(session.layout).told() == {}


def test_the_next_rounds_frames_count(session: Session, rounds: Callable[..., Any], disk: Disk) -> None:
    """Four megabytes hold less than one frame of 2048²: the plan waits until it is told to stop."""
    waiting = when_held(session, lambda: session.run_engine.request_pause())
    with pytest.raises(RunEngineInterrupted):
        session.run_engine(rounds({"cam_a": 1}))
    waiting.join(10)
    assert "item-7" in Waits(session.layout).told(), "paused, it still waits"
    session.run_engine.abort()
    assert Waits(session.layout).told() == {}


def test_paused_and_resumed_it_goes_on_waiting(session: Session, rounds: Callable[..., Any], disk: Disk) -> None:
    disk.fill()
    waiting = when_held(session, lambda: session.run_engine.request_pause())
    with pytest.raises(RunEngineInterrupted):
        session.run_engine(rounds())
    waiting.join(10)
    disk.clear()
    outcome = session.run_engine.resume()
    assert outcome.exit_status == "success"
    assert Waits(session.layout).told() == {}


def test_a_simulated_plan_does_not_wait(session: Session, rounds: Callable[..., Any], disk: Disk) -> None:
    """A dry run looks at no disk and ends."""
    disk.fill()
    assert [message.command for message in rounds()] == ["open_run", "disk_hold", "close_run"]
