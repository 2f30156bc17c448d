"""A plan asks, waits with its lights off, and goes on: with the answer, or with its default. R4 Adaptive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bluesky import plan_stubs as bps
from bluesky.utils import RunEngineInterrupted

from queuescope.ledger import Decision, Decisions, Ledger, Operations, Question
from queuescope.plans import Decided, PlanContext, decide
from queuescope.startup._session import Session

QUESTION = Question("go on?", {"enum": ["yes", "no"]}, "no")


class Client:
    """Whoever started the plan that runs: answers what it asks, in the ledger, as the router does."""

    def __init__(self, session: Session, key: str) -> None:
        self.key = key
        self.ledger = Ledger(session.layout.ledger_db)
        self.decisions = Decisions(self.ledger)
        self._session = session

    def waiting(self) -> Decision:
        """What is asked, as soon as it is."""
        never, deadline = threading.Event(), time.monotonic() + 30
        while not (found := [one for one in self.decisions.waiting().values() if one.key == self.key]):
            assert time.monotonic() < deadline, "nothing was asked"
            never.wait(0.01)
        return found[0]

    def then(self, act: Callable[[Decision], Any]) -> threading.Thread:
        """Do something as soon as the plan asks."""
        thread = threading.Thread(target=lambda: act(self.waiting()), daemon=True)
        thread.start()
        return thread

    def answers(self, *answers: Any) -> threading.Thread:
        """Answer what comes, one after the other."""

        def each() -> None:
            for answer in answers:
                asked = self.waiting()
                self.decisions.answer(self.key, asked.round, answer, "agent")
                while self.decisions.read(self.key, asked.round).closed_at is None:  # type: ignore[union-attr]
                    threading.Event().wait(0.01)

        thread = threading.Thread(target=each, daemon=True)
        thread.start()
        return thread


def operation(session: Session, key: str, plan: str = "adaptive_time_lapse") -> Iterator[Client]:
    """A keyed operation that the session's RunEngine runs."""
    client = Client(session, key)
    operations = Operations(client.ledger)
    operations.claim({"name": plan, "item_uid": f"item-{key}", "kwargs": {}, "meta": {"op_key": key}, "user": "agent"})
    session.rounds.item_uid = f"item-{key}"
    yield client
    session.rounds.item_uid = None
    if session.run_engine.state != "idle":
        session.run_engine.abort()
    operations.finish(f"item-{key}", "succeeded")


@pytest.fixture
def client(session: Session, request: pytest.FixtureRequest) -> Iterator[Client]:
    yield from operation(session, f"decision.{abs(hash(request.node.nodeid)):x}")


def asking(session: Session, wait_s: float = 30.0) -> Any:
    return (yield from decide(PlanContext(session.scope, session.devices), QUESTION, wait_s))


def decided(session: Session, wait_s: float = 30.0) -> Decided:
    found = session.run_engine(asking(session, wait_s)).plan_result
    assert isinstance(found, Decided)
    return found


def test_an_answer_ends_the_waiting_with_lights_off(session: Session, client: Client) -> None:
    light = next(iter(session.scope.lights))
    session.hardware.set_light(light, True)
    lit: list[bool] = []

    def act(asked: Decision) -> None:
        lit.append(session.hardware.light(light).on)
        client.decisions.answer(client.key, asked.round, "yes", "agent")

    client.then(act)
    found = decided(session)
    assert (found.answer, found.by, found.round) == ("yes", "agent", 1)
    assert lit == [False]
    read = client.decisions.read(client.key, 1)
    assert read is not None
    assert read.state == "used"


def test_where_nobody_answers_it_goes_on_with_the_default(session: Session, client: Client) -> None:
    begun = time.monotonic()
    found = decided(session, wait_s=0.5)
    assert (found.answer, found.by) == ("no", "default")
    assert time.monotonic() - begun >= 0.5
    assert decided(session, wait_s=0.1).round == 2


def test_nobody_is_asked_where_there_is_no_key(session: Session) -> None:
    """The bluesky command line: the default counts at once."""
    session.rounds.item_uid = None
    begun = time.monotonic()
    assert decided(session) == Decided(None, "no", "default", pytest.approx(time.time(), abs=10))
    assert time.monotonic() - begun < 20


def test_a_dry_run_asks_nobody(session: Session) -> None:
    plan = decide(PlanContext(session.scope, session.devices, dry=True), QUESTION, 30)
    with pytest.raises(StopIteration) as end:
        next(plan)
    assert end.value.value.answer == "no"


@pytest.mark.parametrize("command", ["decision_open", "decision_look", "sleep", "decision_use", "decision_over"])
def test_a_pause_asks_nothing_twice(session: Session, client: Client, command: str) -> None:
    """Paused at any message it is one decision, and an answer that was given meanwhile counts."""
    run_engine = session.run_engine

    def hook(msg: Any) -> None:
        if msg.command == command:
            run_engine.msg_hook = None
            threading.Thread(target=run_engine.request_pause).start()

    def plan() -> Any:
        found = yield from asking(session)
        for _ in range(20):
            yield from bps.checkpoint()
            yield from bps.sleep(0.05)
        return found

    run_engine.msg_hook = hook
    if command in ("decision_use", "decision_over"):
        client.answers("yes")
    try:
        with pytest.raises(RunEngineInterrupted):
            run_engine(plan())
    finally:
        run_engine.msg_hook = None
    if command not in ("decision_use", "decision_over"):
        client.answers("yes")
    outcome = run_engine.resume()
    assert (outcome.plan_result.answer, outcome.plan_result.by) == ("yes", "agent")
    assert client.decisions.read(client.key, 2) is None
    assert client.decisions.waiting() == {}


def test_an_aborted_plan_asks_no_more(session: Session, client: Client) -> None:
    client.then(lambda _: session.run_engine.request_pause())
    with pytest.raises(RunEngineInterrupted):
        session.run_engine(asking(session))
    assert client.waiting().state == "open", "paused, it still asks"
    session.run_engine.abort()
    read = client.decisions.read(client.key, 1)
    assert read is not None
    assert read.state == "withdrawn"
    assert client.decisions.waiting() == {}
