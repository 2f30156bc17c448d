"""A cancel that nothing obeys ends in a halt: decision 0059, with deadlines of a fraction of a second."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from queuescope.config import load_scope
from queuescope.hardware import LatchFile
from queuescope.layout import Layout
from queuescope.ledger import Body, Ledger, Operations, bell, bell_socket
from queuescope.server import _dispatcher
from queuescope.server._context import Context
from queuescope.server._dispatcher import Dispatcher
from queuescope.server._wakes import Wakes

from .test_operations import Queue

KEY = "cancelling-1"
ITEM = {"item_uid": "u1", "user": "agent", "user_group": "agent"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.create()
    return made


@pytest.mark.parametrize(("pauses", "aborts"), [(False, False), (True, False), (True, True)])
def test_pause_then_abort_then_halt(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, pauses: bool, aborts: bool
) -> None:
    """R2.4, R3.11: each has its time; what ends the plan ends the escalation."""
    monkeypatch.setattr(_dispatcher, "PAUSE_S", 5.0 if pauses else 0.3)
    monkeypatch.setattr(_dispatcher, "ABORT_S", 5.0 if aborts else 0.3)
    scope = load_scope("demo-dispim", environ={"QUEUESCOPE_MICROMANAGER__PROCESS": "worker"})
    operations = Operations(Ledger(layout.ledger_db), bell(layout))
    operation, _ = operations.accept(KEY, Body("snap", {}, (), None, None), None, "agent", "agent")
    operations.queued({**operation.item(), **ITEM})
    operations.claim({**operation.item(), **ITEM})
    operations.ask_cancel(KEY, "agent")

    class Obeying(Queue):
        def _answer(self, method: str, params: dict) -> dict:
            if method == "re_pause" and pauses:
                operations.paused("u1", True)
            if method == "re_abort" and aborts:
                operations.finish("u1", "cancelled", exit_status="aborted")
            assert method == "status" or params["item_uid"] == "u1"
            return super()._answer(method, params)

    class Closing(Wakes):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.close = transport.close

    async def cancel() -> None:
        wakes = Closing(bell_socket(layout))
        dispatcher = Dispatcher(Context(scope, layout), operations, wakes)
        dispatcher.end(KEY)
        await dispatcher._ending[KEY]
        wakes.close()
        await asyncio.sleep(0)  # its socket closes now

    with contextlib.closing(Obeying(layout)) as queue:
        asyncio.run(cancel())
    latch = LatchFile.halt(layout).read()
    assert queue.asked == ["re_pause", *(["re_abort"] if pauses else [])]
    if aborts:
        assert latch is None
    else:
        assert latch is not None
        assert latch.reason == f"operation {KEY} was cancelled and its plan did not end"
    ended = operations.finish("u1", "failed", exit_status="failed")
    assert ended is not None
    assert ended.state == "cancelled"
