"""The scope file: what is wrong is named, with its value and the remedy; nothing half-valid gets through."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from queuescope.config import ScopeError, bundled_scopes, load_scope, scope_path, scope_schema

DEMO = yaml.safe_load(scope_path("demo-dispim").read_text())
AXES = [name for name, device in DEMO["devices"].items() if device["kind"] in ("stage", "xy_stage", "galvo")]


def load(tree: dict[str, Any], folder: Path) -> Any:
    path = folder / "scope.yml"
    path.write_text(yaml.safe_dump(tree))
    return load_scope(path, environ={})


@pytest.fixture
def tree() -> dict[str, Any]:
    return json.loads(json.dumps(DEMO))


@pytest.mark.parametrize("name", bundled_scopes())
def test_bundled_scopes_are_valid(name: str) -> None:
    scope = load_scope(name, environ={})
    assert scope.name == name
    assert scope.config_path.is_file()


def test_the_demo_has_what_a_dispim_has() -> None:
    scope = load_scope("demo-dispim", environ={})
    assert [camera.view for camera in scope.of_kind("camera").values()] == ["A", "B", None]
    assert {"l405", "l488", "l561", "l637", "led"} == set(scope.lights)
    assert set(scope.axes()) == {
        *("xy.x", "xy.y", "z", "f", "piezo_a", "piezo_b"),
        *("galvo_a.x", "galvo_a.y", "galvo_b.x", "galvo_b.y"),
    }


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_without_limits_is_named(tree: dict[str, Any], tmp_path: Path, axis: str) -> None:
    del tree["devices"][axis]["limits"]
    with pytest.raises(ScopeError, match=rf"devices\.{axis}\.limits is missing: every axis must state its limits"):
        load(tree, tmp_path)


@pytest.mark.parametrize("light", list(DEMO["lights"]))
@pytest.mark.parametrize("part", ["power", "limits_pct"])
def test_a_light_without_limits_is_named(tree: dict[str, Any], tmp_path: Path, light: str, part: str) -> None:
    if part == "power":
        del tree["lights"][light]["power"]
    else:
        del tree["lights"][light]["power"]["limits_pct"]
    with pytest.raises(ScopeError, match=rf"lights\.{light}\.power.* is missing: every light must state its limits"):
        load(tree, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("wobble", 1, r"wobble is not a known entry \(value 1\)"),
        ("devices.z.wobble", 1, r"devices\.z\.wobble is not a known entry"),
        ("devices.z.limits", [10, -10], r"devices\.z\.limits: limits must be \[low, high\]"),
        ("devices.z.limits", [0, float("nan")], r"devices\.z\.limits\.1: .*finite"),
        ("devices.z.limits", [0, float("inf")], r"devices\.z\.limits\.1: .*finite"),
        ("devices.z.kind", "elevator", r"devices\.z: .*elevator"),
        ("lights.led.power.limits_pct", [0, 120], r"lights\.led\.power: limits_pct must lie inside \[0, 100\]"),
        ("channels.gfp.light", "l999", r"channels\.gfp\.light: 'l999' is none of lights"),
        ("channels.gfp.power_pct", 50, r"channels\.gfp\.power_pct 50.* outside \[0.0, 6.0\]"),
        ("storage.root", "ELSEWHERE", r"storage: root 'ELSEWHERE' is not one of roots"),
        ("devices.galvo_a.calibration.slope_um_per_deg", 0, r"devices\.galvo_a\.calibration: slope_um_per_deg 0"),
        ("safety", {"retract_first": ["nose"]}, r"safety\.retract_first: 'nose' is none of the stages"),
        ("safety", {"collision": [{"nose": [0, 1]}]}, r"safety\.collision: 'nose' is none of the axes"),
        ("devices.volume", DEMO["devices"]["z"], r"'volume' is the name of a device of ours"),
    ],
)
def test_what_is_wrong_is_named(tree: dict[str, Any], tmp_path: Path, path: str, value: Any, message: str) -> None:
    *parents, last = path.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(ScopeError, match=message):
        load(tree, tmp_path)


def test_every_fault_is_listed_at_once(tree: dict[str, Any], tmp_path: Path) -> None:
    del tree["devices"]["z"]["limits"]
    tree["wobble"] = 1
    with pytest.raises(ScopeError) as refused:
        load(tree, tmp_path)
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["[1, 2", "- a list", "", "\t: bad"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scope.yml"
    path.write_text(text)
    with pytest.raises(ScopeError, match=r"scope\.yml"):
        load_scope(path, environ={})


def test_an_unknown_scope_names_the_bundled_ones() -> None:
    with pytest.raises(ScopeError, match="demo-dispim"):
        load_scope("no-such-scope", environ={})


def test_variables_override_single_entries() -> None:
    scope = load_scope(
        "demo-dispim",
        environ={
            "QUEUESCOPE_SERVICES__HTTP__PORT": "61000",
            "QUEUESCOPE_STORAGE__ROOTS__DATA__TILED": "/mnt/scope",
            "QUEUESCOPE_MICROMANAGER__PROCESS": "worker",
            "QUEUESCOPE_DATA": "not-an-entry",
        },
    )
    assert scope.services.http.port == 61000
    assert scope.storage.roots["DATA"].tiled == "/mnt/scope"
    assert scope.micromanager.process == "worker"


@pytest.mark.parametrize("variable", ["QUEUESCOPE_SERVICES__HTP__PORT", "QUEUESCOPE_DEVICES__NOSE__LIMITS"])
def test_a_variable_that_names_nothing_is_refused(variable: str) -> None:
    with pytest.raises(ScopeError, match=variable):
        load_scope("demo-dispim", environ={variable: "1"})


def test_the_committed_schema_is_current() -> None:
    """After a change of `config.py`: ``python -m queuescope.config > docs/scope.schema.json``."""
    committed = json.loads((Path(__file__).parents[2] / "docs" / "scope.schema.json").read_text())
    assert committed == scope_schema()


def test_the_reference_names_every_entry() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "scope.md").read_text()
    missing = [entry for entry in scope_schema()["properties"] if f"| `{entry}` |" not in text]
    assert not missing


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("postgresql://me:qq:ww@zz@db.example/runs", "take the password out, and write it into the file keys/catalog"),
        (
            "postgresql://me@db.example/runs?password=qq:ww@zz",
            "take the password out, and write it into the file keys/catalog",
        ),
        ("postgresql://me:qq/ww@zz@db.example/runs", "write embedded, or postgresql://user@host:port/database"),
        ("mysql://me@db.example/runs", "write embedded, or postgresql://user@host:port/database"),
        ("postgresql://me@db.example", "name a database"),
    ],
)
def test_a_catalog_s_address_has_a_database_and_no_password(address: str, problem: str) -> None:
    """The message doesn't repeat the password."""
    with pytest.raises(ScopeError, match=f"services.catalog: {re.escape(problem)}") as refused:
        load_scope("demo-dispim", {"QUEUESCOPE_SERVICES__CATALOG": address})
    assert not any(part in str(refused.value) for part in ("qq", "ww", "zz"))


@pytest.mark.parametrize(
    "address", ["embedded", "postgresql://me@[::1]:5432/runs", "postgresql://me@/runs?host=/run/postgresql"]
)
def test_a_catalog_s_address_is_taken(address: str) -> None:
    assert load_scope("demo-dispim", {"QUEUESCOPE_SERVICES__CATALOG": address}).services.catalog == address
