"""Joysticks rest while a plan runs and come back on every way out (R5.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import ConfigurationError, DeviceError, connect
from queuescope.layout import Layout

DEVICES = (
    "Device,LaserLine,DemoCamera,DStateDevice",
    "Device,LaserLine,DemoCamera,DStateDevice\nDevice,Stick,DemoCamera,DStateDevice\nDevice,Wheel,DemoCamera,DStateDevice",
)
READ = (
    "  laser_line:",
    '  stick: {label: Stick, kind: property, property: State, choices: ["0", "1", "2"]}\n'
    '  wheel: {label: Wheel, kind: property, property: State, choices: ["0", "1", "2"]}\n'
    "  laser_line:",
)
"""Their states by another property than the one that switches them, which is no plan's to set."""
STICKS = "{label: Stick, property: Label, on: State-1, off: State-0}, {label: Wheel, property: Label, on: State-1, off: State-0}"


def joysticks(entries: str = STICKS) -> tuple[str, str]:
    return ("storage:", f"safety: {{joysticks: [{entries}]}}\nstorage:")


@pytest.fixture
def again(tmp_path: Path, make_scope: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A microscope with a joystick that is on and a wheel that a person has switched off; again: the next process."""
    opened: list[Any] = []

    def open_it(*edits: tuple[str, str]) -> Any:
        scope = make_scope(tmp_path, scope=edits or (READ, joysticks()), cfg=(DEVICES,))
        opened.append(connect(scope, Layout(tmp_path / "data")))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


@pytest.fixture
def hand(again: Callable[..., Any]) -> Any:
    found = again()
    found.set_value("stick", "1")
    found.set_value("wheel", "2")
    return found


def states(hardware: Any) -> tuple[Any, Any]:
    return hardware.value("stick"), hardware.value("wheel")


def test_they_rest_and_come_back_as_they_were(hand: Any) -> None:
    """R5.7: held twice (a plan that resumes) is held once; what a person had switched off stays so."""
    assert hand.hold_joysticks(True) == hand.hold_joysticks(True) == ("Stick.Label",)
    assert states(hand) == ("0", "2")
    assert hand.hold_joysticks(False) == ()
    assert states(hand) == ("1", "2")
    hand.hold_joysticks(False)
    assert states(hand) == ("1", "2")


def test_they_come_back_while_halted(hand: Any) -> None:
    """R5.7: a plan that a halt ended gives them back before anybody rearms."""
    hand.hold_joysticks(True)
    hand.halt("smoke", "agent")
    hand.hold_joysticks(False)
    assert states(hand) == ("1", "2")


def test_they_come_back_when_the_worker_is_gone(hand: Any) -> None:
    """R5.7: with everything else that the hardware then puts safe."""
    hand.hold_joysticks(True)
    hand._microscope.make_safe("the client that drove the microscope is gone")
    assert states(hand) == ("1", "2")


def test_they_come_back_after_a_process_that_died(hand: Any, again: Callable[..., Any], tmp_path: Path) -> None:
    """R5.7: the file outlives it; a file that can't be read switches all of them on, rather than none."""
    hand.hold_joysticks(True)
    file = tmp_path / "data" / "services" / "joysticks.json"
    held = file.read_bytes()
    hand.close()
    assert not file.exists(), "an orderly end gives them back"
    file.write_bytes(held)
    following = again()
    assert states(following) == ("1", "0"), "the demo devices stand at 0 after loading"
    following.close()
    file.write_text("[")
    assert states(again()) == ("1", "1")


def test_one_that_stays_on_fails_the_plan(hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """R5.7: a hand could move the axes: the error says so, and the others are on again."""
    hand.set_value("wheel", "1")
    core = hand._microscope._core
    write = core.write_exactly

    def stuck(thing: str, label: str, name: str, value: str) -> None:
        if (label, value) == ("Wheel", "State-0"):
            raise DeviceError("Wheel.Label was set to State-0 and reads State-1", thing=thing)
        write(thing, label, name, value)

    monkeypatch.setattr(core, "write_exactly", stuck)
    with pytest.raises(DeviceError, match="a hand could move the axes during a plan"):
        hand.hold_joysticks(True)
    assert states(hand) == ("1", "1")


def test_a_joystick_that_does_not_exist_is_refused_at_load(again: Callable[..., Any]) -> None:
    """R5.7: with what there is; and no device of a plan may be its switch."""
    for edits, problem in (
        ((joysticks("{label: Stick, property: Lable, on: a, off: b}"),), "has no property 'Lable'"),
        ((joysticks("{label: Stik, property: Label, on: a, off: b}"),), "has no device 'Stik'"),
        (
            (("  laser_line:", "  stick: {label: Stick, kind: property, property: Label, choices: [State-0]}\n  laser_line:"),
             joysticks()),
            "Stick.Label belongs to a light, an axis",
        ),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=problem):
            again(*edits)
