"""Python devices in a Micro-Manager configuration: loading, errors, callbacks, and a lab's own file beside its ``mm.cfg``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import load_scope
from queuescope.hardware import ConfigurationError, DeviceError, connect
from queuescope.hardware._inventory import inventory
from queuescope.hardware._restart import first_lines
from queuescope.layout import Layout

LAMP = "Device,LaserLine,DemoCamera,DStateDevice"
LAB = '''
from pymmcore_plus.experimental.unicore import GenericDevice, StageDevice


class Focus(StageDevice):
    """A lab's own stage."""

    def __init__(self):
        super().__init__()
        self.at = 0.0

    def get_position_um(self):
        return self.at

    def set_position_um(self, val):
        if val > 40:
            raise LookupError("the motor stalls")
        self.at = val
        self.core.events.stagePositionChanged.emit(self.get_label(), val)

    def home(self): ...
    def stop(self): ...
    def set_origin(self): ...


class Broken(GenericDevice):
    def initialize(self):
        raise OSError("nobody answers on the port")
'''
STAGE = [
    ('  f:        {label: "ZStage:V:37"', "  f:        {label: LabFocus"),
]


@pytest.fixture
def lab(make_scope: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """``lab(line)``: the demo scope with a lab's own Python device in its configuration."""

    def made(line: str, *scope: tuple[str, str]) -> Any:
        found = make_scope(tmp_path / "lab", scope=scope, cfg=[(LAMP, f"{line}\n{LAMP}")])
        (tmp_path / "lab" / "lab_devices.py").write_text(LAB)
        return found

    return made


def test_a_labs_own_file_beside_its_configuration_is_found(lab: Callable[..., Any], tmp_path: Path) -> None:
    """R3.6 a Python stage moves, tells its position, and its faults are typed like an adapter's."""
    scope = lab("#py pyDevice,LabFocus,lab_devices,Focus", *STAGE)
    hardware: Any = connect(scope, Layout(tmp_path / "data"))
    try:
        seen = hardware.events().cursor
        for position in (1.0, 2.0, 3.0):  # by hand, faster than anybody looks
            hardware._microscope._core.mm.setPosition("LabFocus", position)
        told = [event.value for event in hardware.events(seen=seen, wait_s=10).events if event.name == "f"]
        assert told == [1.0, 2.0, 3.0]
        assert hardware.move({"f": 12.5}) == {"f": 12.5}
        with pytest.raises(DeviceError, match="f: LookupError: the motor stalls"):
            hardware.move({"f": 41.0})
        assert hardware.positions(("f",)) == {"f": 12.5}
    finally:
        hardware.close()


def test_a_module_that_is_not_there_is_named_with_its_line(lab: Callable[..., Any], tmp_path: Path) -> None:
    scope = lab("#py pyDevice,LabFocus,no_such_module.devices,Focus")
    with pytest.raises(
        ConfigurationError, match=r"'no_such_module.devices' \(device 'LabFocus'.*line \d+\) was not found"
    ):
        connect(scope, Layout(tmp_path / "data"))


def test_a_device_that_cannot_be_initialised_is_named(lab: Callable[..., Any], tmp_path: Path) -> None:
    """R3.10 UniMMCore itself would log it and go on."""
    scope = lab("#py pyDevice,Wreck,lab_devices,Broken")
    with pytest.raises(ConfigurationError, match="'Wreck' can't be initialised: OSError: nobody answers on the port"):
        connect(scope, Layout(tmp_path / "data"))


def test_the_inventory_knows_python_devices(lab: Callable[..., Any]) -> None:
    """`init` and `doctor` ask it for their kinds."""
    scope = lab("#py pyDevice,LabFocus,lab_devices,Focus\n#py pyDevice,Gone,no_such_module,Nothing")
    found = inventory(Path(scope.config_path), None, load=False)
    assert found["error"] is None
    assert (found["missing"], found["modules"]) == ([], ["no_such_module"])
    assert found["types"]["LabFocus"] == "StageDevice"
    assert found["types"]["Scanner:AB:33"] == "GalvoDevice"
    assert found["types"]["HamCam1"] == "CameraDevice"


def test_after_a_crash_the_scanners_are_among_the_first(tmp_path: Path) -> None:
    """R3.9 with their hub, its pre-initialisation properties and their own; no camera, no stage, no preset."""
    scope = load_scope("demo-dispim")
    lines = first_lines(Path(scope.config_path).read_text().splitlines(), scope)
    for line in (
        "#py pyDevice,TigerCommHub,queuescope.hardware.simulated,TigerCommHub",
        "#py pyDevice,Scanner:CD:33,queuescope.hardware.simulated,Scanner",
        "#py Property,TigerCommHub,SerialPort,in-process",
        "#py Parent,Scanner:AB:33,TigerCommHub",
    ):
        assert line in lines
    assert not [line for line in lines if "HamCam" in line or "ConfigGroup" in line]


def test_startup_entries_of_python_devices_that_move_are_left_out(
    make_scope: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R3.9"""
    more = "#py ConfigGroup,System,Startup,Scanner:AB:33,BeamEnabled,No\nConfigPixelSize,Res40x"
    scope = make_scope(tmp_path, cfg=[("ConfigPixelSize,Res40x", more)])
    hardware: Any = connect(scope, Layout(tmp_path / "data"))
    try:
        assert hardware._microscope._core.read("x", "Scanner:AB:33", "BeamEnabled") == "Yes"
        assert "Scanner:AB:33.BeamEnabled" in caplog.text
    finally:
        hardware.close()


def test_without_python_devices_mmcore_is_called_as_before(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """No detour costs where there is nothing to detour to."""
    bundled = load_scope("demo-widefield").path.parent
    shutil.copytree(bundled, tmp_path / "widefield")
    scope = load_scope(tmp_path / "widefield", environ={"QUEUESCOPE_MICROMANAGER__PROCESS": "worker"})
    hardware: Any = connect(scope, Layout(tmp_path / "data"))
    try:
        core = hardware._microscope._core
        assert type(core.mm) is super
        assert type(core._plus).__name__ == "CMMCorePlus"
    finally:
        hardware.close()
