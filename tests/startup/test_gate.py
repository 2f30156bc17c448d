"""What people hold back doesn't start: R5.2, R5.5, R5.7, without a queue server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Agents, load_scope
from queuescope.hardware import ArmedFile, Latch, LatchFile
from queuescope.layout import Layout
from queuescope.ledger import ApprovalError, Approvals, Control, Failure, Ledger, Operations, Waits, write_control
from queuescope.plans import templates
from queuescope.startup._gate import Gate
from queuescope.startup._queueserver import KeyedPlanQueue, ScopeManager


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.create()
    return made


@pytest.fixture
def gate(layout: Layout) -> Callable[[str], Gate]:
    """``gate(rule)``: a gate with this rule for agents."""
    return lambda rule: Gate(load_scope("demo-dispim", environ={"QUEUESCOPE_AGENTS__APPROVAL": rule}), layout)


def item(
    uid: str, group: str = "agent", name: str = "snap", sample: str | None = None, **kwargs: Any
) -> dict[str, Any]:
    meta = {"op_key": f"gate.{uid}", "sample_id": sample}
    return {"item_type": "plan", "item_uid": uid, "name": name, "kwargs": kwargs, "meta": meta, "user_group": group}


def decide(layout: Layout, one: dict[str, Any], approved: bool) -> None:
    approvals = Approvals(Ledger(layout.ledger_db))
    approvals.decide(approvals.asked(one), approved, "Ada", "a look")


def test_a_rule_is_for_agents_or_for_each_role() -> None:
    """R5.5: one word means agents; the owner of the machine is an operator."""
    word, table = Agents(approval="all"), Agents(approval={"agent": "first_of_kind", "operator": "all"})
    assert [word.approval_of(role) for role in ("agent", "operator", "primary", "admin")] == [
        "all",
        "none",
        "none",
        "none",
    ]
    assert [table.approval_of(role) for role in ("agent", "operator", "primary", "admin")] == [
        "first_of_kind",
        "all",
        "all",
        "none",
    ]


def test_every_plan_waits_for_its_own_approval(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.5: until it is given; the worker's gate refuses what came another way; `read_state` and people's plans need none."""
    asked = gate("all")
    first, second = item("1"), item("2")
    hold = asked.hold(first)
    assert hold is not None
    assert (hold.reason, hold.needs) == ("approval", "queuescope approve 1")
    assert hold.since == pytest.approx(time.time(), abs=60)
    with pytest.raises(ApprovalError, match="needs a person's approval"):
        asked.require(first)
    decide(layout, first, True)
    assert asked.hold(first) is None
    asked.require(first)
    assert asked.hold(second) is not None
    assert asked.hold(item("3", name="read_state")) is None
    assert asked.hold(item("4", group="operator")) is None
    assert gate("none").hold(second) is None


