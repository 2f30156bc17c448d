"""Every operation exactly once, as far as the ledger decides it: R1."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from queuescope.ledger import Body, Events, Failure, Ledger, Left, Operation, OperationError, Operations

KEY = "night-3.stack-1"
SNAP = Body("snap", {"n": 2}, sample_id="worm", session_id="s1")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
def operations(ledger: Ledger) -> Operations:
    return Operations(ledger)


def item(uid: str, key: str | None = KEY, body: Body = SNAP, **meta: Any) -> dict[str, Any]:
    meta = {"op_key": key, "sample_id": body.sample_id, "session_id": body.session_id, **meta}
    kept = {name: value for name, value in meta.items() if value is not None}
    whose = {"user": "ada", "user_group": "agent"}
    return {"item_type": "plan", "item_uid": uid, "name": body.plan, "kwargs": dict(body.kwargs), "meta": kept, **whose}


def accept(operations: Operations, key: str = KEY, body: Body = SNAP) -> tuple[Operation, bool]:
    return operations.accept(key, body, None, "ada", "agent")


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(OperationError) as error:
        call()
    return error.value.code


def now(operations: Operations, key: str = KEY) -> Operation:
    found = operations.by_key(key)
    assert found is not None
    return found


def test_an_operation_from_its_intent_to_its_result(operations: Operations, ledger: Ledger, tmp_path: Path) -> None:
    """R1.9: key → item → run UIDs, after the file was opened anew, and each step in the audit in order."""
    accepted, new = accept(operations)
    assert (accepted.state, accepted.item_uid, new) == ("accepted", None, True)
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    operations.add_run("i1", "r1")
    operations.add_run("i1", "r2")
    operations.finish("i1", "succeeded", {"frames": 2}, exit_status="completed")

    found = now(Operations(Ledger(tmp_path / "ledger.db")))
    assert found == operations.by_item("i1") == operations.by_run("r2")
    assert (found.state, found.run_uids, found.result, found.error) == ("succeeded", ("r1", "r2"), {"frames": 2}, None)
    assert found.submitted_at <= (found.started_at or 0) <= (found.finished_at or 0)
    told = Events(ledger).after(key=KEY)
    assert [event.data["state"] for event in told] == [
        "accepted",
        "queued",
        "running",
        "running",
        "running",
        "succeeded",
    ]
    assert [event.cursor for event in told] == sorted(event.cursor for event in told)
    assert told[-1].data["run_uids"] == ["r1", "r2"]
    assert Events(ledger).after(told[3].cursor) == told[4:]
    assert Events(ledger).last() == told[-1].cursor


def test_the_same_request_again_is_the_same_operation(operations: Operations) -> None:
    """R1.2: whatever the order of its names."""
    first, _ = accept(operations, body=Body("snap", {"n": 2, "camera": "cam_a"}))
    again, new = accept(operations, body=Body("snap", {"camera": "cam_a", "n": 2}))
    assert (again, new) == (first, False)


@pytest.mark.parametrize(
    "other",
    [
        Body("z_stack", {"n": 2}, sample_id="worm", session_id="s1"),
        Body("snap", {"n": 3}, sample_id="worm", session_id="s1"),
        Body("snap", {"n": 2}, sample_id="fly", session_id="s1"),
        Body("snap", {"n": 2}, sample_id="worm"),
        Body("snap", {"n": 2}, (1,), sample_id="worm", session_id="s1"),
    ],
)
def test_another_body_under_the_same_key_is_refused(operations: Operations, other: Body) -> None:
    """R1.3: over REST, and of a stock client's item."""
    accept(operations)
    assert refused(lambda: accept(operations, body=other)) == "key_reused"
    assert refused(lambda: operations.queued({**item("i9", body=other), "args": list(other.args)})) == "key_reused"
    assert refused(lambda: operations.accept(KEY, SNAP, "another note", "ada", "agent")) == "key_reused"
    assert (now(operations).state, now(operations).item_uid) == ("accepted", None)


CLAIM = """
import json, sys
from pathlib import Path
from queuescope.ledger import Ledger, OperationError, Operations
operations = Operations(Ledger(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
try:
    operations.claim(json.loads(sys.argv[2]))
    print("granted")
except OperationError as error:
    print(error.code)
"""


