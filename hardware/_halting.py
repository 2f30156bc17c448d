"""Halting from outside: from the HTTP process or the terminal, whatever state the rest is in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from ..config import Scope
from ..layout import Layout
from ._address import address_of
from ._connect import in_own_process
from ._errors import HardwareError
from ._latch import LatchFile, log_safety, report_file
from ._safety_state import HaltOutcome, HaltReport, Latch
from ._surface import Hardware

CONFIRM_S = 2.5
"""How long to wait for a process that was told by the latch file alone."""


def halt_hardware(scope: Scope, layout: Layout, reason: str, by: str) -> HaltOutcome:
    """Stop motion, switch lights off, latch. Blocks for ≤ 6 s where nobody answers, for milliseconds otherwise.

    Over the hardware process's socket for urgent calls; where that is silent, the latch is written to the data directory,
    which keeps a process that starts now halted, and a process here that does not react is killed: its successor switches
    lights off first. In mode ``worker`` the latch file is the way: the worker looks at it 20 times a second.

    Raises
    ------
    OSError
        Where neither the process could be reached nor the latch written.
    """
    began = time.perf_counter()
    file = LatchFile.halt(layout)
    problem = ""
    if in_own_process(scope):
        try:
            report = _ask(scope, layout, reason, by)
            file.write(report.halted)  # where the hardware has a data directory of its own, this one must know as well
            return HaltOutcome(confirmed=True, detail=_told(report), **report.model_dump())
        except HardwareError as error:
            problem = f"{error}; "
    latch = Latch(by=by, reason=reason, at=time.time())
    file.write(latch)
    latch = file.read() or latch
    found = _confirmed(layout, latch)
    if found is not None:
        return HaltOutcome(confirmed=True, detail=_told(found), **found.model_dump())
    killed = in_own_process(scope) and _kill(scope, layout)
    if killed:
        problem += "it was killed; its successor switches lights off first and stays halted"
    else:
        where = "hardware process" if in_own_process(scope) else "RE worker"
        problem += (
            f"no {where} confirmed within {CONFIRM_S:g} s: LIGHTS MAY STILL BE ON; one that starts now stays halted"
        )
    log_safety(layout, "halt without answer", by=by, reason=reason, killed=killed)
    seconds = time.perf_counter() - began
    return HaltOutcome(halted=latch, steps=(), seconds=seconds, killed=killed, confirmed=False, detail=problem)


def _told(report: HaltReport) -> str:
    failed = [f"{step.name}: {step.error}" for step in report.steps if not step.done]
    if report.killed:
        return f"an adapter hangs ({'; '.join(failed)}): the hardware process ends itself, its successor starts dark"
    if failed:
        return f"NOT EVERYTHING IS OFF: {'; '.join(failed)}"
    return "motion is stopped, every gate closed, emission off"


def _ask(scope: Scope, layout: Layout, reason: str, by: str) -> HaltReport:
    with urgent(scope, layout) as hardware:
        return hardware.halt(reason, by)


@contextmanager
def urgent(scope: Scope, layout: Layout) -> Iterator[Hardware]:
    """The hardware process, for the calls that wait behind nothing (`halt`, `rearm`, `arm`, `safety`)."""
    from ._link import client_link
    from ._proxy import ProxyHardware, _key

    address = address_of(scope, layout)
    link = None if address.socket_path is not None else client_link(address, layout)
    hardware = ProxyHardware(scope, address, _key(layout), link)
    try:
        yield hardware
    finally:
        hardware.close()


def _confirmed(layout: Layout, latch: Latch) -> HaltReport | None:
    """The report that the halted process writes."""
    deadline = time.monotonic() + CONFIRM_S
    while time.monotonic() < deadline:
        try:
            report = HaltReport.model_validate_json(report_file(layout).read_bytes())
            if report.halted == latch:
                return report
        except (OSError, ValidationError):  # not yet
            pass
        time.sleep(0.01)
    return None


def _kill(scope: Scope, layout: Layout) -> bool:
    """End the hardware process of this data directory, where there is one that runs here."""
    try:
        import fcntl

        with open(layout.sockets / "hardware.lock", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False  # nobody holds it
            except BlockingIOError:
                pid = int(lock.read().split()[0])
        os.kill(pid, signal.SIGKILL)
        return True
    except (ImportError, OSError, ValueError, IndexError):
        return False
