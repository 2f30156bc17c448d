"""The parts of the stack: how each starts, when it counts as ready, and how queueserver is stopped in good order."""

from __future__ import annotations

import contextlib
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import Scope
from ..layout import DATA_ENV, SCOPE_ENV, Layout
from . import _probes, _valkey
from ._checks import Ports
from ._children import Service, StartError, last_error
from ._probes import NoAnswer, QueueServer, Refused
from ._supervisor import Part

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def urls(ports: Ports) -> dict[str, str]:
    """Base addresses of the two servers; Tiled's ends in ``/api/v1``."""
    return {
        "http": f"http://{_host(ports.http_host)}:{ports.http}",
        "tiled": f"http://{_host(ports.tiled_host)}:{ports.tiled}/api/v1",
    }


def _host(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def parts(scope: Scope, layout: Layout, ports: Ports) -> list[Part]:
    """Every part of this scope's stack, in start order.

    Tiled and the courier come last and run at a lower priority: frames come first.
    """
    environ = {
        SCOPE_ENV: str(scope.path),
        DATA_ENV: str(layout.data),
        "PYTHONUNBUFFERED": "1",
        **ports.environ(),
    }

    def service(name: str, module: str, *, stop_s: float = 5.0, nice: int = 0) -> Service:
        # -P: a file in the working directory must not take the place of an installed module
        command = (sys.executable, "-P", "-m", module)
        return Service(name, command, layout.logs / f"{name}.log", layout.data, environ, stop_s, nice)

    address = urls(ports)
    queue = QueueServer(_probes.zmq_addresses(scope, layout)["control"])
    found: list[Part] = []

    valkey = None
    if scope.services.valkey == "embedded":
        valkey = Service("valkey", _valkey.command(layout), layout.logs / "valkey.log", layout.valkey)
    valkey_address, password = _probes.valkey_address(scope, layout), layout.key("valkey")
    found.append(Part("valkey", lambda: _probes.ping_valkey(valkey_address, password), valkey, deadline_s=30))

    wait_for = ["watchdog"]
    if scope.micromanager.process == "own":
        here = service("hardware", "queuescope.hardware", stop_s=15) if _runs_here(scope) else None
        found.append(Part("hardware", _hardware_answers(scope, layout), here, deadline_s=120))
        wait_for.append("hardware")
    found.append(
        Part(
            "watchdog",
            lambda: _idle(queue),
            service("watchdog", "queuescope.startup"),
            after=("valkey",),
            orderly_stop=lambda: stop_queueserver(queue),
        )
    )
    environment = Environment(queue, layout.logs / "watchdog.log")
    found.append(
        Part("environment", environment.answers, after=tuple(wait_for), act=environment.open, deadline_s=120),
    )
    found.append(Part("http", lambda: _http_answers(address["http"]), service("http", "queuescope.server")))
    key = layout.key("operator")
    found.append(Part("ready", lambda: _ready(address["http"], key), after=("environment", "http"), deadline_s=30))

    tiled = service("tiled", "queuescope.tiled_config.tiled_server", nice=5)
    courier = service("courier", "queuescope.tiled_config", nice=5)
    found.append(Part("tiled", _tiled_answers(address["tiled"]), tiled, deadline_s=180, catalog=True))
    found.append(Part("courier", lambda: None, courier, catalog=True))
    return found


# ---------------------------------------------------------------------- questions


def _runs_here(scope: Scope) -> bool:
    address = scope.services.hardware
    return address is None or urllib.parse.urlsplit(address).hostname in _LOOPBACK


def _hardware_answers(scope: Scope, layout: Layout) -> Callable[[], None]:
    from ..hardware import HardwareError, connect

    def answers() -> None:
        try:
            with contextlib.closing(connect(scope, layout, timeout_s=1.0)) as hardware:
                hardware.info()
        except HardwareError as error:
            raise NoAnswer(str(error)) from None

    return answers


def _idle(queue: QueueServer) -> None:
    state = queue.status()["manager_state"]
    if state != "idle":
        raise NoAnswer(f"queueserver's manager is {state}")


def _http_answers(url: str) -> None:
    _probes.http_get(f"{url}/api/ready", timeout_s=2)  # any answer, 401 too: the server is there


def _ready(url: str, key: str) -> None:
    ready, reasons = _probes.ready(url, key)
    if not ready:
        raise NoAnswer("; ".join(reasons))


def _tiled_answers(url: str) -> Callable[[], None]:
    healthz = url.removesuffix("/api/v1") + "/healthz"

    def answers() -> None:
        status, _ = _probes.http_get(healthz, timeout_s=5)
        if status != 200:
            raise NoAnswer(f"{healthz} gave {status}")

    return answers


class Environment:
    """Opens queueserver's environment, then turns autostart on."""

    def __init__(self, queue: QueueServer, log: Path) -> None:
        self._queue = queue
        self._log = log
        self._log_start = 0
        self._opened = False

    def open(self) -> None:
        """Ask for it, unless it is open (the hardware came back, not the worker)."""
        self._opened = False
        if not self._queue.status()["worker_environment_exists"]:
            self._log_start = self._log.stat().st_size
            try:
                self._queue.request("environment_open", timeout_s=5)
            except Refused as error:
                raise StartError(str(error)) from None
            self._opened = True

    def answers(self) -> None:
        """Ready when it is open and the manager is idle again.

        Raises
        ------
        StartError
            Where opening failed: with the last error of the worker.
        """
        status = self._queue.status()
        if not status["worker_environment_exists"]:
            if self._opened and status["manager_state"] == "idle":
                with open(self._log, "rb") as log:
                    log.seek(self._log_start)
                    why = last_error(log.read().decode("utf-8", "replace"))
                raise StartError(f"the worker's environment could not be opened: {why} (log: {self._log})")
            raise NoAnswer(f"the environment is not open, queueserver's manager is {status['manager_state']}")
        if self._opened:
            if status["manager_state"] != "idle":
                raise NoAnswer(f"queueserver's manager is {status['manager_state']}")
            if interrupted(self._queue) is None:
                self._queue.request("queue_autostart", {"enable": True}, timeout_s=5)
            self._opened = False


def interrupted(queue: QueueServer) -> str | None:
    """Name of the plan at the front of the queue that was running when the stack went down last time, None if there is none.

    queueserver puts an interrupted plan back; it must not move the microscope again unless a person says so.
    """
    items: list[dict[str, Any]] = queue.request("queue_get", timeout_s=5)["items"]
    return items[0].get("name") if items and items[0].get("result") else None


# ---------------------------------------------------------------------- orderly stop


def stop_queueserver(queue: QueueServer) -> None:
    """Pause and abort what runs, close the environment, stop the manager: each with a deadline.

    Raises
    ------
    NoAnswer
        Where queueserver doesn't answer, or a step took too long: signals are next.
    """
    status = queue.status(timeout_s=2)
    if status["worker_environment_exists"]:
        queue.request("queue_autostart", {"enable": False})
        _abort_running(queue)
        queue.request("environment_close", timeout_s=5)
        _until(queue, "the environment is closed", lambda s: not s["worker_environment_exists"], 15)
    queue.request("manager_stop", {"option": "safe_off"}, timeout_s=5)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the manager has gone when nobody answers any more
        try:
            queue.status(timeout_s=0.2)
        except NoAnswer:
            return


def _abort_running(queue: QueueServer) -> None:
    if queue.status()["manager_state"] == "executing_queue":
        queue.request("re_pause", {"option": "immediate"}, timeout_s=5)
        _until(queue, "the plan has paused", lambda s: s["manager_state"] != "executing_queue", 15)
    if queue.status()["manager_state"] == "paused":
        queue.request("re_abort", timeout_s=5)
        _until(queue, "the plan has ended", lambda s: s["manager_state"] == "idle", 30)


def _until(queue: QueueServer, what: str, true: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not true(queue.status(timeout_s=2)):
        if time.monotonic() > deadline:
            raise NoAnswer(f"waited {timeout_s:g} s until {what}")
        time.sleep(0.03)
