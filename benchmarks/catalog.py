"""Opening a run by UID in a small and a large catalog, and how far the catalog lags behind the log of a run.

The runs of the small catalog are document logs that the courier delivers; the large one is a copy of it, multiplied in Tiled's
database (`_catalog_runs.multiply`). Each has a Tiled server of its own and both are asked in turn, by address, as from another
computer: on the microscope's own a run is opened from its log, and the catalog isn't asked at all (`bench read`). Lags are those
of the large catalog, from the moment a document was on disk until a live subscriber had heard of its frame or reading.
"""

from __future__ import annotations

import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..agents import catalog
from ..layout import Layout
from ._catalog_runs import AXES, WrittenLog, multiply, pairs, sample, write_runs
from ._catalog_stand import Stand
from ._result import Result, Row, Tell, row

GOAL = 1.5
"""Time in the large catalog over time in the small one."""
LAG_GOALS_S = {"lag at 20 events/s": 1.0, "lag behind a burst": 2.0}
PATIENCE_S = 600.0
BURST = 300

Open = Callable[[Any, int, str], Any]


def measure(quick: bool, tell: Tell) -> Result:
    """Milliseconds and seconds: 100 and 10 000 runs, 21 repetitions, 9 of the lags; where ``quick`` 4 and 40, 2 and 1."""
    (small, large), repetitions, lag_repetitions = ((4, 40), 2, 1) if quick else ((100, 10_000), 21, 9)
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        data = Path(folder)
        with Stand(data / "small") as first:
            tell(f"catalog: delivering {small} runs")
            uids = _delivered(first, small)
        tell(f"catalog: making {large} of them")
        more = multiply(first.layout, Layout(data / "large"), uids, large)
        with Stand(data / "small") as first, Stand(data / "large") as second:
            first.start()
            second.start()
            stands = [_Catalog(first, uids), _Catalog(second, more)]
            rows, ratios = _opened(stands, repetitions, tell)
            lags = _lags(second, stands[1].runs, lag_repetitions, tell)
            for stand in stands:
                stand.runs.context.http_client.close()
    for lag in lags:
        goal = next(seconds for case, seconds in LAG_GOALS_S.items() if lag.case.startswith(case))
        ratios[f"{lag.case}, longest / {goal:g} s (goal 1)"] = lag.max / goal
    return Result("catalog", [*rows, *lags], ratios)


class _Catalog:
    """A catalog that answers, and what is in it."""

    def __init__(self, stand: Stand, uids: list[str]) -> None:
        self.stand, self.uids = stand, uids
        self.runs = self.connect()

    def connect(self) -> Any:
        return catalog(self.stand.url, self.stand.layout.key("agent"))


def _delivered(stand: Stand, n: int) -> list[str]:
    """Have the courier deliver ``n`` runs; returns their uids, in the catalog's order."""
    stand.start()
    written = write_runs(stand.layout, n)
    runs = catalog(stand.url, stand.layout.key("agent"))
    deadline = time.monotonic() + PATIENCE_S
    while sum(bool(found["value"]) for found in runs.distinct("stop.run_start")["metadata"]["stop.run_start"]) < n:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{n} runs were not delivered in {PATIENCE_S:g} s: see {stand.layout.logs}")
        time.sleep(0.2)
    runs.context.http_client.close()
    return written


def _opened(stands: list[_Catalog], repetitions: int, tell: Tell) -> tuple[list[Row], dict[str, float]]:
    """Every case in both catalogs, in turn, each time another run from all over the catalog."""
    cases: dict[str, Open] = {
        "by UID, new client": _by_new_client,
        "by UID": lambda at, number, uid: at.runs[uid],
        "by the first 8 of its UID": lambda at, number, uid: at.runs[uid[:8]],
        "newest": lambda at, number, uid: at.runs[-1],
        "search by sample": _by_sample,
        "its readings": lambda at, number, uid: at.runs[uid].table("monitor"),
    }
    rows, ratios = [], {}
    for case, open_it in cases.items():
        tell(f"catalog: {case}")
        values: list[list[float]] = [[] for _ in stands]
        for which in zip(*(pairs(stand.uids, repetitions) for stand in stands), strict=True):
            for stand, (number, uid), taken in zip(stands, which, values, strict=True):
                began = time.perf_counter()
                found = open_it(stand, number, uid)
                taken.append(1000 * (time.perf_counter() - began))
                _check(case, found, stand, number, uid)
        small, large = values
        rows += [
            row(f"{case}, {len(stand.uids)} runs", "ms", taken) for stand, taken in zip(stands, values, strict=True)
        ]
        sizes = " / ".join(str(len(stand.uids)) for stand in reversed(stands))
        ratios[f"{case}, {sizes} runs (goal {GOAL:g})"] = statistics.median(large) / statistics.median(small)
    return rows, ratios


