"""The courier: follows the document logs and delivers them to Tiled, whenever Tiled is there.

The logs are the truth. What has been delivered is asked of Tiled itself: a run whose entry has a stop document is done, one with
a half-written entry goes on from there, and where that can't be, it is replayed from its log. So nothing has to be remembered
here, and a new, empty catalog fills itself.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import watchfiles
from tiled.client.utils import ClientError

from ._delivery import Delivery
from ._documents import DocumentLog, DocumentLogError, abandoned, close_orphan, is_complete
from ._entry import EntryDiffersError

logger = logging.getLogger("queuescope.courier")

RESCAN_S = 2.0
"""How often everything is looked at, whatever the file watcher says: orphans make no event."""
LONGEST_PAUSE_S = 300.0
"""Between two attempts at a run that Tiled refuses."""
STUCK_S = 120.0
"""No document takes so long: a request to Tiled is given up after 30 s, and few belong to one."""
PATIENCE = 4
"""So often an entry is gone on with where Tiled answers with errors of its own; then it is made anew. When its database was
away, each connection that it had kept fails once."""


@dataclass
class _Run:
    """A run that is not complete in Tiled."""

    log: Path
    started: float
    delivery: Delivery | None = None
    anew: bool = False
    """Its entry can't be gone on from: to be deleted first."""
    failures: int = 0
    not_before: float = 0.0


