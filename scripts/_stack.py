"""The parts of the stack: how each starts, when it counts as ready, and how queueserver is stopped in good order."""

from __future__ import annotations

import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from ..config import Scope
from ..hardware import LatchFile
from ..layout import DATA_ENV, SCOPE_ENV, Layout
from ..lean import NO_PLUGINS
from . import _probes, _valkey
from ._checks import Ports
from ._children import Service, StartError, last_error
from ._probes import NoAnswer, QueueServer, Refused
from ._supervisor import Part

CATALOG_FROZEN_S = 30.0
"""Longer than Tiled or the courier may be busy: they run at a lower priority than what records."""

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


def parts(scope: Scope, layout: Layout, ports: Ports, catalog: bool = True) -> list[Part]:
    """Every part of this scope's stack, in start order.

    Tiled and the courier come last and run at a lower priority: frames come first. Without ``catalog`` there are none, and
    documents wait in their logs for a stack that has them.
    """
    environ = {
        SCOPE_ENV: str(scope.path),
        DATA_ENV: str(layout.data),
        "PYTHONUNBUFFERED": "1",
        **dict([NO_PLUGINS]),
        **ports.environ(),
    }
    if not catalog:
        del environ["QUEUESCOPE_SERVICES__TILED"]

    def service(name: str, module: str, *, stop_s: float = 5.0, nice: int = 0) -> Service:
        # -P: a file in the working directory must not take the place of an installed module
        command = (sys.executable, "-P", "-m", module)
        return Service(name, command, layout.logs / f"{name}.log", layout.data, environ, stop_s, nice)

    address, key = urls(ports), layout.key("operator")
    queue = QueueServer(_probes.zmq_addresses(scope, layout)["control"])
    found: list[Part] = []

    valkey = None
    if scope.services.valkey == "embedded":
        valkey = Service("valkey", _valkey.command(layout), layout.logs / "valkey.log", layout.valkey, environ)
    valkey_address, password = _probes.valkey_address(scope, layout), layout.key("valkey")
    # The manager waits for Valkey itself, so that its imports need not.

    def ping() -> None:
        _probes.ping_valkey(valkey_address, password)

    found.append(Part("valkey", ping, valkey, alive=ping, deadline_s=30))

    if scope.micromanager.process == "own":
        here = service("hardware", "queuescope.hardware", stop_s=15) if _runs_here(scope) else None
        found.append(
            Part(
                "hardware",
                lambda: _probes.connect_hardware(scope, layout),
                here,
                alive=_probes.HardwareAnswers(scope, layout),
                deadline_s=120,
            )
        )
    found.append(
        Part(
            "watchdog",
            lambda: _idle(queue),
            service("watchdog", "queuescope.startup"),
            settle=lambda: end_running_plan(queue),
            orderly_stop=lambda: stop_queueserver(queue),
        )
    )
    environment = Environment(queue, layout, goes_on=scope.queue.on_failure == "continue")
    found.append(
        # The worker itself waits for the hardware while its environment opens.
        Part(
            "environment",
            environment.answers,
            after=("watchdog",),
            act=environment.open,
            lost=environment.lost,
            deadline_s=120,
        ),
    )
    found.append(
        Part(
            "http",
            lambda: _http_answers(address["http"], key),
            service("http", "queuescope.server"),
            alive=lambda: _http_alive(address["http"]),
        )
    )
    found.append(
        Part("ready", lambda: _ready(address["http"], key, layout), after=("environment", "http"), deadline_s=30)
    )

    if not catalog:
        return found
    tiled = service("tiled", "queuescope.tiled_config.tiled_server", nice=3)
    courier = service("courier", "queuescope.tiled_config", nice=3)
    answers = _tiled_answers(address["tiled"])
    found.append(
        Part("tiled", answers, tiled, alive=answers, frozen_s=CATALOG_FROZEN_S, deadline_s=180, catalog=True),
    )

    def ask() -> None:
        _probes.ask_courier(layout)

    found.append(Part("courier", ask, courier, alive=ask, frozen_s=CATALOG_FROZEN_S, catalog=True))
    return found


# ---------------------------------------------------------------------- questions


def _runs_here(scope: Scope) -> bool:
    address = scope.services.hardware
    return address is None or urllib.parse.urlsplit(address).hostname in _LOOPBACK


def _idle(queue: QueueServer) -> None:
    state = queue.status()["manager_state"]
    if state != "idle":
        raise NoAnswer(f"queueserver's manager is {state}")


def _http_answers(url: str, key: str) -> None:
    _probes.http_request(f"{url}/api/ready", key)  # any answer: the server is there, and has made its connections


def _http_alive(url: str) -> None:
    _probes.http_request(f"{url}/api/ready", timeout_s=1)  # without a key: refused, and asks nobody else