def test_an_item_that_was_edited_waits_again(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.5: the approval is for the plan as it was shown."""
    asked = gate("all")
    decide(layout, item("1", n=1), True)
    assert asked.hold(item("1", n=1)) is None
    for edited in (item("1", n=2), item("1", n=1, sample="worm"), item("1", name="z_stack", n=1)):
        assert asked.hold(edited) is not None, edited


def test_the_first_of_a_kind_opens_the_way_for_its_kind(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.5: the same plan on the same sample, whatever its parameters; a refused one opens nothing."""
    asked = gate("first_of_kind")
    decide(layout, item("0", n=1), False)
    assert asked.hold(item("1", n=1)) is not None
    decide(layout, item("1", n=1), True)
    assert asked.hold(item("2", n=7)) is None
    assert asked.hold(item("3", sample="worm")) is not None
    assert asked.hold(item("4", name="z_stack")) is not None
    assert asked.refusal(item("0", n=1)) == "ApprovalError: snap was refused by Ada: a look"


def test_what_repeats_another_plan_is_of_a_kind_with_it(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.5: a time-lapse of one plan opens the way for no other one's, however deep it lies."""

    def lapse(uid: str, plan: str, **kwargs: Any) -> dict[str, Any]:
        return item(uid, name="time_lapse", do={"plan": plan, "kwargs": kwargs}, rounds=2)

    asked = gate("first_of_kind")
    snaps = {"do": {"plan": "snap"}, "positions": [[0, 0]]}
    for one in (lapse("1", "snap", n=1), lapse("2", "multi_position", **snaps)):
        assert asked.hold(one) is not None
        decide(layout, one, True)
    assert asked.hold(lapse("3", "snap", n=7)) is None
    assert asked.hold(lapse("4", "multi_position", **snaps, settle_s=1)) is None
    assert asked.hold(lapse("5", "acquire_volume")) is not None
    assert asked.hold(lapse("6", "multi_position", do={"plan": "acquire_volume"})) is not None
    assert asked.hold(item("7", name="snap")) is not None, "alone it was never approved"


def test_every_protocol_is_the_first_of_its_kind(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.5: it may hold any plan, so that one was approved says nothing of the next."""
    asked = gate("first_of_kind")
    decide(layout, item("1", name="protocol", n=1), True)
    assert asked.hold(item("1", name="protocol", n=1)) is None
    assert asked.hold(item("2", name="protocol", n=2)) is not None


def test_a_refused_one_is_recorded_as_failed_once(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.5: in the ledger, under its key."""
    asked, refused = gate("all"), item("1")
    decide(layout, refused, False)
    assert asked.hold(refused) is None, "it doesn't wait any more"
    with pytest.raises(ApprovalError, match="refused by Ada: a look"):
        asked.require(refused)
    for _ in range(2):
        asked.record_refused(refused, str(asked.refusal(refused)))
    operation = Operations(Ledger(layout.ledger_db)).by_key("gate.1")
    assert operation is not None
    failure = Failure("approval_refused", "ApprovalError: snap was refused by Ada: a look")
    assert (operation.state, operation.error) == ("failed", failure)


def test_agents_wait_for_a_person_and_everybody_for_a_release(gate: Callable[[str], Gate], layout: Layout) -> None:
    """R5.2, R5.7: the holder's own plans run; while another program has the devices nobody's do."""
    asked = gate("none")
    control = Control(mode="person", by="Ada (operator)", reason="focusing", since=5.0)
    write_control(layout, control, {})
    hold = asked.hold(item("1"))
    assert hold is not None
    assert (hold.reason, hold.since) == ("person", 5.0)
    assert asked.hold(item("2", name="read_state")) is None
    assert asked.hold(item("3", group="primary")) is None
    LatchFile.released(layout).write(Latch(by="Ada", reason="alignment", at=7.0))
    for one in (item("1"), item("3", group="primary"), item("4", name="read_state")):
        hold = asked.hold(one)
        assert hold is not None
        assert (hold.reason, hold.since, hold.needs) == ("released", 7.0, "queuescope reclaim")


def test_a_queue_that_cannot_be_read_starts_nothing_and_keeps_autostart() -> None:
    """R5.5: fail closed; an error here would end queueserver's autostart for good."""

    class Broken(KeyedPlanQueue):
        def __init__(self) -> None:
            pass

        async def get_queue_full(self) -> Any:
            raise OSError("the ledger is on a full disk")

    manager = ScopeManager.__new__(ScopeManager)
    manager._plan_queue = Broken()
    success, message = asyncio.run(manager._start_plan())
    assert not success
    assert "could not be looked through: OSError: the ledger is on a full disk" in message


def test_light_waits_until_somebody_arms(layout: Layout) -> None:
    """R5.4: an agent's plan with light; one without, and a person's, don't. Whoever asks over REST is told the same."""
    scope = load_scope("demo-dispim", environ={"QUEUESCOPE_SAFETY__ARM": "{hours: 14}"})
    asked = Gate(scope, layout, templates(scope, layout))
    lit = item("lit", channels=[{"name": "gfp"}])
    hold = asked.hold(lit)
    assert hold is not None
    assert (hold.reason, hold.needs) == ("disarmed", "POST /api/scope/arm")
    assert Waits(layout).told() == {"lit": hold}
    assert asked.hold(item("dark", name="read_state")) is None
    assert asked.hold(item("person", group="operator", channels=[{"name": "gfp"}])) is None
    ArmedFile(layout).write(time.time() + 60)
    assert asked.hold(lit) is None
    assert Waits(layout).told() == {}
    ArmedFile(layout).write(time.time() - 1)
    assert asked.hold(lit) is not None, "its time is over"
    unarmed = Gate(load_scope("demo-dispim"), layout, templates(scope, layout))
    assert unarmed.hold(lit) is None, "nobody asks for arming"
