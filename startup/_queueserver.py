"""Everything of bluesky-queueserver's insides that we touch, in one place.

Subclasses, handed to queueserver's own `WatchdogProcess`:

* `ScopeWorker` sees every start, continuation and end of a plan: it claims each plan in the ledger before it starts, completes
  the start document, keeps run UIDs, outcome and result in the ledger and closes all lights when a plan is done or pauses.
* `ScopeManager` refuses bad parameters, and frames that the disk has no room for, at submission, whatever way they come in,
  leaves autostart on after a keyed failure, and holds queue and ledger against each other when it starts.
* `KeyedPlanQueue` takes each operation once and never puts it back, tells the ledger what was queued, removed or lost, and
  reaches Valkey with a password that stands on no command line and in no log.

``tests/startup/test_upstream.py`` pins the source of each upstream method that is overridden or relied on here: it fails
when a new version changes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import redis.asyncio
from bluesky.utils import RunEngineInterrupted
from bluesky_queueserver.manager import manager as upstream_manager
from bluesky_queueserver.manager.comms import CommTimeoutError
from bluesky_queueserver.manager.manager import MState, RunEngineManager
from bluesky_queueserver.manager.plan_queue_ops import PlanQueueOperations
from bluesky_queueserver.manager.start_manager import WatchdogProcess
from bluesky_queueserver.manager.worker import ExecOption, PlanExecState, RunEngineWorker

from ..config import Scope, load_scope
from ..hardware import HardwareError, LatchFile
from ..layout import SCOPE_ENV, Layout
from ..lean import no_collection
from ..ledger import KEEP_S, WAITING, Failure, Hold, Left, Operation, OperationError, State
from ..plans import ParameterError, Template, templates
from ._gate import Gate, op_key
from ._liveness import LOOK_S, SILENT_S, LoopBeat, Silence, darken
from ._namespace import current_session, session_or_none
from ._outcomes import cause_of, failure_of, jsonable, text_of
from ._refused import Refused, parameters_refused
from ._space import Space
from ._telling import Progress, output

logger = logging.getLogger("queuescope.startup")

MANAGER_LOOK_S = 0.1
EARLY_DEATHS = 3
"""A manager that dies more often, one after the other, before it serves, is not started again here."""
TELL_S = 0.02
"""A change of the status is published so much later, with those that came meanwhile."""
HOLDS = ("manager_state", "queue_autostart_enabled", "worker_silent")
"""What of the status tells why an operation waits."""
RECONNECT_S = 120.0
"""A plan waits so long for a hardware process that is being started again; loading a real configuration takes a while."""


def die_with_parent(name: str) -> None:
    """End this process with its parent, and show ``name`` in process lists (Linux only)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME


