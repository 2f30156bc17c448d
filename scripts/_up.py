"""Starting and stopping the stack from another process: `start` and `stop`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from ..layout import Layout
from . import _checks
from ._children import StartError, last_error

if TYPE_CHECKING:
    from ..config import Scope
    from ._supervisor import Listener

STOP_S = 120.0
"""Longest orderly stop; then the supervisor is killed and its reaper ends the rest."""


def start(scope: Scope, layout: Layout, listener: Listener, wait_catalog: bool = True, catalog: bool = True) -> float:
    """Start a supervisor in the background; return once plans would run and (``wait_catalog``) the catalog answers.

    Without ``catalog`` there is none: neither Tiled nor the courier.

    The supervisor is a fork of this process, which must have no other threads: it need not import everything once more.

    Returns
    -------
    float
        Seconds until plans would run.

    Raises
    ------
    StartError
        Where it did not start; everything is stopped again.
    KeyboardInterrupt
        Passed on after the half-started stack is stopped.
    """
    _checks.create(layout)
    reader, writer = os.pipe()
    log = layout.logs / "supervisor.log"
    log_start = log.stat().st_size if log.exists() else 0
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _detached(scope, layout, log, writer, wait_catalog, catalog)
    os.close(writer)
    error, seconds, done = None, None, False
    try:
        with os.fdopen(reader, encoding="utf-8") as events:
            for line in events:
                facts: dict[str, Any] = json.loads(line)
                event = facts.pop("event")
                listener(event, facts)
                if event == "error":
                    error = facts["message"]
                elif event == "ready":
                    seconds = float(facts["seconds"])
                if event == ("catalog" if wait_catalog else "ready"):
                    done = True
                    break
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if done and seconds is not None:
        return seconds
    _, ending = os.waitpid(pid, 0)
    if error is None:
        with open(log, "rb") as output:
            output.seek(log_start)
            words = last_error(output.read().decode("utf-8", "replace"))
        error = f"the supervisor ended ({os.waitstatus_to_exitcode(ending)}): {words} (log: {log})"
    raise StartError(error)


def _detached(scope: Scope, layout: Layout, log: Path, events: int, wait_catalog: bool, catalog: bool) -> NoReturn:
    """Become the supervisor: a session of its own, the log in place of the terminal, events as JSON lines to ``events``."""
    code = 1
    try:
        os.setsid()
        os.chdir(layout.data)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.closerange(3, events)  # what the terminal's shell had open is none of ours
        os.closerange(events + 1, os.sysconf("SC_OPEN_MAX"))

        def tell(event: str, facts: dict[str, Any]) -> None:
            line = json.dumps({"event": event, **facts})
            os.write(1, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n".encode())
            with contextlib.suppress(BrokenPipeError):  # whoever started us has heard enough
                os.write(events, line.encode() + b"\n")

        from ._supervise import supervise  # in the fork: whoever waits, or stops a stack, needs none of it

        code = supervise(scope, layout, tell, wait_catalog, catalog)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def stop(layout: Layout, timeout_s: float = STOP_S) -> bool:
    """Stop the stack on this data directory and wait until nothing of it is left. False where none ran.

    Raises
    ------
    StartError
        Where it is still there after ``timeout_s`` and a ``SIGKILL``.
    """
    pid = _checks.holder(layout)
    if pid is None:
        return False
    supervisor = psutil.Process(pid) if _checks.alive(pid) else None
    if supervisor is not None:
        supervisor.terminate()
    if not _checks.wait_until_free(layout, timeout_s):
        if supervisor is not None and supervisor.is_running():
            supervisor.kill()
        if not _checks.wait_until_free(layout, 10):
            raise StartError(f"pid {pid} still holds {layout.data} ({layout.lock}): end it by hand")
    if supervisor is not None:
        supervisor.wait(timeout=10)  # it gives the lock back as the last thing but ending
    return True
