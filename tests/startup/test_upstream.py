"""The private parts of queueserver that `startup/_queueserver/` overrides or relies on are those we read."""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bluesky_queueserver.manager.manager import RunEngineManager
from bluesky_queueserver.manager.plan_queue_ops import PlanQueueOperations
from bluesky_queueserver.manager.start_manager import WatchdogProcess, start_manager
from bluesky_queueserver.manager.worker import RunEngineWorker

from queuescope.startup import _queueserver

PINNED: dict[Callable[..., Any], str] = {
    RunEngineWorker.run: "221ae5e89716d984",
    RunEngineWorker._execute_plan: "e4bcb51a719c0703",
    RunEngineWorker._generate_new_plan: "d0b26a07e887babb",
    RunEngineWorker._generate_continued_plan: "eefdac59758e9159",
    RunEngineWorker._worker_startup_code: "43e44294e92371e8",
    RunEngineManager.run: "91fad8c922301847",
    RunEngineManager.zmq_server_comm: "9b0beca97e720486",
    RunEngineManager._prepare_item: "29a3142e8bb2daa4",
    RunEngineManager._process_plan_report: "006953a215af8782",
    RunEngineManager._set_manager_state: "eace7d4a525858df",
    RunEngineManager._autostart_push: "507acf2ef54864e4",
    RunEngineManager._start_plan_task: "9e028f8ae39bce8e",
    RunEngineManager._kill_re_worker_task: "652b12d33a654d0b",
    PlanQueueOperations.start: "51ae31f2100987bc",
    PlanQueueOperations._set_processed_item_as_stopped: "0753a68fbf48aa54",
    PlanQueueOperations._set_processed_item_as_completed: "64bb0bfd3fc2cce0",
    RunEngineManager._start_plan: "74027fdf13497b46",
    PlanQueueOperations.get_queue_full: "40efe6aefd6447d7",
    PlanQueueOperations._get_queue: "777a2042a5e3fb94",
    PlanQueueOperations._uid_dict_initialize: "57e1af15b65bce66",
    PlanQueueOperations._queue_clean: "6e7560a366258f28",
    PlanQueueOperations.move_item: "25a7e156cc764000",
    PlanQueueOperations.pop_item_from_queue: "d1b3caef21961dcb",
    PlanQueueOperations.pop_item_from_queue_batch: "dfb0748a9323034c",
    PlanQueueOperations._add_to_history: "aad5fa5eb4252afd",
    RunEngineManager._queue_item_add_handler: "c8e2e8bccc3a163a",
    RunEngineManager._queue_item_add_batch_handler: "00816074e05a1f66",
    RunEngineManager._queue_item_update_handler: "377a1b777e669805",
    RunEngineManager._re_pause_handler: "a5484445f505e76a",
    RunEngineManager._pause_run_engine: "e8863800a919b5c4",
    RunEngineManager._worker_command_pause_plan: "44dc18250242556c",
    RunEngineWorker._command_pause_plan_handler: "b6ae5d85ca31967f",
    RunEngineManager._re_abort_handler: "c99b6fa9dbb3d16c",
    RunEngineManager._watchdog_enable: "d59ae31f959d3faf",
    RunEngineManager._start_re_worker_task: "3e32a3ba8046e831",
    PlanQueueOperations.add_item_to_queue: "65bcceba63b48108",
    PlanQueueOperations.add_batch_to_queue: "60d58bee78fa3014",
    PlanQueueOperations._add_batch_to_queue: "65a5458e0816ee80",
    PlanQueueOperations.replace_item: "984da17ebcba4888",
    PlanQueueOperations.clear_queue: "aa1141bc88bfa074",
    PlanQueueOperations.get_queue: "8a1900ef28649da7",
    WatchdogProcess.__init__: "b7e17f584da1b65e",
    WatchdogProcess.run: "63cb936b9da0c5c7",
    RunEngineWorker._request_state_handler: "0f21ccb85df88c2c",
    RunEngineWorker._start_new_plan: "428ff8d161fd773e",
    RunEngineWorker._command_reset_worker_handler: "5265412c8233a700",
    RunEngineManager.set_queue_stop_pending: "8141fd025f8f7703",
    RunEngineManager._worker_request_state: "af30f2f0e1298ac6",
    RunEngineManager._worker_request_plan_report: "037301ad79e0c05e",
    RunEngineManager._periodic_worker_state_request: "b866691d77dfc821",
    RunEngineManager._kill_re_worker: "deb227094cb02897",
    RunEngineManager._status_update: "da04a0360d08f524",
    RunEngineManager._status_publish: "9183640aeae46fca",
    RunEngineManager._autostart_task: "5f8df715c272de02",
    PlanQueueOperations._get_running_item_info: "fe92985f4ca7f718",
    PlanQueueOperations._set_running_item_info: "0eb1cf460cdaff10",
    PlanQueueOperations._process_next_item: "db78a7e900fff4e3",
    PlanQueueOperations._set_next_item_as_running: "358de58e0bc78079",
    RunEngineWorker._update_existing_pd_file: "de8ee5245e191de4",
    RunEngineManager._update_allowed_plans_and_devices: "80df5987f51b5e78",
    start_manager: "ad1b38ec3a0fa550",
}


@pytest.mark.parametrize("function", PINNED, ids=lambda f: f.__qualname__)
def test_upstream_is_what_we_read(function: Callable[..., Any]) -> None:
    """A failure means: read the new version, adapt `startup/_queueserver/`, then put the new digest here."""
    digest = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    assert digest == PINNED[function]


def test_nobody_else_touches_the_manager_s_side_of_queueserver() -> None:
    """But for who starts it: its logging and its end."""
    root = Path(_queueserver.__file__).parents[1]
    found = {path for path in root.rglob("*.py") if "bluesky_queueserver.manager" in path.read_text(encoding="utf-8")}
    assert {path for path in found if path.parent != Path(_queueserver.__file__).parent} == {root / "__main__.py"}