class ScopeWorker(RunEngineWorker):
    """The RE worker with our gate around every plan."""

    bell: socket.socket
    """Rings in the manager when a plan has ended or paused."""
    _item: Mapping[str, Any] | None = None
    """The item that runs or is paused."""
    _progress: Progress | None = None
    """Who tells how far it is, also after a pause."""
    _restore: Left | None = None
    """Where the microscope is brought before the plan."""
    _beat: LoopBeat | None = None
    _exec_state = PlanExecState.COMPLETED

    @property
    def _running_plan_exec_state(self) -> PlanExecState:
        return self._exec_state

    @_running_plan_exec_state.setter
    def _running_plan_exec_state(self, state: PlanExecState) -> None:
        """As upstream, which says 20 ms after a plan's start that it runs: one that is over and cleared away by then doesn't."""
        if state is not PlanExecState.RUNNING or self._exec_state is PlanExecState.SUBMITTED:
            self._exec_state = state

    def run(self) -> None:
        die_with_parent("qs-worker")
        # The parent imported the startup module without filling it: have queueserver import it anew, in this process.
        sys.modules.pop("queuescope.startup", None)
        super().run()

    def _worker_startup_code(self) -> None:
        with no_collection():
            super()._worker_startup_code()

    def _update_existing_pd_file(self, *, options: Iterable[str]) -> None:
        """As upstream, which writes YAML: PyYAML reads that for a quarter of a second, here and in the manager."""
        if self._update_existing_plans_devices_on_disk in options:
            with self._existing_items_lock:
                found = self._existing_plans, self._existing_devices
            keep_existing_plans_and_devices(self._config_dict["existing_plans_and_devices_path"], *found)

    def _execute_plan(self, parameters: dict[str, Any], exec_option: ExecOption) -> None:
        if exec_option == ExecOption.NEW:
            self._item = parameters
        try:
            super()._execute_plan(parameters, exec_option)
        finally:
            with contextlib.suppress(BlockingIOError):  # it has rung often enough
                self.bell.send(b".")
            self._close_lights()
            self._give_joysticks_back()

    def _request_state_handler(self) -> dict[str, Any]:
        """As upstream, and whether the RunEngine's loop turns: a plan that is stuck in native code keeps it."""
        session = session_or_none()
        if session is not None and self._beat is None:
            self._beat = LoopBeat(session.run_engine.loop)
        stuck = self._beat is not None and self._beat.silent_s() > SILENT_S
        return {**super()._request_state_handler(), "loop_stuck": stuck}

    def _generate_new_plan(self, parameters: dict[str, Any]) -> Callable[[], Any]:
        def start() -> Any:
            session = current_session()
            session.rounds.item_uid = parameters["item_uid"]
            session.gate.require(parameters)
            session.reconnection.wait(RECONNECT_S)
            hold_joysticks()
            metadata = session.run_metadata(parameters)
            with session.restoring(self._restore):
                return generate({**parameters, "meta": metadata})()

        def claimed() -> Any:
            operation = current_session().operations.claim(parameters)  # once for each key and attempt, or it raises
            self._restore = operation.restore
            self._progress = current_session().progress(parameters)
            return self._recorded(start, "succeeded")()

        generate = super()._generate_new_plan
        return claimed

    def _generate_continued_plan(self, parameters: dict[str, Any]) -> Callable[[], Any]:
        ends: dict[str, State] = {"resume": "succeeded", "stop": "succeeded", "abort": "cancelled", "halt": "cancelled"}
        option = parameters["option"]
        go_on = super()._generate_continued_plan(parameters)

        def continued() -> Any:
            if option == "resume":
                hold_joysticks()  # people had them while it was paused
            current_session().operations.paused((self._item or {})["item_uid"], False)
            return go_on()

        return self._recorded(continued, ends[option], None if option == "resume" else option)

    def _recorded(self, func: Callable[[], Any], end: State, option: str | None = None) -> Callable[[], Any]:
        """``func`` with its outcome in the ledger; the result that goes to the manager is plain data."""

        def recorded() -> Any:
            item_uid = (self._item or {})["item_uid"]
            session = current_session()
            operations = session.operations
            failed: list[str] = []

            def stopped(_: str, doc: Any) -> None:
                if doc.get("exit_status") == "fail":
                    failed.append(f"run {doc['run_start']} failed: {doc.get('reason') or 'no reason given'}")

            tokens = [
                session.run_engine.subscribe(lambda _, doc: operations.add_run(item_uid, doc["uid"]), "start"),
                session.run_engine.subscribe(stopped, "stop"),
            ]
            if self._progress is not None:
                tokens.append(session.run_engine.subscribe(self._progress))
            try:
                with output(operations, item_uid):
                    outcome = func()
            except RunEngineInterrupted:
                operations.paused(item_uid, True)
                raise
            except BaseException as error:
                cause = cause_of(error)
                failure = failure_of(cause)
                operations.finish(item_uid, "failed", failure=failure, exit_status="failed", left=self._left())
                raise cause from (None if cause is not error else cause.__cause__)
            finally:
                for token in tokens:
                    session.run_engine.unsubscribe(token)
            result = jsonable(getattr(outcome, "plan_result", None))
            exit_status, left = _EXIT_STATUS.get(option or "", "completed"), self._left()
            if end == "succeeded" and failed:  # whatever the plan returned: its frames are not what was asked for
                failure = Failure("recording_failed", "; ".join(failed))
                operations.finish(item_uid, "failed", result, failure, exit_status, left)
            else:
                operations.finish(item_uid, end, result, exit_status=exit_status, left=left)
            return {"run_uids": list(getattr(outcome, "run_start_uids", ())), "plan_result": result}

        return recorded

    def _left(self) -> Left | None:
        """Where a keyed plan left the microscope; None where that can't be read."""
        if op_key(self._item or {}) is None:
            return None
        try:
            return current_session().left()
        except HardwareError as error:
            logger.warning("where the plan left the microscope is not known: %s", error)
        return None

    def _close_lights(self) -> None:
        session = session_or_none()
        if session is None:
            return
        try:
            outcomes = session.hardware.lights_off()
        except HardwareError as error:  # its process closes them when it starts again
            logger.error("the lights could not be closed after a plan: %s", error)
            return
        except Exception:
            logger.exception("the lights could not be closed after a plan")
            return
        for outcome in outcomes:
            if not outcome.off:
                logger.error("light %s could not be closed after a plan: %s", outcome.light, outcome.error)

    def _give_joysticks_back(self) -> None:
        """After a plan, however it ended, and while it is paused."""
        session = session_or_none()
        if session is None or not session.scope.safety.joysticks:
            return
        try:
            session.hardware.hold_joysticks(False)
        except HardwareError as error:  # the hardware's next process switches them on
            logger.error("the joysticks could not be switched on again: %s", error)
        except Exception:
            logger.exception("the joysticks could not be switched on again")


def hold_joysticks() -> None:
    """No hand moves an axis while a plan runs (scope.yml: safety.joysticks)."""
    session = current_session()
    if session.scope.safety.joysticks:
        session.hardware.hold_joysticks(True)


