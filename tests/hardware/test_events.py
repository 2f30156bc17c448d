"""Callbacks of MMCore across the boundary: once each, in both modes, whoever else listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope
from queuescope.hardware import (
    ConnectedHardware,
    EventBatch,
    HardwareEvent,
    HardwareGoneError,
    LimitError,
    connect,
)
from queuescope.hardware._events import Events
from queuescope.layout import Layout

FOCUS = "Device,Autofocus,DemoCamera,DAutoFocus"
CALLING = [
    ("Device,XYStage:XY:31,DemoCamera,DXYStage", "Device,XYStage:XY:31,NotificationTester,NTAsyncXYStage"),
    (FOCUS, f"{FOCUS}\nDevice,Door,NotificationTester,NTAsyncProperty"),
]
"""Adapters that call back."""
DOOR = (
    "chamber:  {",
    "door: {label: Door, kind: property, property: TestProperty, choices: ['0', '1']}\n  chamber:  {",
)


def found(batch: EventBatch) -> list[tuple[str, str, Any]]:
    return [(event.kind, event.name, event.value) for event in batch.events]


def follow(hardware: ConnectedHardware, seen: int, until: Callable[[HardwareEvent], bool]) -> list[HardwareEvent]:
    """The events up to the first that is ``until``."""
    events: list[HardwareEvent] = []
    while not any(until(event) for event in events):
        batch = hardware.events(seen, 20)
        assert batch.events, f"nothing came any more after {events}"
        seen = batch.cursor
        events.extend(batch.events)
    return events


def test_what_happens_is_told_once_and_in_order(hardware: ConnectedHardware) -> None:
    """R0.6: a stage's callback, our own move of a silent galvo, a label, a property, gates, an exposure."""
    seen = hardware.events().cursor
    hardware.move({"z": 7.0})
    hardware.move({"galvo_a.x": 0.5})
    hardware.select("emission", "LP664")
    hardware.set_value("laser_line", "561")
    hardware.configure_camera("cam_a", exposure_ms=33)
    events = follow(hardware, seen, lambda event: event.kind == "exposure")
    told = [(event.kind, event.name, event.value) for event in events]
    for one in [
        ("position", "z", 7.0),
        ("position", "galvo_a.x", 0.5),
        ("label", "emission", "LP664"),
        ("value", "laser_line", "561"),
        ("exposure", "cam_a", 33.0),
    ]:
        assert told.count(one) == 1, (one, told)
    assert [event.number for event in events] == list(range(seen + 1, seen + 1 + len(events)))
    assert hardware.events(events[-1].number).events == ()


def test_gates_are_told(hardware: ConnectedHardware) -> None:
    """R0.6: open and closed, once each."""
    seen = hardware.events().cursor
    hardware.set_light("led", True, 5.0)
    hardware.set_light("led", False)
    events = follow(hardware, seen, lambda event: event.kind == "light" and event.value is False)
    assert [(e.name, e.value) for e in events if e.kind == "light"] == [("led", True), ("led", False)]


def test_waiting_ends_with_the_first_event(hardware: ConnectedHardware) -> None:
    """R0.6: a long poll is answered when something happens, not when its time is over."""
    batch = hardware.events()
    answers: list[EventBatch] = []
    asking = threading.Thread(target=lambda: answers.append(hardware.events(batch.cursor, 30)))
    began = time.monotonic()
    asking.start()
    hardware.move({"f": hardware.positions(("f",))["f"] + 1.5})
    asking.join(20)
    assert time.monotonic() - began < 10
    assert [event.name for event in answers[0].events] == ["f"]
    assert answers[0].instance == batch.instance


@pytest.mark.parametrize("wait_s", [-1.0, 30.1, float("nan"), float("inf")])
def test_a_wait_has_a_limit(hardware: ConnectedHardware, wait_s: float) -> None:
    """R0.4: the same error in both modes."""
    with pytest.raises(LimitError, match=r"outside \[0, 30\]"):
        hardware.events(0, wait_s)


def test_a_subscriber_that_went_away_blocks_nobody_and_is_told_what_it_missed() -> None:
    """R0.6: publishing never waits; who comes late gets what is kept, and the number of events that are gone."""
    events = Events(kept=10)
    for number in range(1000):
        events.publish("position", "z", float(number))
    batch = events.after(5, 0)
    assert batch.missed == 1000 - 5 - 10
    assert [event.value for event in batch.events] == [float(n) for n in range(990, 1000)]
    assert events.after(10**9, 30).events == ()  # a number of another process: answered at once, with the cursor
    assert events.after(-1, 30).cursor == 1000