def _by_new_client(at: _Catalog, number: int, uid: str) -> Any:
    runs = at.connect()
    found = runs[uid]
    runs.context.http_client.close()
    return found


def _by_sample(at: _Catalog, number: int, uid: str) -> Any:
    from tiled.queries import Key

    return at.runs.search(Key("start.sample_id") == sample(number)).values().first()


def _check(case: str, found: Any, at: _Catalog, number: int, uid: str) -> None:
    """`RuntimeError` where another run was found."""
    if case == "its readings":
        axis = AXES[number % len(AXES)]
        right = list(found[axis]) == [float(i) for i in range(len(found))] and len(found) > 0
    elif case == "search by sample":
        right = found.metadata["start"]["sample_id"] == sample(number)
    else:
        right = found.metadata["start"]["uid"] == (at.uids[-1] if case == "newest" else uid)
    if not right:
        raise RuntimeError(f"{case}: not run {uid}, but {found!r}")


def _lags(stand: Stand, runs: Any, repetitions: int, tell: Tell) -> list[Row]:
    cases: dict[str, Callable[[WrittenLog, _Heard], None]] = {
        "lag at 20 events/s": lambda log, heard: _acquire(log, heard, 100, 0.05),
        f"lag behind a burst, {BURST} documents in 2.5 s": lambda log, heard: _acquire(log, heard, BURST, 2.5 / BURST),
        f"lag behind a burst, one document of {BURST} frames": lambda log, heard: heard.wrote(log.expose, BURST),
    }
    rows = []
    for case, acquire in cases.items():
        seconds = []
        for repetition in range(repetitions):
            tell(f"catalog: {case}, {repetition + 1} of {repetitions}")
            log = WrittenLog(stand.layout, 0, BURST)
            heard = _Heard(runs, log)
            acquire(log, heard)
            seconds.append(heard.longest())
            log.stop()
        rows.append(row(case, "seconds", seconds))
    return rows


def _acquire(log: WrittenLog, heard: _Heard, n: int, period_s: float) -> None:
    """``n`` times a frame of each camera and a reading, one ``period_s`` after the other."""
    began = time.monotonic()
    for index in range(n):
        time.sleep(max(0.0, began + index * period_s - time.monotonic()))
        heard.wrote(log.expose)
        heard.wrote(log.read, float(index))


class _Heard:
    """A live subscriber: when it heard of each frame and each reading of a run."""

    def __init__(self, runs: Any, log: WrittenLog) -> None:
        from bluesky_tiled_plugins import subscribe_to_streams

        self._log = log
        self._news: queue.SimpleQueue[tuple[str, int, float]] = queue.SimpleQueue()
        self._written: dict[str, list[float]] = {"frames": [], "readings": []}
        self._subscription = subscribe_to_streams(
            runs,
            self._told,
            streams={"primary": "cam_a", "monitor": None},
            run_filter=lambda update: update.key == log.uid,
        )

    def _told(self, update: Any) -> None:
        now = time.monotonic()
        if update.stream_name == "primary":
            self._news.put(("frames", update.update.shape[0], now))
        else:
            self._news.put(("readings", len(update.data()), now))

    def wrote(self, write: Callable[[Any], None], *what: Any) -> None:
        """Write a document, and remember when it was on disk."""
        write(*what)
        kind = "frames" if write == self._log.expose else "readings"
        self._written[kind] += [time.monotonic()] * (what[0] if kind == "frames" and what else 1)

    def longest(self) -> float:
        """Wait until everything written was heard of; seconds of the latest news."""
        heard = dict.fromkeys(self._written, 0)
        longest = 0.0
        while any(heard[kind] < len(times) for kind, times in self._written.items()):
            kind, count, at = self._news.get(timeout=60)
            reached = count if kind == "frames" else heard[kind] + count
            longest = max([longest, *(at - then for then in self._written[kind][heard[kind] : reached])])
            heard[kind] = max(heard[kind], reached)
        self._subscription.disconnect()
        return longest
