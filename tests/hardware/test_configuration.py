"""The configuration and the scope must fit; what doesn't is named, with where it was looked for and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope
from queuescope.hardware import ConfigurationError, DeviceError, connect
from queuescope.layout import Layout

MakeScope = Callable[..., Scope]


def refusal(folder: Path, make_scope: MakeScope, **edits: list[tuple[str, str]]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        connect(make_scope(folder, **edits), Layout(folder / "data")).close()
    return caught.value


@pytest.mark.parametrize(
    ("edit", "thing", "words"),
    [
        (('label: "ZStage:Z:32"', 'label: "ZStage:Z:99"'), "devices.z.label", "no device 'ZStage:Z:99'"),
        (
            ("label: HamCam1, kind: camera", "label: hamcam1, kind: camera"),
            "devices.cam_a.label",
            "did you mean 'HamCam1'",
        ),
        (
            ('label: "PiezoStage:P:34"', "label: Emission"),
            "devices.piezo_a.label",
            "is a StateDevice, a device of kind stage needs",
        ),
        (("label: Laser488 TTL", "label: Laser490 TTL"), "lights.l488.gate.label", "no device 'Laser490 TTL'"),
        (("label: Laser561 DA", "label: Laser999 DA"), "lights.l561.power.label", "no device 'Laser999 DA'"),
        (
            ("label: LED DA, property: Voltage", "label: LED DA, property: Watts"),
            "lights.led.power.property",
            "no property 'Watts'",
        ),
        (("label: Laser637}", "label: Laser637, on: maybe}"), "lights.l637.emission.property", "can't be 'maybe'"),
        (
            ("full_scale: 5, limits_pct: [0, 50]", "full_scale: 50, limits_pct: [0, 50]"),
            "lights.led.power",
            "ends at 10",
        ),
        (('preset: [Laser, "488 only"]', 'preset: [Laser, "489 only"]'), "channels.gfp.preset", "has the presets"),
        (('preset: [Laser, "488 only"]', "preset: [Lasers, x]"), "channels.gfp.preset", "the groups are"),
        (("emission: BP605", "emission: BP999"), "channels.mcherry.emission", "has no label 'BP999'; it has ['BP460'"),
        (("Nikon 20X Water 0.5", "Nikon 99X"), "objectives.water20.label", "has no label 'Nikon 99X'"),
        (('choices: [none, "405"', 'choices: [none, "999"'), "devices.laser_line.property", "can't be '999'"),
        (
            ("property: Temperature, setpoint", "property: Heat, setpoint"),
            "devices.chamber.property",
            "no property 'Heat'",
        ),
        (("setpoint: Setpoint", "setpoint: Temperature"), "devices.chamber.setpoint", "is read only"),
        (
            (
                "{label: LaserLine, kind: property, property: Label",
                "{label: Laser488 TTL, kind: property, property: State",
            ),
            "devices.laser_line.property",
            "belongs to a light, an axis, the objective",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, make_scope: MakeScope, edit: tuple[str, str], thing: str, words: str
) -> None:
    """Issue 2, 'Done when': a label that the configuration doesn't have; likewise properties, presets and choices."""
    error = refusal(tmp_path, make_scope, scope=[edit])
    mine = [problem for problem in error.fields["problems"] if problem.startswith(f"{thing}: ")]
    assert any(words in problem for problem in mine), error.fields["problems"]
    assert str(tmp_path / "scope.yml") in str(error)
    assert str(tmp_path / "mm.cfg") in str(error)


def test_all_problems_are_told_at_once(tmp_path: Path, make_scope: MakeScope) -> None:
    error = refusal(
        tmp_path, make_scope, scope=[("ZStage:Z:32", "ZStage:Z:99"), ("BP605", "BP999"), ("Laser405 TTL", "Laser TTL")]
    )
    assert len(error.fields["problems"]) == 3


def test_a_missing_adapter_is_named_with_where_it_was_looked_for(tmp_path: Path, make_scope: MakeScope) -> None:
    """Issue 2, 'Done when': a configuration whose adapter is missing."""
    error = refusal(
        tmp_path, make_scope, cfg=[("Device,Autofocus,DemoCamera,DAutoFocus", "Device,Tiger,ASITiger,TigerCommHub")]
    )
    assert error.fields["thing"] == "ASITiger"
    assert "device 'Tiger'" in str(error)
    assert "mm.cfg line" in str(error)
    for looked in error.fields["looked"]:
        assert looked in str(error)
    assert "micromanager.adapters" in str(error)


def test_a_device_that_the_adapter_does_not_have_is_told_in_micromanagers_words(
    tmp_path: Path, make_scope: MakeScope
) -> None:
    error = refusal(
        tmp_path, make_scope, cfg=[("Device,Autofocus,DemoCamera,DAutoFocus", "Device,Autofocus,DemoCamera,DNothing")]
    )
    assert "DNothing" in str(error)
    assert "mm.cfg" in str(error)


def test_a_folder_without_adapters_is_refused(tmp_path: Path, make_scope: MakeScope) -> None:
    error = refusal(tmp_path, make_scope, scope=[("adapters: null", "adapters: nowhere")])
    assert error.fields["thing"] == "micromanager.adapters"
    assert str(tmp_path / "nowhere") in str(error)


