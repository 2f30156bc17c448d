"""The ledger's file survives processes, restarts and new versions."""

import sqlite3
from pathlib import Path

import pytest

from queuescope.ledger import Body, Events, Failure, Ledger, Operations, Samples
from queuescope.ledger._schema import FIRST, PEOPLE, statements


def old_file(path: Path, *steps: str, version: int) -> sqlite3.Connection:
    old = sqlite3.connect(path)
    for step in steps:
        for statement in statements(step):
            old.execute(statement)
    old.execute(f"PRAGMA user_version = {version}")
    return old


def test_scan_ids_go_on_after_a_restart(tmp_path: Path) -> None:
    assert [Ledger(tmp_path / "ledger.db").next_scan_id() for _ in range(3)] == [1, 2, 3]


def test_what_was_committed_is_on_disk(tmp_path: Path) -> None:
    """R1.4: every connection syncs each commit."""
    with Ledger(tmp_path / "ledger.db").connect() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL"
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_an_error_undoes_the_whole_transaction(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")

    def fail_halfway() -> None:
        with ledger.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO counters VALUES ('scan_id', 7)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert ledger.next_scan_id() == 1


def test_a_ledger_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="schema 99"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_file_of_the_first_version_is_carried_over(tmp_path: Path) -> None:
    """R1.9: with what it holds; approvals and samples are added to it."""
    old = old_file(tmp_path / "ledger.db", FIRST, version=1)
    old.execute("INSERT INTO counters VALUES ('scan_id', 41)")
    old.commit()
    old.close()
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.next_scan_id() == 42
    Samples(ledger).opened("worm", {"strain": "N2"}, "Ada")
    record = Samples(Ledger(tmp_path / "ledger.db")).get("worm")
    assert record is not None
    assert (record.facts, record.opened_by, record.closed_at) == ({"strain": "N2"}, "Ada", None)


EXECUTIONS = (
    # a key that started two plans, one that was running, an unkeyed one, one that was paused
    ("i1", "night.stack-1", "snap", '{"n": 1}', "failed", '["r1"]', None, "LimitError: z", 10.0, 11.0),
    ("i2", None, "read_state", "{}", "succeeded", "[]", '{"z": 3}', None, 12.0, 13.0),
    ("i3", "night.stack-1", "snap", '{"n": 2}', "succeeded", '["r2", "r3"]', '{"frames": 2}', None, 14.0, 15.0),
    ("i4", "night.stack-2", "snap", "{}", "running", '["r4"]', None, None, 16.0, None),
    ("i5", "night.stack-3", "snap", "{}", "paused", "[]", None, None, 17.0, None),
)


def test_executions_become_attempts_of_operations(tmp_path: Path) -> None:
    """R1.9: nothing of a version 2 ledger is lost: keys, items, runs, results, errors, and each row in the audit."""
    old = old_file(tmp_path / "ledger.db", FIRST, PEOPLE, version=2)
    old.executemany(
        "INSERT INTO executions (item_uid, op_key, attempt, plan, kwargs, user, user_group, state, run_uids, result, error,"
        " started_at, finished_at) VALUES (?, ?, 1, ?, ?, 'ada', 'agent', ?, ?, ?, ?, ?, ?)",
        EXECUTIONS,
    )
    old.commit()
    old.close()
    ledger = Ledger(tmp_path / "ledger.db")
    operations = Operations(ledger)

    first, second = operations.by_item("i1"), operations.by_item("i3")
    assert first is not None
    assert second is not None
    assert (first.id, first.attempt, first.state, first.run_uids) == (second.id, 1, "failed", ("r1",))
    assert first.error == Failure("plan_failed", "LimitError: z")
    assert (second.attempt, second.result, second.run_uids) == (2, {"frames": 2}, ("r2", "r3"))
    assert operations.by_key("night.stack-1") == second == operations.by_run("r3")
    assert (second.submitted_at, second.started_at, second.body) == (10.0, 14.0, Body("snap", {"n": 2}))

    unkeyed = operations.by_item("i2")
    assert unkeyed is not None
    assert (unkeyed.key, unkeyed.result, unkeyed.state) == (None, {"z": 3}, "succeeded")
    paused = operations.by_key("night.stack-3")
    assert paused is not None
    assert (paused.state, paused.paused_at) == ("running", 17.0)
    assert [one.key for one in operations.page()] == ["night.stack-1", None, "night.stack-2", "night.stack-3"]
    assert [one.key for one in operations.active()] == ["night.stack-2", "night.stack-3"]

    told = [event.data for event in Events(ledger).after()]
    assert [one["item_uid"] for one in told] == ["i1", "i2", "i3", "i4", "i5"]
    assert (told[0]["kwargs"], told[0]["error"], told[2]["result"]) == ({"n": 1}, "LimitError: z", {"frames": 2})
    again, new = operations.accept("night.stack-1", Body("snap", {"n": 2}), None, "ada", "agent")
    assert (again, new) == (second, False), "a key that was used before the new version doesn't run again"
