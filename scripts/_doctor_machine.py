"""Checks of the computer: ports, clock, sleep, limits of the system, private files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..layout import Layout
from . import _checks
from ._children import StartError
from ._doctor import Check, Finding, Patient

OPEN_FILES = 1024
SOCKET_PATH = 107
STARTED = (time.time(), time.monotonic())


def ports(who: Patient) -> Iterator[Finding]:
    if who.scope is None:
        return
    if (pid := _checks.holder(who.layout)) is not None:
        yield Finding("ok", "ports", f"a stack runs on {who.layout.data} (pid {pid}) and has its ports")
        return
    http = who.scope.services.http
    try:
        _checks.ports(who.scope)
    except StartError as error:
        what, _, remedy = str(error).partition(": ")
        yield Finding("problem", "ports", what, str(http.port), remedy=remedy)
        return
    yield Finding("ok", "ports", f"{http.host}:{http.port} is free" if http.port else "any free port is taken")


def clock(_who: Patient) -> Iterator[Finding]:
    wall, steady = time.time() - STARTED[0], time.monotonic() - STARTED[1]
    yield clock_finding(time.time(), wall - steady, _output("timedatectl", "show", "-p", "NTPSynchronized", "--value"))
    offset = time.strftime("%z")
    if os.environ.get("TZ") and time.tzname[0] != "UTC" and offset == "+0000" and "/" in os.environ["TZ"]:
        known = any(Path(base, os.environ["TZ"]).exists() for base in ("/usr/share/zoneinfo", "/usr/lib/zoneinfo"))
        if not known:
            yield Finding(
                "warning",
                "clock",
                "TZ names no timezone, so local times are UTC",
                os.environ["TZ"],
                remedy="correct or unset TZ",
            )
            return
    yield Finding(
        "ok", "timezone", f"{time.tzname[0]} (UTC{offset[:3]}:{offset[3:]}); documents hold seconds since the epoch"
    )


def clock_finding(now: float, stepped_s: float, synchronised: str | None) -> Finding:
    """``synchronised``: what timedatectl says; None where nobody can be asked."""
    if now < 1.7e9:
        date = time.strftime("%Y-%m-%d", time.gmtime(now))
        return Finding("problem", "clock", "the date lies in the past", date, remedy="set the clock and turn on NTP")
    if abs(stepped_s) > 0.1:
        return Finding(
            "problem",
            "clock",
            f"the clock was set by {stepped_s:+.1f} s while we looked",
            f"{stepped_s:+.1f} s",
            "0.1 s",
            "let NTP slew it, and stop whatever else sets it: times in documents would go backwards",
        )
    if synchronised == "no":
        return Finding(
            "warning",
            "clock",
            "not synchronised by NTP",
            remedy="sudo timedatectl set-ntp true (or your lab's time server)",
        )
    return Finding("ok", "clock", "steady" + (", synchronised by NTP" if synchronised == "yes" else ""))


SLEEP_UNITS = ("sleep.target", "suspend.target", "hibernate.target", "hybrid-sleep.target")


def sleep(_who: Patient) -> Iterator[Finding]:
    text = _output("systemctl", "is-enabled", *SLEEP_UNITS)
    yield sleep_finding(None if text is None else dict(zip(SLEEP_UNITS, text.split(), strict=False)))


def sleep_finding(units: Mapping[str, str] | None) -> Finding:
    """State of systemd's sleep targets, None where they can't be read."""
    if units is None:
        return Finding(
            "ok" if sys.platform == "linux" else "warning",
            "sleep",
            "can't be read here",
            remedy=None if sys.platform == "linux" else "turn off sleep in the system's power settings",
        )
    awake = [unit for unit, state in units.items() if not state.startswith("masked")]
    if awake:
        return Finding(
            "warning",
            "sleep",
            f"this computer may go to sleep in the middle of a night's run ({', '.join(awake)} not masked)",
            remedy=f"sudo systemctl mask {' '.join(SLEEP_UNITS)}",
        )
    return Finding("ok", "sleep", "this computer doesn't go to sleep")


def _output(*command: str) -> str | None:
    """Standard output of a command, None where it isn't there or has nothing to say."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def open_files(_who: Patient) -> Iterator[Finding]:
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    yield open_files_finding(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def open_files_finding(soft: int) -> Finding:
    if 0 <= soft < OPEN_FILES:
        return Finding(
            "problem",
            "open files",
            "too few may be open at once",
            str(soft),
            f"≥ {OPEN_FILES}",
            f"ulimit -n {OPEN_FILES * 4}",
        )
    return Finding("ok", "open files", f"{soft if soft >= 0 else 'any number'} may be open at once", str(soft))


def sockets(who: Patient) -> Iterator[Finding]:
    layout = who.layout
    paths = [layout.hardware_socket, layout.control_socket, layout.info_socket, layout.valkey_socket]
    yield sockets_finding(max(paths, key=lambda path: len(os.fsencode(path))))


def sockets_finding(longest: Path) -> Finding:
    length = len(os.fsencode(longest))
    if length > SOCKET_PATH:
        return Finding(
            "problem",
            "sockets",
            f"the path of a unix socket is too long: {longest}",
            f"{length} bytes",
            f"{SOCKET_PATH} bytes",
            "set XDG_RUNTIME_DIR (or TMPDIR) to a short folder of your own",
        )
    return Finding("ok", "sockets", f"in {longest.parent}", f"{length} bytes", f"{SOCKET_PATH} bytes")


def keys(who: Patient) -> Iterator[Finding]:
    yield from key_findings(who.layout)


def key_findings(layout: Layout) -> Iterator[Finding]:
    files = sorted(path for path in layout.keys.iterdir() if path.is_file()) if layout.keys.is_dir() else []
    if not files:
        yield Finding("ok", "keys", "none made yet")
        return
    loose = [path for path in files if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in loose:
        mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
        yield Finding(
            "problem",
            "keys",
            f"others can read {path}",
            mode,
            "0600",
            f"chmod 600 '{path}'",
        )
    if not loose:
        yield Finding("ok", "keys", f"{len(files)} in {layout.keys}, for you only")


CHECKS: list[Check] = [ports, clock, sleep, open_files, sockets, keys]
