"""A temperature is waited for: reached, stable, too late, stopped. The room is played: the demo's is warm at once."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from queuescope.config import Temperature
from queuescope.devices import TemperatureValue, _temperature
from queuescope.hardware import HardwareError, HardwareTimeout, NotAllowedError


class Room:
    """Comes nearer to its setpoint with every look: by ``step`` °C, or to where ``path`` leads."""

    def __init__(self, step: float = 1.0, path: list[float] | None = None) -> None:
        self.now, self.target, self._step, self._path = 20.0, 20.0, step, path
        self.looked = 0

    def set_value(self, device: str, value: float) -> float:
        self.target = value
        return value

    def value(self, device: str) -> float:
        self.looked += 1
        if self._path:
            self.now = self._path.pop(0)
        elif self._path is None:
            way = self.target - self.now
            self.now += max(-self._step, min(self._step, way))
        return self.now


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_temperature, "LOOK_EVERY_S", 0.001)


def warm(room: Any, **settings: Any) -> TemperatureValue:
    values = {"label": "Incubator", "kind": "temperature", "property": "T", "setpoint": "Target", "limits": (4, 40)}
    return TemperatureValue(name="room", hardware=room, settings=Temperature(**{**values, **settings}))


def test_it_is_done_when_it_has_got_there() -> None:
    """Issue 3, 3: within the scope's tolerance, and it says how far it is."""
    room = Room()
    device = warm(room, tolerance=0.5)
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    status = device.set(30)
    status.watch(lambda **update: told.put(update))
    status.wait(20)
    assert room.now == pytest.approx(30, abs=0.5)
    assert told.get(timeout=20)["unit"] == "degC"


def test_passing_through_is_not_getting_there() -> None:
    """Issue 3, 3: it must stay there for ``stable_s``."""
    room = Room(path=[30.0, 33.0, 30.0, 27.0, 30.0])
    warm(room, tolerance=0.5, stable_s=0.05).set(30).wait(20)
    assert room.looked > 5
    assert room._path == []


@pytest.mark.parametrize(
    ("path", "said"), [([], "hasn't got there after 0.05 s: it reads 20"), ([30.0], "isn't stable")]
)
def test_it_fails_after_its_time(path: list[float], said: str) -> None:
    """R3.10: the error says what was asked, what it reads and for how long it was waited."""
    device = warm(Room(path=path), tolerance=0.5, stable_s=5, timeout_s=0.05)
    with pytest.raises(HardwareTimeout, match=said) as caught:
        device.set(30).wait(20)
    assert caught.value.fields == {"thing": "room", "value": 30.0, "limit": 0.05}
    with pytest.raises(HardwareTimeout):
        device.set(30, timeout=0.02).wait(20)


def test_stopping_ends_the_waiting_and_leaves_the_setpoint() -> None:
    """R3.11: a sample may depend on it."""
    room = Room(path=[])
    device = warm(room)
    status = device.set(30)
    device.stop()
    with pytest.raises(HardwareError, match="was stopped at 20 degC on its way to 30; its setpoint stays"):
        status.wait(20)
    assert room.target == 30


def test_a_later_target_takes_the_earlier_ones_place() -> None:
    """Issue 3, 3: nobody waits for what isn't asked any more."""
    device = warm(Room(path=[]))
    first, second = device.set(30), device.set(25)
    with pytest.raises(HardwareError, match="on its way to 30"):
        first.wait(20)
    device.stop()
    with pytest.raises(HardwareError, match="on its way to 25"):
        second.wait(20)


def test_without_a_setpoint_it_is_read_only() -> None:
    """R3.8: the error names the entry."""
    device = warm(Room(), setpoint=None)
    assert device.read()["room"]["value"] == 20
    with pytest.raises(NotAllowedError, match=r"devices\.room\.setpoint"):
        device.set(30)
