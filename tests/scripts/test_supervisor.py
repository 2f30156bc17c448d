"""The supervisor's mechanics, with stand-in processes: order, death, restart, signals. The real stack is in test_stack.py."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from queuescope.scripts import _supervisor
from queuescope.scripts._children import Service
from queuescope.scripts._probes import NoAnswer
from queuescope.scripts._supervisor import Part, Supervisor

LIVES = "import os, signal, sys; open(sys.argv[1], 'w').write(f'{os.getpid()}\\n'); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + LIVES
FAILS = "raise LookupError('no device NoSuchCam in mm.cfg')"


class Stand:
    """Parts made of small processes that write their pid when they are up, and the events they caused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.hooks: dict[tuple[str, str], Callable[[], None]] = {}

    def part(self, name: str, after: tuple[str, ...] = (), body: str = LIVES, **more: Any) -> Part:
        up = self.folder / f"{name}.up"
        command = (sys.executable, "-I", "-S", "-c", body, str(up))
        service = Service(name, command, self.folder / f"{name}.log", self.folder, stop_s=0.5)

        def answers() -> None:
            pid = self.pid(name)
            if pid is None or not psutil.pid_exists(pid):
                raise NoAnswer(f"{name} is not up")

        return Part(name, answers, service, after, **more)

    def pid(self, name: str) -> int | None:
        try:
            text = (self.folder / f"{name}.up").read_text()
        except FileNotFoundError:
            return None
        return int(text) if text.endswith("\n") else None

    def listener(self, event: str, facts: dict[str, Any]) -> None:
        self.events.append((event, facts))
        if hook := self.hooks.get((event, facts.get("part", ""))):
            hook()

    def names(self, event: str) -> list[str]:
        return [facts["part"] for found, facts in self.events if found == event]

    def run(
        self, parts: list[Part], stop_at: tuple[str, str] | None = ("ready", ""), **how: Any
    ) -> tuple[int, Supervisor]:
        async def go() -> tuple[int, Supervisor]:
            supervisor = Supervisor(parts, self.listener, **how)
            if stop_at is not None:
                self.hooks[stop_at] = supervisor.stop
            return await supervisor.run(), supervisor

        return asyncio.run(go())

    def left(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if str(self.folder) in " ".join(_cmdline(p))]


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_supervisor, "back_off", lambda restarts: 0.0)
    found = Stand(tmp_path)
    yield found
    left = found.left()
    for process in left:
        process.kill()
    assert not left


def test_a_part_starts_when_those_before_it_answer_and_stops_before_them(stand: Stand) -> None:
    parts = [
        stand.part("store"),
        stand.part("hardware"),
        stand.part("queue", ("store",)),
        stand.part("web", ("queue",)),
    ]
    code, _ = stand.run(parts)
    assert code == 0
    began = [(event, facts["part"]) for event, facts in stand.events if event in ("starting", "part")]
    assert began.index(("starting", "hardware")) < began.index(("part", "store"))  # not one after the other
    assert began.index(("part", "store")) < began.index(("starting", "queue"))
    assert began.index(("part", "queue")) < began.index(("starting", "web"))
    assert stand.names("stopping") == ["web", "queue", "hardware", "store"]


def test_a_part_that_ends_while_starting_stops_everything_and_says_why(stand: Stand) -> None:
    code, _ = stand.run([stand.part("store"), stand.part("hardware", body=FAILS)], stop_at=None)
    assert code == 1
    [message] = [facts["message"] for event, facts in stand.events if event == "error"]
    assert message.startswith("hardware did not start: LookupError: no device NoSuchCam in mm.cfg (")
    assert f"log: {stand.folder / 'hardware.log'}" in message
    assert stand.left() == []


def test_a_part_that_never_answers_is_named_with_its_deadline(stand: Stand) -> None:
    def silent() -> None:
        raise NoAnswer("connection refused")

    mute = Part("web", silent, stand.part("web").service, deadline_s=0.1)
    code, _ = stand.run([mute], stop_at=None)
    assert code == 1
    assert "web was not ready within 0.1 s: connection refused" in stand.events[-3][1]["message"]


def test_a_program_that_does_not_exist_is_named(stand: Stand) -> None:
    service = Service("store", ("/no/such/program",), stand.folder / "store.log", stand.folder)
    code, _ = stand.run([Part("store", lambda: None, service)], stop_at=None)
    assert code == 1
    assert "/no/such/program" in next(facts["message"] for event, facts in stand.events if event == "error")


def test_a_part_that_dies_is_started_again_and_its_steps_are_done_again(stand: Stand) -> None:
    done: list[int] = []
    parts = [stand.part("queue"), Part("environment", lambda: None, after=("queue",), act=lambda: done.append(1))]
    stand.hooks["catalog", ""] = lambda: os.kill(stand.pid("queue") or 0, signal.SIGKILL)
    code, supervisor = stand.run(parts, stop_at=("restarted", "queue"))
    assert code == 0
    assert supervisor.states["queue"].restarts == 1
    assert len(done) == 2


