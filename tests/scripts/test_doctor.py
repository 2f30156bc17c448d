"""The doctor: each check on something broken says what, value, limit and remedy; code 0 only without problems."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queuescope.config import SCOPES, Scope, load_scope
from queuescope.hardware._checkup import Checkup
from queuescope.layout import Layout
from queuescope.scripts import _checks, _doctor_disk, _doctor_hardware, _doctor_machine, _doctor_software
from queuescope.scripts._cfg import read_cfg
from queuescope.scripts._doctor import Finding, Patient, examine, patient
from queuescope.scripts.cli import complete_app


def edited(folder: Path, *edits: tuple[str, str], cfg: tuple[tuple[str, str], ...] = ()) -> Path:
    """A copy of the demo scope with these edits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, changes in (("scope.yml", edits), ("mm.cfg", cfg)):
        text = (SCOPES / "demo-dispim" / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder / "scope.yml"


def who(tmp_path: Path, scope: str | Path = "demo-dispim") -> Patient:
    return patient(str(scope), Layout(tmp_path / "data"))


def only(findings: Any) -> Finding:
    [found] = findings
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("finding", "level", "said"),
    [
        (_doctor_software.python_finding((3, 10)), "problem", "install Python 3.11"),
        (_doctor_software.python_finding((3, 99)), "warning", "never tried"),
        (_doctor_software.python_finding((3, 12)), "ok", "Python 3.12"),
        (_doctor_disk.space_finding(Path("/x"), 3.0, 5.0), "problem", "/x has 3.0 GB free"),
        (
            _doctor_disk.speed_finding(100e6, 800e6),
            "warning",
            "the disk writes 100 MB/s; the cameras make up to 800",
        ),
        (_doctor_disk.speed_finding(900e6, 800e6, direct=False), "ok", "takes no direct writes"),
        (_doctor_machine.clock_finding(1e9, 0.0, None), "problem", "the date lies in the past"),
        (_doctor_machine.clock_finding(1.8e9, -3.0, "yes"), "problem", "the clock was set by -3.0 s"),
        (_doctor_machine.clock_finding(1.8e9, 0.0, "no"), "warning", "set-ntp true"),
        (_doctor_machine.clock_finding(1.8e9, 0.0, "yes"), "ok", "synchronised by NTP"),
        (_doctor_machine.sleep_finding({"sleep.target": "static"}), "warning", "sudo systemctl mask sleep.target"),
        (_doctor_machine.sleep_finding({"sleep.target": "masked"}), "ok", "doesn't go to sleep"),
        (_doctor_machine.open_files_finding(256), "problem", "ulimit -n 4096"),
        (_doctor_machine.open_files_finding(-1), "ok", "any number"),
        (_doctor_machine.sockets_finding(Path("/" + "x" * 120)), "problem", "XDG_RUNTIME_DIR"),
    ],
)
def test_a_bad_number_is_told_with_its_limit_and_remedy(finding: Finding, level: str, said: str) -> None:
    assert finding.level == level
    assert said in f"{finding.what} {finding.remedy}"
    if level == "problem":
        assert finding.remedy


def test_a_package_of_another_version_is_named_with_the_pin() -> None:
    requires = [
        "pymmcore==12.5.1.75.0; extra == 'hardware'",
        "tiled[server,client]==0.2.20 ; extra == 'tiled'",
        "typer>=1",
    ]
    found = list(_doctor_software.package_findings(requires, {"pymmcore": "11.0", "tiled": "0.2.20"}))
    assert [(f.level, f.value, f.limit) for f in found] == [("problem", "11.0", "12.5.1.75.0")]
    assert found[0].remedy == "pip install pymmcore==12.5.1.75.0"
    silent = only(_doctor_software.package_findings(requires, {"pymmcore": "12.5.1.75.0", "pymmcore-nano": "1"}))
    assert "pymmcore-nano" in silent.what


