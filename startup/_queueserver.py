"""Everything of bluesky-queueserver's insides that we touch, in one place.

Subclasses, handed to queueserver's own `WatchdogProcess`:

* `ScopeWorker` sees every start, continuation and end of a plan: it completes the start document, keeps the plan's result in
  the ledger and closes all lights when a plan is done or pauses.
* `ScopeManager` refuses bad parameters, and frames that the disk has no room for, at submission, whatever way they come in, and
  leaves autostart on after a keyed failure.
* `KeyedPlanQueue` never puts an item with an operation key back into the queue, and reaches Valkey with a password that stands
  on no command line and in no log.

``tests/startup/test_upstream.py`` pins the source of each upstream method that is overridden or relied on here: it fails
when a new version changes one.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis.asyncio
from bluesky.utils import FailedStatus, RunEngineInterrupted
from bluesky_queueserver.manager import manager as upstream_manager
from bluesky_queueserver.manager.manager import MState, RunEngineManager
from bluesky_queueserver.manager.plan_queue_ops import PlanQueueOperations
from bluesky_queueserver.manager.start_manager import WatchdogProcess
from bluesky_queueserver.manager.worker import ExecOption, RunEngineWorker

from ..config import Scope, load_scope
from ..hardware import HardwareError, LatchFile
from ..layout import SCOPE_ENV, Layout
from ..ledger import Hold, meta_of
from ..plans import ParameterError, Template, templates
from ._gate import Gate
from ._namespace import current_session, session_or_none
from ._space import Space

logger = logging.getLogger("queuescope.startup")

RECONNECT_S = 120.0
"""A plan waits so long for a hardware process that is being started again; loading a real configuration takes a while."""


def op_key(item: Mapping[str, Any]) -> str | None:
    """The operation key in an item's meta, or None for an unkeyed item."""
    key = meta_of(item).get("op_key")
    return key if isinstance(key, str) and key else None


def die_with_parent(name: str) -> None:
    """End this process with its parent, and show ``name`` in process lists (Linux only)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME


class ScopeWorker(RunEngineWorker):
    """The RE worker with our gate around every plan."""

    _item: Mapping[str, Any] | None = None
    """The item that runs or is paused."""

    def run(self) -> None:
        die_with_parent("qs-worker")
        # The parent imported the startup module without filling it: have queueserver import it anew, in this process.
        sys.modules.pop("queuescope.startup", None)
        super().run()

    def _execute_plan(self, parameters: dict[str, Any], exec_option: ExecOption) -> None:
        if exec_option == ExecOption.NEW:
            self._item = parameters
        try:
            super()._execute_plan(parameters, exec_option)
        finally:
            self._close_lights()
            self._give_joysticks_back()

    def _generate_new_plan(self, parameters: dict[str, Any]) -> Callable[[], Any]:
        def start() -> Any:
            session = current_session()
            session.rounds.item_uid = parameters["item_uid"]
            meta = meta_of(parameters)
            session.ledger.start(
                item_uid=parameters["item_uid"],
                op_key=op_key(parameters),
                attempt=int(meta.get("attempt", 1)),
                plan=parameters["name"],
                kwargs=parameters.get("kwargs") or {},
                user=parameters.get("user") or "",
                user_group=parameters.get("user_group") or "",
            )
            Gate(session.scope, session.layout).require(parameters)
            return begin()

        def begin() -> Any:
            current_session().reconnection.wait(RECONNECT_S)
            hold_joysticks()
            metadata = current_session().run_metadata(parameters)
            return generate({**parameters, "meta": metadata})()

        generate = super()._generate_new_plan
        return self._recorded(start, "succeeded")

    def _generate_continued_plan(self, parameters: dict[str, Any]) -> Callable[[], Any]:
        ends = {"resume": "succeeded", "stop": "succeeded", "abort": "cancelled", "halt": "cancelled"}
        go_on = super()._generate_continued_plan(parameters)

        def resumed() -> Any:
            hold_joysticks()  # people had them while it was paused
            return go_on()

        option = parameters["option"]
        return self._recorded(resumed if option == "resume" else go_on, ends[option])

    def _recorded(self, func: Callable[[], Any], end: str) -> Callable[[], Any]:
        """``func`` with its outcome in the ledger; the result that goes to the manager is plain data."""

        def recorded() -> Any:
            item = self._item or {}
            session = current_session()
            token = session.run_engine.subscribe(
                lambda _, doc: session.ledger.add_run(item["item_uid"], doc["uid"]), "start"
            )
            try:
                outcome = func()
            except RunEngineInterrupted:
                session.ledger.set_state(item["item_uid"], "paused")
                raise
            except FailedStatus as error:
                cause = error.__cause__ or error
                session.ledger.set_state(item["item_uid"], "failed", error=_text(cause))
                raise cause  # noqa: B904 - the status only carried it
            except BaseException as error:
                session.ledger.set_state(item["item_uid"], "failed", error=_text(error))
                raise
            finally:
                session.run_engine.unsubscribe(token)
            result = _jsonable(getattr(outcome, "plan_result", None))
            session.ledger.set_state(item["item_uid"], end, result=result)
            return {"run_uids": list(getattr(outcome, "run_start_uids", ())), "plan_result": result}

        return recorded

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


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _jsonable(value: Any) -> Any:
    """A plan's result as JSON would give it back; what has no JSON form becomes its text."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (TypeError, ValueError):
        return str(value)


