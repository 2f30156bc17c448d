"""SIGKILL at named points of an operation's life, and at random ones: what every operation comes to (R1.4, R1.5, R2.6).

Three operations are submitted; when the first one has come to the point, a process is killed. When plans would run again and all
have ended, each attempt was started at most once, each operation that was acknowledged has ended, and one that succeeded has its
stop document and its frames, which read back. The witness in the hardware process counts the exposures: one for each frame of a
run that ended well, and none without a run. At last all of it must still be so, and the catalog must have every run once, where
Tiled is among those to be killed (it isn't started for less).

``queuescope bench kills`` kills once at each of the 16 points and 8 times at random; ``--faults 600 --seed 1`` is the campaign:
25 times at each point, and 200 at random. It may be done in parts, whose kills are those of the whole: ``--only 1-300`` here,
``--only 301-600`` there or later; ``--minutes 30`` ends it after the kill at hand, and says where to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..layout import DEFAULT_SCOPE, Layout
from ..ledger import Operation
from ..scripts._probes import ready
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
    ("http", "run open"),
    ("manager", "accepted"),
    ("manager", "claimed"),
    ("manager", "ended"),
    ("worker", "queued"),
    ("worker", "claimed"),
    ("worker", "run open"),
    ("worker", "ended"),
    ("valkey", "queued"),
    ("valkey", "ended"),
    ("tiled", "run open"),
    ("tiled", "ended"),
    ("courier", "run open"),
    ("hardware", "run open"),
)
"""Whom, and when. A client that is killed has sent its request and gets no reply."""
KILLED = ("http", "manager", "worker", "valkey", "tiled", "courier", "hardware")
LOOKED_UP = ("manager", "worker")
"""Whose pids the supervisor only looks up every 2 s: that plans would run says more of them."""
LATEST_S = 1.5
"""The three operations take about as long."""
POINT_S = 20.0
"""A point that isn't reached by then is passed over: something before it went wrong, which the checks will say."""
BACK_S = 90.0
AHEAD = 40
"""A kill of what isn't up again yet (Tiled takes longest) lets others go first, so many at most."""
OPERATIONS = 3
FRAMES = 4
"""Of the first one, so that there is time to be killed in."""

Kill = tuple[int, str, str | None]
"""Its number from 1, whom, and when; None: at random."""


