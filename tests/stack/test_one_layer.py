"""One device layer, one way to start it, and nothing beside it."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

import queuescope
from queuescope.scripts import _reaper
from queuescope.scripts._runtime import CHECKER


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


COUNT = """
def _count():
    import collections, gc, json, pathlib, sys
    from bluesky import RunEngine
    from ophyd.ophydobj import OphydObject
    from queuescope.startup._session import Session

    gc.unfreeze()  # what was there when the environment had opened is looked at too
    found = gc.get_objects()
    names = collections.Counter(o.name for o in found if isinstance(o, OphydObject) and o.parent is None)
    told = {
        "engines": sum(isinstance(o, RunEngine) for o in found),
        "sessions": sum(isinstance(o, Session) for o in found),
        "devices": dict(names),
        "mmcore": [name for name in sys.modules if name.partition(".")[0] in ("pymmcore", "pymmcore_plus")],
    }
    pathlib.Path(PATH).write_text(json.dumps(told))
_count()
del _count
"""


def test_devices_and_the_run_engine_exist_once(stack: Any, tmp_path: Path) -> None:
    """R3.1: counted in the worker itself: one session, one RunEngine, each device of the scope once, and no MMCore."""
    answer = stack.manager().script_upload(COUNT.replace("PATH", repr(str(tmp_path / "told"))), update_re=False)
    stack.manager().wait_for_completed_task(answer["task_uid"], timeout=30)
    told = json.loads((tmp_path / "told").read_text())
    assert (told["engines"], told["sessions"], told["mmcore"]) == (1, 1, [])
    wanted = set(stack.scope.devices) | set(stack.scope.lights)
    assert {name: told["devices"].get(name) for name in wanted} == dict.fromkeys(wanted, 1)


def test_nothing_is_started_that_is_not_used(stack: Any) -> None:
    """R3.7: the processes of a stack are those that `runtime.json` names, the queue server's checker of plans, and the one that
    ends them should it be killed.
    """
    pids = {name: pid for name, pid in stack.runtime["pids"].items() if pid is not None}
    others = [p for p in stack.processes() if p.pid not in pids.values()]
    checkers = [p for p in others if p.name() == CHECKER]
    assert [p.ppid() for p in checkers] == [pids["watchdog"]]
    others = [p for p in others if p not in checkers]
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
    ends_by_itself = {
        "queuescope.hardware._checkup",
        "queuescope.hardware._inventory",
        "queuescope.plans",
        "queuescope.server.openapi",
    }
    stack = (folder / "scripts" / "_stack.py").read_text(encoding="utf-8")
    assert mains - ends_by_itself == set(re.findall(r'service\("\w+", "([\w.]+)"', stack))
