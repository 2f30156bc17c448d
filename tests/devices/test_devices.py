"""ophyd devices of every kind in the demo scope: what they describe, what they refuse."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky.protocols import Flyable, Movable, Readable, Triggerable

from queuescope.config import Scope, load_scope
from queuescope.devices import build_devices
from queuescope.hardware import ConnectedHardware, HardwareError, connect
from queuescope.layout import Layout

WORKER = {"QUEUESCOPE_MICROMANAGER__PROCESS": "worker"}


@pytest.fixture(scope="module")
def scope() -> Scope:
    return load_scope("demo-dispim", environ=WORKER)


@pytest.fixture(scope="module")
def hardware(scope: Scope, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectedHardware]:
    layout = Layout(tmp_path_factory.mktemp("devices"))
    layout.create()
    connected = connect(scope, layout)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def devices(scope: Scope, hardware: ConnectedHardware, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return build_devices(scope, Layout(tmp_path_factory.mktemp("layout")), hardware)[0]


def test_every_device_and_light_of_the_scope_exists(scope: Scope, devices: dict[str, Any]) -> None:
    ours = {"burst", "channel", "lights_off", "live_view", "volume"}
    assert set(devices) == set(scope.devices) | set(scope.lights) | ours
    assert all(device.name == name for name, device in devices.items())


def test_devices_follow_the_protocols(scope: Scope, devices: dict[str, Any]) -> None:
    for name, device in devices.items():
        if name in ("burst", "volume"):
            assert isinstance(device, Flyable)
        elif name == "live_view" or name in scope.of_kind("camera"):
            assert isinstance(device, Triggerable)
        else:
            assert isinstance(device, Readable)
            assert isinstance(device, Movable)


@pytest.mark.parametrize(
    ("name", "units", "low", "high"),
    [("piezo_a", "um", -200.0, 200.0), ("xy.x", "um", -2252.0, 983.0), ("galvo_b.y", "deg", -5.0, 5.0)],
)
def test_an_axis_describes_units_and_limits(
    devices: dict[str, Any], name: str, units: str, low: float, high: float
) -> None:
    device, _, component = name.partition(".")
    axis = getattr(devices[device], component) if component else devices[device]
    (description,) = axis.describe().values()
    assert description["units"] == units
    assert (description["lower_ctrl_limit"], description["upper_ctrl_limit"]) == (low, high)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 200.1, -200.1, True, "10", None])
def test_an_axis_refuses_what_its_limits_refuse(
    hardware: ConnectedHardware, devices: dict[str, Any], value: Any
) -> None:
    """R3.8 a bad value moves nothing, and the error says thing, value, limits and where they are written."""
    before = hardware.positions(("piezo_a",))
    with pytest.raises(
        HardwareError, match=r"piezo_a .* outside \[-200.0, 200.0\] \(scope.yml: devices.piezo_a.limits\)"
    ):
        devices["piezo_a"].set(value)
    assert hardware.positions(("piezo_a",)) == before


def test_a_pair_moves_together_or_not_at_all(hardware: ConnectedHardware, devices: dict[str, Any]) -> None:
    devices["xy"].set((10.0, 20.0)).wait(60)
    at = hardware.positions(("xy.x", "xy.y"))
    assert at == pytest.approx({"xy.x": 10.0, "xy.y": 20.0}, abs=0.1)
    with pytest.raises(HardwareError, match=r"xy\.y"):
        devices["xy"].set((50.0, 1e6))
    assert hardware.positions(("xy.x", "xy.y")) == at


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("emission", "BP605", "BP999"),
        ("objective", "Nikon 20X Water 0.5", "Nikon 100X"),
        ("chamber", 36.5, 99.0),
        ("laser_line", "561", "999"),
        ("channel", "gfp", "ultraviolet"),
        ("l488", 2.0, 6.5),
    ],
)
def test_a_setting_takes_what_is_known_and_refuses_the_rest(
    hardware: ConnectedHardware, devices: dict[str, Any], name: str, good: Any, bad: Any
) -> None:
    device = devices[name]
    device.set(good).wait(60)
    reading = device.read()[name]["value"]
    lags = name == "chamber"  # towards its setpoint, with the minutes of a real one
    assert reading == (pytest.approx(37, abs=0.5) if lags else True if name == "l488" else good)
    with pytest.raises(HardwareError, match=str(bad)):
        device.set(bad)
    assert device.read()[name]["value"] == (pytest.approx(reading, abs=0.1) if lags else reading)
    if name == "l488":
        device.set(False).wait(60)
        assert hardware.light("l488").on is False


def test_a_failed_read_raises(devices: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.10 no value is ever invented."""

    def positions(_: Any) -> Any:
        raise HardwareError("the controller doesn't answer", thing="z")

    monkeypatch.setattr(devices["z"]._hardware, "positions", positions)
    with pytest.raises(HardwareError, match="doesn't answer"):
        devices["z"].read()


def test_a_data_key_says_where_frames_are(devices: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        devices["cam_a"].describe()


def test_an_autofocus_is_only_asked_by_set(devices: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.8: once, for good, at an offset; what isn't meant is refused; a plan that only reads never focuses."""
    autofocus = devices["autofocus"]
    asked: list[str] = []
    real = autofocus._hardware.focus
    monkeypatch.setattr(autofocus._hardware, "focus", lambda name, how: (asked.append(how), real(name, how)))
    assert not hasattr(autofocus, "trigger")
    autofocus.set("full").wait(20)
    autofocus.set("incremental").wait(20)
    assert asked == ["full", "incremental"]
    for bad in ("half", 1, None, 0.0):
        with pytest.raises(HardwareError, match="is set to True"):
            autofocus.set(bad)
    autofocus.offset.set(12.5).wait(20)
    assert autofocus.offset.read()["autofocus_offset"]["value"] == 12.5
    assert autofocus.read()["autofocus"]["value"] is True
    with pytest.raises(HardwareError, match=r"autofocus_offset 100\.1"):
        autofocus.offset.set(100.1)
    autofocus.stop(success=True)  # as the RunEngine does at the end of a plan and at a pause
    assert autofocus.get() is True
    autofocus.stop()
    assert autofocus.get() is False