def _ready(url: str, key: str, layout: Layout) -> None:
    ready, reasons = _probes.ready(url, key)
    if _people_hold(layout):  # then no plan would run, and that is as it must be
        expected = ("queue:", "hardware: halted", "hardware: released")
        reasons = [reason for reason in reasons if not reason.startswith(expected)]
        ready = not reasons
    if not ready:
        raise NoAnswer("; ".join(reasons))


def _people_hold(layout: Layout) -> bool:
    """The microscope is halted or released, or a person has it: the queue must not start by itself."""
    from ..server import read_control

    latched = LatchFile.halt(layout).exists() or LatchFile.released(layout).exists()
    return latched or read_control(layout).mode != "agents"


def _tiled_answers(url: str) -> Callable[[], None]:
    healthz = url.removesuffix("/api/v1") + "/healthz"

    def answers() -> None:
        status, _ = _probes.http_request(healthz, timeout_s=5)
        if status != 200:
            raise NoAnswer(f"{healthz} gave {status}")

    return answers


class Environment:
    """Opens queueserver's environment, then turns autostart on.

    Parameters
    ----------
    goes_on
        False: the queue waits for a person after a plan that its worker took along (queue.on_failure: wait).
    """

    def __init__(self, queue: QueueServer, layout: Layout, goes_on: bool = True) -> None:
        self._queue = queue
        self._layout = layout
        self._goes_on = goes_on
        self._waits = False
        self._manager: int | None = None
        """The manager that was seen with an open environment last."""
        self._log = layout.logs / "watchdog.log"
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
            if not self._waits and interrupted(self._queue) is None and not _people_hold(self._layout):
                self._queue.request("queue_autostart", {"enable": True}, timeout_s=5)
            self._opened = self._waits = False

    def lost(self) -> str | None:
        """Is the environment gone without having been closed? The manager ends what is left of a dead or frozen worker, and says
        so; one that was restarted meanwhile can't, and finds none.
        """
        status, manager = self._queue.status(), (self._layout.runtime() or {}).get("pids", {}).get("manager")
        if status["worker_environment_exists"]:
            self._manager = manager
            return None
        if status["manager_state"] != "idle":
            return None
        if lost := status.get("worker_lost"):
            self._waits = lost["item_uid"] is not None and not self._goes_on
            return f"{lost['why']} (log: {self._log})"
        if self._manager not in (None, manager) and manager is not None:
            self._manager = manager
            return f"the RE worker was gone when the queue server came back (log: {self._log})"
        return None


def interrupted(queue: QueueServer) -> str | None:
    """Name of the plan at the front of the queue that was running when the stack went down last time, None if there is none.

    queueserver puts an interrupted plan back; it must not move the microscope again unless a person says so.
    """
    items: list[dict[str, Any]] = queue.request("queue_get", timeout_s=5)["items"]
    return items[0].get("name") if items and items[0].get("result") else None


# ---------------------------------------------------------------------- orderly stop


def end_running_plan(queue: QueueServer) -> None:
    """Let no further plan begin; pause and abort the one that runs, so that it gets its stop document.

    Raises
    ------
    NoAnswer
        Where queueserver doesn't answer, or the plan does not end in time.
    """
    if not queue.status(timeout_s=2)["worker_environment_exists"]:
        return
    queue.request("queue_autostart", {"enable": False})
    if queue.status()["manager_state"] == "executing_queue":
        queue.request("re_pause", {"option": "immediate", "ending": True}, timeout_s=5)
        _until(queue, "the plan has paused", lambda s: s["manager_state"] != "executing_queue", 15)
    if queue.status()["manager_state"] == "paused":
        queue.request("re_abort", timeout_s=5)
        _until(queue, "the plan has ended", lambda s: s["manager_state"] == "idle", 30)


def stop_queueserver(queue: QueueServer) -> None:
    """Close the environment and stop the manager, each with a deadline.

    Raises
    ------
    NoAnswer
        Where queueserver doesn't answer, or a step took too long: signals are next.
    """
    if queue.status(timeout_s=2)["worker_environment_exists"]:
        queue.request("environment_close", timeout_s=5)
        _until(queue, "the environment is closed", lambda s: not s["worker_environment_exists"], 15)
    queue.request("manager_stop", {"option": "safe_off"}, timeout_s=5)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # the manager has gone when nobody answers any more
        try:
            queue.status(timeout_s=0.2)
        except NoAnswer:
            return


def _until(queue: QueueServer, what: str, true: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not true(queue.status(timeout_s=2)):
        if time.monotonic() > deadline:
            raise NoAnswer(f"waited {timeout_s:g} s until {what}")
        time.sleep(0.03)
