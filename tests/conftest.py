"""The whole stack, once a test session: real MMCore, queueserver, httpserver, Valkey and Tiled on a temporary data directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from queuescope.config import Scope, load_scope
from queuescope.hardware import Hardware, connect
from queuescope.layout import DATA_ENV, SCOPE_ENV, Layout
from queuescope.scripts._probes import NoAnswer, http_request

COMMAND = (sys.executable, "-m", "queuescope.scripts")


def command(
    *words: str, environ: dict[str, str] | None = None, timeout_s: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run ``queuescope WORDS`` as people do."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env={**os.environ, **(environ or {})}, timeout=timeout_s
    )


class Stack:
    """A running stack and what tests ask of it."""

    def __init__(self, data: Path, scope: str = "demo-dispim") -> None:
        self.data = data
        self.layout = Layout(data)
        self.scope: Scope = load_scope(scope)
        self.environ = {**os.environ, DATA_ENV: str(data), SCOPE_ENV: str(self.scope.path)}
        """For stock tools and our own command."""
        self._hardware: Any = None
        self._manager: Any = None

    def up(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.command("up", "--http-port", "0", *words)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``queuescope WORDS`` on this stack."""
        return command(*words, environ=self.environ)

    @property
    def runtime(self) -> dict[str, Any]:
        """``runtime.json``, read now."""
        found = self.layout.runtime()
        assert found is not None, "the stack does not run"
        return found

    @property
    def http(self) -> str:
        return str(self.runtime["http"])

    @property
    def tiled(self) -> str:
        return str(self.runtime["tiled"])

    def key(self, role: str) -> str:
        return self.layout.key(role)

    def get(self, path: str, role: str = "observer") -> tuple[int, Any]:
        """Status and JSON body of a REST call."""
        return http_request(self.http + path, self.key(role))

    def post(self, path: str, body: dict[str, Any], role: str = "operator") -> tuple[int, Any]:
        return http_request(self.http + path, self.key(role), body, timeout_s=30)

    def hardware(self) -> Hardware:
        """A connection to the hardware process."""
        if self._hardware is None:
            self._hardware = connect(self.scope, self.layout)
        return self._hardware  # type: ignore[no-any-return]

    def manager(self) -> Any:
        """queueserver's own client, over 0MQ."""
        if self._manager is None:
            from bluesky_queueserver_api.zmq import REManagerAPI

            zmq = self.runtime["zmq"]
            self._manager = REManagerAPI(zmq_control_addr=zmq["control"], zmq_info_addr=zmq["info"])
        return self._manager

    def submit(self, name: str, op_key: str | None = None, **kwargs: Any) -> str:
        """Queue a plan; return its item UID."""
        item: dict[str, Any] = {"item_type": "plan", "name": name, "args": [], "kwargs": kwargs}
        if op_key is not None:
            item["meta"] = {"op_key": op_key}
        return str(self.manager().item_add(item)["item"]["item_uid"])

    def wait(self, item_uid: str, timeout_s: float = 60) -> dict[str, Any]:
        """The item's entry in queueserver's history, once it has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for item in self.manager().history_get()["items"]:
                if item["item_uid"] == item_uid:
                    return dict(item)
            time.sleep(0.05)
        raise AssertionError(f"item {item_uid} did not end within {timeout_s} s")

    def run(self, name: str, op_key: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """`submit` and `wait`."""
        return self.wait(self.submit(name, op_key, **kwargs))

    def release(self) -> None:
        """Close this process's own connections."""
        for connection in (self._hardware, self._manager):
            if connection is not None:
                connection.close()
        self._hardware = self._manager = None

    def processes(self) -> list[psutil.Process]:
        """Whatever runs on this data directory, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                belongs = process.pid != os.getpid() and process.environ().get(DATA_ENV) == str(self.data)
                if belongs or str(self.data) in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def down(self) -> None:
        """Stop it; nothing may be left running."""
        self.release()
        stopped = self.command("down")
        left = self.processes()
        for process in left:
            process.kill()
        shutil.rmtree(self.layout.volumes, ignore_errors=True)  # pytest keeps the rest
        assert stopped.returncode == 0, stopped.stderr
        assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def stack_no_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack as soon as plans would run; its catalog may still be starting."""
    found = Stack(tmp_path_factory.mktemp("stack") / "data")
    started = found.up("--no-wait-catalog", "--json")
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["http"] == found.http
    yield found
    found.down()


@pytest.fixture(scope="session")
def stack(stack_no_catalog: Stack) -> Stack:
    """The whole stack, Tiled included."""
    deadline = time.monotonic() + 120
    while True:
        try:
            if http_request(stack_no_catalog.tiled.removesuffix("/api/v1") + "/healthz")[0] == 200:
                return stack_no_catalog
        except NoAnswer:
            pass
        assert time.monotonic() < deadline, "Tiled did not answer within 120 s"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def make_stack() -> type[Stack]:
    """``make_stack(data, scope)``: a stack, not started; `Stack.down` it."""
    return Stack


@pytest.fixture
def another_stack(tmp_path: Path) -> Iterator[Stack]:
    """A data directory of its own for tests that start and kill things; not started."""
    found = Stack(tmp_path / "a data folder")
    yield found
    if found.layout.lock.exists():
        found.down()
