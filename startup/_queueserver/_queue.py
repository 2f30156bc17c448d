"""The queue: each operation is in it once, and never comes back."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis.asyncio
from bluesky_queueserver.manager import manager as upstream_manager
from bluesky_queueserver.manager.plan_queue_ops import PlanQueueOperations

from ...ledger import Hold, Operation, OperationError
from .._gate import Gate, op_key
from ._store import settings, valkey_address

logger = logging.getLogger("queuescope.startup")


class KeyedPlanQueue(PlanQueueOperations):
    """The queue in Valkey."""

    gate: Gate
    _lock: Any

    _queue_size = 0
    _r_pool: Any
    _plan_queue_mode: dict[str, Any]
    last_stopped_was_keyed = False
    """True from the end of a keyed plan that didn't complete until the manager has dealt with it."""
    _running: str | None = None
    """The running item as JSON; None where only Valkey knows it."""
    _store = ""
    """Which start of Valkey has been looked at."""
    worker_gone = False
    """True while the manager ends what a dead worker left."""
    refused: OperationError | None = None
    """Why the last item was not taken."""

    async def start(self) -> None:
        """As upstream, but over a unix socket (or the scope's address) with the password from its file."""
        if self._r_pool:
            return
        pool = redis.asyncio.Redis(**valkey_address(*settings()), encoding="utf-8", decode_responses=True)
        await pool.ping()
        self._r_pool = pool
        self._lock = upstream_manager.asyncio.Lock()
        await self._load()

    async def _load(self) -> None:
        """What the store has now."""
        store = await self._store_now()
        async with self._lock:
            if self._running is not None:  # we know better
                await super()._set_running_item_info(json.loads(self._running))
            await self._queue_clean()
            await self._drop_copies()
            await self._uid_dict_initialize()
            await self._load_plan_queue_mode()
            self._queue_size = await self._get_queue_size()
            self._history_size = await self._get_history_size()
            self._running_item_info = await self._get_running_item_info()
            self._plan_queue_uid = self.new_item_uid()
            self._plan_history_uid = self.new_item_uid()
        self._store = store

    async def _drop_copies(self) -> None:
        """Of items that are queued twice, or run already: the client sends a command again whose answer was lost when Valkey
        died, and a start that Valkey had told of and not written is undone. queueserver goes on with neither.
        """
        items, _ = await self._get_queue()
        running = (await self._get_running_item_info()).get("item_uid")
        once: dict[str, str] = {}
        for item in items:
            if item["item_uid"] != running:
                once.setdefault(item["item_uid"], json.dumps(item))
        if len(once) < len(items):
            logger.warning("%d copies of items were in the queue and are dropped", len(items) - len(once))
            async with self._r_pool.pipeline(transaction=True) as together:
                together.delete(self._name_plan_queue)
                if once:
                    together.rpush(self._name_plan_queue, *once.values())
                await together.execute()

    async def _store_now(self) -> str:
        """Valkey's name for the time since it was started."""
        return str((await self._r_pool.info("server"))["run_id"])

    async def restarted(self) -> bool:
        """Whether Valkey was started again since the last look; then what it has is looked at anew.

        Raises
        ------
        redis.RedisError, OSError
            While it doesn't answer.
        """
        if await self._store_now() == self._store:
            return False
        await self._load()
        return True

    async def _get_running_item_info(self) -> dict[str, Any]:
        """As upstream, which asks Valkey a dozen times a plan for what only this process writes."""
        if self._running is None:
            self._running = json.dumps(await super()._get_running_item_info())
        return dict(json.loads(self._running))

    async def _set_running_item_info(self, plan: dict[str, Any]) -> None:
        self._running = None  # until Valkey has it
        await super()._set_running_item_info(plan)

    async def add_item_to_queue(self, item: dict[str, Any], **where: Any) -> Any:
        """As upstream; an item of an operation that is queued, or further, is that operation's item and isn't added again."""
        if op_key(item) is None:
            return await super().add_item_to_queue(item, **where)
        try:
            operation, new = self.gate.operations.queued(item)
        except OperationError as error:
            self.refused = error
            raise
        if not new:
            return self._item_of(operation), self._queue_size
        return await super().add_item_to_queue(item, **where)

    async def add_batch_to_queue(self, items: list[dict[str, Any]], **where: Any) -> Any:
        """As upstream, with every keyed item taken once; one that can't be taken refuses all of them."""
        results = []
        for item in items:
            try:
                if op_key(item) is not None:
                    self.gate.operations.check(item)
                results.append({"success": True, "msg": ""})
            except OperationError as error:
                results.append({"success": False, "msg": str(error)})
        if not all(result["success"] for result in results):
            return items, results, self._queue_size, False
        known: dict[int, dict[str, Any]] = {}
        for index, item in enumerate(items):
            if op_key(item) is not None:
                operation, new = self.gate.operations.queued(item)
                if not new:
                    known[index] = self._item_of(operation)
        fresh = [item for index, item in enumerate(items) if index not in known]
        added, told, size, success = await super().add_batch_to_queue(fresh, **where)
        for item in () if success else fresh:
            self.gate.operations.removed(item["item_uid"], "its batch was refused")
        for index in sorted(known):
            added.insert(index, known[index])
            told.insert(index, {"success": True, "msg": ""})
        return added, told, size, success

    async def replace_item(self, item: dict[str, Any], *, item_uid: str) -> Any:
        """As upstream. An edited operation will be refused by the worker; another key makes another operation."""
        before = self._uid_dict_get_item(item_uid) if self._is_uid_in_dict(item_uid) else {}
        old, new = op_key(before), op_key(item)
        if new is not None and new != old:
            self.gate.operations.check(item)
            known = self.gate.operations.by_key(new)
            if known is not None and known.state != "accepted":
                raise OperationError("key_reused", f"operation {new} is {known.state} as item {known.item_uid}")
        done = await super().replace_item(item, item_uid=item_uid)
        if old is not None and old == new:
            self.gate.operations.moved_to(item_uid, done[0]["item_uid"])
        elif old is not None:
            self.gate.operations.removed(item_uid, "its item was replaced in the queue")
        if new is not None and new != old:
            self.gate.operations.queued(done[0])
        return done

    def _item_of(self, operation: Operation) -> dict[str, Any]:
        uid = str(operation.item_uid)
        if self._is_uid_in_dict(uid):
            return dict(self._uid_dict_get_item(uid))
        return {**operation.item(), "item_uid": uid, "user": operation.user, "user_group": operation.user_group}

    async def _set_processed_item_as_stopped(self, **outcome: Any) -> dict[str, Any]:
        """A keyed item goes to history with its true exit status and never back into the queue."""
        running = await self._end(outcome)
        if op_key(running) is None:
            return dict(await super()._set_processed_item_as_stopped(**outcome))
        self.last_stopped_was_keyed = True
        return dict(await self._once(super()._set_processed_item_as_completed, outcome))

    async def _set_processed_item_as_completed(self, **outcome: Any) -> dict[str, Any]:
        running = await self._end(outcome)
        if op_key(running) is None:
            return dict(await super()._set_processed_item_as_completed(**outcome))
        return dict(await self._once(super()._set_processed_item_as_completed, outcome))

    async def answers(self) -> None:
        """Wait for Valkey, which may be starting again: an end that it isn't told keeps queueserver waiting for ever."""
        pause_s = 0.02
        while True:
            try:
                await self._r_pool.ping()
                return
            except (redis.RedisError, OSError) as error:
                logger.error("the queue store does not answer: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 1.0)

    async def _end(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """The running item, whose end is in the ledger from now on."""
        await self.answers()
        running = dict(await self._get_running_item_info()) if await self._is_item_running() else {}
        if running:
            status = outcome["exit_status"]
            self.gate.ended(running, status, outcome["err_msg"], self.worker_gone or status == "unknown")
        return running

    async def bring_to_front(self) -> Hold | None:
        """Make the first item that may start the queue's front, and end what was refused.

        Returns why the first item waits, where none of them may start.
        """
        waits: Hold | None = None
        if await self._front_may_start():
            return None
        items, running, _ = await self.get_queue_full()
        self.gate.keep_waits({item["item_uid"] for item in (*items, running) if item})
        for number, item in enumerate(items):
            if self.gate.refusal(item) is not None or self.gate.spent(item) is not None:
                await self.pop_item_from_queue(uid=item["item_uid"])
                continue
            hold = self.gate.hold(item)
            if hold is None:
                if number:
                    await self.move_item(uid=item["item_uid"], pos_dest="front")
                return None
            waits = waits or hold
        return waits

    async def _front_may_start(self) -> bool:
        """Most often it may, and then a long queue needn't be read as a whole before each plan."""
        if not self.get_queue_size() or self.gate.anything_waits():
            return False
        front = await self.get_item(pos="front")
        if self.gate.refusal(front) is not None or self.gate.spent(front) is not None:
            return False
        return self.gate.hold(front) is None

    async def pop_item_from_queue(self, **which: Any) -> Any:
        """As upstream; an item that a person refused goes to history as failed, one of an operation is cancelled."""
        item, size = await super().pop_item_from_queue(**which)
        await self._removed([item])
        return item, size

    async def pop_item_from_queue_batch(self, **which: Any) -> Any:
        items, size = await super().pop_item_from_queue_batch(**which)
        await self._removed(items)
        return items, size

    async def clear_queue(self) -> None:
        items, _ = await self.get_queue()
        await super().clear_queue()
        await self._removed(items)

    async def _removed(self, items: Iterable[dict[str, Any]]) -> None:
        for item in items:
            if not item:
                continue
            words = self.gate.refusal(item)
            if words is not None:
                self.gate.record_refused(item, words)
            else:
                words = self.gate.spent(item)
                self.gate.operations.removed(item["item_uid"])
            if words is not None:
                now = time.time()
                outcome = {"exit_status": "failed", "run_uids": [], "scan_ids": [], "msg": words, "traceback": ""}
                async with self._lock:
                    await self._add_to_history({**item, "result": {**outcome, "time_start": now, "time_stop": now}})

    async def _once(self, complete: Callable[..., Any], outcome: dict[str, Any]) -> Any:
        """Complete a keyed item outside the queue's loop mode, which would run it again."""
        mode, self._plan_queue_mode = self._plan_queue_mode, {**self._plan_queue_mode, "loop": False}
        try:
            return await complete(**outcome)
        finally:
            self._plan_queue_mode = mode
