"""From a Micro-Manager configuration to a scope file: everything found, nothing invented, what is blank is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mm_test_adapters
import pytest
import yaml
from typer.testing import CliRunner

from queuescope.config import BLANK, SCOPES, ScopeError, blanks, load_scope
from queuescope.hardware import connect
from queuescope.layout import Layout
from queuescope.plans import templates
from queuescope.scripts._cfg import CfgError, parse_cfg, read_cfg
from queuescope.scripts._init_command import AskError, ask_mmcore
from queuescope.scripts._scope_draft import Asked, draft
from queuescope.scripts.cli import complete_app

CFGS = {
    "demo-dispim": SCOPES / "demo-dispim" / "mm.cfg",
    "demo-widefield": SCOPES / "demo-widefield" / "mm.cfg",
    "dispim-demo": Path(__file__).parent / "data" / "dispim_demo.cfg",
    "standard": Path(mm_test_adapters.device_adapter_path()) / "MMConfig_demo.cfg",
}
FOUND = {
    "demo-dispim": {"xy_stage": 1, "stage": 4, "galvo": 2, "camera": 3, "objective": 1, "light": 6, "channel": 4},
    "demo-widefield": {"xy_stage": 1, "stage": 1, "camera": 1, "state": 5, "objective": 1, "light": 2, "channel": 6}
    | {"config_group": 2},
    "standard": {"xy_stage": 1, "stage": 1, "camera": 1, "objective": 1, "light": 2, "channel": 8, "config_group": 2},
    "dispim-demo": {"xy_stage": 1, "stage": 4, "galvo": 2, "camera": 3, "objective": 1, "light": 3, "channel": 2},
}
VALUES = {
    "limits": [-100, 100],
    "x": [-1, 1],
    "y": [-1, 1],
    "limits_pct": [0, 5],
    "exposure_ms": [1, 100],
    "full_scale": 5,
    "power": "fixed",
    "pixel_um": 6.5,
    "na": 0.8,
    "laser_class": "3B",
}


def init(*words: str) -> Any:
    return CliRunner().invoke(complete_app(), ["init", *words])


def filled(tree: Any, key: str = "") -> Any:
    """The tree as a person fills it in."""
    if isinstance(tree, dict):
        return {k: filled(v, k) for k, v in tree.items()}
    return VALUES[key] if tree == BLANK else tree


@pytest.mark.parametrize("name", CFGS)
def test_everything_in_a_configuration_is_found(name: str) -> None:
    """R3.6 every stage, galvo, camera, light, channel and objective, told by the text alone."""
    made = draft(read_cfg(CFGS[name]), name, "mm.cfg")
    assert made.found.items() >= FOUND[name].items()


@pytest.mark.parametrize("name", CFGS)
def test_the_unedited_file_is_refused_naming_every_blank(name: str, tmp_path: Path) -> None:
    """R5.8 no limit is invented: each axis, light and camera is named with what to write."""
    cfg = read_cfg(CFGS[name])
    made = draft(cfg, name, "mm.cfg")
    (tmp_path / "scope.yml").write_text(made.text)
    with pytest.raises(ScopeError) as refused:
        load_scope(tmp_path, environ={})
    lines = str(refused.value).splitlines()
    tree = yaml.safe_load(made.text)
    assert len(lines) == len(list(blanks(tree)))
    assert all("is left blank: write" in line for line in lines)
    for device, entry in tree["devices"].items():
        wanted = {"stage": ["limits"], "xy_stage": ["limits.x", "limits.y"], "galvo": ["limits.x", "limits.y"]}
        for part in [*wanted.get(entry["kind"], []), *(["exposure_ms"] if entry["kind"] == "camera" else [])]:
            assert any(f"devices.{device}.{part} is left blank" in line for line in lines)
    for light in tree["lights"]:
        assert any(f"lights.{light}.power" in line for line in lines)


@pytest.mark.parametrize("name", CFGS)
def test_the_file_filled_in_loads_on_mmcore(name: str, tmp_path: Path) -> None:
    """R3.6 the round trip: labels, properties, presets and pixel sizes are those of the configuration."""
    shutil.copy(CFGS[name], tmp_path / "mm.cfg")
    answer = ask_mmcore(tmp_path / "mm.cfg", None, load=True)
    asked = Asked(answer["types"], answer["limits"], answer["writable"])
    made = draft(read_cfg(tmp_path / "mm.cfg"), name, "mm.cfg", asked=asked)
    (tmp_path / "scope.yml").write_text(yaml.safe_dump(filled(yaml.safe_load(made.text))))
    scope = load_scope(tmp_path, environ={"QUEUESCOPE_MICROMANAGER__PROCESS": "worker"})
    assert {"read_state", "move_axis", "snap", "z_stack"} <= set(templates(scope))
    hardware = connect(scope, Layout(tmp_path / "data"))
    try:
        state = hardware.state()
        assert state.errors == {}
        assert set(state.lights) == set(scope.lights)
        assert not any(light.on for light in state.lights.values())
        for channel in scope.channels:
            hardware.apply_channel(channel)
    finally:
        hardware.close()


def test_the_widefield_demo_is_a_part_of_micro_managers_own(tmp_path: Path) -> None:
    """Labels and presets are those of MMConfig_demo, which people know."""
    ours, standard = read_cfg(CFGS["demo-widefield"]), read_cfg(CFGS["standard"])
    assert {d.label: (d.adapter, d.name) for d in ours.devices.values()} == {
        d.label: (d.adapter, d.name) for d in standard.devices.values()
    }
    for group, presets in ours.groups.items():
        for preset, entries in presets.items():
            assert group == "System" or sorted(standard.groups[group][preset]) == sorted(entries)
    assert ours.pixel_sizes == standard.pixel_sizes


def test_the_demo_is_found_again() -> None:
    """Parts of one laser are put together; pixel sizes and apertures come from the file."""
    tree = yaml.safe_load(draft(read_cfg(CFGS["demo-dispim"]), "x", "mm.cfg").text)
    l488 = tree["lights"]["l488"]
    assert l488["gate"] == {"label": "Laser488 TTL"}
    assert l488["emission"] == {"label": "Laser488"}
    assert (l488["power"]["label"], l488["power"]["property"]) == ("Laser488 DA", "Voltage")
    assert l488["wavelength_nm"] == 488
    assert {o["label"]: o["pixel_um"] for o in tree["objectives"].values()} == {
        "Nikon 40X Water 0.8": 0.1625,
        "Nikon 20X Water 0.5": 0.325,
    }
    assert tree["devices"]["z"]["label"] == "ZStage:Z:32"


def test_adapters_that_are_missing_here_do_not_matter(tmp_path: Path) -> None:
    """The devices of a Windows stand are told by the words of its configuration, and that is said."""
    text = (
        CFGS["dispim-demo"]
        .read_text()
        .replace("DemoCamera", "ASITiger")
        .replace("ASITiger,DCam", "HamamatsuHam,HamCam")
    )
    (tmp_path / "stand.cfg").write_text(text)
    done = init(str(tmp_path / "stand.cfg"), "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["found"].items() >= {"xy_stage": 1, "stage": 4, "galvo": 2, "camera": 3}.items()
    assert any("adapters that are not on this machine: ASITiger, HamamatsuHam" in note for note in facts["notes"])


def test_a_python_device_is_listed_and_its_kind_is_not_invented() -> None:
    """`#py` lines are UniMMCore's."""
    made = draft(parse_cfg("#py pyDevice,Incubator,lab.devices,Incubator\nDevice,Z,DemoCamera,DStage\n"), "x", "mm.cfg")
    assert "#   Incubator (Python, lab.devices.Incubator): unknown" in made.text
    assert any("Incubator" in note and "line 1" in note for note in made.notes)


