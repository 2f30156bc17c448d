"""Random faults at random moments over plans: what is left of the microscope, its runs and its frames afterwards.

Plans run through the real queue server on the bundled scope. At a moment drawn at random one fault strikes; the next plan is
queued already. When the stack would run plans again and both plans have ended, four things must hold, each looked at from
outside (`_fault_checks`): no light is on, no axis was sent or stands outside its limits, every run has a stop document, and
every count of frames is the number that reads back with its checksum.

``queuescope bench faults`` for 20 faults, ``--faults 200 --seed 1`` for a campaign; the same seed draws the same plans, kinds
and moments. Rows are seconds from the fault until plans would run again, by kind; a violation makes the exit code 1.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..config import Scope
from ..layout import DEFAULT_SCOPE, Layout
from ..scripts._probes import NoAnswer, QueueServer, ready
from ._fault_checks import INVARIANTS, Checks
from ._fault_kinds import Kind, drawn
from ._fault_stack import FaultStack, fault_scope, running
from ._result import Result, Row, Tell, row

FAULTS, QUICK_FAULTS = 20, 4
LATEST_S = 2.5
"""A fault strikes within so many seconds after its plan was queued: before, in and after it."""
BACK_S = 60.0
"""A stack that would run no plan after so long has not got over it."""
SETTLED_S = 30.0
"""Files and documents are finished by then."""
PAUSE_S = 0.05


def measure(quick: bool, tell: Tell, faults: int | None = None, seed: int | None = None) -> Result:
    """Seconds until plans would run again, by kind of fault; the ratios are violations, by what was violated."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    count = faults or (QUICK_FAULTS if quick else FAULTS)
    tell(f"faults: {count} with seed {seed}")
    rng = random.Random(seed)
    kinds = drawn(count, rng)
    campaign = Campaign(rng, tell)
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        for trigger, remote, batch in batches(kinds):
            scope = fault_scope(DEFAULT_SCOPE, Path(folder) / f"scope-{trigger}-{remote}", trigger)
            while batch:  # a stack that does not come back is replaced, and the campaign goes on
                layout = Layout(Path(folder) / f"data-{trigger}-{len(batch)}")
                with running(scope, layout, remote) as stack:
                    batch = campaign.strike(stack, batch)
    rows = [row(kind, "seconds to ready", seconds) for kind, seconds in campaign.recovered.items()]
    rows += [row(f"{kind}: light left on", "seconds", seconds) for kind, seconds in campaign.dark.items()]
    rows += [_count("runs checked", campaign.runs), _count("frames read back", campaign.frames)]
    violations = {f"violations: {name}": float(campaign.violations[name]) for name in (*INVARIANTS, "hang")}
    return Result("faults", rows, {"seed": float(seed), **violations}, campaign.problems)


def batches(kinds: list[Kind]) -> Iterator[tuple[str, bool, list[Kind]]]:
    """Faults by the stack that they are thrown at: volumes paced by the controller or by software, hardware here or at the
    end of a cable. Few faults share one stack of each place.
    """
    for remote in (False, True):
        batch = [kind for kind in kinds if kind.remote == remote]
        half = len(batch) // 2 if len(batch) > FAULTS else len(batch)
        for trigger, part in (("tiger_spim", batch[:half]), ("software", batch[half:])):
            if part:
                yield trigger, remote, part


def _count(case: str, number: int) -> Row:
    return row(case, "count", [float(number)])


class Campaign:
    """Faults, one after the other, and what was found after each."""

    def __init__(self, rng: random.Random, tell: Tell) -> None:
        self._rng, self._tell = rng, tell
        self.recovered: dict[str, list[float]] = {}
        self.dark: dict[str, list[float]] = {}
        self.violations: Counter[str] = Counter()
        self.problems: list[str] = []
        self.runs = self.frames = 0
        self._number = 0

    def strike(self, stack: FaultStack, kinds: list[Kind]) -> list[Kind]:
        """Returns the faults that are left when the stack did not get over one."""
        checks = Checks(stack)
        try:
            for done, kind in enumerate(kinds):
                self._number += 1
                if not self._one(stack, checks, kind):
                    return kinds[done + 1 :]
            return []
        finally:
            self.runs += checks.runs
            self.frames += checks.frames

    def _one(self, stack: FaultStack, checks: Checks, kind: Kind) -> bool:
        queue = Queue(stack)
        plans = queue.submit(plans_of(stack.scope, self._rng), self._number)
        time.sleep(self._rng.uniform(0.0, LATEST_S))  # the moment is the experiment
        stack.world.look()
        struck, at = time.monotonic(), time.time()
        renewed = kind.make(stack, self._rng)
        stack.world.look()
        lit = kind.ends_hardware and bool(stack.world.lit)
        back = until(lambda: renewed() and queue.ready(), BACK_S)
        seconds = time.monotonic() - struck
        lost = [] if back else [("hang", f"no plan would run after {BACK_S:g} s: {queue.why}")]
        if back and not until(lambda: queue.ended(plans), BACK_S):
            lost = [("hang", f"its plans did not end within {BACK_S:g} s after it: {queue.why}")]
        found = lost or settled(checks)
        self._tell(
            f"{self._number:4d} {kind.name:12s} {'+'.join(plans.values()):34s} {seconds:6.2f} s"
            + "".join(f"\n     VIOLATION {what}: {text}" for what, text in found)
        )
        self.problems += [f"fault {self._number}, {kind.name}: {what}: {text}" for what, text in found]
        self.violations.update(what for what, _ in found)
        if back:
            self.recovered.setdefault(kind.name, []).append(seconds)
            if lit and not found:
                self.dark.setdefault(kind.name, []).append(stack.world.dark_at - at)
        checks.forget()
        queue.forget()
        return not lost