def test_of_many_claims_at_once_one_is_granted(operations: Operations, tmp_path: Path) -> None:
    """R1.4: several processes, the same item and copies of it that queueserver made."""
    accept(operations)
    operations.queued(item("i1"))
    uids = ("i1", "i1", "i2", "i3")
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, tmp_path / "ledger.db", json.dumps(item(uid))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for uid in uids
    ]
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    answers = [claimer.communicate(timeout=60)[0].strip() for claimer in claimers]
    assert sorted(answers) == ["already_started"] * 3 + ["granted"], answers
    assert "granted" in answers[:2], "copies never run"
    assert now(operations).state == "running"


def test_two_submissions_at_once_make_one_operation(operations: Operations) -> None:
    """R1.6: as far as the ledger: one is new."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: accept(operations), range(64)))
    assert sum(new for _, new in answers) == 1
    assert len({operation.id for operation, _ in answers}) == 1


@pytest.mark.parametrize("end", ["succeeded", "failed", "interrupted", "cancelled"])
def test_what_has_ended_is_never_claimed_again(operations: Operations, end: str) -> None:
    """R1.5: not its item, which a queue store that lost its last second brings back, and no copy of it."""
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    if end == "interrupted":
        operations.lost("i1", "its worker died")
    else:
        operations.finish("i1", end, failure=None)  # type: ignore[arg-type]
    for uid in ("i1", "i2"):
        assert refused(lambda uid=uid: operations.claim(item(uid))) in ("already_started", "cancelled")
    assert now(operations).state == end


def test_the_first_end_stays(operations: Operations) -> None:
    """R2.11: one terminal state for each attempt, whoever tells of another later."""
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    operations.finish("i1", "failed", failure=Failure("plan_failed", "ValueError: x"))
    operations.lost("i1", "its worker died")
    operations.finish("i1", "succeeded", {"frames": 2})
    operations.removed("i1")
    found = now(operations)
    assert (found.state, found.error, found.result) == ("failed", Failure("plan_failed", "ValueError: x"), None)


def test_an_item_of_a_stock_client_is_recorded_when_it_is_queued_or_started(operations: Operations) -> None:
    """R1.11: the key travels in its meta."""
    queued, new = operations.queued(item("i1"))
    assert (queued.state, queued.key, queued.item_uid, queued.user, new) == ("queued", KEY, "i1", "ada", True)
    again, new = operations.queued(item("i2"))
    assert (again.item_uid, new) == ("i1", False), "added again after a lost reply: it is there"
    started = operations.claim(item("i3", key="at-once-1"))
    assert (started.state, started.item_uid, started.key) == ("running", "i3", "at-once-1")
    unkeyed = operations.claim(item("i4", key=None))
    assert (unkeyed.state, unkeyed.key) == ("running", None)
    assert refused(lambda: operations.claim(item("i4", key=None))) == "already_started"


def test_an_edited_item_is_refused_when_it_would_start(operations: Operations) -> None:
    """R1.3: the body that runs is the body that was recorded."""
    operations.queued(item("i1"))
    assert refused(lambda: operations.claim(item("i1", body=Body("snap", {"n": 3})))) == "body_changed"
    assert (now(operations).state, now(operations).error.code) == ("failed", "body_changed")  # type: ignore[union-attr]


def test_cancelled_before_it_runs_it_never_starts(operations: Operations) -> None:
    """R2.5: accepted or queued."""
    accept(operations)
    operations.queued(item("i1"))
    cancelled = operations.ask_cancel(KEY, "ada")
    assert cancelled is not None
    assert (cancelled.state, cancelled.error) == ("cancelled", Failure("cancelled", "cancelled by ada"))
    assert refused(lambda: operations.claim(item("i1"))) == "cancelled"
    assert operations.ask_cancel("nobody-knows", "ada") is None


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda o: o.finish("i1", "succeeded", {"frames": 2}, exit_status="completed"), "the plan itself: completed"),
        (lambda o: o.finish("i1", "failed", failure=Failure("plan_failed", "x"), exit_status="failed"), "failed, x"),
        (lambda o: o.lost("i1", "its worker died"), "the plan itself: interrupted, its worker died"),
        (lambda o: o.finish("i1", "cancelled", exit_status="aborted"), "the plan itself: aborted"),
    ],
)
def test_a_cancel_wins(operations: Operations, end: Callable[[Operations], Any], words: str) -> None:
    """R2.4: over completed, failed and a lost worker; run UIDs, result and what the plan came to are kept."""
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    operations.add_run("i1", "r1")
    asked = operations.ask_cancel(KEY, "ada")
    assert asked is not None
    assert (asked.state, asked.cancel_asked_at is not None) == ("running", True)
    end(operations)
    found = now(operations)
    assert found.error is not None
    assert (found.state, found.run_uids, found.error.code) == ("cancelled", ("r1",), "cancelled")
    assert found.error.detail == f"cancelled by ada; {words}" or found.error.detail.endswith(words)


def test_a_cancel_of_what_has_ended_changes_nothing(operations: Operations) -> None:
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    operations.finish("i1", "succeeded", {"frames": 2})
    before = now(operations)
    assert operations.ask_cancel(KEY, "ada") == before


def test_a_retry_is_asked_for_and_makes_one_attempt(operations: Operations) -> None:
    """R1.5: only an explicit retry runs something again, and asked for twice it runs once."""
    operations.queued(item("i1"))
    assert refused(lambda: operations.retry(KEY, "ada")) == "not_retryable"
    operations.claim(item("i1"))
    operations.add_run("i1", "r1")
    operations.lost("i1", "its worker died")
    assert refused(lambda: operations.queued(item("i2", attempt=2))) == "wrong_attempt"
    made = operations.retry(KEY, "ada", attempt=2)
    assert made is not None
    assert (made[0].attempt, made[0].state, made[0].item_uid, made[0].run_uids, made[1]) == (
        2,
        "accepted",
        None,
        (),
        True,
    )
    again = operations.retry(KEY, "ada", attempt=2)
    assert again is not None
    assert (again[0].attempt, again[1]) == (2, False)
    assert refused(lambda: operations.claim(item("i1", attempt=1))) == "already_started"
    operations.queued(item("i2", attempt=2))
    operations.claim(item("i2", attempt=2))
    operations.finish("i2", "succeeded", {"frames": 2})
    assert refused(lambda: operations.retry(KEY, "ada")) == "not_retryable"
    first = operations.by_run("r1")
    assert first is not None
    assert (first.attempt, first.state) == (1, "interrupted"), "the attempt before stays as it ended"


def test_what_is_refused_before_it_is_queued_leaves_its_key_free(operations: Operations, ledger: Ledger) -> None:
    """R1.7: parameters that are refused make no operation, so the step can be mended; the audit has both."""
    accept(operations)
    operations.withdraw(KEY, "n: too large")
    assert operations.by_key(KEY) is None
    _, new = accept(operations, body=Body("snap", {"n": 1}))
    assert new
    operations.queued(item("i1", body=Body("snap", {"n": 1})))
    operations.withdraw(KEY, "late")
    assert now(operations).state == "queued", "what is queued stays"
    assert [event.data["state"] for event in Events(ledger).after(key=KEY)] == [
        "accepted",
        "refused",
        "accepted",
        "queued",
    ]


def test_results_go_after_their_time_and_the_audit_stays(operations: Operations, ledger: Ledger) -> None:
    """R1.9: then the key is a tombstone."""
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    operations.add_run("i1", "r1")
    operations.finish("i1", "succeeded", {"frames": 2})
    operations.queued(item("i2", key="night-3.stack-2"))
    events = Events(ledger).last()
    assert operations.prune(time.time() - 60) == 0
    assert operations.prune(time.time() + 60) == 1, "what hasn't ended stays"
    gone = now(operations)
    assert (gone.result, gone.run_uids, gone.item_uid) == (None, ("r1",), "i1")
    assert gone.pruned_at is not None
    assert refused(lambda: accept(operations)) == "pruned"
    assert refused(lambda: operations.retry(KEY, "ada")) == "pruned"
    assert refused(lambda: operations.queued(item("i3"))) == "pruned"
    assert Events(ledger).last() == events


@pytest.mark.parametrize("change", ["UPDATE events SET data = '{}'", "DELETE FROM events"])
def test_nobody_changes_the_audit(operations: Operations, ledger: Ledger, change: str) -> None:
    """R1.9: it is only added to."""
    accept(operations)
    with pytest.raises(sqlite3.IntegrityError, match="only added to"), ledger.connect() as connection:
        connection.execute(change)


def test_pages_follow_the_order_of_submission(operations: Operations) -> None:
    """R1.9: a readable, ordered log, whatever ended first."""
    for n in range(5):
        operations.queued(item(f"i{n}", key=f"night-3.{n:03}"))
    operations.claim(item("i3", key="night-3.003"))
    first = operations.page(limit=2)
    rest = operations.page(after=first[-1].id)
    assert [one.key for one in (*first, *rest)] == [f"night-3.{n:03}" for n in range(5)]
    assert [one.key for one in operations.page(state="queued", limit=3)] == [
        "night-3.000",
        "night-3.001",
        "night-3.002",
    ]
    assert [one.key for one in operations.page(after=rest[0].id, state="running")] == ["night-3.003"]


def test_every_change_rings_after_it_was_written(ledger: Ledger) -> None:
    """R2.7: whoever waits is woken, and finds what it was woken for."""
    seen: list[tuple[str | None, str]] = []
    reader = Operations(ledger)
    operations = Operations(ledger, lambda key: seen.append((key, now(reader).state)))
    accept(operations)
    operations.queued(item("i1"))
    operations.claim(item("i1"))
    operations.finish("i1", "succeeded")
    assert seen == [(KEY, "accepted"), (KEY, "queued"), (KEY, "running"), (KEY, "succeeded")]


def test_an_operation_is_found_as_fast_among_many(ledger: Ledger, operations: Operations) -> None:
    """Issue 6: by index, not by looking through."""
    with ledger.connect() as connection:
        for query in (
            "SELECT * FROM operations WHERE key = 'x'",
            "SELECT * FROM attempts AS a JOIN operations AS o ON o.id = a.operation WHERE a.item_uid = 'x'",
            "SELECT * FROM attempts AS a JOIN operations AS o ON o.id = a.operation WHERE a.state = 'queued' AND a.operation > 5",
            "SELECT * FROM events WHERE key = 'x' AND id > 5",
            "SELECT * FROM runs WHERE uid = 'x'",
        ):
            plan = " ".join(row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"))
            assert "SCAN" not in plan, (query, plan)


def test_what_differs_from_where_an_operation_left_the_microscope() -> None:
    """R1.12: within an axis's tolerance nothing does; what can't be read does; what the scope no longer has doesn't count."""
    left = Left({"z": 20.0, "x": 1.0, "gone": 5.0}, {"objective": "40x"}, "worm")
    tolerances = {"z": 0.5, "x": 0.5}
    assert list(left.differences(Left({"z": 20.4, "x": 1.0}, {"objective": "40x"}, "worm"), tolerances)) == []
    assert list(left.differences(Left({"z": 20.6}, {"objective": "20x"}, None), tolerances)) == [
        {"what": "z", "was": 20.0, "now": 20.6},
        {"what": "x", "was": 1.0, "now": None},
        {"what": "objective", "was": "40x", "now": "20x"},
        {"what": "sample", "was": "worm", "now": None},
    ]


def test_where_it_was_left_and_what_is_restored_are_kept(operations: Operations) -> None:
    """R1.12: with the end; the key and the body are what they were without."""
    back = Left({"z": 20.0}, {"objective": "40x"}, None)
    accepted, _ = operations.accept("left.restored-1", Body("snap"), None, "agent", "agent", back)
    assert (accepted.restore, accepted.left) == (back, None)
    assert operations.accept("left.restored-1", Body("snap"), None, "agent", "agent") == (accepted, False)
    item = {**accepted.item(), "item_uid": "left-1", "user": "agent", "user_group": "agent"}
    operations.queued(item)
    assert operations.claim(item).restore == back
    there = Left({"z": 20.1}, {}, "worm")
    ended = operations.finish("left-1", "succeeded", left=there)
    assert ended is not None
    found = operations.by_key("left.restored-1")
    assert found is not None
    assert (found.left, found.restore) == (there, back)