def test_dead_subscribers_do_not_block_the_hardware(
    tmp_path: Path, make_scope: Callable[..., Scope], start_process: Callable[..., Any]
) -> None:
    """R0.6: with subscribers that are stopped in the middle of a long poll, moves and other subscribers go on."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    seen = hardware.events().cursor
    dead = [connect(scope, layout, timeout_s=60) for _ in range(5)]

    def ask(client: ConnectedHardware) -> None:
        with pytest.raises(HardwareGoneError):
            client.events(seen, 30)

    waiting = [threading.Thread(target=ask, args=(client,)) for client in dead]
    for thread in waiting:
        thread.start()
    for client in dead:
        while not client._busy:  # type: ignore[attr-defined]
            time.sleep(0.001)
        client.close()
    for thread in waiting:
        thread.join(20)
    for step in range(1, 20):
        hardware.move({"z": float(step)})
    events = follow(hardware, seen, lambda event: event.value == 19.0)
    assert [e.value for e in events if e.name == "z"] == [float(step) for step in range(1, 20)]
    hardware.close()


@pytest.fixture(params=["worker", "own"])
def calling(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_scope: Callable[..., Scope],
    start_process: Callable[..., Any],
) -> Iterator[ConnectedHardware]:
    """A microscope whose XY stage and door call back, in both modes."""
    scope, layout = make_scope(tmp_path, request.param, scope=[DOOR], cfg=CALLING), Layout(tmp_path / "data")
    if request.param == "own":
        start_process(scope.path, layout.data).started()
    connected = connect(scope, layout, timeout_s=60)
    yield connected
    connected.close()


def test_callbacks_cross_the_boundary_once(calling: ConnectedHardware) -> None:
    """R0.6: an asynchronous XY stage and an interlock-like property, once each, in both modes."""
    seen = calling.events().cursor
    calling.set_value("door", "1")
    calling.move({"xy.x": 12.0, "xy.y": -3.0})
    events = follow(calling, seen, lambda event: event.name == "xy.y" and event.value == pytest.approx(-3.0))
    told = [(event.kind, event.name) for event in events]
    assert told.count(("value", "door")) == 1
    assert [(e.name, e.value) for e in events if e.kind == "position" and e.value in (12.0, -3.0)] == [
        ("xy.x", 12.0),
        ("xy.y", -3.0),
    ]


def test_a_silent_axis_is_looked_at(local: Any) -> None:
    """R0.6, R5.7: where the adapter tells nothing (a joystick moved it), a move shows within half a second."""
    seen = local.events().cursor
    core = local._microscope._core.mm
    core.setGalvoPosition("Scanner:AB:33", 1.25, 0.0)
    events = follow(local, seen, lambda event: event.name == "galvo_a.x" and event.value == 1.25)
    assert [event.value for event in events if event.name == "galvo_a.x"].count(1.25) == 1


def test_a_callback_that_comes_late_is_no_event(local: Any) -> None:
    """R0.6: MMCore tells from a thread of its own; where the stage was before the last move is not told after it."""
    seen = local.events().cursor
    moved, told = threading.Event(), threading.Event()

    class Late(dict[str, str]):
        """The scope's names by label; who asks for one waits until the moves are done."""

        asked = 0

        def get(self, label: str, *_: Any) -> str | None:  # type: ignore[override]
            assert moved.wait(20)
            self.asked += 1
            if self.asked == 4:  # the three before it have been dealt with
                told.set()
            return self[label]

    callbacks = local._microscope._callbacks
    callbacks._by_label = Late(callbacks._by_label)
    for target in (1.0, 2.0, 3.0):
        local.move({"z": target})
    moved.set()
    local.move({"z": 4.0})
    assert told.wait(20)
    events = follow(local, seen, lambda event: event.value == 4.0)
    assert [event.value for event in events if event.name == "z"] == [1.0, 2.0, 3.0, 4.0]


def test_nobody_listens_nothing_is_asked(local: Any, disturb: Callable[..., Any]) -> None:
    """R3.7: positions are looked at for a subscriber only."""
    asked = threading.Event()
    real = disturb()
    disturb(getGalvoPosition=lambda label: (asked.set(), real.getGalvoPosition(label))[1])
    assert not asked.wait(0.5)
    local.events()
    assert asked.wait(20)