def test_a_preset_that_switches_a_light_is_not_taken_and_the_reason_is_beside_it() -> None:
    """R3.8 a preset must not be a way round a light's limits."""
    text = (
        "Device,Lamp,DemoCamera,DShutter\nDevice,Wheel,DemoCamera,DWheel\n"
        "ConfigGroup,Channel,GFP,Wheel,Label,a\nConfigGroup,Channel,GFP,Lamp,State,1\n"
    )
    made = draft(parse_cfg(text), "x", "mm.cfg")
    assert "preset" not in yaml.safe_load(made.text)["channels"]["gfp"]
    assert "[Channel, GFP] sets Lamp.State" in made.text


def test_a_preset_that_turns_the_objective_is_not_taken_either() -> None:
    """R3.8 only `select` turns it, with retraction and the limits of the next objective."""
    text = (
        "Device,Lamp,DemoCamera,DShutter\nDevice,Objective,DemoCamera,DObjective\n"
        "ConfigGroup,Channel,GFP,Objective,State,1\n"
    )
    made = draft(parse_cfg(text), "x", "mm.cfg")
    assert "preset" not in yaml.safe_load(made.text)["channels"]["gfp"]


def test_what_startup_does_to_lights_is_told() -> None:
    text = "Device,Laser,Vendor,Laser\nDevice,Z,Vendor,ZDrive\nConfigGroup,System,Startup,Laser,Power,50\n"
    assert "# System/Startup also sets Laser.Power" in draft(parse_cfg(text), "x", "mm.cfg").text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Device,Z,DemoCamera", "line 2: Device has 3 fields instead of 4"),
        ("Divice,Z,DemoCamera,DStage", "line 2: 'Divice' is no command of a Micro-Manager configuration"),
        ("Device,Cam,DemoCamera,DStage", "line 2: the label 'Cam' was given in line 1 already"),
        ("Label,Wheel,0,Open", "line 2: no Device line names 'Wheel'"),
        ("Parent,Cam,Hub", "line 2: no Device line names 'Hub'"),
        ("Label,Cam,first,Open", "line 2: the position 'first' is no number"),
        ("PixelSize_um,Res10x,wide", "line 2: the pixel size 'wide' is no number"),
        ("ConfigGroup,Channel,GFP,Cam", "line 2: ConfigGroup has 4 fields instead of"),
        ("Device,Core,DemoCamera,DStage", "line 2: a device needs a label, and it can't be 'Core'"),
        ("<html>", "line 2: '<html>' is no command"),
    ],
)
def test_a_broken_configuration_is_refused_with_the_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.cfg"
    path.write_text(f"Device,Cam,DemoCamera,DCam\n{line}\n")
    done = init(str(path))
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "scope.yml").exists()