def test_every_blank_limit_is_a_problem_of_its_own(tmp_path: Path) -> None:
    scope = edited(
        tmp_path / "s", ("limits: [-50, 250]", "limits: FILL_IN"), ("limits_pct: [0, 50]", "limits_pct: FILL_IN")
    )
    found = list(_doctor_software.scope_file(who(tmp_path, scope)))
    assert [f.what for f in found] == [
        "devices.z.limits is left blank",
        "lights.led.power.limits_pct is left blank",
    ]
    assert all(f.level == "problem" and "[low, high]" in str(f.remedy) for f in found)


def test_a_file_with_blanks_is_looked_at_all_the_same(tmp_path: Path) -> None:
    """After `init`: the configuration and the adapters can be told before the blanks are filled in."""
    blank = ("limits: [-50, 250]", "limits: FILL_IN")
    scope = edited(tmp_path / "s", blank, cfg=(("Bottom,DemoCamera", "Bottom,HamamatsuHam"),))
    examined = who(tmp_path, scope)
    assert only(_doctor_software.configuration(examined)).level == "ok"
    assert only(_doctor_software.adapters(examined)).value == "HamamatsuHam"
    scope.write_text("- no mapping")
    assert list(_doctor_software.adapters(who(tmp_path, scope))) == []


def test_a_scope_file_that_cannot_be_used_or_is_not_there_is_a_problem(tmp_path: Path) -> None:
    scope = edited(tmp_path / "s", ("agents:", "colour: red\nagents:"))
    assert "colour is not a known entry" in only(_doctor_software.scope_file(who(tmp_path, scope))).what
    assert "neither a file nor" in only(_doctor_software.scope_file(who(tmp_path, "no-such-scope"))).what


def test_labels_presets_and_objectives_that_the_configuration_lacks_are_named(tmp_path: Path) -> None:
    scope = load_scope(
        edited(
            tmp_path / "s",
            ("label: HamCam2, kind", "label: NoSuchCam, kind"),
            ('"488 only"', '"490 only"'),
            ("Nikon 20X Water 0.5", "Nikon 60X"),
            ("label: LED DA", "label: LED AD"),
        )
    )
    found = list(_doctor_software.label_findings(scope, read_cfg(scope.config_path)))
    assert {f.what.partition(":")[0] for f in found} == {
        "devices.cam_b.label",
        "channels.gfp.preset",
        "objectives.water20.label",
        "lights.led.power.label",
    }
    assert all(f.level == "problem" and f.value and f.limit for f in found)


def test_a_group_that_the_configuration_lacks_is_named() -> None:
    scope = load_scope("demo-widefield")
    cfg = read_cfg(scope.config_path)
    assert list(_doctor_software.label_findings(scope, cfg)) == []
    del cfg.groups["LightPath"]
    found = only(_doctor_software.label_findings(scope, cfg))
    assert found.what == "devices.light_path.label: no group 'LightPath' in the configuration"


def test_a_broken_configuration_is_named_with_the_line(tmp_path: Path) -> None:
    scope = edited(tmp_path / "s", cfg=(("Device,Bottom,DemoCamera,DCam", "Device,Bottom,DemoCamera"),))
    found = list(_doctor_software.configuration(who(tmp_path, scope)))
    assert any("Device has 3 fields instead of 4" in f.what for f in found)
    (tmp_path / "s" / "mm.cfg").unlink()
    assert "can't be read" in only(_doctor_software.configuration(who(tmp_path, scope))).what


def test_a_missing_adapter_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    scope = edited(tmp_path / "s", cfg=(("Bottom,DemoCamera", "Bottom,HamamatsuHam"),))
    found = only(_doctor_software.adapters(who(tmp_path, scope)))
    assert found.level == "problem"
    assert found.value == "HamamatsuHam"
    assert "mm_test_adapters" in str(found.limit)
    assert "mmgr_dal_HamamatsuHam" in str(found.remedy)


def test_a_missing_python_module_is_named_with_where_to_put_it(tmp_path: Path) -> None:
    device = "#py pyDevice,LabFocus,lab_devices,Focus\nDevice,LaserLine,"
    scope = edited(tmp_path / "s", cfg=(("Device,LaserLine,", device),))
    found = only(_doctor_software.adapters(who(tmp_path, scope)))
    assert (found.level, found.value) == ("problem", "lab_devices")
    assert "put lab_devices.py beside the configuration" in str(found.remedy)