def measure(
    quick: bool,
    tell: Tell,
    faults: int | None = None,
    seed: int | None = None,
    only: tuple[int, int] | None = None,
    minutes: float | None = None,
) -> Result:
    """Seconds from the kill until plans would run and all operations have ended, by whom and when; problems are violations."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    count = faults or (4 if quick else 24)
    first, last = only or (1, count)
    stop_at = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    todo = drawn(count, seed)[first - 1 : last]
    tell(f"kills: {first} to {first + len(todo) - 1} of {count} with seed {seed}")
    campaign = Campaign(tell, seed, stop_at)
    catalog = any(whom == "tiled" for _, whom, _ in todo)
    folder = Path(tempfile.mkdtemp(prefix="queuescope-bench-"))
    try:
        scope = fault_scope(DEFAULT_SCOPE, folder / "scope", "software")
        while todo and not campaign.late():  # a stack that does not come back is replaced
            layout = Layout(folder / f"data-{todo[0][0]}")
            with running(scope, layout, remote=False, catalog=catalog) as stack:
                todo = campaign.strike(stack, todo)
    finally:
        if campaign.problems:
            tell(f"kept, for whoever looks for the causes: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if todo:
        tell(f"kills: time is over; go on with --faults {count} --seed {seed} --only {todo[0][0]}-{last}")
    seconds = campaign.seconds
    rows = [row(case, "seconds to settled", took) for case, took in sorted(seconds.items())]
    if seconds:
        rows.append(row("all", "seconds to settled", [one for took in seconds.values() for one in took]))
    counts = {
        "seed": seed,
        "violations": len(campaign.problems),
        "not struck": campaign.missed,
        "runs on their way to the catalog": campaign.undelivered,
    }
    return Result("kills", rows, {name: float(value) for name, value in counts.items()}, campaign.problems)


def drawn(count: int, seed: int) -> list[Kill]:
    """So many kills, two thirds of them directed, each point as often as any other; the same ones for a seed."""
    rng = random.Random(seed)
    points = rng.sample(DIRECTED, len(DIRECTED))
    directed = [points[number % len(points)] for number in range(count * 2 // 3)]
    at_random = [(rng.choice(KILLED), None) for _ in range(count - len(directed))]
    kills: list[tuple[str, str | None]] = [*directed, *at_random]
    rng.shuffle(kills)
    return [(number, whom, when) for number, (whom, when) in enumerate(kills, 1)]


class Campaign:
    """Kills, one after the other, and what was found after each."""

    def __init__(self, tell: Tell, seed: int, stop_at: float) -> None:
        self._tell, self._seed, self._stop_at = tell, seed, stop_at
        self.seconds: dict[str, list[float]] = {}
        self.problems: list[str] = []
        self.undelivered = 0
        """Runs that were on their way to the catalog when the time was over."""
        self._furthest = 0
        self.missed = 0
        """Kills at which the process was not there any more, or the point was not reached."""

    def late(self) -> bool:
        return time.monotonic() >= self._stop_at

    def strike(self, stack: FaultStack, todo: list[Kill]) -> list[Kill]:
        """Returns the kills that are left when the stack did not get over one, or the time is over."""
        strikes, back = Strikes(stack, self._seed), True
        try:
            while todo and back and (not self.late() or todo[0][0] < self._furthest):
                within = [kill for kill in todo[:AHEAD] if not self.late() or kill[0] < self._furthest]
                kill = next((kill for kill in within if strikes.there(kill[1])), todo[0])
                todo.remove(kill)
                number, whom, when = kill
                self._furthest = max(self._furthest, number)
                case = f"{whom}, {when or 'at random'}"
                struck, back, took, found = strikes.one(number, whom, when)
                self._told(f"{number:4d} {case:24s} {took:6.2f} s{'' if struck else ', not struck'}", found)
                if struck:
                    self.seconds.setdefault(case, []).append(took)
                self.missed += not struck
                self.problems += [f"kill {number}, {case}: {text}" for text in found]
            found, left = strikes.at_the_end(self._stop_at) if back else ([], 0)
            on_their_way = f", {left} runs on their way to the catalog" if left else ""
            self._told(f"     {strikes.operations} operations at the end{on_their_way}", found)
            self.undelivered += left
            self.problems += found
        finally:
            strikes.close()
        return todo

    def _told(self, what: str, found: list[str]) -> None:
        self._tell(f"{time.strftime('%H:%M:%S')} {what}" + "".join(f"\n     VIOLATION {text}" for text in found))


class Strikes:
    """Kills on one stack."""

    def __init__(self, stack: FaultStack, seed: int) -> None:
        self._stack, self._seed = stack, seed
        self._client, self._record = Client(stack), Record(stack)
        self._key = stack.layout.key("operator")
        self._keys: list[str] = []
        self._dead: dict[str, int] = {}
        """Pids that were killed last."""

    operations = property(lambda self: len(self._keys))

    def close(self) -> None:
        self._client.close()

    def one(self, number: int, whom: str, when: str | None) -> tuple[bool, bool, float, list[str]]:
        """Whether it was struck, and got over it; how long that took, and what must not be."""
        stack, rng = self._stack, random.Random(f"{self._seed}/{number}")
        keys = [f"kill.{number}-{index}" for index in range(OPERATIONS)]
        first = {"plan": "snap", "kwargs": {"camera": "overview", "n": FRAMES}}
        bodies: dict[str, dict[str, Any]] = {key: first if key == keys[0] else SNAP for key in keys}
        frames = {key: FRAMES if key == keys[0] else 1 for key in keys}
        self._keys += keys
        there = _until(lambda: self.there(whom), BACK_S, 0.05)
        problems = [] if there else [f"the {whom} was not started again within {BACK_S:g} s"]
        stack.world.look()
        before = stack.world.exposures

        def submit() -> None:
            for key, body in bodies.items():
                if whom == "client":
                    self._client.lose(key, body)
                try:
                    self._client.submit(key, body, BACK_S)
                except RuntimeError as error:
                    problems.append(str(error))

        pid = stack.runtime["pids"].get(whom)
        sending = threading.Thread(target=submit)
        sending.start()
        if when is None:
            time.sleep(rng.uniform(0.0, LATEST_S))  # the moment is the experiment
            reached = True
        else:
            reached = _until(lambda: self._at(keys[0], when), POINT_S, 0.0005)
        struck, at = whom == "client" and reached, time.monotonic()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                struck = reached
                self._dead[whom] = pid
        sending.join()
        operations = self._record.wait(keys, BACK_S)
        if not (back := _until(lambda: self._back(whom), BACK_S, 0.02)):
            problems.append(f"after {BACK_S:g} s no plan would run, or the {whom} was not started again")
        took = time.monotonic() - at
        problems += self._record.problems(operations)
        stack.world.look()
        made = sum(frames[key] for key, one in operations.items() if one is not None and one.state == "succeeded")
        torn = sum(
            frames[key]
            for key, one in operations.items()
            if one is not None and one.run_uids and one.state != "succeeded"
        )
        exposures = stack.world.exposures - before
        if not made <= exposures <= made + torn:
            problems.append(
                f"the camera exposed {exposures} times for {made} frames of runs that ended well, {torn} of torn ones"
            )
        ended = all(one is not None and one.ended for one in operations.values())
        return struck, back and ended, took, problems

    def at_the_end(self, stop_at: float) -> tuple[list[str], int]:
        """What is wrong with any operation of this stack, and with the catalog; how many runs it has still to get."""
        found = list(self._record.problems(self._record.wait(self._keys, BACK_S)))
        wrong, left = self._record.catalog(BACK_S, stop_at) if self._stack.runtime["tiled"] else ([], 0)
        return [*found, *wrong], left

    def _at(self, key: str, when: str) -> bool:
        now = self._record.operations.by_key(key)
        return now is not None and POINTS[when](now)

    def there(self, whom: str) -> bool:
        """It is up, after whatever befell it before."""
        if whom == "client":
            return True
        pid = self._stack.runtime["pids"].get(whom)
        parts = json.loads((self._stack.layout.services / "state.json").read_text(encoding="utf-8"))["parts"]
        return pid not in (None, self._dead.get(whom)) and parts.get(whom, {}).get("state", "running") == "running"

    def _back(self, whom: str) -> bool:
        stack = self._stack
        if whom not in (*LOOKED_UP, "client") and stack.runtime["pids"].get(whom) in (None, self._dead.get(whom)):
            return False
        return ready(stack.runtime.get("http", ""), self._key)[0]


def _until(true: Callable[[], bool], limit_s: float, pause_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