def test_a_part_that_lives_and_does_not_answer_is_killed_and_started_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R0.3: SIGSTOP: no death is seen, no answer comes; one missed answer is none."""
    monkeypatch.setattr(_supervisor, "BEAT_S", 0.02)
    monkeypatch.setattr(_supervisor, "FROZEN_S", 0.5)
    asked: list[int] = []

    def alive() -> None:
        asked.append(1)
        try:
            stopped = psutil.Process(stand.pid("hardware")).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            stopped = True
        if len(asked) == 2 or stopped:
            raise NoAnswer("silence")

    hardware = stand.part("hardware", alive=alive)
    first: list[int] = []

    def freeze() -> None:
        first.append(stand.pid("hardware") or 0)
        os.kill(first[0], signal.SIGSTOP)

    stand.hooks["catalog", ""] = freeze
    code, supervisor = stand.run([hardware], stop_at=("restarted", "hardware"))
    assert code == 0
    [died] = [facts["message"] for event, facts in stand.events if event == "died"]
    assert "hardware has not answered for" in died
    assert "silence" in died
    assert supervisor.states["hardware"].restarts == 1
    assert not psutil.pid_exists(first[0])


def test_a_part_that_keeps_dying_is_left_down_and_the_rest_stays(stand: Stand) -> None:
    def kill() -> None:
        os.kill(stand.pid("web") or 0, signal.SIGKILL)

    stand.hooks["catalog", ""] = kill
    stand.hooks["restarted", "web"] = kill
    code, _ = stand.run([stand.part("store"), stand.part("web")], stop_at=("failed", "web"))
    assert code == 0
    assert len(stand.names("restarted")) == _supervisor.RESTARTS_MAX
    assert "left down: it said nothing (it was ended by SIGKILL" in stand.events[-3][1]["message"]
    assert stand.names("stopping") == ["store"]


def test_a_process_that_ignores_sigterm_is_killed(stand: Stand) -> None:
    code, _ = stand.run([stand.part("web", body=STUBBORN)])
    assert code == 0
    assert stand.left() == []


def test_the_orderly_stop_comes_before_signals_and_may_fail(stand: Stand) -> None:
    def ask() -> None:
        assert psutil.pid_exists(stand.pid("queue") or 0)
        raise NoAnswer("no answer to 'environment_close'")

    code, _ = stand.run([stand.part("queue", orderly_stop=ask)])
    assert code == 0
    assert ("stopping", {"part": "queue", "message": "no answer to 'environment_close'"}) in stand.events


def test_the_catalog_starts_after_ready_and_holds_nothing_up(stand: Stand) -> None:
    parts = [stand.part("web"), stand.part("tiled", body=FAILS, catalog=True)]
    code, _ = stand.run(parts, stop_at=("failed", "tiled"), wait_catalog=False)
    assert code == 0
    kinds = [event for event, _ in stand.events]
    assert kinds.index("ready") < kinds.index("failed")


def test_a_catalog_that_is_waited_for_and_fails_stops_everything(stand: Stand) -> None:
    code, _ = stand.run([stand.part("web"), stand.part("tiled", body=FAILS, catalog=True)], stop_at=None)
    assert code == 1
    assert stand.left() == []


def test_a_sigterm_during_the_start_stops_what_has_started(stand: Stand) -> None:
    def never() -> None:
        raise NoAnswer("not yet")

    waits = Part("web", never, stand.part("web").service, after=("store",))
    stand.hooks["starting", "web"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    code, _ = stand.run([stand.part("store"), waits], stop_at=None)
    assert code == 0
    assert stand.names("stopping") == ["web", "store"]


ALONE = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from queuescope.scripts._children import Reaper, Service
from queuescope.scripts._probes import NoAnswer
from queuescope.scripts._supervisor import Part, Supervisor

folder = Path(sys.argv[1])
def part(name, body):
    up = folder / f"{name}.up"
    def answers():
        if not up.exists():
            raise NoAnswer("no")
    service = Service(name, (sys.executable, "-I", "-S", "-c", body, str(up)), folder / f"{name}.log", folder)
    return Part(name, answers, service)
async def go():
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    reaper = Reaper(folder / "runtime.json", lock)
    def listener(event, facts):
        if event == "ready":
            print(os.getpid(), reaper.pid, flush=True)
    await Supervisor([part("a", sys.argv[3]), part("b", sys.argv[4])], listener, reaper).run()
asyncio.run(go())
"""


def test_kill_9_of_the_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    """Neither processes that ignore SIGTERM, nor ``runtime.json``."""
    (tmp_path / "runtime.json").write_text("{}")
    command = [sys.executable, "-c", ALONE, str(tmp_path), "", LIVES, STUBBORN]
    supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    _, reaper = map(int, supervisor.stdout.readline().split())
    children = [psutil.Process(int((tmp_path / f"{name}.up").read_text())) for name in "ab"]
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    _, left = psutil.wait_procs(
        [*children, psutil.Process(reaper)] if psutil.pid_exists(reaper) else children, timeout=30
    )
    assert left == []
    assert not (tmp_path / "runtime.json").exists()
