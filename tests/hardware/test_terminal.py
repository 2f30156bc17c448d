"""What only a person decides, from the terminal, on a real hardware process (R5.6, R5.8)."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from queuescope.hardware import DoseError, FrameSettings, ReferenceLostError, connect
from queuescope.layout import Layout

WATCHED = ("kind: stage, limits: [-50, 250], home: 0, reference: none}", "kind: stage, limits: [-50, 250], home: 0}")
LIT = FrameSettings(exposure_ms=20, light="l488", power_pct=2)


@pytest.fixture
def microscope(
    tmp_path: Path, make_scope: Callable[..., Any], start_process: Callable[..., Any]
) -> tuple[Any, Layout, Callable[..., Result]]:
    """Its scope and data, and a way to give commands; z stood at 20 before the process was killed and started again."""
    from queuescope.scripts.cli import complete_app

    scope, layout = make_scope(tmp_path, "own", scope=[WATCHED]), Layout(tmp_path / "data")
    first = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout)
    hardware.move({"z": 20})
    hardware.close()
    first.signal(signal.SIGKILL)
    first.wait()
    start_process(scope.path, layout.data).started()

    def command(*arguments: str) -> Result:
        where = ["--scope", str(scope.path), "--data", str(layout.data)]
        return CliRunner().invoke(complete_app(), [*arguments, *where])

    return scope, layout, command


def test_a_person_confirms_an_axis_and_opens_a_sample(microscope: Any) -> None:
    """R5.6, R5.8: locked until confirmed; no light beyond the budget; facts as JSON, errors with another exit code."""
    scope, layout, command = microscope
    hardware = connect(scope, layout)
    try:
        with pytest.raises(ReferenceLostError, match="queuescope confirm z"):
            hardware.move({"z": 1})
        done = command("confirm", "z", "--by", "Ada", "--json")
        assert (done.exit_code, json.loads(done.stdout)) == (0, {"axis": "z", "position": 0.0})
        assert hardware.move({"z": 1}) == {"z": 1}

        done = command("sample", "worm", "--budget", "l488=0.05", "--json")
        assert (done.exit_code, json.loads(done.stdout)["budget"]) == (0, {"l488": 0.05})
        hardware.snap("cam_a", LIT)
        with pytest.raises(DoseError):
            hardware.snap("cam_a", LIT)
        done = command("dose")
        assert done.exit_code == 0
        assert "worm (open)" in done.stdout
        assert "of 0.05 % × s" in done.stdout
        assert command("sample", "--close").exit_code == 0
        hardware.snap("cam_a", LIT)

        for wrong in (
            ("sample",),
            ("sample", "worm", "--budget", "l488"),
            ("confirm", "nowhere"),
            ("confirm", "z", "--by", ""),
        ):
            assert command(*wrong).exit_code == 1, wrong
    finally:
        hardware.close()
