"""From the submission of a plan over REST until its end is known, and plans per second back to back, beside the peers.

The plan does nothing, so that all of it is overhead. Ours is submitted with ``POST /api/ops`` and followed by one long-poll; what
it costs includes the ledger's four commits, which no peer has. The stock queue server and its HTTP server are those of this
environment; blueapi has one of its own, installed the first time (``--without blueapi`` leaves it out). All stacks run at once
and the cases alternate, so that a slow minute of the machine slows them all.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import httpx

from ..config import load_scope
from ..layout import DATA_ENV, DEFAULT_SCOPE, SCOPE_ENV, Layout
from ..ledger import Body, Ledger, Operations
from ..scripts._up import stop
from ._latency_peers import Blueapi, Stock
from ._result import Result, Row, Tell, row

OURS, STOCK, BLUEAPI = "queuescope", "queueserver + httpserver", "blueapi"
FEW, MANY = 100, 100_000
"""Operations in a ledger, between which reading one is to cost the same."""


class Ours:
    """This package's stack, with the plan `nothing` and no catalog."""

    def __init__(self, layout: Layout) -> None:
        headers = {"Authorization": f"ApiKey {layout.key('agent')}"}
        url = (layout.runtime() or {})["http"]
        self.client = httpx.Client(base_url=f"{url}/api", headers=headers, trust_env=False, timeout=60)

    def _submit(self) -> str:
        key = f"bench.{uuid.uuid4().hex}"
        while True:
            reply = self.client.post("/ops", json={"plan": "nothing"}, headers={"Idempotency-Key": key})
            if reply.status_code != 429:
                break
            time.sleep(float(reply.headers["Retry-After"]))
        reply.raise_for_status()
        return key

    def _wait(self, key: str) -> None:
        operation = self.client.get(f"/ops/{key}", params={"wait": 50}).json()
        if operation["state"] != "succeeded":
            raise RuntimeError(f"operation {key} is {operation['state']}: {operation['error']}")

    def run(self) -> None:
        self._wait(self._submit())

    def burst(self, count: int) -> None:
        for key in [self._submit() for _ in range(count)]:
            self._wait(key)


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Ours]:
    layout = Layout(folder / "data")
    environ = {
        **os.environ,
        SCOPE_ENV: DEFAULT_SCOPE,
        DATA_ENV: str(layout.data),
        "QUEUESCOPE_SERVICES__HTTP__PORT": "0",
    }
    command = [sys.executable, "-m", "queuescope.benchmarks._nothing_plan", "--stack"]
    words = ["--scope", str(load_scope(DEFAULT_SCOPE).path), "--data", str(layout.data)]
    done = subprocess.run([*command, *words], env=environ, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    try:
        yield Ours(layout)
    finally:
        stop(layout)


def measure(quick: bool, tell: Tell, without: Collection[str] = ()) -> Result:
    """Milliseconds of one plan, n repetitions: 10 where ``quick``, else 60; plans per second of 10 or 40 at once."""
    repetitions, rounds, count = (10, 2, 10) if quick else (60, 5, 40)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queuescope-bench-")))
        tell("latency: starting the stacks")
        cases: dict[str, Any] = {OURS: stack.enter_context(ours(folder))}
        if "stock" not in without:
            cases[STOCK] = stack.enter_context(Stock())
        if "blueapi" not in without:
            cases[BLUEAPI] = stack.enter_context(Blueapi(tell))
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        rates: dict[str, list[float]] = {case: [] for case in cases}
        for case in cases.values():
            for _ in range(3):
                case.run()
        for repetition in range(repetitions):
            if repetition % 10 == 0:
                tell(f"latency: {repetition} of {repetitions}")
            for name, case in cases.items():
                began = time.perf_counter()
                case.run()
                seconds[name].append(1000 * (time.perf_counter() - began))
        for number in range(rounds):
            tell(f"latency: back to back, {number + 1} of {rounds}")
            for name, case in cases.items():
                began = time.perf_counter()
                case.burst(count)
                rates[name].append(count / (time.perf_counter() - began))
        tell("latency: the ledger")
        ledger = list(ledger_rows(folder, FEW * 20 if quick else MANY))
    rows = [row(case, "submit to terminal, ms", values) for case, values in seconds.items()]
    rows += [row(case, "plans_per_s", values) for case, values in rates.items()]
    own = statistics.median(seconds[OURS])
    ratios = {f"{OURS} / {case} (ms)": own / statistics.median(seconds[case]) for case in cases if case != OURS}
    few, many = (one.median for one in ledger[1:])
    return Result("latency", rows + ledger, {**ratios, f"GET of one among {ledger[2].case} / {FEW}": many / few})


def ledger_rows(folder: Path, many: int) -> Iterator[Row]:
    """What the ledger costs a submission (the router's commit and the manager's), and a read among few and many operations."""
    operations = Operations(Ledger(folder / "bench-ledger.db"))
    submit = []
    for number in range(FEW):
        began = time.perf_counter()
        _submit(operations, number)
        submit.append(1000 * (time.perf_counter() - began))
    yield row("ledger", "submission, ms", submit)
    yield row(f"{FEW} operations", "read by key, ms", list(_reads(operations, FEW)))
    with operations._ledger.connect() as connection:  # many of them as quickly as SQLite can
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO operations (id, key, body, plan, args, kwargs, user, user_group, attempt, submitted_at)"
            " VALUES (?, ?, 'b', 'nothing', '[]', '{}', 'agent', 'agent', 1, 0)",
            ((number + 1, _key(number)) for number in range(FEW, many)),
        )
        connection.executemany(
            "INSERT INTO attempts (operation, attempt, state, item_uid) VALUES (?, 1, 'succeeded', ?)",
            ((number + 1, f"item-{number}") for number in range(FEW, many)),
        )
    yield row(f"{many} operations", "read by key, ms", list(_reads(operations, many)))


def _key(number: int) -> str:
    return f"bench.ledger-{number}"


def _submit(operations: Operations, number: int) -> None:
    body = Body("nothing", {}, (), None, None)
    operation, _ = operations.accept(_key(number), body, None, "agent", "agent")
    whose = {"item_uid": f"item-{number}", "user": "agent", "user_group": "agent"}
    operations.queued({**operation.item(), **whose})


def _reads(operations: Operations, among: int) -> Iterator[float]:
    for number in range(0, among, max(1, among // 500)):
        began = time.perf_counter()
        operations.by_key(_key(number))
        yield 1000 * (time.perf_counter() - began)