def test_every_fault_of_a_configuration_is_listed_at_once() -> None:
    with pytest.raises(CfgError) as refused:
        parse_cfg("Device,Z\nLabel,Wheel,0,Open\nWobble\n", "mm.cfg")
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize(("content", "message"), [(b"", "no Device line"), (b"\0\1\2", "no text file")])
def test_a_file_that_is_no_configuration_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_bytes(content)
    with pytest.raises(CfgError, match=message):
        read_cfg(tmp_path / "x.cfg")
    with pytest.raises(CfgError, match="can't be read"):
        read_cfg(tmp_path / "nothing.cfg")


def test_a_windows_configuration_with_umlauts_and_crlf_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_bytes("Device,Müller Z,DemoCamera,DStage\r\n".encode("cp1252"))
    assert "Müller Z" in read_cfg(tmp_path / "x.cfg").devices


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    shutil.copy(CFGS["demo-widefield"], tmp_path / "mm.cfg")
    (tmp_path / "scope.yml").write_text("mine")
    done = init(str(tmp_path / "mm.cfg"))
    assert done.exit_code == 1
    assert "--force" in done.stderr
    assert (tmp_path / "scope.yml").read_text() == "mine"


def test_the_command_says_what_it_found_what_is_blank_and_what_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "my microscope"
    folder.mkdir()
    shutil.copy(CFGS["demo-widefield"], folder / "mm.cfg")
    done = init(str(folder / "mm.cfg"), "-o", str(tmp_path / "there.yml"))
    assert done.exit_code == 0, done.output
    assert "devices.z.limits" in done.stdout
    assert re.search(r"queuescope up --scope .*there\.yml", done.stdout)
    tree = yaml.safe_load((tmp_path / "there.yml").read_text())
    assert tree["name"] == "my-microscope"
    assert (tmp_path / tree["micromanager"]["config"]).is_file()


def test_up_on_the_unedited_file_names_each_blank_and_starts_nothing(another_stack: Any, tmp_path: Path) -> None:
    """R5.8 a microscope whose limits nobody has stated doesn't start."""
    shutil.copy(CFGS["demo-widefield"], tmp_path / "mm.cfg")
    assert init(str(tmp_path / "mm.cfg")).exit_code == 0
    done = another_stack.command("up", "--scope", str(tmp_path / "scope.yml"), "--http-port", "0")
    assert done.returncode == 1
    for where, _ in blanks(yaml.safe_load((tmp_path / "scope.yml").read_text())):
        assert f"{where} is left blank: write " in done.stderr
    assert not another_stack.data.exists()


def test_an_adapter_that_crashes_costs_only_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R0.3 MMCore is asked in a throw-away process."""
    monkeypatch.setenv("PYTHONSTARTUP", "")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with pytest.raises(AskError, match="crashed \\(signal 11\\)"):
        ask_mmcore(CFGS["demo-widefield"], None, load=False)


def test_what_acts_by_itself_is_offered_not_taken(tmp_path: Path) -> None:
    """R3.8: an autofocus and cameras that expose together stand there as a comment, ready to be taken out of it."""
    told = {}
    for name, path in {
        "standard": CFGS["standard"],
        "two": Path(__file__).parents[1] / "scopes/two-cameras/mm.cfg",
    }.items():
        assert init(str(path), "--output", str(tmp_path / f"{name}.yml")).exit_code == 0
        told[name] = (tmp_path / f"{name}.yml").read_text()
    assert not any("autofocus" in line for line in told["standard"].splitlines() if not line.lstrip().startswith("#"))
    assert "autofocus: {label: Autofocus, kind: autofocus, axis: z, reach: HOW_FAR_IT_MAY_MOVE_IT}" in told["standard"]
    assert "both: {label: Both, kind: multi_camera, cameras: [camera_1, camera_2]}" in told["two"]