_EXIT_STATUS = {"stop": "stopped", "abort": "aborted", "halt": "halted"}
"""queueserver's words."""


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
    worker_gone = False
    """True while the manager ends what a dead worker left."""
    refused: OperationError | None = None
    """Why the last item was not taken."""

    async def start(self) -> None:
        """As upstream, but over a unix socket (or the scope's address) with the password from its file."""
        if self._r_pool:
            return
        pool = redis.asyncio.Redis(**valkey_address(*_settings()), encoding="utf-8", decode_responses=True)
        await pool.ping()
        self._r_pool = pool
        self._lock = upstream_manager.asyncio.Lock()
        async with self._lock:
            await self._queue_clean()
            await self._uid_dict_initialize()
            await self._load_plan_queue_mode()
            self._queue_size = await self._get_queue_size()
            self._history_size = await self._get_history_size()
            self._running_item_info = await self._get_running_item_info()
            self._plan_queue_uid = self.new_item_uid()
            self._plan_history_uid = self.new_item_uid()

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


def valkey_address(scope: Scope, layout: Layout) -> dict[str, Any]:
    """Arguments for a redis client of the queue store: the embedded one's unix socket, or the scope's ``host:port``."""
    secret = {"password": layout.key("valkey")}
    if scope.services.valkey == "embedded":
        return {"unix_socket_path": str(layout.valkey_socket), **secret}
    host, _, port = scope.services.valkey.partition(":")
    return {"host": host, "port": int(port or 6379), **secret}


def existing_plans_and_devices(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plans and devices of the environment before; nothing where no file tells of them."""
    try:
        found = json.loads(Path(path).read_bytes())
        return found["existing_plans"], found["existing_devices"]
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s can't be read, and is written anew when an environment opens: %s", path, error)
        return {}, {}


def keep_existing_plans_and_devices(path: str, plans: dict[str, Any], devices: dict[str, Any]) -> None:
    """For the manager that starts next: JSON, which is YAML too. No reason to fail where that can't be."""
    tree = {"existing_plans": plans, "existing_devices": devices}
    try:
        text = json.dumps(tree, indent=1)
        file, draft = Path(path), Path(f"{path}.new")
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s can't be written: %s", path, error)


def _settings() -> tuple[Scope, Layout]:
    return load_scope(os.environ[SCOPE_ENV]), Layout()


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
        self._scope, self._layout = _settings()
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
        return await self._of_item(super()._re_pause_handler, request)

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
            asyncio.create_task(task()) for task in (self._take_reports, self._watch_worker, self._prune)
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


class ScopeWatchdog(WatchdogProcess):
    """queueserver's watchdog, which starts manager and worker and restarts a manager that hangs."""

    _watchdog_enabled: bool

    def __init__(self, **kwargs: Any) -> None:
        # Every manager and worker inherits the pair by its fork, the next one of each as well.
        ScopeWorker.bell, ScopeManager.bell = socket.socketpair()
        for bell in (ScopeWorker.bell, ScopeManager.bell):
            bell.setblocking(False)
        super().__init__(cls_run_engine_worker=ScopeWorker, cls_run_engine_manager=ScopeManager, **kwargs)

    def run(self) -> None:
        threading.Thread(target=self._look_after_manager, name="manager", daemon=True).start()
        super().run()

    def _look_after_manager(self) -> None:
        """A manager that has died is started again at once; queueserver waits 5 s for its heartbeat, and for ever where it died
        before it served. One that can't serve ends this process: whoever started it knows of patience and limits.
        """
        early = 0
        while not self._manager_is_stopping:
            time.sleep(MANAGER_LOOK_S)
            manager = self._re_manager
            if manager is None or manager.is_alive():
                continue
            early = 0 if self._watchdog_enabled else early + 1
            if early > EARLY_DEATHS:
                logger.error("the manager died %d times before it served: the queue server ends", early)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with self._watchdog_state_lock:
                self._watchdog_enabled = True
                self._watchdog_state = time.time() - self._heartbeat_timeout - 1.0
            while self._re_manager is manager and not self._manager_is_stopping:
                time.sleep(MANAGER_LOOK_S)

    def end_children(self) -> None:
        for process in (self._re_worker, self._re_manager):
            if process is not None and process.is_alive():
                process.kill()


def wait_for_valkey(deadline_s: float = 10.0) -> None:
    """Wait until the queue store answers: a manager that starts without it dies for good.

    Raises
    ------
    TimeoutError
        Naming the address.
    """
    scope, layout = _settings()
    give_up = time.monotonic() + deadline_s
    while True:
        try:
            with redis.Redis(**valkey_address(scope, layout)) as client:
                client.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > give_up:
                where = layout.valkey_socket if scope.services.valkey == "embedded" else scope.services.valkey
                raise TimeoutError(
                    f"the queue store at {where} didn't answer within {deadline_s} s: {error}"
                ) from error
            time.sleep(0.02)
