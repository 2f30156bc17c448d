"""A durable script on the whole stack: killed anywhere and run again, every step is done once: R1."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.agents import OperationFailedError, RefusedError, Scope, keygen

SCRIPT = """\
import json, sys
from queuescope.agents import Scope
scope = Scope.connect(data=sys.argv[1], keyfile=sys.argv[2])
with scope.durable("night"):
    first = scope.run("snap", step="first", camera="overview")
    near = scope.random() < 0.5
    moved = scope.run("move_axis", axis="piezo_a", to=10.0 if near else 20.0)
    job = scope.submit("snap", camera="overview", note=f"{scope.now()}")
    last = job.result()
print(json.dumps([first.run_uids, moved.run_uids, moved.result["target"], last.run_uids]))
"""
PROCESSES = """\
import json, os, runpy, signal, sys, threading
import queuescope.agents
from queuescope.agents import Scope, _bar, _record

def trace_until(where, count):
    seen = 0
    def trace(frame, event, argument):
        nonlocal seen
        if not frame.f_code.co_filename.endswith(where):
            return None
        if event == "line":
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    threading.settrace(trace)
    sys.settrace(trace)

for line in sys.stdin:
    asked = json.loads(line)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        if asked["count"]:
            trace_until(asked["where"], asked["count"])
        runpy.run_path(sys.argv.pop(1), run_name="__main__")
        sys.exit(0)
    os.close(write)
    with os.fdopen(read) as out:
        said = out.read()
    _, status = os.waitpid(pid, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), said]), flush=True)
"""
"""Runs the script in a process of its own for each line of its input (forked, which saves the imports), and kills that process
before the n-th line of a file.
"""


@pytest.fixture
def stack(stack_no_catalog: Any) -> Any:
    return stack_no_catalog


class Durable:
    """The script with a key file of its own."""

    def __init__(self, stack: Any, folder: Path) -> None:
        self.stack, self.keyfile = stack, keygen(folder / "exec.key")
        script, processes = folder / "night.py", folder / "processes.py"
        script.write_text(SCRIPT)
        processes.write_text(PROCESSES)
        command = [sys.executable, str(processes), str(script), str(stack.data), str(self.keyfile)]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self) -> list[Any]:
        code, said = self._run("", 0)
        assert code == 0
        return list(json.loads(said))

    def killed(self, where: str, count: int) -> bool:
        """True where it was killed, False where it came to its end before."""
        code, _ = self._run(where, count)
        assert code in (0, -9)
        return code == -9

    def _run(self, where: str, count: int) -> tuple[int, str]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps({"where": where, "count": count}) + "\n")
        self._parent.stdin.flush()
        code, said = json.loads(self._parent.stdout.readline())
        return code, said

    def close(self) -> None:
        self._parent.communicate(timeout=30)

    def acquisitions(self) -> list[str]:
        """The runs that were really begun for its keys, whoever says what of it."""
        with Scope.connect(data=self.stack.data, keyfile=self.keyfile) as scope, scope.durable("night"):
            keys = {scope.key("first"), scope.key(), scope.key()}
        found = []
        for log in self.stack.layout.documents.glob("*.jsonl"):
            with log.open() as file:
                doc = json.loads(file.readline())["doc"]
            if doc.get("op_key") in keys:
                found.append(doc["uid"])
        return sorted(found)


@pytest.fixture
def durable(stack: Any, tmp_path: Path) -> Iterator[Durable]:
    with contextlib.closing(Durable(stack, tmp_path)) as found:
        yield found


def uids(told: list[Any]) -> list[str]:
    return sorted(uid for part in (told[0], told[1], told[3]) for uid in part)


def test_killed_at_each_of_its_lines_and_run_again(durable: Durable) -> None:
    """R1.10, R1.13: done steps replay, the running one is found again, the rest runs; the branch that was drawn stays."""
    lines = len(SCRIPT.splitlines())
    assert [durable.killed("night.py", count) for count in range(3, lines + 1)] == [True] * (lines - 2)
    told = durable.run()
    assert len(uids(told)) == 3
    assert durable.acquisitions() == uids(told)
    assert durable.run() == told, "a finished script moves nothing and returns the same runs"
    assert durable.acquisitions() == uids(told)


def test_killed_at_an_await_and_run_again(durable: Durable) -> None:
    """R1.10, R1.4: also between a request and its answer, and while a running step is followed."""
    killed = [durable.killed("_job.py", count) for count in (60, 110, 150, 200)]
    assert killed[0], "the first one is on its way"
    told = durable.run()
    assert durable.acquisitions() == uids(told)


def test_a_script_on_another_branch_is_told(stack: Any, tmp_path: Path) -> None:
    """R1.3: a step that asks for something else than it did is refused; nothing runs."""
    keyfile = keygen(tmp_path / "exec.key")
    with Scope.connect(data=stack.data, keyfile=keyfile) as scope:
        scope.run("read_state", step="look")
        with pytest.raises(RefusedError, match="key_reused"):
            scope.run("move_axis", step="look", axis="piezo_a", to=1.0)
        with pytest.raises(RefusedError, match=r"outside \[-200.0, 200.0\]|limit") as refused:
            scope.run("move_axis", step="far", axis="piezo_a", to=201.0)
        assert refused.value.fields["errors"][0]["loc"] == ["kwargs", "to"]
        with pytest.raises(OperationFailedError, match="outside_limits"):
            scope.run("move_axis", step="too far", axis="f", by=399.0)


def test_the_key_travels_with_the_standard_client(stack: Any, tmp_path: Path) -> None:
    """R1.11: a step that bluesky-queueserver-api submits is the same operation."""
    keyfile = keygen(tmp_path / "exec.key")
    with Scope.connect(data=stack.data, keyfile=keyfile) as scope:
        key = scope.key("stock")
        item = {"item_type": "plan", "name": "read_state", "meta": {"op_key": key}}
        uid = stack.manager().item_add(item)["item"]["item_uid"]
        operation = scope.attach(key).result()
        assert operation.item_uid == uid
        assert scope.run("read_state", step="stock").item_uid == uid
