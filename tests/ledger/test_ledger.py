"""The record of executions survives processes and restarts."""

import sqlite3
from pathlib import Path

import pytest

from queuescope.ledger import Ledger


def start(ledger: Ledger, item_uid: str, op_key: str | None = None, attempt: int = 1) -> None:
    ledger.start(
        item_uid=item_uid, op_key=op_key, attempt=attempt, plan="snap", kwargs={"n": 2}, user="ada", user_group="agent"
    )


def test_an_execution_is_read_by_item_key_and_run(tmp_path: Path) -> None:
    """R1.9 key → item → run UIDs, after the file was opened anew."""
    ledger = Ledger(tmp_path / "ledger.db")
    start(ledger, "item-1", "night-3.stack-1")
    ledger.add_run("item-1", "run-1")
    ledger.set_state("item-1", "succeeded", result={"frames": 2})

    again = Ledger(tmp_path / "ledger.db")
    execution = again.by_key("night-3.stack-1")
    assert execution is not None
    assert execution == again.by_item("item-1") == again.by_run("run-1")
    assert (execution.state, execution.run_uids, execution.result) == ("succeeded", ("run-1",), {"frames": 2})
    assert execution.finished_at is not None
    assert execution.finished_at >= execution.started_at


def test_one_item_starts_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    start(ledger, "item-1")
    with pytest.raises(sqlite3.IntegrityError):
        start(ledger, "item-1")


def test_a_key_means_its_last_attempt(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    start(ledger, "item-1", "key-00001")
    start(ledger, "item-2", "key-00001", attempt=2)
    found = ledger.by_key("key-00001")
    assert found is not None
    assert (found.item_uid, found.attempt) == ("item-2", 2)


def test_what_is_unknown_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.by_item("x") is ledger.by_key("x") is ledger.by_run("x") is None


def test_scan_ids_go_on_after_a_restart(tmp_path: Path) -> None:
    assert [Ledger(tmp_path / "ledger.db").next_scan_id() for _ in range(3)] == [1, 2, 3]


def test_a_ledger_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="schema 99"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_file_of_the_version_before_is_carried_over(tmp_path: Path) -> None:
    """R1.9: with what it holds; approvals and samples are added to it."""
    from queuescope.ledger import Samples
    from queuescope.ledger._ledger import _FIRST

    with sqlite3.connect(tmp_path / "ledger.db") as old:
        old.executescript(_FIRST)
        old.execute("PRAGMA user_version = 1")
        old.execute("INSERT INTO counters VALUES ('scan_id', 41)")
    old.close()
    ledger = Ledger(tmp_path / "ledger.db")
    assert ledger.next_scan_id() == 42
    Samples(ledger).opened("worm", {"strain": "N2"}, "Ada")
    record = Samples(Ledger(tmp_path / "ledger.db")).get("worm")
    assert record is not None
    assert (record.facts, record.opened_by, record.closed_at) == ({"strain": "N2"}, "Ada", None)
