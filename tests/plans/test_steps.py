"""Frames one by one: what a step asks of hardware and RunEngine, and frames that are exposed before those ahead are on disk."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import bluesky.utils
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted

from queuescope.benchmarks import plans as bench
from queuescope.hardware._ome_zarr import ZarrFiles
from queuescope.startup._session import Session

from .pausing import pausing_at
from .test_common import told
from .test_templates import documents, run

SNAP = {"camera": "overview", "n": 3}
BACK_TO_BACK = {"do": {"plan": "snap", "kwargs": {"camera": "overview"}}, "interval_s": 0, "rounds": 3}
STEPS = [case for case in bench.CASES if case.name.endswith("(steps)")]
CALLS = {
    "snap": {"record_frame": 1},
    "time_lapse": {"record_frame": 1},
    "overview": {"move": 1, "record_frame": 1, "positions": 1},
}
"""Of the hardware, for one step."""


@pytest.fixture
def calls(session: Session, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each call of the hardware, and each message, was made; how often bluesky wrote down a call stack for a stub."""
    counted: Counter[str] = Counter()
    call, plan = session.hardware._call, bluesky.utils.Plan  # type: ignore[attr-defined]

    def counting(name: str, *args: Any) -> Any:
        counted[name] += 1
        return call(name, *args)

    class Counting(plan):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **more: Any) -> None:
            counted["stub"] += 1
            super().__init__(*args, **more)

    monkeypatch.setattr(session.hardware, "_call", counting)
    monkeypatch.setattr(bluesky.utils, "Plan", Counting)
    return counted


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_what_a_step_costs(session: Session, calls: Counter[str], case: bench.Case) -> None:
    """Issue 5: one call that takes the frame, at most one for where it is sent and one for where it is; no stub of bluesky's."""
    found = []
    for steps in (2, 5):
        bench.run(session, case.plan, case.kwargs(steps))
        found.append(calls.copy())
        calls.clear()
    few, many = found
    assert {name: many[name] - few[name] for name in many if many[name] != few[name]} == {
        name: 3 * count for name, count in CALLS[case.plan].items()
    }


@pytest.fixture
def exposed(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Is released with each frame that was exposed."""
    frames, record = threading.Semaphore(0), session.hardware.record_frame

    def record_frame(*args: Any) -> Any:
        try:
            return record(*args)
        finally:
            frames.release()

    with monkeypatch.context() as patch:
        patch.setattr(session.hardware, "record_frame", record_frame)
        yield frames


@pytest.mark.parametrize(("name", "kwargs"), [("snap", SNAP), ("time_lapse", BACK_TO_BACK)])
def test_a_frame_is_exposed_while_the_one_before_is_on_its_way_to_the_disk(
    session: Session,
    exposed: threading.Semaphore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kwargs: dict[str, Any],
) -> None:
    """Nothing is told of a frame that isn't on disk (DESIGN 3), and at the end everything is."""
    sync, before = ZarrFiles.sync, []

    def after_the_second(self: ZarrFiles, indices: Any) -> None:
        if 0 in indices:
            assert exposed.acquire(timeout=20)
            assert exposed.acquire(timeout=20)
            before.extend(told(documents(session, self._facts.run_uid)).values())
        sync(self, indices)

    monkeypatch.setattr(ZarrFiles, "sync", after_the_second)
    run_uid = run(session, name, kwargs).run_start_uids[0]
    assert before == []
    assert told(documents(session, run_uid)) == {"overview": [0, 1, 2]}


@pytest.mark.parametrize(("name", "kwargs"), [("snap", SNAP), ("time_lapse", BACK_TO_BACK)])
def test_pauses_take_no_frame_twice(session: Session, calls: Counter[str], name: str, kwargs: dict[str, Any]) -> None:
    """Paused with every message, one after the other: a frame that is told later is told once, one in hand stands."""
    run_engine = session.run_engine
    with pausing_at(run_engine, *range(200)) as seen:
        try:
            run(session, name, kwargs)
        except RunEngineInterrupted:
            while run_engine.state == "paused":
                with contextlib.suppress(RunEngineInterrupted):
                    run_engine.resume()
    docs = documents(session, run_engine._run_start_uids[-1])
    assert told(docs) == {"overview": [0, 1, 2]}, seen
    numbers = [doc["seq_nums"] for kind, doc in docs if kind == "stream_datum"]
    assert [number for one in numbers for number in range(one["start"], one["stop"])] == [1, 2, 3], seen
    assert calls["record_frame"] == 3, seen
    assert docs[-1][1]["exit_status"] == "success"


@pytest.mark.parametrize(
    ("name", "kwargs", "lost"), [("snap", {**SNAP, "n": 20}, 1), ("snap", SNAP, 2), ("time_lapse", BACK_TO_BACK, 2)]
)
def test_a_frame_that_cant_be_written_fails_the_run(
    session: Session, monkeypatch: pytest.MonkeyPatch, name: str, kwargs: dict[str, Any], lost: int
) -> None:
    """R3.12 though others may have been exposed since, and also the last: those before it count, and no others."""
    write = ZarrFiles.write

    def full(self: ZarrFiles, index: int, *more: Any) -> str:
        if index == lost:
            raise OSError(28, "No space left on device")
        return write(self, index, *more)

    monkeypatch.setattr(ZarrFiles, "write", full)
    with pytest.raises(FailedStatus):
        run(session, name, kwargs)
    docs = documents(session, session.run_engine._run_start_uids[-1])
    assert (docs[-1][1]["exit_status"], docs[-1][1]["frames"]) == ("fail", {"overview": lost})
    assert f"frame {lost} of overview could not be written" in docs[-1][1]["reason"]
    assert told(docs) == {"overview": list(range(lost))}


def test_what_was_exposed_is_told_after_an_abort(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames are on their way to the disk when it is aborted: it waits for them."""
    sync, aborted = ZarrFiles.sync, threading.Event()

    def when_aborted(self: ZarrFiles, indices: Any) -> None:
        assert aborted.wait(20)
        sync(self, indices)

    monkeypatch.setattr(ZarrFiles, "sync", when_aborted)
    messages: list[str] = []
    session.run_engine.msg_hook = lambda msg: messages.append(msg.command)
    aborted.set()
    run(session, "snap", {**SNAP, "n": 20})
    aborted.clear()
    third = [index for index, command in enumerate(messages) if command == "trigger"][2]
    with pausing_at(session.run_engine, third), pytest.raises(RunEngineInterrupted):
        run(session, "snap", {**SNAP, "n": 20})
    threading.Timer(0.2, aborted.set).start()
    session.run_engine.abort()
    docs = documents(session, session.run_engine._run_start_uids[-1])
    frames = docs[-1][1]["frames"]["overview"]
    assert 2 <= frames < 20
    assert told(docs) == {"overview": list(range(frames))}
