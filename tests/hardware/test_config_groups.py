"""Configuration groups as devices: presets by name, each entry waited for and read back; never a way round a limit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import SCOPES, Scope, load_scope
from queuescope.devices import build_devices
from queuescope.hardware import ConfigurationError, ConnectedHardware, ReadbackError, UnknownNameError, connect
from queuescope.layout import Layout


def widefield(folder: Path, *edits: tuple[str, str], cfg: str = "") -> Scope:
    """A copy of the widefield demo, with edits and lines added to its configuration."""
    shutil.copytree(SCOPES / "demo-widefield", folder)
    text = (folder / "scope.yml").read_text().replace("min_free_gb: 1", "min_free_gb: 0")
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "scope.yml").write_text(text)
    with open(folder / "mm.cfg", "a") as file:
        file.write(cfg)
    return load_scope(folder, environ={"QUEUESCOPE_MICROMANAGER__PROCESS": "worker"})


@pytest.fixture
def hardware(tmp_path: Path) -> Iterator[ConnectedHardware]:
    connected = connect(widefield(tmp_path / "s"), Layout(tmp_path / "data"))
    yield connected
    connected.close()


def test_a_preset_is_chosen_by_name_and_read_back(hardware: ConnectedHardware) -> None:
    """R3.10 the label is what the devices read, not what was sent."""
    assert set(hardware.labels("resolution")) == {"LowRes", "MedRes", "HighRes"}
    assert hardware.select("resolution", "MedRes") == "MedRes" == hardware.label("resolution")
    assert hardware.state().cameras["camera"].binning == 2
    hardware.configure_camera("camera", binning=1)
    assert hardware.label("resolution") == ""  # binning 1 with 10 bit is none of them
    with pytest.raises(UnknownNameError, match="light_path has no label 'Nowhere'"):
        hardware.select("light_path", "Nowhere")


def test_a_preset_of_which_an_entry_does_not_hold_is_an_error(
    hardware: ConnectedHardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3.10 each device is waited for and read; ``waitForConfig`` would have swallowed it."""
    core = hardware._microscope._core  # type: ignore[attr-defined]
    real = core.preset

    def stubborn(group: str, name: str) -> Any:
        return [*real(group, name), ("Path", "State", "0")]

    monkeypatch.setattr(core, "preset", stubborn)
    with pytest.raises(ReadbackError, match=r"preset 'Camera-left' wants Path\.State '1', which reads '0'"):
        hardware.select("light_path", "Camera-left")


def test_it_is_an_ophyd_device_like_a_filter_wheel(tmp_path: Path, hardware: ConnectedHardware) -> None:
    scope = widefield(tmp_path / "again")
    devices, _ = build_devices(scope, Layout(tmp_path / "data"), hardware)
    path = devices["light_path"]
    path.set("Camera-right").wait(60)
    assert path.read()["light_path"]["value"] == "Camera-right"
    assert path.describe()["light_path"]["dtype"] == "string"
    with pytest.raises(UnknownNameError):
        path.check_value("Nowhere")


@pytest.mark.parametrize(
    ("group", "line", "said"),
    [
        ("Nothing", "", "the configuration has no group 'Nothing'"),
        ("System", "", "the group System is Micro-Manager's own"),
        ("Sly", "ConfigGroup,Sly,On,White Light Shutter,State,1\n", r"\[Sly, On\] sets White Light Shutter.State"),
        ("Sly", "ConfigGroup,Sly,On,LED Shutter,State Device,Path\n", r"\[Sly, On\] sets LED Shutter.State Device"),
        ("Sly", "ConfigGroup,Sly,Up,Z,Position,90\n", r"\[Sly, Up\] sets Z.Position"),
        ("Objective", "", r"\[Objective, 10X\] sets Objective.State"),
    ],
)
def test_a_group_that_would_get_past_a_limit_is_refused(tmp_path: Path, group: str, line: str, said: str) -> None:
    """R3.8 a preset may not switch a light, move an axis or turn the objective."""
    scope = widefield(tmp_path / "s", ("{label: LightPath,", f"{{label: {group},"), cfg=line)
    with pytest.raises(ConfigurationError, match=rf"devices\.light_path\.label: {said}"):
        connect(scope, Layout(tmp_path / "data"))


def test_no_property_of_a_bare_shutter_may_be_set_past_its_light(
    make_scope: Callable[..., Scope], tmp_path: Path
) -> None:
    """R3.8 a gate that is opened as a shutter has a State property all the same."""
    gate = 'gate:     {label: "LED:X:31"}'
    sly = 'sly: {label: "LED:X:31", kind: property, property: State, choices: ["0", "1"]}\n  objective: {'
    edits = [(gate, 'gate: {label: "LED:X:31", property: null}'), ("objective: {", sly)]
    scope = make_scope(tmp_path, scope=edits)
    with pytest.raises(ConfigurationError, match=r"devices\.sly\.property: LED:X:31\.State belongs to a light"):
        connect(scope, Layout(tmp_path / "data"))


def test_a_group_tells_its_preset(hardware: ConnectedHardware) -> None:
    """R0.6: when it is chosen, and when one of its properties is changed past it; a channel tells what it set as well."""
    seen = hardware.events().cursor
    told: list[tuple[str, Any]] = []

    def until(name: str, value: str) -> None:
        nonlocal seen
        while (name, value) not in told:
            batch = hardware.events(seen, 20)
            assert batch.events, f"nothing came any more after {told}"
            seen = batch.cursor
            told.extend((event.name, event.value) for event in batch.events if event.kind == "label")

    hardware.select("resolution", "MedRes")
    until("resolution", "MedRes")
    hardware.configure_camera("camera", binning=1)
    until("resolution", "")  # binning 1 with 10 bit is none of them
    hardware.apply_channel("fitc")
    until("emission", "Chroma-HQ535")
    hardware.apply_channel("cy5")
    until("emission", "Chroma-HQ700")
    assert told.count(("resolution", "MedRes")) == 1
