"""From the ledger into the queue, and out of it again: dispatching, and ending what was cancelled.

Both survive this process: what was accepted, and what shall be cancelled, stands in the ledger, and `resume` takes it up again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anyio import to_thread

from ..hardware import halt_hardware
from ..ledger import Failure, Operation, Operations, read_control
from ._context import Context
from ._control import LOCK_KEY
from ._probe import in_thread_of_its_own
from ._problems import CODES, Problem
from ._queue import QueueUnreachable, ask
from ._wakes import News, Wakes

logger = logging.getLogger("queuescope.server")

ATTACH_S = 1.0
"""How long a second request with the same key waits for the first one's answer."""
PAUSE_S = 15.0
"""A cancelled plan that hasn't paused after so long is halted."""
ABORT_S = 20.0
"""One that was aborted and hasn't ended after so long, too."""
AGAIN_S = (0.2, 5.0)
"""A queue server that is silent is asked again after the first, then ever more slowly."""


@dataclass(frozen=True)
class Dispatched:
    operation: Operation
    status: dict[str, Any] | None = None
    """What the queue server said of itself when it took the operation; None where nobody asked it."""


class Dispatcher:
    """For one event loop."""

    def __init__(self, context: Context, operations: Operations, wakes: Wakes) -> None:
        self._context, self._operations, self._wakes = context, operations, wakes
        self._under_way: dict[str, asyncio.Task[Dispatched]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._later: asyncio.Task[None] | None = None

    async def resume(self) -> None:
        """What the process before this one left undone."""
        active = await to_thread.run_sync(self._operations.active)
        if any(operation.state == "accepted" for operation in active):
            self._try_later()
        for operation in active:
            if operation.key and operation.state == "running" and operation.cancel_asked_at is not None:
                self.end(operation.key)

    async def dispatch(self, operation: Operation) -> Dispatched:
        """Queue what was accepted. Where the queue server is silent it stays accepted, and is queued when that answers again.

        Raises
        ------
        Problem
            What the queue server refuses (the key is free again then); ``in_progress`` where another request with this key has
            had no answer for a while.
        """
        key = str(operation.key)
        first = key not in self._under_way
        if first:
            task = self._under_way[key] = asyncio.create_task(self._add(operation, told=False))
            task.add_done_callback(lambda done: self._done(key, done))
        waiting = asyncio.shield(self._under_way[key])
        if first:
            return await waiting
        try:
            async with asyncio.timeout(ATTACH_S):
                return await waiting
        except TimeoutError:
            words = f"another request with key {key} is being processed: the same request again in a second"
            raise Problem("in_progress", words, {"Retry-After": "1"}) from None

    def _done(self, key: str, task: asyncio.Task[Dispatched]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # told to whoever waited, if anybody still does

    async def _add(self, operation: Operation, told: bool) -> Dispatched:
        """``told``: the client has its 201, so that a refusal ends the operation as failed."""
        key, context = str(operation.key), self._context
        params: dict[str, Any] = {
            "item": operation.item(),
            "user": operation.user,
            "user_group": operation.user_group,
        }
        if read_control(context.layout).mode != "agents":  # a small file, as good as always in memory
            params["lock_key"] = context.layout.key(LOCK_KEY)
        try:
            reply = await ask(context.control, "queue_item_add", params)
        except QueueUnreachable:
            if not told:
                self._try_later()
            return Dispatched(await self._now(operation))  # only its reply may be lost
        if reply.get("success"):
            return Dispatched(await self._now(operation), reply.get("status"))
        words = str(reply.get("msg")).removeprefix("Failed to add an item: ")
        code = str(reply.get("code"))
        if code == "environment_closed" and told:
            return Dispatched(operation)
        if told:
            await to_thread.run_sync(self._operations.refuse_accepted, key, Failure("parameters_refused", words))
            return Dispatched(operation)
        await to_thread.run_sync(self._operations.withdraw, key, words)
        raise Problem(code if code in CODES else "queue_refused", words, errors=reply.get("errors") or [])

    async def _now(self, operation: Operation) -> Operation:
        return await to_thread.run_sync(self._operations.by_key, str(operation.key)) or operation

    def _try_later(self) -> None:
        if self._later is None or self._later.done():
            self._later = asyncio.create_task(self._until_queued())

    async def _until_queued(self) -> None:
        pause_s, slowest_s = AGAIN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, slowest_s)
            active = await to_thread.run_sync(self._operations.active)
            accepted = [one for one in active if one.state == "accepted" and one.key not in self._under_way]
            if not accepted:
                return
            for operation in accepted:
                try:
                    await self._add(operation, told=True)
                except Exception:
                    logger.exception("operation %s could not be queued", operation.key)

    # Cancelling ----------------------------------------------------------------------------------------------------

    async def take_out(self, item_uid: str) -> None:
        """Remove a cancelled item; where that doesn't work the gate refuses it when its turn comes."""
        params = {"uid": item_uid, "lock_key": self._context.layout.key(LOCK_KEY)}
        try:
            await ask(self._context.control, "queue_item_remove", params)
        except QueueUnreachable as error:
            logger.warning("item %s stays in the queue and will not start: %s", item_uid, error)

    def end(self, key: str) -> None:
        """Pause, then abort, each with a deadline, then halt. Goes on by itself."""
        if key not in self._ending:
            task = self._ending[key] = asyncio.create_task(self._end(key))
            task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        self._ending.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("operation %s could not be ended after its cancel: %s", key, error)

    async def _end(self, key: str) -> None:
        with self._wakes.listening(key) as news:
            if await self._command(key, news, "re_pause", PAUSE_S, lambda now: now.paused_at is not None) and (
                await self._command(key, news, "re_abort", ABORT_S, lambda now: now.ended)
            ):
                return
        reason = f"operation {key} was cancelled and its plan did not end"
        logger.error("%s: the microscope is halted", reason)
        by = "queuescope"
        await in_thread_of_its_own(lambda: halt_hardware(self._context.scope, self._context.layout, reason, by))

    async def _command(
        self, key: str, news: News, method: str, deadline_s: float, done: Callable[[Operation], bool]
    ) -> bool:
        """Ask the queue server until it agrees, then wait until the ledger says so. True where it came to that, or ended."""
        deadline, agreed = time.monotonic() + deadline_s, False
        while (left := deadline - time.monotonic()) > 0:
            operation = await to_thread.run_sync(self._operations.by_key, key)
            if operation is None or operation.ended or done(operation):
                return True
            if not agreed:
                params: dict[str, Any] = {
                    "item_uid": operation.item_uid,
                    "lock_key": self._context.layout.key(LOCK_KEY),
                }
                if method == "re_pause":
                    params |= {"option": "immediate", "ending": True}
                try:
                    agreed = bool((await ask(self._context.control, method, params)).get("success"))
                except QueueUnreachable:
                    agreed = False
            await news.wait(left if agreed else min(left, 0.1))
        return False
