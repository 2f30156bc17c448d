"""Live: frames in no file, light for whoever looks and for nobody else. R4 live; issue 5."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from bluesky.utils import RunEngineInterrupted

from queuescope.plans import ParameterError
from queuescope.reading import Shown, look
from queuescope.startup._session import Session

from .test_templates import documents, run

LIVE: dict[str, Any] = {"camera": "overview", "channel": "gfp", "exposure_ms": 5.0, "max_s": 2.0}


@pytest.fixture(autouse=True)
def _dark_afterwards(session: Session) -> Iterator[None]:
    yield
    if session.run_engine.state != "idle":
        session.run_engine.abort()
    assert not any(light.on for light in session.hardware.state().lights.values())
    assert not session.layout.live_socket.exists()


@contextmanager
def looking(session: Session, pictures: int = 10_000, then: Callable[[], Any] = lambda: None) -> Iterator[list[Shown]]:
    """Somebody who looks, until so many pictures were seen."""
    seen: list[Shown] = []
    end = threading.Event()

    def each() -> None:
        while not end.is_set() and len(seen) < pictures:
            shown = look(session.layout.live_socket)
            if shown is None:
                end.wait(0.02)
            else:
                seen.append(shown)
        then()

    thread = threading.Thread(target=each, daemon=True)
    thread.start()
    yield seen
    end.set()
    thread.join(10)


def test_who_looks_sees_frames_that_are_in_no_file(session: Session) -> None:
    """Its run has no dataset, but the dose; as the meter of the open sample has it."""
    before, files = dict(session.hardware.dose().used), set(session.layout.volumes.glob("*"))
    with looking(session) as seen:
        outcome = run(session, "live", LIVE)
    result, docs = outcome.plan_result, documents(session, outcome.run_start_uids[0])
    assert result["ended"] == "max_s"
    assert 1 < result["frames"] <= 21, "at most ten a second"
    assert seen[0].image.shape == (1024, 1024)
    assert seen[0].image.any()
    assert (seen[0].camera, seen[0].index) == ("overview", 0)
    assert seen[-1].index > 0
    assert set(session.layout.volumes.glob("*")) == files
    stop = docs[-1][1]
    assert stop["frames"] == {}
    used = session.hardware.dose().used["l488"] - before.get("l488", 0.0)
    assert stop["dose"]["l488"] == result["dose"]["l488"] == pytest.approx(used)
    assert used >= 0.999 * result["frames"] * 2.0 * 0.005
    assert docs[0][1]["recorded"] is False
    assert not any(kind == "stream_resource" for kind, _ in docs)


def test_without_a_viewer_there_is_no_light(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuescope.plans._live.START_S", 0.5)
    outcome = run(session, "live", LIVE)
    assert (outcome.plan_result["ended"], outcome.plan_result["frames"]) == ("nobody looked", 0)
    assert outcome.plan_result["dose"] == {}


def test_it_ends_when_nobody_looks_any_more(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queuescope.plans._live.VIEWER_S", 0.4)
    with looking(session, pictures=3):
        outcome = run(session, "live", {**LIVE, "max_s": 60.0})
    assert outcome.plan_result["ended"] == "nobody looks"
    assert outcome.plan_result["seconds"] < 30


def test_paused_the_exposure_in_hand_has_ended_and_no_other_is_made(session: Session) -> None:
    run_engine, view, triggers = session.run_engine, session.devices["live_view"], list[Any]()

    def hook(msg: Any) -> None:
        if msg.command == "trigger":
            triggers.append(msg)
            if len(triggers) == 2:
                asyncio.run_coroutine_threadsafe(run_engine._request_pause_coro(), run_engine.loop)

    run_engine.msg_hook = hook
    try:
        with looking(session), pytest.raises(RunEngineInterrupted):
            run(session, "live", {**LIVE, "exposure_ms": 300.0, "max_s": 20.0})
    finally:
        run_engine.msg_hook = None
    assert view.frames == 2
    used = session.hardware.dose().used
    assert look(session.layout.live_socket) is not None
    session.hardware.configure_camera("overview")  # once it is free
    assert (view.frames, session.hardware.dose().used) == (2, used)
    run_engine.abort()
    assert documents(session, run_engine._run_start_uids[-1])[-1][1]["exit_status"] == "abort"


def test_nobody_looks_longer_than_two_minutes(session: Session) -> None:
    template = session.templates["live"]
    with pytest.raises(ParameterError, match="max_s"):
        template.check({"max_s": 121.0})
    estimate = template.estimate(template.check({**LIVE, "max_s": 120.0}), session.scope)
    assert estimate.frames == {}
    assert estimate.dose["l488"] == pytest.approx(2.0 * 120 * 0.05)
