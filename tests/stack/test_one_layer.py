"""One device layer, one way to start it, and nothing beside it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

import queuescope
from queuescope.scripts import _reaper


def holders(processes: list[psutil.Process], what: str) -> set[int]:
    """Pids of the processes that have a library with this in its name loaded."""
    return {p.pid for p in processes if any(what in Path(region.path).name for region in p.memory_maps())}


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel which libraries a process has loaded")
def test_mmcore_and_its_adapters_exist_in_one_process(stack: Any) -> None:
    """R3.1, R3.6: in the hardware process; neither the worker nor the server can reach MMCore, which they haven't loaded."""
    hardware = stack.runtime["pids"]["hardware"]
    processes = stack.processes()
    assert holders(processes, "mmgr_dal_") == {hardware}
    assert holders(processes, "_pymmcore_swig") == {hardware}


def test_a_second_device_layer_is_refused(stack: Any) -> None:
    """R3.1: on the same data there is one stack and one microscope, and both say who has them."""
    started = stack.command("up", "--http-port", "0")
    assert started.returncode == 1
    assert f"a stack already runs on {stack.data} (pid {stack.runtime['pids']['supervisor']})" in " ".join(
        started.stderr.split()
    )


def test_devices_and_the_run_engine_exist_once(stack: Any) -> None:
    """R3.1: each plan runs in the RunEngine of one worker, on one set of devices; runs are numbered by one counter."""
    worker = stack.runtime["pids"]["worker"]
    runs = []
    for number in range(2):
        item = stack.run("read_state", f"layer.once-{number}")
        assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
        runs.append(stack.get(f"/api/runs/{item['result']['run_uids'][0]}")[1])
    assert stack.runtime["pids"]["worker"] == worker
    devices = stack.manager().devices_existing()["devices_existing"]
    scope_devices = set(stack.scope.devices) | set(stack.scope.lights)
    assert scope_devices <= set(devices)
    assert [run["status"] for run in runs] == ["succeeded", "succeeded"]


def test_nothing_is_started_that_is_not_used(stack: Any) -> None:
    """R3.7: the processes of a stack are those that `runtime.json` names, and the one that ends them should it be killed."""
    pids = {name: pid for name, pid in stack.runtime["pids"].items() if pid is not None}
    others = [p for p in stack.processes() if p.pid not in pids.values()]
    unknown = [p.cmdline() for p in others if str(_reaper.__file__) not in p.cmdline()]
    assert len(unknown) == 0, unknown
    assert len(others) == 1


def test_there_is_one_command() -> None:
    """R3.7: one canonical way to start: every other entry point is a part that this command starts."""
    folder = Path(str(queuescope.__file__)).parent
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"queuescope": "queuescope.scripts.cli:main"}
    assert not project.get("entry-points")
    mains = {
        f"queuescope.{path.parent.name}" if path.name == "__main__.py" else f"queuescope.{path.parent.name}.{path.stem}"
        for room in ("hardware", "startup", "server", "tiled_config", "plans", "devices", "ledger", "reading")
        for path in (folder / room).glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    ends_by_itself = {"queuescope.hardware._checkup", "queuescope.hardware._inventory", "queuescope.server.openapi"}
    stack = (folder / "scripts" / "_stack.py").read_text(encoding="utf-8")
    assert mains - ends_by_itself == set(re.findall(r'service\("\w+", "([\w.]+)"', stack))