def test_an_installation_of_another_device_interface_is_told() -> None:
    looked = ["/opt/mm (passed over: its device interface is 74, not this MMCore's)", "/venv/libs (the package)"]
    answer = {"adapters": "/venv/libs", "device_interface": 75, "looked": looked, "missing": [], "error": None}
    first, second = _doctor_software.adapter_findings(answer)
    assert (first.level, first.limit) == ("warning", "device interface 75")
    assert second.level == "ok"


def test_a_strong_laser_without_an_interlock_is_told_what_is_needed(tmp_path: Path) -> None:
    found = only(_doctor_software.lasers(who(tmp_path)))
    assert found.level == "warning"
    assert "l405, l488, l561, l637" in found.what
    assert "needs a hardware interlock" in str(found.remedy)
    scope = edited(tmp_path / "s", ("    laser_class: 3B\n", ""))
    assert "no laser_class" in only(_doctor_software.lasers(who(tmp_path, scope))).what
    assert only(_doctor_software.lasers(who(tmp_path, "demo-widefield"))).level == "ok"


def test_a_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("QUEUESCOPE_SERVICES__HTTP__PORT", str(port))
        found = only(_doctor_machine.ports(who(tmp_path)))
    assert found.level == "problem"
    assert f"port {port} of 127.0.0.1 is in use" in found.what
    assert "--http-port 0" in str(found.remedy)


def test_the_ports_of_a_running_stack_are_no_problem(tmp_path: Path) -> None:
    examined = who(tmp_path)
    _checks.create(examined.layout)
    held = _checks.lock(examined.layout)
    try:
        assert "a stack runs" in only(_doctor_machine.ports(examined)).what
        busy = only(_doctor_hardware.hardware(examined))
        assert (busy.level, "queuescope down" in str(busy.remedy)) == ("problem", True)
    finally:
        os.close(held)


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    assert only(_doctor_disk.data_directory(who(tmp_path))).level == "ok"
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    found = only(_doctor_disk.data_directory(who(tmp_path)))
    assert (found.level, "Permission denied" in found.what) == ("problem", True)


def test_the_disk_is_timed_and_the_file_is_gone_afterwards(tmp_path: Path) -> None:
    speed, _ = _doctor_disk.write_speed(tmp_path, megabytes=20)
    assert speed > 1e5
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_direct_writes_is_timed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    speed, direct = _doctor_disk.write_speed(tmp_path, megabytes=9)
    assert speed > 1e5
    assert not direct


def test_cameras_of_the_two_views_count_together() -> None:
    dispim: Scope = load_scope("demo-dispim")
    assert _doctor_disk.camera_rate(dispim) == 2 * 100 * _doctor_disk.FRAME_BYTES
    sizes = {"cam_a": 100, "cam_b": 100, "overview": 50}
    assert _doctor_disk.camera_rate(dispim, sizes) == 2 * 100 * 100
    assert _doctor_disk.camera_rate(load_scope("demo-widefield"), {"camera": 70}) == 70 * 100


