"""What silence means (R2.6), with a real event loop that is kept from turning."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from queuescope.startup import _liveness
from queuescope.startup._liveness import LoopBeat, Silence


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def test_a_loop_that_is_kept_is_noticed(loop: asyncio.AbstractEventLoop) -> None:
    """A plan in native code: the worker's other threads answer, its RunEngine does not."""
    beat, kept, let_go = LoopBeat(loop), threading.Event(), threading.Event()
    assert beat.silent_s() == 0.0
    loop.call_soon_threadsafe(lambda: (kept.set(), let_go.wait()))
    kept.wait()
    beat.silent_s()
    first = beat.silent_s()
    assert 0.0 <= first < beat.silent_s(), "the same question waits on"
    let_go.set()
    turned = threading.Event()
    loop.call_soon_threadsafe(turned.set)
    turned.wait()
    assert beat.silent_s() == 0.0


def test_a_silent_worker_is_told_then_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(_liveness.time, "monotonic", lambda: now)
    silence = Silence()
    assert (silence.told(), silence.over(), silence.changed()) == (None, None, False)
    now = 102.0
    assert "has not answered for 2 s (limit 5 s)" in (silence.told() or "")
    assert silence.over() is None
    assert silence.changed()
    assert not silence.changed()
    now = 105.5
    assert silence.over() is not None
    silence.heard(None)
    assert silence.over() is not None, "no answer is none"
    silence.heard({"loop_stuck": False})
    assert (silence.told(), silence.over(), silence.changed()) == (None, None, True)


def test_a_plan_that_keeps_the_run_engine_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(_liveness.time, "monotonic", lambda: now)
    silence = Silence()
    for now in range(100, 161):  # noqa: B007 (the clock)
        silence.heard({"loop_stuck": True})
        assert "kept the RunEngine" in (silence.told() or "")
        assert silence.over() is None
    now = 161
    silence.heard({"loop_stuck": True})
    assert silence.over() is not None
