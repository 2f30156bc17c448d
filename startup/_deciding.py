"""The RunEngine's side of `queuescope.plans.decide`: asks in the ledger, looks for the answer, says what counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from bluesky import Msg

from ..ledger import BY_DEFAULT, Decisions
from ..plans import Asked, Decided

T = TypeVar("T")


class Deciding:
    """Every message may be repeated after a pause: the same `Asked` is the same decision.

    Parameters
    ----------
    item_uid
        Says which queue item runs now.
    """

    def __init__(self, decisions: Decisions, item_uid: Callable[[], str | None]) -> None:
        self._decisions, self._item_uid = decisions, item_uid
        self._lock = threading.Lock()
        self._asked: Asked | None = None
        self._id: int | None = None

    async def open(self, msg: Msg) -> bool:
        """``Msg("decision_open", None, asked)``: False where nobody can answer, since the plan has no key: the default counts."""
        (asked,) = msg.args
        return await _in_thread(lambda: self._ask(asked))

    def _ask(self, asked: Asked) -> bool:
        with self._lock:  # a pause leaves the thread at its work, and the repeated message starts another
            if self._asked is not asked:
                item_uid = self._item_uid()
                found = None if item_uid is None else self._decisions.ask(item_uid, asked.question, asked.wait_s)
                self._asked, self._id = asked, None if found is None else found.id
            return self._id is not None

    async def look(self, msg: Msg) -> bool:
        """``Msg("decision_look", None, asked)``: whether there is an answer."""
        decision = self._of(msg)
        return decision is not None and await _in_thread(lambda: self._decisions.answered(decision))

    async def use(self, msg: Msg) -> Decided:
        """``Msg("decision_use", None, asked)``: what counts from now on, and who said so."""
        (asked,) = msg.args
        decision = self._of(msg)
        if decision is None:
            return Decided(None, asked.question.default, BY_DEFAULT, time.time())
        used = await _in_thread(lambda: self._decisions.use(decision))
        return Decided(used.round, used.answer, str(used.by), used.answered_at or used.closed_at or time.time())

    async def over(self, msg: Msg) -> None:
        """``Msg("decision_over", None, asked)``: the plan asks no more, whatever way that ended."""
        decision = self._of(msg)
        if decision is not None:
            await _in_thread(lambda: self._decisions.withdraw(decision))

    def _of(self, msg: Msg) -> int | None:
        (asked,) = msg.args
        return self._id if self._asked is asked else None


async def _in_thread(work: Callable[[], T]) -> T:
    """A ledger that waits for another writer must not keep a pause or an abort waiting."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
