"""From ``up`` to a stack where a plan would run, beside the slowest of its components started alone.

Warm: one start before the first measurement makes the keys and databases. Tiled and the courier are no part of it, since
plans run without them. Cases alternate, so that a slow minute of the machine slows them all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from ..config import Scope, load_scope
from ..layout import DEFAULT_SCOPE, Layout
from ..scripts import _checks, _stack
from ..scripts._probes import http_request
from ..scripts._supervisor import Part, Supervisor
from ..scripts._up import stop
from ._result import Result, Tell, row

ALONE = {
    "valkey": ("valkey",),
    "hardware": ("hardware",),
    "manager and environment": ("watchdog", "environment"),
    "http": ("http",),
}
"""The components, by the parts whose times add up to theirs."""
NEEDS = {"watchdog": ("valkey", "hardware")}
"""Started before, and not counted."""


def measure(quick: bool, tell: Tell) -> Result:
    """Seconds, n repetitions each: 3 where ``quick``, else 9."""
    repetitions = 3 if quick else 9
    os.environ["QUEUESCOPE_SERVICES__HTTP__PORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        scope, layout = load_scope(DEFAULT_SCOPE), Layout(Path(folder) / "data")
        up(scope, layout)
        seconds: dict[str, list[float]] = {"up": [], **{case: [] for case in ALONE}}
        for repetition in range(repetitions):
            tell(f"start: {repetition + 1} of {repetitions}")
            seconds["up"].append(up(scope, layout))
            for case, parts in ALONE.items():
                seconds[case].append(alone(scope, layout, parts))
    rows = [row(case, "seconds", values) for case, values in seconds.items()]
    slowest = max(ALONE, key=lambda case: statistics.median(seconds[case]))
    ratio = statistics.median(seconds["up"]) / statistics.median(seconds[slowest])
    return Result("start", rows, {f"up / {slowest}": ratio})


def up(scope: Scope, layout: Layout) -> float:
    """Seconds that ``queuescope up`` takes until ``GET /api/ready`` is 200, from the first instruction of its interpreter."""
    seconds = bring_up(scope, layout)
    stop(layout)
    return seconds


def bring_up(scope: Scope, layout: Layout, catalog: str = "--no-wait-catalog") -> float:
    """The same, and leave it running."""
    command = [sys.executable, "-m", "queuescope.scripts", "up", catalog]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--scope", str(scope.path), "--data", str(layout.data)], capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    return seconds


def alone(scope: Scope, layout: Layout, names: tuple[str, ...]) -> float:
    """Seconds until these parts answer, with what they need already there and nothing beside them."""
    _checks.create(layout)
    ports = _checks.ports(scope)
    needed = {name: NEEDS.get(name, ()) for name in names}
    wanted = {*names, *(name for before in needed.values() for name in before)}
    parts: list[Part] = []
    for part in _stack.parts(scope, layout, ports):
        if part.name in wanted:
            after = needed.get(part.name) or tuple(name for name in part.after if name in wanted)
            if part.name == "http":  # alone it has nobody to ask: any answer will do
                part = dataclasses.replace(part, answers=partial(any_answer, _stack.urls(ports)["http"]))
            parts.append(dataclasses.replace(part, after=after))

    async def run() -> float:
        supervisor = Supervisor(parts, lambda event, facts: supervisor.stop() if event == "ready" else None)
        if await supervisor.run():
            raise RuntimeError(f"{', '.join(names)} did not start: see {layout.logs}")
        return sum(supervisor.states[name].seconds or 0.0 for name in names)

    return asyncio.run(run())


def any_answer(url: str) -> None:
    """`NoAnswer` where nobody listens."""
    http_request(url)
