"""A script that comes back finds the microscope where its last step left it, or is told: R1.12."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from queuescope.agents import RefusedError, Scope, keygen
from queuescope.ledger import Ledger, Operations


@pytest.fixture
def stack(stack_no_catalog: Any) -> Any:
    return stack_no_catalog


@pytest.fixture
def keyfile(tmp_path: Path) -> Path:
    return keygen(tmp_path / "exec.key")


def connect(stack: Any, keyfile: Path) -> Scope:
    return Scope.connect(data=stack.data, keyfile=keyfile, patience_s=20)


def test_the_first_new_step_after_a_replay_compares(stack: Any, keyfile: Path) -> None:
    """R1.12: moved meanwhile, nothing moves and nothing is queued; with `restore` it is moved back first, by checked moves."""
    with connect(stack, keyfile) as scope, scope.durable("night"):
        first = scope.run("move_axis", axis="z", to=20.0)
        scope.run("move_axis", axis="piezo_a", to=11.0)
    left = Operations(Ledger(stack.layout.ledger_db)).by_key(first.key).left  # type: ignore[union-attr]
    assert left is not None
    assert left.axes["z"] == pytest.approx(20.0)
    assert set(left.labels) == set(stack.scope.of_kind("objective", "state", "config_group"))
    stack.hardware().move({"z": 30.0, "xy.x": 25.0})
    with connect(stack, keyfile) as scope, scope.durable("night"):
        assert scope.run("move_axis", axis="z", to=20.0).replayed
        assert scope.run("move_axis", axis="piezo_a", to=11.0).replayed
        with pytest.raises(RefusedError, match=r"z was 20\.0 and is 30\.0") as refused:
            scope.run("snap", step="look", camera="overview")
        assert (refused.value.status, refused.value.code) == (409, "state_drift")
        assert {one["what"] for one in refused.value.fields["diff"]} == {"z", "xy.x"}
        assert stack.hardware().positions(("z",)) == {"z": 30.0}
        with pytest.raises(RefusedError, match="state_drift"):
            scope.run("snap", step="look", camera="overview")  # still
        look = scope.run("snap", step="look", camera="overview", restore=True)
        assert len(look.run_uids) == 1
        assert stack.hardware().positions(("z", "xy.x")) == pytest.approx({"z": 20.0, "xy.x": left.axes["xy.x"]})
        stack.hardware().move({"z": 22.0})
        scope.run("read_state")  # the step before was new: nobody asked to compare


def test_nothing_is_compared_while_something_else_runs(stack: Any, keyfile: Path) -> None:
    """R1.12: it is told so, and the key stays free; a sample that was closed can't be moved back."""
    with connect(stack, keyfile) as scope, scope.durable("night"):
        scope.run("read_state", step="first")
    with Scope.connect(data=stack.data, keyfile=keyfile, patience_s=0.5) as scope, scope.durable("night"):
        scope.run("read_state", step="first")
        long = scope.job("z_stack", key="drift.long-1", range_um=100, step_um=0.1, channels=[{"name": "gfp"}])
        long._job._space = None  # another script's
        long.submit()
        with pytest.raises(RefusedError, match="busy"):
            scope.run("read_state", step="second", restore=True)
        long.cancel()
        long.wait()
    assert stack.post("/api/samples", {"id": "drift-worm", "open": True})[0] in (200, 201)
    try:
        with connect(stack, keyfile) as scope, scope.durable("night"):
            scope.run("read_state", step="first")
            with pytest.raises(RefusedError, match="sample was None and is drift-worm"):
                scope.run("read_state", step="second", restore=True)
    finally:
        stack.post("/api/samples", {"id": "drift-worm", "open": False})


def test_the_first_new_step_after_manual_control_compares(stack: Any, keyfile: Path) -> None:
    """R1.12: also in a script that was never away."""
    with connect(stack, keyfile) as scope, scope.durable("night"):
        scope.run("move_axis", axis="z", to=20.0)
        for mode in ("person", "agents"):
            assert stack.post("/api/scope/control", {"mode": mode, "reason": "a look"})[0] == 200
        scope.run("read_state", step="as it was")
        for mode in ("person", "agents"):
            assert stack.post("/api/scope/control", {"mode": mode, "reason": "a look"})[0] == 200
            stack.hardware().move({"z": 24.0})
        with pytest.raises(RefusedError, match="state_drift"):
            scope.run("read_state", step="moved")
