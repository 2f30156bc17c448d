"""SIGKILL at named points of an operation's life, and at random ones: what every operation comes to (R1.4, R1.5, R2.6).

Three operations are submitted; when the first one has come to the point, a process is killed. When plans would run again and all
have ended, each attempt was started at most once, each operation that was acknowledged has ended, and one that succeeded has its
stop document and its frames. The witness in the hardware process counts the exposures: one for each frame of a run that ended
well, and none without a run.

``queuescope bench kills`` kills once at each of the 16 points and 8 times at random; ``--faults 600 --seed 1`` is the campaign:
25 times at each point, and 200 at random.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..layout import DEFAULT_SCOPE, Layout
from ..ledger import Operation
from ._fault_stack import FaultStack, fault_scope, running
from ._once import SNAP, Client, Record
from ._result import Result, Tell, row

Reached = Callable[[Operation], bool]

POINTS: dict[str, Reached] = {
    "accepted": lambda now: True,
    "queued": lambda now: now.item_uid is not None,
    "claimed": lambda now: now.started_at is not None,
    "run open": lambda now: bool(now.run_uids),
    "ended": lambda now: now.ended,
}
DIRECTED = (
    ("client", "accepted"),
    ("http", "accepted"),
    ("http", "queued"),
    ("http", "run open"),
    ("manager", "accepted"),
    ("manager", "queued"),
    ("manager", "claimed"),
    ("manager", "ended"),
    ("worker", "queued"),
    ("worker", "claimed"),
    ("worker", "run open"),
    ("worker", "ended"),
    ("valkey", "queued"),
    ("valkey", "ended"),
    ("courier", "run open"),
    ("hardware", "run open"),
)
"""Whom, and when. A client that is killed has sent its request and gets no reply."""
KILLED = ("http", "manager", "worker", "valkey", "courier", "hardware")
LATEST_S = 3.0
POINT_S = 20.0
"""A point that isn't reached by then is passed over: something before it went wrong, which the checks will say."""
BACK_S = 90.0
OPERATIONS = 3
FRAMES = 4
"""Of the first one, so that there is time to be killed in."""


def measure(quick: bool, tell: Tell, faults: int | None = None, seed: int | None = None) -> Result:
    """Seconds from the kill until plans would run and all operations have ended, by whom and when; problems are violations."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    rng = random.Random(seed)
    count = faults or (4 if quick else 24)
    directed = [DIRECTED[number % len(DIRECTED)] for number in range(count * 2 // 3)]
    points: list[tuple[str, str | None]] = [
        *directed,
        *((rng.choice(KILLED), None) for _ in range(count - len(directed))),
    ]
    rng.shuffle(points)
    tell(f"kills: {count} with seed {seed}")
    seconds: dict[str, list[float]] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as name:
        folder = Path(name)
        scope = fault_scope(DEFAULT_SCOPE, folder / "scope", "software")
        with running(scope, Layout(folder / "data"), remote=False) as stack:
            client, record = Client(stack), Record(stack)
            for number, (whom, when) in enumerate(points):
                case = f"{whom}, {when or 'at random'}"
                took, found = strike(stack, client, record, number, whom, when, rng)
                tell(
                    f"{number + 1:4d} {case:24s} {took:6.2f} s" + "".join(f"\n     VIOLATION {text}" for text in found)
                )
                seconds.setdefault(case, []).append(took)
                problems += [f"kill {number + 1}, {case}: {text}" for text in found]
            client.close()
    rows = [row(case, "seconds to settled", took) for case, took in sorted(seconds.items())]
    return Result("kills", rows, {"seed": float(seed), "violations": float(len(problems))}, problems)


def strike(
    stack: FaultStack, client: Client, record: Record, number: int, whom: str, when: str | None, rng: random.Random
) -> tuple[float, list[str]]:
    """One kill; how long it took to get over it, and what must not be."""
    keys = [f"kill.{number}-{index}" for index in range(OPERATIONS)]
    first = {"plan": "snap", "kwargs": {"camera": "overview", "n": FRAMES}}
    bodies: dict[str, dict[str, Any]] = {key: first if key == keys[0] else SNAP for key in keys}
    stack.world.look()
    before, problems = stack.world.exposures, []

    def submit() -> None:
        for key, body in bodies.items():
            if whom == "client":
                client.lose(key, body)
            try:
                client.submit(key, body, BACK_S)
            except RuntimeError as error:
                problems.append(str(error))

    sending = threading.Thread(target=submit)
    sending.start()
    if when is None:
        time.sleep(rng.uniform(0.0, LATEST_S))
    else:
        _until(lambda: (now := record.operations.by_key(keys[0])) is not None and POINTS[when](now), POINT_S, 0.0005)
    struck = time.monotonic()
    pid = stack.runtime["pids"].get(whom)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    sending.join()
    operations = record.wait(keys, BACK_S)
    if pid is not None and not _until(lambda: stack.runtime["pids"].get(whom) not in (None, pid), BACK_S, 0.05):
        problems.append(f"the {whom} was not started again within {BACK_S:g} s")
    took = time.monotonic() - struck
    problems += record.problems(operations)
    stack.world.look()
    made = sum(
        FRAMES if key == keys[0] else 1
        for key, one in operations.items()
        if one is not None and one.state == "succeeded"
    )
    torn = sum(FRAMES for one in operations.values() if one is not None and one.run_uids and one.state != "succeeded")
    exposures = stack.world.exposures - before
    if not made <= exposures <= made + torn:
        problems.append(
            f"the camera exposed {exposures} times for {made} frames of runs that ended well, {torn} of torn ones"
        )
    return took, problems


def _until(true: Callable[[], bool], limit_s: float, pause_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
