"""The manager: what is refused at submission, when a plan starts, and what a dead worker or Valkey left behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis.asyncio
from bluesky_queueserver.manager import manager as upstream_manager
from bluesky_queueserver.manager.comms import CommTimeoutError
from bluesky_queueserver.manager.manager import MState, RunEngineManager
from bluesky_queueserver.manager.plan_queue_ops import PlanQueueOperations

from ...config import Scope
from ...hardware import LatchFile
from ...layout import Layout
from ...ledger import KEEP_S, WAITING, Failure, Operation
from ...plans import ParameterError, Template, templates
from .._gate import Gate, op_key
from .._liveness import LOOK_S, Silence, darken
from .._outcomes import text_of
from .._refused import Refused, parameters_refused
from .._space import Space
from ._existing import existing_plans_and_devices
from ._process import ENDING, die_with_parent
from ._queue import KeyedPlanQueue
from ._store import settings

logger = logging.getLogger("queuescope.startup")

TELL_S = 0.02
"""A change of the status is published so much later, with those that came meanwhile."""
HOLDS = ("manager_state", "queue_autostart_enabled", "worker_silent")
"""What of the status tells why an operation waits."""


class ScopeManager(RunEngineManager):
    """queueserver's manager with strict parameters at submission and the dispatch rules of keyed items."""

    _templates: Mapping[str, Template]
    _scope: Scope
    _layout: Layout
    _gate: Gate
    _space: Space
    bell: socket.socket
    """The worker rings when a plan has ended or paused."""
    _reported: asyncio.Event
    _reading: asyncio.Lock
    _report: dict[str, Any] | None = None
    """A plan's report that was read from the worker and isn't dealt with yet."""
    _worker_state_info: dict[str, Any] | None
    _telling = False
    """The status will be published."""
    _looked_through = False
    """The queue's front has just been found to be one that may start."""
    _stop_pending: bool | None = None
    """What Valkey has of `queue_stop_pending`; None where nobody knows."""
    _pause_ends = False
    """The pause that is asked for now comes before a stop or an abort."""
    _rang_early = False
    """A plan was over before its start was."""
    _refusal: Refused | None = None
    """Why the item that is being prepared can't be queued."""
    _fut_manager_task_completed: asyncio.Future[bool] | None
    _opening = False
    """A worker was started, and its environment isn't open yet."""
    _worker_lost: dict[str, Any] | None = None
    """Why the environment is gone without having been closed, and the item that ran; None since it was opened again."""
    _silence: Silence
    _tasks: tuple[asyncio.Task[None], ...] = ()

    def run(self) -> None:
        die_with_parent("qs-manager")
        upstream_manager.PlanQueueOperations = KeyedPlanQueue
        self._scope, self._layout = settings()
        self._templates = templates(self._scope)
        KeyedPlanQueue.gate = self._gate = Gate(self._scope, self._layout, self._templates)
        self._space = Space(self._scope, self._layout, self._templates)
        self._reported, self._reading, self._silence = asyncio.Event(), asyncio.Lock(), Silence()
        super().run()

    def _update_allowed_plans_and_devices(self, restore_plans_devices: bool = False) -> None:
        """As upstream, of our file."""
        if restore_plans_devices:
            plans, devices = existing_plans_and_devices(self._config_dict["existing_plans_and_devices_path"])
            self._set_existing_plans_and_devices(
                existing_plans=plans, existing_devices=devices, always_update_uids=True
            )
        super()._update_allowed_plans_and_devices()

    async def _start_plan(self) -> Any:
        """Start the queue, unless everything in it waits for a person."""
        why = await self._nothing_may_start()
        if why is not None:
            return False, why
        self._looked_through = True
        return await super()._start_plan()

    async def set_queue_stop_pending(self, enabled: bool) -> None:
        """As upstream, which writes to Valkey before and after every plan that nothing is pending."""
        if self._stop_pending != enabled:
            self._stop_pending = None  # until Valkey has it
            await super().set_queue_stop_pending(enabled)
            self._stop_pending = enabled

    async def _nothing_may_start(self) -> str | None:
        """Why no plan in the queue may start now; None where the one at its front may. Never raises: autostart would end."""
        try:
            hold = await self._plan_queue.bring_to_front()
        except Exception as error:
            logger.exception("the queue could not be looked through")
            return f"no plan starts, since the queue could not be looked through: {text_of(error)}"
        return None if hold is None else f"every plan in the queue waits: {hold.detail}: {hold.needs}"

    async def _start_plan_task(self, stop_queue: bool = False, **more: Any) -> Any:
        """After a plan the next one that may start; the queue is idle, and autostart stays as it is, where none may."""
        looked_through, self._looked_through = self._looked_through, False
        if not (looked_through or stop_queue or more.get("single_item") or self.queue_stop_pending):
            why = await self._nothing_may_start()
            if why is not None:
                self._loop.create_task(self._set_manager_state(MState.IDLE))
                return False, why
        try:
            return await super()._start_plan_task(stop_queue=stop_queue, **more)
        except (redis.RedisError, OSError) as error:
            await self._store_was_gone(error)
            return False, f"the queue store was gone: {text_of(error)}"
        finally:
            if self._rang_early:
                self._rang_early = False
                self._reported.set()

    async def _store_was_gone(self, error: BaseException) -> None:
        """In the middle of a step: what the worker doesn't run has ended or is queued again, and the queue goes on."""
        logger.error("the queue store was gone between two plans: %s", error)
        await self._plan_queue.answers()
        now, _ = await self._worker_request_state()
        item = await self._plan_queue._get_running_item_info()
        told = now is not None and now["running_plan_completed"] and not now["re_report_available"]
        if now is not None and item and now["running_item_uid"] == item["item_uid"] and not told:
            self._manager_state = MState.EXECUTING_QUEUE
            self._reported.set()
            return
        words = "the queue store was gone between its start and its end"
        nothing: dict[str, Any] = {"run_uids": [], "scan_ids": [], "err_tb": ""}
        await self._plan_queue.set_processed_item_as_completed(exit_status="unknown", err_msg=words, **nothing)
        await self._set_manager_state(MState.IDLE)
        await self._dispatch_absent()

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(4096)
        self._reported.set()

    async def _take_reports(self) -> None:
        """Read a plan's report when its worker rings: queueserver itself looks every 0.5 s (decision 0080)."""
        while True:
            await self._reported.wait()
            self._reported.clear()
            if self._manager_state == MState.STARTING_QUEUE:
                self._rang_early = True
                continue
            try:
                await self._process_plan_report()
            except Exception:
                logger.exception("a plan's report could not be read")

    async def _process_plan_report(self) -> None:
        """As upstream, once for each report, whoever noticed it."""
        async with self._reading:
            if self._manager_state not in (MState.EXECUTING_QUEUE, MState.PAUSED):
                return
            await self._plan_queue.answers()  # the worker gives its report once
            self._report, _ = await super()._worker_request_plan_report()
            if self._report is None:
                return
            if self._worker_state_info is not None:
                self._worker_state_info = {**self._worker_state_info, "re_state": self._report["re_state"]}
            try:
                await super()._process_plan_report()
            except (redis.RedisError, OSError) as error:
                await self._store_was_gone(error)

    async def _worker_request_plan_report(self) -> Any:
        report, self._report = self._report, None
        return report, "" if report else "there is none"

    def _prepare_item(self, *, item: dict[str, Any], item_type: str, user_group: str, **more: Any) -> Any:
        """Refuse what our models refuse, before queueserver's own checks (which let NaN and True pass for numbers)."""
        try:
            if item_type == "plan":
                self._check_plan(item, user_group)
            try:
                return super()._prepare_item(item=item, item_type=item_type, user_group=user_group, **more)
            except RuntimeError as error:
                raise Refused("parameters_refused", str(error)) from None
        except Refused as refusal:
            self._refusal = refusal
            raise

    def _check_plan(self, item: dict[str, Any], user_group: str) -> None:
        if user_group == "agent" and self._scope.agents.require_key and op_key(item) is None:
            raise Refused("key_missing", "key_missing: an agent's plan needs an operation key in meta.op_key")
        name, allowed = str(item.get("name")), self._allowed_plans.get(user_group, {})
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none: the environment is not open"
            code = "unknown_plan" if allowed else "environment_closed"
            raise Refused(code, f"there is no plan {name!r} for the group {user_group!r}; there are: {known}")
        template = self._templates.get(name)
        if template is None:
            return
        if item.get("args"):
            words = f"plan {template.name!r} refused: give parameters by name (kwargs), not in args"
            raise Refused("parameters_refused", words)
        try:
            template.check(item.get("kwargs") or {})
        except ParameterError as error:
            raise parameters_refused(error) from None
        room = self._space.room(template.name, item.get("kwargs") or {})
        if room is not None and not room.fits:
            raise Refused("no_room", f"plan {template.name!r} refused: {room}: fewer frames, or {room.remedy}")

    async def _queue_item_add_handler(self, request: dict[str, Any]) -> dict[str, Any]:
        """As upstream, with a stable ``code`` and ``errors`` where it is refused."""
        self._refusal = self._plan_queue.refused = None
        reply = dict(await super()._queue_item_add_handler(request))
        refusal = self._refusal or self._plan_queue.refused
        if not reply["success"] and refusal is not None:
            reply |= {"code": refusal.code, "errors": getattr(refusal, "errors", [])}
        # Whoever asked would ask for it next, when this process is busy with starting the plan.
        return reply | {"status": {name: self._status.get(name) for name in HOLDS}}

    async def _re_pause_handler(self, request: dict[str, Any]) -> Any:
        """As upstream; with ``ending`` an immediate pause that a stop or an abort follows (decision 0087)."""
        self._pause_ends = bool(request.get("ending"))
        request = {name: value for name, value in request.items() if name != "ending"}
        return await self._of_item(super()._re_pause_handler, request)

    async def _worker_command_pause_plan(self, option: str) -> Any:
        return await super()._worker_command_pause_plan(ENDING if self._pause_ends else option)

    async def _re_abort_handler(self, request: dict[str, Any]) -> Any:
        return await self._of_item(super()._re_abort_handler, request)

    async def _of_item(self, handler: Callable[[dict[str, Any]], Any], request: dict[str, Any]) -> Any:
        """As upstream; with ``item_uid`` only while that item runs, so that nobody ends the next plan instead."""
        running = self._plan_queue.get_running_item_info().get("item_uid")
        if request.get("item_uid", running) != running:
            return {"success": False, "msg": f"item {request['item_uid']} is not the one that runs ({running})"}
        return await handler({name: value for name, value in request.items() if name != "item_uid"})

    async def _watchdog_enable(self) -> None:
        """The manager is about to serve: first what it left behind when it ended is settled."""
        self._settle()  # before anything else may start
        self._loop.add_reader(self.bell, self._rung)
        self._tasks = tuple(
            asyncio.create_task(task())
            for task in (self._take_reports, self._watch_worker, self._watch_store, self._prune)
        )
        await super()._watchdog_enable()
        await self._dispatch_absent()

    async def _worker_request_state(self) -> Any:
        state, why = await super()._worker_request_state()
        self._silence.heard(state)
        return state, why

    async def _watch_worker(self) -> None:
        """The worker's death, and its silence: queueserver would wait for its plan for ever (decision 0081)."""
        while True:
            asked = time.monotonic()
            await asyncio.sleep(LOOK_S)
            late = time.monotonic() - asked > 2 * LOOK_S  # this process was frozen itself, or its machine slept
            open_ = self._environment_exists and self._manager_state not in (
                MState.CREATING_ENVIRONMENT,
                MState.CLOSING_ENVIRONMENT,
                MState.DESTROYING_ENVIRONMENT,
            )
            if late or not open_:
                self._silence = Silence()
            try:
                if open_:
                    await self._look_at_worker()
                elif self._opening and not await self._worker_lives():
                    self._opening_failed()
            except Exception:
                logger.exception("the RE worker could not be looked at")

    async def _watch_store(self) -> None:
        """Valkey's restart: what it told of last may not be on its disk (decision 0089)."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if not await self._plan_queue.restarted():
                    continue
            except (redis.RedisError, OSError):  # whoever needs it says so
                continue
            except Exception:
                logger.exception("the queue store could not be looked at")
                continue
            logger.warning("the queue store was started again: what it lost is queued again")
            await self._dispatch_absent()

    async def _worker_lives(self) -> bool:
        try:
            return bool((await self._comm_to_watchdog.send_msg("is_worker_alive"))["worker_alive"])
        except CommTimeoutError:  # the watchdog is busy: it says nothing of the worker
            return True

    def _opening_failed(self) -> None:
        """The worker died while its environment opened: queueserver would wait for it for ever."""
        self._opening = False
        if self._fut_manager_task_completed is not None and not self._fut_manager_task_completed.done():
            logger.error("the RE worker died while its environment was being opened")
            self._fut_manager_task_completed.set_result(False)

    async def _watchdog_start_re_worker(self) -> bool:
        self._opening = bool(await super()._watchdog_start_re_worker())
        return self._opening

    async def _look_at_worker(self) -> None:
        silence = self._silence
        if not await self._worker_lives():
            await self._end_worker("the RE worker died", alive=False)
        elif (why := silence.over()) is not None:
            await self._end_worker(f"{why} and was ended", alive=True)
        elif silence.changed():
            self._status_update()

    async def _end_worker(self, why: str, alive: bool) -> None:
        """Lights off, no further plan, and what ran is interrupted; queueserver clears away the rest."""
        logger.error(why)
        if alive:
            await asyncio.to_thread(darken, self._scope, self._layout)
        await self._autostart_disable()
        await self._comm_to_watchdog.send_msg("kill_re_worker", timeout=10)
        running = (self._plan_queue.get_running_item_info() or {}).get("item_uid")
        self._worker_lost = {"why": why, "item_uid": running}
        if running is not None:
            self._gate.operations.lost(running, why)
        await self._kill_re_worker()

    def _status_update(self) -> None:
        """As upstream; a worker that does not answer doesn't execute anything."""
        super()._status_update()
        silent = self._silence.told()
        self._status |= {"worker_lost": self._worker_lost, "worker_silent": silent}
        if silent is not None:
            self._status |= {"worker_environment_state": "unresponsive", "re_state": None}

    def _status_publish(self) -> None:
        """As upstream, but a burst of changes, of which each plan makes a dozen, is told once: four processes handle each one."""
        if not self._telling:
            self._telling = True
            self._loop.call_later(TELL_S, self._tell_status)

    def _tell_status(self) -> None:
        self._telling = False
        super()._status_publish()

    async def _start_re_worker_task(self) -> Any:
        done = await super()._start_re_worker_task()
        self._opening = False
        if self._environment_exists:
            self._worker_lost = None
            self._status_update()
        self._settle()
        await self._dispatch_absent()
        return done

    async def _kill_re_worker_task(self) -> Any:
        self._plan_queue.worker_gone = True
        try:
            return await super()._kill_re_worker_task()
        finally:
            self._plan_queue.worker_gone = False

    def _settle(self) -> None:
        """What was claimed and is run by no worker is interrupted, and never run again by itself (R1.5)."""
        running = (self._worker_state_info or {}).get("running_item_uid") if self._environment_exists else None
        for operation in self._gate.operations.active():
            if operation.state == "running" and operation.item_uid != running:
                self._gate.operations.lost(str(operation.item_uid), "its worker was gone when the queue server started")

    async def _dispatch_absent(self) -> None:
        """What was accepted or queued, is in no queue and was claimed by nobody is queued again. Never raises."""
        try:
            items, running, _ = await self._plan_queue.get_queue_full()
            there = {item["item_uid"] for item in (*items, running) if item}
            for item in items:
                if op_key(item) is not None and self._gate.operations.by_key(str(op_key(item))) is None:
                    self._gate.operations.queued(item)
            for operation in self._gate.operations.active():
                if operation.key and operation.state in WAITING and operation.item_uid not in there:
                    await self._dispatch(operation)
            self._autostart_push()
        except Exception:
            logger.exception("queue and ledger could not be held against each other")

    async def _dispatch(self, operation: Operation) -> None:
        whose = {"user": operation.user, "user_group": operation.user_group}
        if operation.item_uid is not None:  # was queued, and checked then
            item = {**operation.item(), **whose, "item_uid": PlanQueueOperations.new_item_uid()}
            self._gate.operations.moved_to(operation.item_uid, item["item_uid"])
            await PlanQueueOperations.add_item_to_queue(self._plan_queue, item)
            return
        try:
            item, _ = self._prepare_item(item=operation.item(), item_type="plan", generate_new_uid=True, **whose)
        except Refused as refusal:
            if refusal.code != "environment_closed":
                self._gate.operations.refuse_accepted(str(operation.key), Failure("parameters_refused", str(refusal)))
            return
        await self._plan_queue.add_item_to_queue(item)

    async def _prune(self) -> None:
        while True:
            await asyncio.to_thread(self._gate.operations.prune, time.time() - KEEP_S)
            await asyncio.sleep(86400)

    async def _set_manager_state(self, state: MState, *, coro: Any = None, autostart_disable: bool = False) -> None:
        keyed, self._plan_queue.last_stopped_was_keyed = self._plan_queue.last_stopped_was_keyed, False
        stays_on = keyed and self._scope.queue.on_failure == "continue" and not self.queue_stop_pending
        stays_on = stays_on and not LatchFile.halt(self._layout).exists()  # a halt stops the queue
        await super()._set_manager_state(state, coro=coro, autostart_disable=autostart_disable and not stays_on)
        self._autostart_push()  # also for what was queued since the queue was found empty
