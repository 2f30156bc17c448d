"""Peers of `bench latency`: bluesky-queueserver with bluesky-httpserver as they come, and blueapi. Their plan does nothing.

Each peer is asked in the way that is quickest for it: the stock queue server's end of a plan is read over 0MQ, since its HTTP
server's status may be 0.4 s old, and blueapi's from the task that it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from ..scripts import _valkey
from ..scripts._probes import NoAnswer, QueueServer
from ._result import Tell

BLUEAPI = "1.21.1"
LOOK_S = 0.004
"""Between two questions to a peer that can't be waited on."""
START_S = 90.0
PLAN = """
from bluesky import RunEngine, plan_stubs as bps
from bluesky.utils import MsgGenerator

def nothing() -> MsgGenerator:
    yield from bps.null()
"""


class Processes:
    """Started by ``with``, ended at its end, in a folder that goes too."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="qs-peer-"))
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):  # also what it left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, *command: str, **environ: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **environ},
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    start_new_session=True,
                )
            )

    def until(self, what: str, true: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(NoAnswer, httpx.HTTPError, OSError):
                if found := true():
                    return found
            if time.monotonic() > deadline:
                logs = "\n".join(file.read_text(errors="replace")[-800:] for file in self.folder.glob("*.log"))
                raise RuntimeError(f"waited {START_S:g} s until {what}:\n{logs}")
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stock(Processes):
    """``start-re-manager``, ``uvicorn bluesky_httpserver`` and a Valkey of their own."""

    def __enter__(self) -> Self:
        redis, port = free_port(), free_port()
        (self.folder / "startup.py").write_text(PLAN + "\nRE = RunEngine({})\n", encoding="utf-8")
        permissions = Path(__file__).parents[1] / "startup" / "user_group_permissions.yaml"
        control, info = (f"ipc://{self.folder}/{name}" for name in ("control", "info"))
        self.start("valkey", str(_valkey.binary()), "--port", str(redis), "--bind", "127.0.0.1", "--save", "")
        self._queue = QueueServer(control)
        manager = Path(sys.executable).with_name("start-re-manager")
        where = ("--redis-addr", f"127.0.0.1:{redis}", "--zmq-control-addr", control, "--zmq-info-addr", info)
        lists = (
            "--existing-plans-devices",
            str(self.folder / "existing.yaml"),
            "--user-group-permissions",
            str(permissions),
        )
        script = ("--startup-script", str(self.folder / "startup.py"))
        self.start("manager", str(manager), *script, *where, *lists, "--quiet")
        key = "benchlatency"
        self.start(
            "http",
            *(sys.executable, "-m", "uvicorn", "bluesky_httpserver.server:app", "--port", str(port)),
            *("--log-level", "warning", "--no-access-log"),
            QSERVER_ZMQ_CONTROL_ADDRESS=control,
            QSERVER_ZMQ_INFO_ADDRESS=info,
            QSERVER_HTTP_SERVER_SINGLE_USER_API_KEY=key,
        )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api", headers={"Authorization": f"ApiKey {key}"}, trust_env=False
        )
        self.until("the manager answers", lambda: self._queue.status()["manager_state"] == "idle")
        self._queue.request("environment_open")
        self.until("the environment is open", self._open)
        self._queue.request("queue_autostart", {"enable": True})
        self.until("the HTTP server answers", lambda: self.client.get("/status").status_code == 200)
        return self

    def _open(self) -> bool:
        status = self._queue.status()
        return bool(status["worker_environment_exists"] and status["manager_state"] == "idle")

    def _add(self) -> None:
        item = {"item_type": "plan", "name": "nothing", "args": [], "kwargs": {}}
        reply = self.client.post("/queue/item/add", json={"item": item}).json()
        if not reply["success"]:
            raise RuntimeError(f"the stock queue server refused the plan: {reply['msg']}")

    def _until_history(self, size: int) -> None:
        while self._queue.status()["items_in_history"] < size:
            time.sleep(LOOK_S)

    def run(self) -> None:
        """One plan, from its submission to its end."""
        size = self._queue.status()["items_in_history"]
        self._add()
        self._until_history(size + 1)

    def burst(self, count: int) -> None:
        """So many plans, submitted at once."""
        size = self._queue.status()["items_in_history"]
        for _ in range(count):
            self._add()
        self._until_history(size + count)


class Blueapi(Processes):
    """``blueapi serve`` without STOMP, in an environment of its own."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._python = blueapi_python(tell)

    def __enter__(self) -> Self:
        port = free_port()
        (self.folder / "nothing_plans.py").write_text(PLAN, encoding="utf-8")
        (self.folder / "config.yaml").write_text(
            "env: {sources: [{kind: planFunctions, module: nothing_plans}]}\n"
            f"api: {{url: 'http://127.0.0.1:{port}'}}\nlogging: {{level: WARNING}}\n",
            encoding="utf-8",
        )
        command = (str(self._python), "-m", "blueapi", "-c", str(self.folder / "config.yaml"), "serve")
        self.start("blueapi", *command, PYTHONPATH=str(self.folder))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
        self.until(
            "blueapi's environment is open",
            lambda: self.client.get("/environment").json().get("initialized") and self.client.get("/plans/nothing"),
        )
        return self

    def run(self) -> None:
        asked = self.client.post("/tasks", json={"name": "nothing", "params": {}, "instrument_session": "cm1-1"})
        task_id = asked.raise_for_status().json()["task_id"]
        self.client.put("/worker/task", json={"task_id": task_id}).raise_for_status()
        while not self.client.get(f"/tasks/{task_id}").json()["is_complete"]:
            time.sleep(LOOK_S)
        self.client.get("/worker/state").json()

    def burst(self, count: int) -> None:
        """One after the other: it has no queue."""
        for _ in range(count):
            self.run()


def blueapi_python(tell: Tell) -> Path:
    """The interpreter of an environment with blueapi, made from PyPI the first time: it pins another Tiled than we use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "queuescope"
    place = cache / f"blueapi-{BLUEAPI}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        tell(f"latency: installing blueapi {BLUEAPI} into {place}, a minute or two")
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"blueapi=={BLUEAPI}"], check=True)
        (place / "complete").touch()
    return python