class KeyedPlanQueue(PlanQueueOperations):
    """The queue in Valkey."""

    gate: Gate
    _lock: Any

    _r_pool: Any
    _plan_queue_mode: dict[str, Any]
    last_stopped_was_keyed = False
    """True from the end of a keyed plan that didn't complete until the manager has dealt with it."""

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

    async def _set_processed_item_as_stopped(self, **outcome: Any) -> dict[str, Any]:
        """A keyed item goes to history with its true exit status and never back into the queue."""
        running = await self._get_running_item_info() if await self._is_item_running() else {}
        if op_key(running) is None:
            return dict(await super()._set_processed_item_as_stopped(**outcome))
        self.last_stopped_was_keyed = True
        return dict(await self._once(super()._set_processed_item_as_completed, outcome))

    async def _set_processed_item_as_completed(self, **outcome: Any) -> dict[str, Any]:
        running = await self._get_running_item_info() if await self._is_item_running() else {}
        if op_key(running) is None:
            return dict(await super()._set_processed_item_as_completed(**outcome))
        return dict(await self._once(super()._set_processed_item_as_completed, outcome))

    async def bring_to_front(self) -> Hold | None:
        """Make the first item that may start the queue's front, and end what was refused.

        Returns why the first item waits, where none of them may start.
        """
        waits: Hold | None = None
        items, running, _ = await self.get_queue_full()
        self.gate.keep_waits({item["item_uid"] for item in (*items, running) if item})
        for number, item in enumerate(items):
            if self.gate.refusal(item) is not None:
                await self.pop_item_from_queue(uid=item["item_uid"])
                continue
            hold = self.gate.hold(item)
            if hold is None:
                if number:
                    await self.move_item(uid=item["item_uid"], pos_dest="front")
                return None
            waits = waits or hold
        return waits

    async def pop_item_from_queue(self, **which: Any) -> Any:
        """As upstream; an item that a person refused goes to history as failed."""
        item, size = await super().pop_item_from_queue(**which)
        await self._end_refused([item])
        return item, size

    async def pop_item_from_queue_batch(self, **which: Any) -> Any:
        items, size = await super().pop_item_from_queue_batch(**which)
        await self._end_refused(items)
        return items, size

    async def _end_refused(self, items: Iterable[dict[str, Any]]) -> None:
        for item in items:
            if item and (refusal := self.gate.refusal(item)) is not None:
                now = time.time()
                outcome = {"exit_status": "failed", "run_uids": [], "scan_ids": [], "msg": refusal, "traceback": ""}
                self.gate.record_refused(item, refusal)
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


