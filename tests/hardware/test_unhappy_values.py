"""Setting a value that can't be: unknown, out of bounds, of the wrong type, refused or swallowed by its adapter (R3.8, R3.10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.hardware import (
    ArgumentError,
    ConfigurationError,
    DeviceError,
    LimitError,
    NotAllowedError,
    ReadbackError,
    UnknownNameError,
    connect,
)
from queuescope.layout import Layout

NUMBER = (
    "  laser_line:",
    "  flux: {label: Bottom, kind: property, property: Photon Flux, units: ph, limits: [1, 100]}\n  laser_line:",
)
WARM = (
    "  laser_line:",
    "  room: {label: Incubator, kind: temperature, property: Temperature, limits: [0, 50]}\n  laser_line:",
)
READ_ONLY = (
    "  laser_line:",
    "  fixed: {label: Bottom, kind: property, property: CameraName, choices: [a, b]}\n  laser_line:",
)


@pytest.fixture(scope="module")
def hardware(tmp_path_factory: pytest.TempPathFactory, make_scope: Callable[..., Any]) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("scope")
    connected = connect(make_scope(folder, scope=[NUMBER, WARM]), Layout(folder / "data"))
    yield connected
    connected.close()


class Stubborn:
    """MMCore whose adapters refuse or swallow what is written."""

    def __init__(self, mm: Any, **instead: Callable[..., Any]) -> None:
        self._mm, self._instead = mm, instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name) or getattr(self._mm, name)


@pytest.fixture
def stubborn(hardware: Any) -> Iterator[Callable[..., None]]:
    core = hardware._microscope._core
    real = core.mm

    def replace(**instead: Callable[..., Any]) -> None:
        core.mm = Stubborn(real, **instead)

    yield replace
    core.mm = real


SETS: list[tuple[str, tuple[Any, ...], type[Exception]]] = [
    ("set_value", ("flux", math.nan), LimitError),
    ("set_value", ("flux", math.inf), LimitError),
    ("set_value", ("flux", 100.1), LimitError),
    ("set_value", ("flux", "50"), LimitError),
    ("set_value", ("flux", True), ArgumentError),
    ("set_value", ("flux", None), ArgumentError),
    ("set_value", ("laser_line", "999"), LimitError),
    ("set_value", ("laser_line", True), ArgumentError),
    ("set_value", ("laser_line", 488.5), LimitError),
    ("set_value", ("room", 37.0), NotAllowedError),
    ("select", ("emission", "BP999"), UnknownNameError),
    ("select", ("emission", 1), ArgumentError),
    ("select", ("emission", ""), UnknownNameError),
    ("move", ({"galvo_a.x": math.nan},), LimitError),
    ("move", ({"galvo_a.x": 5.01},), LimitError),
    ("move", ({"galvo_a.x": True},), ArgumentError),
    ("move", ({"galvo_a": 1.0},), UnknownNameError),
]


@pytest.mark.parametrize(("call", "arguments", "error"), SETS, ids=lambda value: str(value))
def test_a_bad_value_changes_nothing(
    hardware: Any, call: str, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    """R3.8: refused before anything is written, in the hardware itself."""
    skip = {"time", "values"}
    before = hardware.state().model_dump(exclude=skip), hardware.value("flux"), hardware.value("laser_line")
    with pytest.raises(error) as caught:
        hardware._call(call, *arguments)
    assert type(caught.value) is error
    assert caught.value.fields["thing"]
    assert (hardware.state().model_dump(exclude=skip), hardware.value("flux"), hardware.value("laser_line")) == before


GOOD: list[tuple[str, tuple[Any, ...], str]] = [
    ("set_value", ("flux", 61.0), "setProperty"),
    ("set_value", ("laser_line", "561"), "setProperty"),
    ("select", ("emission", "BP605"), "setStateLabel"),
    ("move", ({"galvo_a.x": 1.0},), "setGalvoPosition"),
    ("move", ({"xy.x": 10.0},), "setXYPosition"),
    ("configure_camera", ("overview", 20.0), "setExposure"),
]


@pytest.mark.parametrize(("call", "arguments", "function"), GOOD, ids=lambda value: str(value))
def test_an_adapter_that_refuses_is_told_in_its_words(
    hardware: Any, stubborn: Callable[..., None], call: str, arguments: tuple[Any, ...], function: str
) -> None:
    """R3.10: with the device's name in the scope."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("the controller says no (107)")

    stubborn(**{function: refuse})
    with pytest.raises(DeviceError, match=r"the controller says no \(107\)") as caught:
        getattr(hardware, call)(*arguments)
    assert caught.value.fields["thing"] in ("flux", "laser_line", "emission", "galvo_a", "xy", "overview")


@pytest.mark.parametrize(("call", "arguments", "function"), GOOD, ids=lambda value: str(value))
def test_an_adapter_that_swallows_is_found_out(
    hardware: Any, stubborn: Callable[..., None], call: str, arguments: tuple[Any, ...], function: str
) -> None:
    """R3.10: MMCore says nothing where a property is read only or a value is not taken; reading it back does."""
    stubborn(**{function: lambda *_: None})
    with pytest.raises(ReadbackError) as caught:
        getattr(hardware, call)(*arguments)
    assert {"thing", "value", "got", "limit"} <= set(caught.value.fields)


def test_a_read_only_property_is_refused_at_start(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R3.8: MMCore takes a write to it without a word."""
    with pytest.raises(ConfigurationError, match=r"devices\.fixed\.property: Bottom\.CameraName is read only"):
        connect(make_scope(tmp_path, scope=[READ_ONLY]), Layout(tmp_path / "data"))
