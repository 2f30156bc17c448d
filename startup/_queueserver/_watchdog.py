"""The watchdog: it starts manager and worker, and another one for one that died."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from typing import Any

from bluesky_queueserver.manager.start_manager import WatchdogProcess

from ._manager import ScopeManager
from ._worker import ScopeWorker

logger = logging.getLogger("queuescope.startup")

MANAGER_LOOK_S = 0.1
EARLY_DEATHS = 3
"""A manager that dies more often, one after the other, before it serves, is not started again here."""


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
