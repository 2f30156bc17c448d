"""The RE worker: it claims each plan in the ledger before it starts, and tells what became of it."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bluesky.utils import RunEngineInterrupted
from bluesky_queueserver.manager.worker import ExecOption, PlanExecState, RunEngineWorker

from ...hardware import HardwareError
from ...lean import no_collection
from ...ledger import Failure, Left, State
from .._gate import op_key
from .._liveness import SILENT_S, LoopBeat
from .._namespace import current_session, session_or_none
from .._outcomes import cause_of, failure_of, jsonable
from .._telling import Progress, output
from ._existing import keep_existing_plans_and_devices
from ._process import ENDING, die_with_parent

logger = logging.getLogger("queuescope.startup")

RECONNECT_S = 120.0
"""A plan waits so long for a hardware process that is being started again; loading a real configuration takes a while."""


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
        """As upstream, which writes YAML."""
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

    def _command_pause_plan_handler(self, *, option: str) -> dict[str, Any]:
        """As upstream; `ENDING`: immediate, and what can't be held ends at once, also where a pause waits for it already."""
        if option == ENDING:
            option = "immediate"
            if (session := session_or_none()) is not None:
                session.run_engine.will_end()
        reply: dict[str, Any] = super()._command_pause_plan_handler(option=option)
        return reply

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
