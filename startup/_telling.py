"""What a running plan tells of itself: how far it is, as hints; what it prints, in the audit (decision 0077)."""

from __future__ import annotations

import contextlib
import io
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from ..ledger import Hints, Operations

logger = logging.getLogger("queuescope.startup")

EVERY_S = 0.5
"""Nothing is told oftener, but at the end."""
LONGEST_LINE = 500
MOST_OUTPUT = 64 * 1024
"""Characters of an attempt's output that are kept: the audit is for ever."""


class Progress:
    """Frames that the run's documents speak of, out of those that were planned. A RunEngine's subscriber.

    Parameters
    ----------
    planned
        What the plan said that it will take; 0 where only its datasets tell.
    """

    def __init__(self, hints: Hints, key: str, attempt: int, planned: int) -> None:
        self._hints, self._key, self._attempt, self._planned = hints, key, attempt, planned
        self._done = self._total = 0
        self._told: tuple[int, int] | None = None
        self._at = 0.0

    def __call__(self, name: str, doc: Any) -> None:
        match name:
            case "start":
                self._done = self._total = 0
            case "stream_resource":
                self._total += doc["parameters"].get("frames_planned") or 0
            case "stream_datum":
                self._done += doc["indices"]["stop"] - doc["indices"]["start"]
        if name == "stop" or time.monotonic() - self._at >= EVERY_S:
            self._tell()

    def _tell(self) -> None:
        told = self._done, max(self._total, self._planned, self._done)
        if self._done and told != self._told:
            self._told, self._at = told, time.monotonic()
            self._hints(self._key, self._attempt, "progress", {"done": told[0], "total": told[1]})


class Output(io.TextIOBase):
    """Standard output while a plan runs: goes where it went, and line by line into the operation's audit."""

    def __init__(self, through: TextIO, operations: Operations, item_uid: str) -> None:
        self._through, self._operations, self._item_uid = through, operations, item_uid
        self._lock, self._handing = threading.Lock(), threading.Lock()
        self._rest = ""
        self._lines: list[str] = []
        self._left = MOST_OUTPUT
        self._timer: threading.Timer | None = None

    def write(self, text: str) -> int:
        self.take(text)
        return self._through.write(text)

    def take(self, text: str) -> None:
        """Into the audit, line by line."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._keep(line.rstrip("\r"))
            if self._lines and self._timer is None:
                self._timer = threading.Timer(EVERY_S, self.hand_on)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        self._through.flush()

    def isatty(self) -> bool:
        return False

    def _keep(self, line: str) -> None:
        if self._left <= 0:
            return
        line = line[:LONGEST_LINE]
        self._left -= len(line) + 1
        self._lines.append(
            line if self._left > 0 else f"… more than {MOST_OUTPUT} characters: the rest is in the worker's log"
        )

    def hand_on(self) -> None:
        """What has come since the last time."""
        problem = None
        with self._handing:
            with self._lock:
                lines, self._lines = self._lines, []
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            try:
                if lines:
                    self._operations.say(self._item_uid, lines)
            except sqlite3.Error as error:  # the plan is worth more than what it says
                problem = error
        if problem is not None:
            logger.error("%d lines of a plan's output are not in its audit: %s", len(lines), problem)

    def end(self) -> None:
        with self._lock:
            if self._rest:
                self._keep(self._rest)
                self._rest = ""
        self.hand_on()


@contextlib.contextmanager
def output(operations: Operations, item_uid: str) -> Iterator[Output]:
    """What is printed inside, and what our own logs warn of, becomes events of the operation: all of it before this is left."""
    out = Output(sys.stdout, operations, item_uid)
    warnings = logging.StreamHandler(_Lines(out))
    warnings.setLevel(logging.WARNING)
    warnings.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("queuescope")
    log.addHandler(warnings)
    try:
        with contextlib.redirect_stdout(out):
            yield out
    finally:
        log.removeHandler(warnings)
        out.end()


class _Lines(io.TextIOBase):
    """Into the audit only: where else logs go is theirs to say."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def write(self, text: str) -> int:
        self._out.take(text)
        return len(text)