def test_a_missing_configuration_is_named(tmp_path: Path, make_scope: MakeScope) -> None:
    error = refusal(tmp_path, make_scope, scope=[("config: mm.cfg", "config: other.cfg")])
    assert str(tmp_path / "other.cfg") in str(error)
    assert "scope.yml" in str(error)


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path, make_scope: MakeScope) -> None:
    """Issue 2, 'Done when': an unwritable data directory."""
    (tmp_path / "data").write_text("a file")
    error = refusal(tmp_path, make_scope)
    assert str(tmp_path / "data") in str(error)
    assert "--data" in str(error)


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path, make_scope: MakeScope) -> None:
    """R0.7: the next try with a repaired scope succeeds."""
    refusal(tmp_path, make_scope, scope=[("ZStage:Z:32", "ZStage:Z:99")])
    connect(make_scope(tmp_path), Layout(tmp_path / "data")).close()


def test_a_second_owner_is_refused(tmp_path: Path, make_scope: MakeScope, local: Any) -> None:
    """One MMCore for a data directory, whatever the mode."""
    with pytest.raises(ConfigurationError, match="already owned by process"):
        connect(make_scope(tmp_path), Layout(tmp_path / "data"))


def test_startup_entries_on_lights_and_axes_are_left_out(
    tmp_path: Path, make_scope: MakeScope, caplog: pytest.LogCaptureFixture
) -> None:
    """R3.9: a lab's System/Startup preset can't switch lasers on or move a stage, unless the scope lists the entry."""
    entries = ("Laser488 TTL,State,1", "ZStage:Z:32,Position,50", "ZStage:V:37,Position,60", "LED DA,Voltage,2")
    more = "\n".join(f"ConfigGroup,System,Startup,{entry}" for entry in entries)
    scope = make_scope(
        tmp_path,
        cfg=[("ConfigPixelSize,Res40x", f"{more}\nConfigPixelSize,Res40x")],
        scope=[("  process: own", '  process: own\n  startup_allowed: ["ZStage:V:37.Position"]')],
    )
    with caplog.at_level(logging.WARNING):
        hardware = connect(scope, Layout(tmp_path / "data"))
    state = hardware.state()
    hardware.close()
    assert (state.positions["z"], state.positions["f"]) == (0, 60)
    assert state.lights["led"].power_pct == 0
    assert not state.lights["l488"].on
    assert "Laser488 TTL.State" in caplog.text
    assert "ZStage:V:37" not in caplog.text


def test_a_preset_that_touches_a_light_is_refused(tmp_path: Path, make_scope: MakeScope) -> None:
    """R3.8: a channel's preset can't get past the limits."""
    entry = "ConfigGroup,Laser,488 only,"
    error = refusal(tmp_path, make_scope, cfg=[(f"{entry}LaserLine,Label,488", f"{entry}Laser488 TTL,State,1")])
    assert "channels.gfp.preset" in str(error)
    assert "Laser488 TTL.State" in str(error)


def test_gates_and_emissions_are_closed_on_load(tmp_path: Path, make_scope: MakeScope) -> None:
    """R3.9: whatever the configuration switched on."""
    line = "Property,Core,AutoShutter,0"
    cfg = [(line, f"{line}\nProperty,Laser488 TTL,State,1\nProperty,Laser488,State,1")]
    hardware = connect(make_scope(tmp_path, cfg=cfg), Layout(tmp_path / "data"))
    light = hardware.light("l488")
    hardware.close()
    assert (light.on, light.emission) == (False, False)


def test_a_light_that_stays_on_stops_the_start(
    tmp_path: Path, make_scope: MakeScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3.9: fail closed."""
    from queuescope.hardware._mmcore import Core

    write = Core.write

    def stuck(core: Any, thing: str, label: str, name: str, value: str) -> str:
        return "1" if label == "Laser561 TTL" else write(core, thing, label, name, value)

    monkeypatch.setattr(Core, "write", stuck)
    with pytest.raises(DeviceError, match="l561"):
        connect(make_scope(tmp_path), Layout(tmp_path / "data"))


def test_an_installed_micromanager_comes_first_if_it_fits(
    tmp_path: Path, make_scope: MakeScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is: the scope's folder, an installed Micro-Manager, the package; one of another device interface is told."""
    import mm_test_adapters

    from queuescope.hardware._configuration import find_adapters

    scope = make_scope(tmp_path)
    bundled = Path(mm_test_adapters.device_adapter_path())
    fits, other = tmp_path / "fits", tmp_path / "other"
    fits.mkdir()
    other.mkdir()
    for library in bundled.glob("*mmgr_dal*"):
        (fits / library.name).symlink_to(library)
    (other / "libmmgr_dal_Old.so.0").write_bytes(b"not a library")
    monkeypatch.setenv("MICROMANAGER_PATH", str(fits))
    assert find_adapters(scope).folder == fits
    monkeypatch.setenv("MICROMANAGER_PATH", str(other))
    found = find_adapters(scope)
    assert found.folder == bundled.resolve()
    assert f"{other} (passed over" in found.looked[0]
    named = make_scope(tmp_path, scope=[("adapters: null", "adapters: fits")])
    assert find_adapters(named).folder == fits
