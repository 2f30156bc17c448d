"""The checker: a process that goes through plans without hardware, whatever runs meanwhile.

It is forked from queueserver's parent process, which has imported everything, and forks once more for each question: an answer
costs milliseconds, a plan of a hundred thousand frames holds up nobody, and what goes wrong in one costs that one. The HTTP
process asks over ``check.sock``: one line of JSON, one line back (`Question`).
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import signal
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ..config import Scope
from ..hardware import DoseState, HardwareState
from ..layout import Layout
from ..plans import Template, check
from ._circumstances import circumstances_of

logger = logging.getLogger("queuescope.startup")

LONGEST_S = 30
"""A dry run that takes longer is ended without an answer."""
MOST_AT_ONCE = 4
AGAIN_S = 1.0
"""A checker that ended is started again after so long."""


def answer(
    scope: Scope, layout: Layout, templates: Mapping[str, Template], question: Mapping[str, Any]
) -> dict[str, Any]:
    """One dry run.

    Parameters
    ----------
    question
        ``{plan, kwargs, role, state, dose}``: `HardwareState` and `DoseState` as JSON.

    Returns
    -------
    dict
        A `DryRun` as JSON, or ``{"code", "detail"}`` where there is nothing to go through.
    """
    name = str(question["plan"])
    allowed = {n for n, template in templates.items() if question["role"] != "agent" or not template.people_only}
    if name not in allowed:
        detail = f"there is no plan {name!r} for the role {question['role']!r}; there are: {', '.join(sorted(allowed))}"
        return {"code": "unknown_plan", "detail": detail}
    state, dose = HardwareState.model_validate(question["state"]), DoseState.model_validate(question["dose"])
    missing = {axis: state.errors.get(axis.partition(".")[0], "no reading") for axis in scope.axes()}
    missing = {axis: why for axis, why in missing.items() if axis not in state.positions}
    if missing:
        told = "; ".join(f"{axis}: {why}" for axis, why in missing.items())
        return {"code": "hardware_unreachable", "detail": f"where the axes are could not be read: {told}"}
    found = check(templates[name], question["kwargs"], scope, circumstances_of(scope, layout, state, dose))
    return asdict(found)


class Checker:
    """Starts the process, and starts it again where it ended."""

    def __init__(
        self, scope: Scope, layout: Layout, templates: Mapping[str, Template], named: Callable[[str], None]
    ) -> None:
        """``named``: called in the new process with its name."""
        self._scope, self._layout, self._templates, self._named = scope, layout, templates, named
        self._process: multiprocessing.process.BaseProcess | None = None
        self._ending = threading.Event()

    def start(self) -> None:
        self._fork()
        # The kernel ends the checker with the thread that forked it: this one lives as long as the process.
        threading.Thread(target=self._keep, name="checker", daemon=True).start()

    def end(self) -> None:
        self._ending.set()
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    def _fork(self) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=self._serve, name="checker", daemon=True)
        self._process.start()

    def _keep(self) -> None:
        while True:
            assert self._process is not None
            self._process.join()
            if self._ending.wait(AGAIN_S):
                return
            logger.error("the checker ended with code %s and is started again", self._process.exitcode)
            self._fork()

    def _serve(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        self._named("qs-checker")
        os.nice(10)  # frames come first
        serve(self._scope, self._layout, self._templates)


def serve(scope: Scope, layout: Layout, templates: Mapping[str, Template]) -> None:
    """Answer until the process ends."""
    gc.freeze()  # what was imported stays shared with the processes that answer

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            signal.alarm(LONGEST_S)
            question = json.loads(self.rfile.readline())
            self.wfile.write(json.dumps(answer(scope, layout, templates, question), default=str).encode() + b"\n")

    class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
        max_children = MOST_AT_ONCE
        request_queue_size = 64

    layout.check_socket.unlink(missing_ok=True)
    with Server(str(layout.check_socket), Handler) as server:
        server.serve_forever(poll_interval=2.0)
