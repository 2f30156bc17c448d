"""A storm of retries: each operation submitted five times by clients side by side, every third time without awaiting a reply.

Afterwards each key has one attempt, one run and one frame, and the camera was told to expose as often as there are keys: counted
by a witness inside the hardware process, below everything that could be wrong about it (R1.2, R1.4, R1.6).

``queuescope bench storm`` sends 10,000 requests, ``--quick`` 100.
"""

from __future__ import annotations

import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..layout import DEFAULT_SCOPE, Layout
from ._fault_stack import fault_scope, running
from ._once import SNAP, Client, Record
from ._result import Result, Tell, row

SUBMISSIONS, QUICK_SUBMISSIONS = 10_000, 50
EACH, CLIENTS = 5, 16
PLAN_S = 1.0
"""A plan takes less, on a machine that does other things too."""


def measure(quick: bool, tell: Tell) -> Result:
    """Requests per second and operations per second; problems are keys with more or less than one acquisition."""
    submissions = QUICK_SUBMISSIONS if quick else SUBMISSIONS
    keys = [f"storm.{number:05d}" for number in range(submissions // EACH)]
    requests = [(key, random.random() < 1 / 3) for key in keys for _ in range(EACH)]
    random.shuffle(requests)
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as name:
        folder = Path(name)
        layout = Layout(folder / "data")
        with running(fault_scope(DEFAULT_SCOPE, folder / "scope", "software"), layout, remote=False) as stack:
            stack.world.look()
            before = stack.world.exposures
            clients = [Client(stack) for _ in range(CLIENTS)]
            began = time.monotonic()

            def send(number: int) -> int:
                told = 0
                for key, lost in requests[number::CLIENTS]:
                    if lost:
                        clients[number].lose(key, SNAP)
                    else:
                        told += bool(clients[number].submit(key, SNAP, patience_s=300))
                return told

            with ThreadPoolExecutor(CLIENTS) as pool:
                answered = sum(pool.map(send, range(CLIENTS)))
            sent_s = time.monotonic() - began
            tell(f"storm: {len(requests)} requests in {sent_s:.0f} s, {answered} of them answered")
            for key in keys:  # whose every reply was dropped may never have been sent
                clients[0].submit(key, SNAP)
            record = Record(stack)
            operations = record.wait(keys, 60 + PLAN_S * len(keys))
            seconds = time.monotonic() - began
            stack.world.look()
            exposures = stack.world.exposures - before
            problems = list(record.problems(operations))
            for client in clients:
                client.close()
    unlike = {key: one.state for key, one in operations.items() if one is not None and one.state != "succeeded"}
    problems += [f"{key} is {state}" for key, state in unlike.items()]
    if exposures != len(keys):
        problems.append(f"the camera was told to expose {exposures} times for {len(keys)} keys")
    rows = [
        row("requests", "per_s", [len(requests) / sent_s]),
        row("operations", "per_s", [len(keys) / seconds]),
        row("exposures", "count", [float(exposures)]),
    ]
    return Result("storm", rows, {"exposures / keys": exposures / len(keys)}, problems)