class Courier:
    """Delivers the logs in one folder.

    Parameters
    ----------
    documents
        The folder of the logs, ``{run_uid}.jsonl``.
    connect
        Gives a Tiled client on the catalog of runs; raises `httpx.HTTPError` or `TiledNotThere` while it can't.
    volumes
        The folder of the runs' volumes, ``{run_uid}_{dataset}.ome.zarr``, whose frames an orphan's stop document counts.
    """

    def __init__(self, documents: Path, connect: Callable[[], Any], volumes: Path) -> None:
        self._documents = documents
        self._volumes = volumes
        self._connect = connect
        self._catalog: Any = None
        self._runs: dict[str, _Run] = {}
        self._delivered: set[str] = set()
        self._started: set[str] = set()
        """Runs that have an entry in the catalog, finished or not."""
        self._closed: set[str] = set()
        """Logs known to end with a stop document, or to be past mending."""
        self._abandoned: dict[str, dict[str, int | None]] = {}
        """Frames of the runs whose log nobody held at the last look."""
        self._ignored: set[str] = set()
        """Files in the folder that are no run's log."""
        self._inbox: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._connect_at = 0.0
        self._connect_failures = 0
        self._went_on = time.monotonic()

    def stop(self) -> None:
        """End `run` after the document in hand. May be called from a signal handler."""
        self._stop.set()
        self._inbox.put(set())

    def stuck(self) -> bool:
        """Whether deliveries have come to nothing for longer than any of their steps may take. Asked from another thread."""
        return time.monotonic() - self._went_on > STUCK_S

    def _goes_on(self) -> bool:
        """Called between two steps: False where there shall be no further one."""
        self._went_on = time.monotonic()
        return not self._stop.is_set()

    def run(self) -> None:
        """Deliver until `stop`."""
        watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        watcher.start()
        rescan_at = 0.0
        while self._goes_on():
            now = time.monotonic()
            if now >= rescan_at:
                self._rescan()
                rescan_at = now + RESCAN_S
            pause = self._deliver()
            self._wait(min(pause, max(0.0, rescan_at - time.monotonic())))

    def _watch(self) -> None:
        for changes in watchfiles.watch(
            self._documents, stop_event=self._stop, debounce=50, step=20, raise_interrupt=False
        ):
            self._inbox.put({Path(path).stem for _, path in changes if path.endswith(".jsonl")})

    def _wait(self, seconds: float) -> None:
        try:
            changed = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return
        for run_uid in changed:
            self._notice(run_uid)

    def _rescan(self) -> None:
        for path in self._documents.glob("*.jsonl"):
            self._goes_on()
            self._notice(path.stem)
        for run_uid in self._runs.keys() - self._closed:
            self._goes_on()
            log = self._runs[run_uid].log
            try:
                if is_complete(log) or (self._settled(run_uid) and close_orphan(log, self._volumes) is not None):
                    self._closed.add(run_uid)
            except (ValueError, KeyError, TypeError, OSError) as error:
                logger.error("run %s: its log can't be closed: %r", run_uid, error)
                self._closed.add(run_uid)

    def _settled(self, run_uid: str) -> bool:
        """Nobody holds the run's log, and no frame came since the last look: the hardware ends a volume a moment after
        the worker that steered it died, and the stop document must count its last frames.
        """
        before = self._abandoned.pop(run_uid, None)
        now = abandoned(self._runs[run_uid].log, self._volumes)
        if now is not None:
            self._abandoned[run_uid] = now
        return now is not None and now == before

    def _notice(self, run_uid: str) -> None:
        """Take a log into the list of runs to deliver, once it has a start document."""
        if run_uid in self._delivered or run_uid in self._runs or run_uid in self._ignored:
            return
        path = self._documents / f"{run_uid}.jsonl"
        try:
            first = next(iter(DocumentLog(path)), None)
            if first is None:
                return
            name, start = first
            if name != "start" or start["uid"] != run_uid:
                raise DocumentLogError(f"it begins with the {name} document of run {start.get('uid')}")
            self._runs[run_uid] = _Run(path, float(start["time"]))
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            logger.error("%s is not a run's log: %r", path, error)
            self._ignored.add(run_uid)

    def _deliver(self) -> float:
        """Deliver what is pending; return seconds until the next attempt is due."""
        if not self._reach():
            return max(0.0, self._connect_at - time.monotonic())
        pause = RESCAN_S
        for run_uid, run in sorted(self._runs.items(), key=lambda item: item[1].started):
            if not self._goes_on():
                break
            due = max(run.not_before, run.delivery.due if run.delivery else 0.0)
            wait = due - time.monotonic()
            if wait > 0:
                pause = min(pause, wait)
                continue
            try:
                self._deliver_run(run_uid, run)
            except httpx.TransportError as error:
                self._lose(error)
                return max(0.0, self._connect_at - time.monotonic())
            except EntryDiffersError as error:
                logger.warning("run %s is delivered anew: %s", run_uid, error)
                run.delivery, run.anew, pause = None, True, 0.0
            except Exception as error:  # one run that can't be delivered must not keep the others waiting
                self._set_aside(run_uid, run, error)
                if _is_tiled_s_fault(error):  # its database may be away, and then nothing is wrong with the run
                    self._lose(error)
                    return max(0.0, self._connect_at - time.monotonic())
        return pause

    def _deliver_run(self, run_uid: str, run: _Run) -> None:
        if run_uid in self._delivered:
            del self._runs[run_uid]
            return
        if run.delivery is None:
            entry = None
            if run_uid in self._started and run.anew:
                self._delete(run_uid)
            elif run_uid in self._started:
                entry = self._catalog[run_uid]
            run.delivery, run.anew = Delivery(DocumentLog(run.log), self._catalog, entry), False
            self._started.add(run_uid)
        run.delivery.drain(lambda: not self._goes_on())
        run.failures = 0
        if run.delivery.exit_status is not None:
            logger.info(
                "run %s delivered: %d documents, %d frames, %s",
                run_uid,
                run.delivery.log.lines,
                run.delivery.frames,
                run.delivery.exit_status,
            )
            self._delivered.add(run_uid)
            self._closed.discard(run_uid)
            del self._runs[run_uid]

    def _delete(self, run_uid: str) -> None:
        """Delete a half-written entry; the volumes stay."""
        try:
            self._catalog.delete_contents([run_uid], recursive=True, external_only=False)
        except ClientError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise

    def _reach(self) -> bool:
        """Whether Tiled can be written to; connects where it must."""
        if self._catalog is not None:
            return True
        if time.monotonic() < self._connect_at:
            return False
        try:
            catalog = self._connect()
            self._delivered = _distinct(catalog, "stop.run_start")
            self._started = _distinct(catalog, "start.uid")
        except (httpx.HTTPError, TiledNotThere) as error:
            self._lose(error)
            return False
        self._catalog, self._connect_failures = catalog, 0
        logger.info("connected to Tiled: %d runs complete there, %d to deliver", len(self._delivered), len(self._runs))
        return True

    def _lose(self, error: Exception) -> None:
        """Forget the connection and every run in hand: what of it arrived is unknown."""
        if self._connect_failures == 0:
            logger.warning("Tiled can't be reached (%s); documents wait in their logs", error)
        self._catalog = None
        for run in self._runs.values():
            run.delivery = None
        self._connect_failures += 1
        self._connect_at = time.monotonic() + min(2.0, 0.25 * 2 ** min(self._connect_failures, 8))

    def _set_aside(self, run_uid: str, run: _Run, error: Exception) -> None:
        run.failures += 1
        run.delivery, run.anew = None, run.failures > PATIENCE or not _is_tiled_s_fault(error)
        pause = min(LONGEST_PAUSE_S, 2.0**run.failures)
        run.not_before = time.monotonic() + pause
        logger.error(
            "run %s can't be delivered (attempt %d, next in %.0f s)", run_uid, run.failures, pause, exc_info=error
        )


def _is_tiled_s_fault(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error


class TiledNotThere(Exception):
    """Nobody has said yet where Tiled listens, or nobody listens there."""


def _distinct(catalog: Any, key: str) -> set[str]:
    """The values of one metadata entry over all runs, in one request."""
    found = catalog.distinct(key)["metadata"].get(key, [])
    return {item["value"] for item in found if item["value"]}