def settled(checks: Checks) -> list[tuple[str, str]]:
    """What is wrong and stays wrong."""
    deadline = time.monotonic() + SETTLED_S
    while (found := checks.problems()) and time.monotonic() < deadline:
        time.sleep(4 * PAUSE_S)
    return found


def until(true: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


class Queue:
    """The queue server, asked as an operator."""

    def __init__(self, stack: FaultStack) -> None:
        self._stack = stack
        self._server = QueueServer(stack.runtime["zmq"]["control"])
        self._key = stack.layout.key("operator")
        self._seen: tuple[Any, set[str]] = (None, set())
        self.why = ""

    def submit(self, plans: list[tuple[str, dict[str, Any]]], number: int) -> dict[str, str]:
        """Queue these; their names by item UID."""
        found = {}
        for index, (name, kwargs) in enumerate(plans):
            item = {"item_type": "plan", "name": name, "kwargs": kwargs, "meta": {"op_key": f"fault.{number}-{index}"}}
            words = {"item": item, "user": "bench", "user_group": "primary"}
            answer = self._server.request("queue_item_add", words, timeout_s=10)
            found[str(answer["item"]["item_uid"])] = name
        return found

    def ready(self) -> bool:
        would, reasons = ready(self._stack.runtime.get("http", ""), self._key)
        self.why = "; ".join(reasons)
        return would

    def ended(self, plans: dict[str, str]) -> bool:
        try:
            status = self._server.status()
            if status["plan_history_uid"] != self._seen[0]:
                items = self._server.request("history_get")["items"]
                self._seen = (status["plan_history_uid"], {item["item_uid"] for item in items})
        except NoAnswer as error:
            self.why = str(error)
            return False
        left = plans.keys() - self._seen[1]
        self.why = f"{status['manager_state']}, {len(left)} of {len(plans)} not in history"
        return not left and status["manager_state"] == "idle" and self.ready()

    def forget(self) -> None:
        self._server.request("history_clear", timeout_s=10)


def plans_of(scope: Scope, rng: random.Random) -> list[tuple[str, dict[str, Any]]]:
    """A plan to be struck and a short one behind it."""
    channel = [{"name": rng.choice(sorted(scope.channels)), "exposure_ms": rng.choice([2, 10, 30, 60])}]
    camera = rng.choice(sorted(scope.of_kind("camera")))
    axes = scope.axes()

    def move() -> tuple[str, dict[str, Any]]:
        name = rng.choice(sorted(axes))
        return "move_axis", {"axis": name, "to": round(rng.uniform(*axes[name].limits), 3)}

    struck: list[list[tuple[str, dict[str, Any]]]] = [
        [("snap", {"camera": camera, "n": rng.randrange(10, 60), "channels": channel})],
        [
            (
                "z_stack",
                {
                    "range_um": rng.randrange(10, 40),
                    "step_um": 1,
                    "centre_um": 60.0,
                    "camera": camera,
                    "channels": channel,
                },
            )
        ],
        [
            (
                "acquire_volume",
                {
                    "slices": rng.randrange(5, 40),
                    "centre_piezo_um": 10.0,
                    "views": rng.choice(["A", "B", "both"]),
                    "channels": channel,
                },
            )
        ],
        [move() for _ in range(3)],
    ]
    after: list[tuple[str, dict[str, Any]]] = [
        ("snap", {"camera": camera, "n": 2, "channels": channel}),
        ("acquire_volume", {"slices": 3, "centre_piezo_um": 0.0, "channels": channel}),
        move(),
    ]
    return [*rng.choice(struck), rng.choice(after)]