def _settings() -> tuple[Scope, Layout]:
    return load_scope(os.environ[SCOPE_ENV]), Layout()


class ScopeManager(RunEngineManager):
    """queueserver's manager with strict parameters at submission and the dispatch rules of keyed items."""

    _templates: Mapping[str, Template]
    _scope: Scope
    _layout: Layout
    _gate: Gate
    _space: Space

    def run(self) -> None:
        die_with_parent("qs-manager")
        upstream_manager.PlanQueueOperations = KeyedPlanQueue
        self._scope, self._layout = _settings()
        self._templates = templates(self._scope)
        KeyedPlanQueue.gate = self._gate = Gate(self._scope, self._layout, self._templates)
        self._space = Space(self._scope, self._layout, self._templates)
        super().run()

    async def _start_plan(self) -> Any:
        """Start the queue, unless everything in it waits for a person."""
        why = await self._nothing_may_start()
        return (False, why) if why is not None else await super()._start_plan()

    async def _nothing_may_start(self) -> str | None:
        """Why no plan in the queue may start now; None where the one at its front may. Never raises: autostart would end."""
        try:
            hold = await self._plan_queue.bring_to_front()
        except Exception as error:
            logger.exception("the queue could not be looked through")
            return f"no plan starts, since the queue could not be looked through: {_text(error)}"
        return None if hold is None else f"every plan in the queue waits: {hold.detail}: {hold.needs}"

    async def _start_plan_task(self, stop_queue: bool = False, **more: Any) -> Any:
        """After a plan the next one that may start; the queue is idle, and autostart stays as it is, where none may."""
        if not stop_queue and not more.get("single_item") and not self.queue_stop_pending:
            why = await self._nothing_may_start()
            if why is not None:
                self._loop.create_task(self._set_manager_state(MState.IDLE))
                return False, why
        return await super()._start_plan_task(stop_queue=stop_queue, **more)

    def _prepare_item(self, *, item: dict[str, Any], item_type: str, user_group: str, **more: Any) -> Any:
        """Refuse what our models refuse, before queueserver's own checks (which let NaN and True pass for numbers)."""
        if item_type == "plan":
            if user_group == "agent" and self._scope.agents.require_key and op_key(item) is None:
                raise RuntimeError("key_missing: an agent's plan needs an operation key in meta.op_key")
            name, allowed = str(item.get("name")), self._allowed_plans.get(user_group, {})
            if name not in allowed:
                known = ", ".join(sorted(allowed)) or "none: the environment is not open"
                raise RuntimeError(f"there is no plan {name!r} for the group {user_group!r}; there are: {known}")
            template = self._templates.get(str(name))
            if template is not None:
                if item.get("args"):
                    raise RuntimeError(f"plan {template.name!r} refused: give parameters by name (kwargs), not in args")
                try:
                    template.check(item.get("kwargs") or {})
                except ParameterError as error:
                    raise RuntimeError(str(error)) from None
                room = self._space.room(template.name, item.get("kwargs") or {})
                if room is not None and not room.fits:
                    raise RuntimeError(f"plan {template.name!r} refused: {room}: fewer frames, or {room.remedy}")
        return super()._prepare_item(item=item, item_type=item_type, user_group=user_group, **more)

    async def _set_manager_state(self, state: MState, *, coro: Any = None, autostart_disable: bool = False) -> None:
        keyed, self._plan_queue.last_stopped_was_keyed = self._plan_queue.last_stopped_was_keyed, False
        stays_on = keyed and self._scope.queue.on_failure == "continue" and not self.queue_stop_pending
        stays_on = stays_on and not LatchFile.halt(self._layout).exists()  # a halt stops the queue
        await super()._set_manager_state(state, coro=coro, autostart_disable=autostart_disable and not stays_on)
        if stays_on:
            self._autostart_push()


class ScopeWatchdog(WatchdogProcess):
    """queueserver's watchdog, which starts manager and worker and restarts a manager that hangs."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(cls_run_engine_worker=ScopeWorker, cls_run_engine_manager=ScopeManager, **kwargs)

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
