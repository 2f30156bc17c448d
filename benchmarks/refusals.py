"""Bad submissions over all templates against the real HTTP process: every one refused with a 4xx, nothing queued, nothing moved.

They are drawn from the templates' JSON Schemas (`_bad_submissions`), the same for the same seed. What is found wrong is a
problem, and the exit code says so. Milliseconds are those of one refusal, with several clients at once.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ..config import ENV_PREFIX, Scope, load_scope
from ..layout import DEFAULT_SCOPE, Layout
from ..plans import templates
from ..scripts._up import stop
from ._bad_submissions import Bad, BadSubmissions
from ._result import Result, Tell, row
from .start import bring_up

ROLES = ("agent", "operator", "admin")
AT_ONCE = 6
REASONS = {"parameters_refused", "unknown_plan", "not_finite", "invalid_body"}
"""Why a bad submission may be refused; anything else would hide that nobody looked at it."""


def measure(quick: bool, tell: Tell, seed: int = 7) -> Result:
    """10,000 of them; 300 where ``quick``."""
    count = 300 if quick else 10_000
    os.environ[f"{ENV_PREFIX}SERVICES__HTTP__PORT"] = "0"
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        scope, layout = load_scope(DEFAULT_SCOPE), Layout(Path(folder) / "data")
        bring_up(scope, layout, "--no-catalog")
        try:
            found = refused(scope, layout, count, seed, tell)
        finally:
            stop(layout)
    rows = [row("a refusal", "ms", found.ms)]
    rows += [row(f"{status} {code}", "submissions", [n]) for (status, code), n in sorted(found.answers.items())]
    share = sum(n for (status, _), n in found.answers.items() if 400 <= status < 500) / count
    return Result("refusals", rows, {"refused / submitted (goal 1)": share}, found.problems)


@dataclass
class Found:
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often each status and code came."""
    ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def refused(scope: Scope, layout: Layout, count: int, seed: int, tell: Tell) -> Found:
    """Submit so many to a running stack and look at what came of it."""
    found = Found()
    bad = itertools.islice(BadSubmissions(templates(scope, layout), seed), count)
    with clients(layout) as by_role, ThreadPoolExecutor(AT_ONCE) as pool:
        before = _stand(layout, by_role["operator"])

        def submit(number: int, one: Bad) -> tuple[Bad, httpx.Response, float]:
            headers = {
                "Idempotency-Key": f"bad.{seed}.{number}.{secrets.token_hex(4)}",
                "Content-Type": "application/json",
            }
            while True:
                began = time.perf_counter()
                reply = by_role[ROLES[number % len(ROLES)]].post("/api/ops", content=one.text, headers=headers)
                if reply.status_code != 429:  # the same again: that one was not looked at
                    return one, reply, (time.perf_counter() - began) * 1000
                time.sleep(float(reply.headers["Retry-After"]))

        for number, (one, reply, ms) in enumerate(pool.map(lambda pair: submit(*pair), enumerate(bad))):
            found.ms.append(ms)
            code = _code(reply)
            found.answers[reply.status_code, code] += 1
            if problem := _problem(reply, code):
                found.problems.append(f"{one.what}: {problem}")
            if number % 1000 == 999:
                tell(f"refusals: {number + 1} of {count}")
        after = _stand(layout, by_role["operator"])
    for what, value in before.items():
        if after[what] != value:
            found.problems.append(f"{what} changed: {value} → {after[what]}")
    return found


@contextmanager
def clients(layout: Layout) -> Iterator[dict[str, httpx.Client]]:
    """One for each role."""
    runtime = layout.runtime()
    assert runtime is not None
    found = {
        role: httpx.Client(
            base_url=runtime["http"],
            headers={"Authorization": f"ApiKey {layout.key(role)}"},
            timeout=60,
            trust_env=False,
        )
        for role in ROLES
    }
    try:
        yield found
    finally:
        for client in found.values():
            client.close()


def _stand(layout: Layout, client: httpx.Client) -> dict[str, Any]:
    """What must be the same afterwards."""
    get: Callable[[str], Any] = lambda path: client.get(path).json()  # noqa: E731
    scope, queue, history = get("/api/scope"), get("/api/queue/get"), get("/api/history/get")
    operations, after = 0, 0
    while (page := get(f"/api/ops?after={after}&limit=500"))["items"]:
        operations, after = operations + len(page["items"]), page["next"]
    return {
        "positions": {name: device["position"] for name, device in scope["devices"].items()},
        "labels": {name: device["current"] for name, device in scope["devices"].items()},
        "lights": {name: light["state"] for name, light in scope["lights"].items()},
        "cameras": scope["cameras"],
        "operations": operations,
        "items in the queue": [item["item_uid"] for item in (*queue["items"], queue["running_item"]) if item],
        "history": len(history["items"]),
        "runs": len(list(layout.documents.iterdir())),
    }


def _code(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("code"))
    except (json.JSONDecodeError, AttributeError):
        return "no JSON"


def _problem(reply: httpx.Response, code: str) -> str | None:
    """What is wrong with an answer to something wrong."""
    if not 400 <= reply.status_code < 500 or code not in REASONS:
        return f"answered with {reply.status_code} {code}: {reply.text[:300]}"
    if code == "parameters_refused":
        errors = reply.json().get("errors")
        if not errors or not all(error["loc"] and error["msg"] for error in errors):
            return f"refused without naming the field: {reply.text[:300]}"
    return None
