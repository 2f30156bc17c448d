"""Every bundled microscope offers what it can do, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope, load_scope
from queuescope.hardware import LimitError
from queuescope.plans import templates
from queuescope.startup._session import Session, open_session

WIDEFIELD: dict[str, dict[str, Any]] = {
    "read_state": {},
    "move_axis": {"axis": "xy.x", "by": 12.5},
    "snap": {"n": 2, "channels": [{"name": "fitc"}]},
    "z_stack": {
        "range_um": 4.0,
        "step_um": 2.0,
        "channels": [{"name": "led_dapi"}],
        "position": {"x_um": 5, "y_um": 6},
    },
}


@pytest.fixture(scope="module")
def widefield(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(tmp_path_factory.mktemp("widefield data")))
        patch.setenv("QUEUESCOPE_SCOPE", "demo-widefield")
        patch.setenv("QUEUESCOPE_MICROMANAGER__PROCESS", "worker")
        patch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "0")
        opened = open_session()
    yield opened
    opened.hardware.close()


def without(scope: Scope, *kinds: str) -> Scope:
    """The same microscope less its devices of these kinds."""
    kept = {name: device for name, device in scope.devices.items() if device.kind not in kinds}
    return scope.model_copy(update={"devices": kept})


def test_what_a_microscope_cannot_do_is_not_offered() -> None:
    """R2.10 a volume needs light-sheet views, a stack a camera and a stage, a move an axis."""
    dispim, widefield = load_scope("demo-dispim"), load_scope("demo-widefield")
    assert "acquire_volume" in templates(dispim)
    assert "acquire_volume" not in templates(widefield)
    assert {"read_state", "move_axis", "snap", "z_stack"} <= set(templates(widefield))
    assert not {"snap", "z_stack"} & set(templates(without(widefield, "camera")))
    assert "z_stack" not in templates(without(widefield, "stage"))
    assert "move_axis" not in templates(without(widefield, "stage", "xy_stage"))


def test_every_plan_offered_has_an_example_here(widefield: Session) -> None:
    """A new template has to be tried on this microscope too."""
    assert set(WIDEFIELD) <= set(widefield.templates)


@pytest.mark.parametrize("name", sorted(WIDEFIELD))
def test_every_plan_works_on_the_widefield_demo(widefield: Session, name: str) -> None:
    """R3.6 the same templates, another microscope; the light is off afterwards (R3.9)."""
    kwargs = WIDEFIELD[name]
    metadata = widefield.run_metadata({"name": name, "kwargs": kwargs, "item_uid": "item-1"})
    outcome = widefield.run_engine(widefield.plans[name](**kwargs), **metadata)
    assert outcome.exit_status == "success"
    frames = {"snap": {"camera": 2}, "z_stack": {"camera": 3}}.get(name)
    assert outcome.plan_result.get("datasets") == frames
    lights = widefield.hardware.state().lights
    assert {light: state.on for light, state in lights.items()} == {"lamp": False, "led": False}


def test_a_channel_sets_every_wheel_of_its_preset(widefield: Session) -> None:
    widefield.hardware.apply_channel("cy5")
    labels = widefield.hardware.state().labels
    assert {name: labels[name] for name in ("dichroic", "emission", "excitation")} == {
        "dichroic": "400DCLP",
        "emission": "Chroma-HQ700",
        "excitation": "Chroma-HQ570",
    }


def test_a_shutter_without_a_property_is_a_gate_and_a_fixed_power_reads_100(widefield: Session) -> None:
    """R3.9 MMCore's own shutter calls, read back; the power can't be set to anything else."""
    hardware = widefield.hardware
    hardware.apply_channel("led_fitc")
    opened = hardware.set_light("led", True)
    try:
        assert (opened.on, opened.power_pct) == (True, 100.0)
        with pytest.raises(LimitError, match=r"led power 50.* outside \[100, 100\]"):
            hardware.set_light("led", True, 50.0)
        assert hardware.state().labels["led_line"] == "470nm"
    finally:
        off = {outcome.light: outcome.off for outcome in hardware.lights_off()}
    assert off == {"lamp": True, "led": True}
    assert hardware.light("led").on is False


def test_the_widefield_demo_goes_up_and_takes_a_stack(another_stack: Any, tmp_path: Path) -> None:
    """R3.7 one canonical way to start, whatever the microscope: 'up --scope demo-widefield', then a stack by the command."""
    stack = type(another_stack)(another_stack.data, "demo-widefield")
    try:
        started = stack.up("--scope", "demo-widefield", "--no-catalog", "--json")
        assert started.returncode == 0, started.stderr
        assert stack.runtime["scope"] == "demo-widefield"
        words = ("run", "z_stack", "range_um=4", "step_um=2", "channels=[{name: dapi}]", "--json")
        done = stack.command(*words)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        [dataset] = found["runs"][0]["datasets"]
        assert (dataset["name"], dataset["frames_written"], dataset["shape"]) == ("camera", 3, [3, 512, 512])
        status, shown = stack.get("/api/scope")
        assert status == 200
        assert shown["errors"] == {}
        assert shown["devices"]["light_path"]["kind"] == "config_group"
        assert shown["lights"]["led"]["limits_pct"] == [100.0, 100.0]
        refused = stack.command("run", "acquire_volume")
        assert refused.returncode == 1
        assert "acquire_volume" in refused.stderr
    finally:
        stack.down()
