"""What a running plan tells: R2.3."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest

from queuescope.layout import Layout
from queuescope.ledger import Events, Ledger, Operations
from queuescope.startup import _telling
from queuescope.startup._telling import Progress, output

ITEM = {"name": "snap", "item_uid": "i", "kwargs": {}, "meta": {"op_key": "telling-1"}}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    layout = Layout(tmp_path)
    layout.create()
    return Ledger(layout.ledger_db)


@pytest.fixture
def operations(ledger: Ledger) -> Operations:
    found = Operations(ledger)
    found.queued(ITEM)
    found.claim(ITEM)
    return found


def said(ledger: Ledger) -> list[str]:
    return [line for event in Events(ledger).after() if event.type == "output" for line in event.data["lines"]]


def test_what_a_plan_prints_is_in_the_audit_and_where_it_was(
    operations: Operations, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2.3: whole lines, in order, before the plan's end; our own warnings too, and nothing after it."""
    console = io.StringIO()
    monkeypatch.setattr("sys.stdout", console)
    with output(operations, "i"):
        print("round", 1)
        print("half a ", end="")
        print("line")
        logging.getLogger("queuescope.plans").warning("focus lost at %s", "p3")
        logging.getLogger("queuescope.plans").info("all well")
        print("no newline", end="")
    operations.finish("i", "succeeded")
    print("later")
    logging.getLogger("queuescope.plans").warning("later")
    assert said(ledger) == ["round 1", "half a line", "WARNING: focus lost at p3", "no newline"]
    assert console.getvalue() == "round 1\nhalf a line\nno newlinelater\n"


def test_a_talkative_plan_does_not_flood_the_audit(
    operations: Operations, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2.3: lines are told together, and there is an end."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr(_telling, "MOST_OUTPUT", 2000)
    with output(operations, "i"):
        for n in range(1000):
            print(f"line {n:4}")
    assert len([event for event in Events(ledger).after() if event.type == "output"]) <= 2
    assert said(ledger)[-1].startswith("… more than 2000 characters")
    assert len(said(ledger)) == 200


def test_what_waits_is_told_soon(operations: Operations, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2.3: without another line, and without the plan's end."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    with output(operations, "i") as out:
        print("once")
        assert out._timer is not None
        out._timer.join(10)
        assert said(ledger) == ["once"]


def test_progress_is_told_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2.3: twice a second at most; the last one is true."""
    now, told = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(lambda *hint: told.append(hint), "telling-1", 2, planned=100)
    progress("start", {})
    progress("stream_resource", {"parameters": {"frames_planned": 40}})
    for n in range(40):
        now[0] += 0.1
        progress("stream_datum", {"indices": {"start": n, "stop": n + 1}})
    progress("stop", {})
    progress("stop", {})
    assert len(told) <= 9
    assert told[-1] == ("telling-1", 2, "progress", {"done": 40, "total": 100})
    assert [hint[3]["done"] for hint in told] == sorted({hint[3]["done"] for hint in told})


def test_a_run_without_frames_tells_no_progress() -> None:
    told: list[Any] = []
    progress = Progress(lambda *hint: told.append(hint), "telling-1", 1, planned=0)
    progress("start", {})
    progress("stop", {})
    assert told == []
