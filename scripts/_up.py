"""Starting and stopping the stack from another process: `start` and `stop`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import psutil

from ..config import Scope
from ..layout import Layout
from . import _checks
from ._children import StartError, last_error
from ._supervisor import Listener

STOP_S = 120.0
"""Longest orderly stop; then the supervisor is killed and its reaper ends the rest."""


def start(scope: Scope, layout: Layout, listener: Listener, wait_catalog: bool = True) -> float:
    """Start a supervisor in the background; return once plans would run and (``wait_catalog``) the catalog answers.

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
    command = [sys.executable, "-P", "-m", "queuescope.scripts._supervise"]
    command += ["--scope", str(scope.path), "--data", str(layout.data), "--tell", str(writer)]
    if not wait_catalog:
        command.append("--no-wait-catalog")
    log = layout.logs / "supervisor.log"
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        log_start = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            cwd=layout.data,
            start_new_session=True,
        )
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
        process.terminate()
        process.wait()
        raise
    if done and seconds is not None:
        return seconds
    process.wait()
    if error is None:
        with open(log, "rb") as output:
            output.seek(log_start)
            words = last_error(output.read().decode("utf-8", "replace"))
        error = f"the supervisor ended ({process.returncode}): {words} (log: {log})"
    raise StartError(error)


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
