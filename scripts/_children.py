"""The supervisor's child processes: how one is started, watched, and ended with everything it started itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import _reaper

if TYPE_CHECKING:
    import asyncio

_LOG_LIMIT = 16 * 1024 * 1024
"""A log larger than this is set aside as ``NAME.log.1`` when its process starts."""

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """The stack can't start. The text is for people: the thing, its value, the limit, the remedy."""


@dataclass(frozen=True)
class Service:
    """A process of the stack and how to start it."""

    name: str
    command: tuple[str, ...]
    log: Path
    cwd: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    """Added to the supervisor's own environment."""
    stop_s: float = 5.0
    """Time between SIGTERM and SIGKILL."""
    nice: int = 0
    """Lower priority where positive: frames come first."""


class Child:
    """A running service: a process that leads its own process group."""

    def __init__(self, service: Service, process: asyncio.subprocess.Process, log_start: int) -> None:
        self.service = service
        self.process = process
        self.pid = process.pid
        self.started_at = time.time()
        self._log_start = log_start
        self._killed: str | None = None

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    def kill(self, why: str) -> None:
        """End it at once, with all it started; ``why`` becomes its last words."""
        self._killed = why
        _signal_group(self.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """Why it ended: the last error in its log since it started, else the last line, and how it ended."""
        if self._killed is not None:
            return self._killed
        with open(self.service.log, "rb") as log:
            log.seek(self._log_start)
            text = log.read()[-65536:].decode("utf-8", "replace")
        line = last_error(text)
        code = self.process.returncode
        if code is None:
            ending = "it is still running"
        elif code < 0:
            ending = f"it was ended by {signal.Signals(-code).name}"
        else:
            ending = f"it ended with exit code {code}"
        return f"{line} ({ending}; log: {self.service.log})"

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after `Service.stop_s`, to the process and all it started; returns when it is gone."""
        import asyncio  # commands that only look at a stack don't wait for it

        if self.running:
            _signal_group(self.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), self.service.stop_s)
        _signal_group(self.pid, signal.SIGKILL)  # also what it left behind
        await self.process.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the group has ended
        os.killpg(group, number)


async def spawn(service: Service) -> Child:
    """Start a service. Call it from the main thread only: Linux ends the children of a *thread* that ends.

    Raises
    ------
    StartError
        Where the program can't be executed.
    """
    import asyncio

    if service.log.exists() and service.log.stat().st_size > _LOG_LIMIT:
        service.log.replace(service.log.with_name(service.log.name + ".1"))
    parent = os.getpid()

    def prepare() -> None:  # runs between fork and exec
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)  # the supervisor died in between
        if service.nice:
            os.nice(service.nice)
            # Linux shares CPU time between sessions first, then within each
            with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as priority:
                priority.write(str(service.nice))

    descriptor = os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        log_start = os.fstat(descriptor).st_size
        process = await asyncio.create_subprocess_exec(
            *service.command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=service.cwd,
            env={**os.environ, **service.environ},
            start_new_session=True,
            preexec_fn=prepare,
        )
    except OSError as error:
        raise StartError(f"{service.name} can't be started: {service.command[0]}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return Child(service, process, log_start)


_ERROR = re.compile(r"^(?:\S*[.\s\]:])?([A-Za-z_]*(?:Error|Exception|Timeout|Interrupt|Exit)\b: .*|(?i:error: ).*)")
_NOISE = re.compile(r"^\s*(\^+|~+|\|.*|During handling of .*|The above exception .*|Traceback .*)?\s*$")


def last_error(text: str) -> str:
    """The last line of a log that says what went wrong, else its last line, else that it said nothing."""
    lines = [line.rstrip() for line in text.splitlines() if not _NOISE.match(line)]
    for line in reversed(lines):
        if match := _ERROR.match(line):
            return match.group(1)
    return re.sub(r"^queuescope\.\w+: ", "", lines[-1].strip()) if lines else "it said nothing"


class Reaper:
    """Keeps the reaper process informed of the groups to end if the supervisor is killed."""

    def __init__(self, runtime_json: Path, lock: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _reaper.__file__, str(runtime_json)],
            stdin=subprocess.PIPE,
            pass_fds=(lock,),
            start_new_session=True,
        )
        self.pid = self._process.pid

    def watch(self, group: int) -> None:
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:  # somebody ended the reaper: the children still get the kernel's signal
            pass

    def close(self) -> None:
        """End it: whatever it still watches is ended first."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def back_off(restarts: int, first_s: float = 0.5, longest_s: float = 30.0) -> float:
    """Seconds to wait before the restart number ``restarts`` (from 1): doubled each time."""
    return min(first_s * 2 ** (restarts - 1), longest_s)