def test_a_key_that_others_can_read_is_named(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    layout.key("agent")
    layout.key("operator")
    assert only(_doctor_machine.key_findings(layout)).level == "ok"
    layout.key_file("agent").chmod(0o644)
    found = only(_doctor_machine.key_findings(layout))
    assert (found.level, found.value, found.limit) == ("problem", "0644", "0600")
    assert str(layout.key_file("agent")) in found.what
    layout.sockets.rmdir()


def test_what_the_hardware_says_is_held_against_the_scope_file() -> None:
    """R5.8 a controller whose own limits are wider, a camera that can't expose so long, what can't be read or switched off."""
    scope = load_scope("demo-dispim")
    good = Checkup(read=9, firmware={"z": (-50.0, 250.0)}, exposures={"cam_a": (0.5, 10_000.0)})
    assert only(_doctor_hardware.hardware_findings(scope, good)).level == "ok"
    bad = Checkup(
        firmware={"z": (-1000.0, 250.0)},
        exposures={"cam_a": (2.0, 500.0)},
        unread={"emission": "no answer"},
        not_off={"l488": "timeout"},
    )
    found = {f.what.partition(" ")[0].rstrip(":"): f for f in _doctor_hardware.hardware_findings(scope, bad)}
    assert {name: f.level for name, f in found.items()} == {
        "z": "problem",
        "cam_a": "problem",
        "emission": "problem",
        "l488": "problem",
    }
    assert found["z"].value == "[-1000, 250] um"
    assert "devices.z.limits" in str(found["z"].limit)
    assert found["cam_a"].limit == "[2, 500] ms"


def test_the_disk_is_held_against_the_frames_that_the_cameras_really_make(tmp_path: Path) -> None:
    found = list(_doctor_hardware.hardware(who(tmp_path, "demo-widefield")))
    assert [f.check for f in found] == ["hardware", "disk speed"]
    assert found[0].level == "ok", found[0]
    assert found[1].limit == "52 MB/s"  # 512 × 512 pixels of 16 bit, 100 a second


def test_a_configuration_that_would_not_start_is_told_line_by_line(tmp_path: Path) -> None:
    """The configuration is loaded in a throw-away process."""
    scope = edited(
        tmp_path / "s", ("emission: BP525", "emission: BP526"), ("property: Temperature,", "property: Heat,")
    )
    found = list(_doctor_hardware.hardware(who(tmp_path, scope)))
    assert all(f.level == "problem" for f in found)
    text = "\n".join(f.what for f in found)
    assert "channels.gfp.emission" in text
    assert "'Heat'" in text
    assert not (tmp_path / "data").exists()


def test_an_adapter_that_crashes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R0.3 a segfault in an adapter costs the throw-away process only."""
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "crashed (signal 11)" in only(_doctor_hardware.hardware(who(tmp_path))).what
    assert "crashed (signal 11)" in only(_doctor_software.adapters(who(tmp_path))).what


def test_a_check_that_fails_itself_is_a_problem_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_who: Patient) -> Any:
        raise RuntimeError("oh")

    def fine(_who: Patient) -> Any:
        yield Finding("ok", "fine", "all is well")

    monkeypatch.setattr(_doctor_software, "CHECKS", [broken, fine])
    monkeypatch.setattr(_doctor_machine, "CHECKS", [])
    monkeypatch.setattr(_doctor_disk, "CHECKS", [])
    first, second = examine(who(tmp_path))
    assert (first.level, second.level) == ("problem", "ok")
    assert "RuntimeError: oh" in first.what


def doctor(*words: str) -> Any:
    return CliRunner().invoke(complete_app(), ["doctor", *words])


def test_the_command_finds_nothing_wrong_with_the_demo_on_a_good_machine(tmp_path: Path) -> None:
    """R3.7 also with the hardware loaded; code 0 only without problems."""
    words = ("--scope", "demo-widefield", "--data", str(tmp_path / "data"), "--hardware", "--json")
    done = doctor(*words)
    facts = json.loads(done.stdout.splitlines()[-1])
    problems = [f for f in facts["findings"] if f["level"] == "problem"]
    assert (done.exit_code, facts["ok"]) == ((1, False) if problems else (0, True))
    assert not [f for f in problems if f["check"] not in ("ports", "packages")], problems  # what this machine may lack
    assert {"python", "scope file", "configuration", "adapters", "disk speed", "clock", "keys", "hardware"} <= {
        f["check"] for f in facts["findings"]
    }
    assert set(facts["findings"][0]) == {"level", "check", "what", "value", "limit", "remedy"}
    assert not (tmp_path / "data").exists()


def test_the_command_ends_with_a_code_and_shows_the_remedy(tmp_path: Path) -> None:
    scope = edited(tmp_path / "s", ("limits: [-50, 250]", "limits: FILL_IN"))
    done = doctor("--scope", str(scope), "--data", str(tmp_path / "data"))
    assert done.exit_code == 1
    assert "✗ limits" in done.stdout
    assert "→ write [low, high]" in done.stdout
    assert "1 problem" in done.stdout
