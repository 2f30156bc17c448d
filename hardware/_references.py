"""Does every axis still stand where its last move left it? A jump locks it until a person confirms its zero (R5.8).

What is expected is written to a file before and after each move, so a jump is noticed over a restart of the process, too,
however it ended. While a move is under way, anything between start and target is expected.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config import Axis
from ._errors import ArgumentError, ReferenceLostError

log = logging.getLogger("queuescope.hardware")


class References:
    """Where each axis is expected, and which are lost. For any number of threads."""

    def __init__(self, axes: Mapping[str, Axis], file: Path) -> None:
        self._axes = {name: axis for name, axis in axes.items() if axis.reference != "none"}
        self._units = {name: axis.units for name, axis in axes.items()}
        self._lock = threading.Lock()
        self._expected: dict[str, tuple[float, float] | None] = {}
        self._lost: dict[str, dict[str, Any]] = {}
        self._unknown = False
        file.parent.mkdir(parents=True, exist_ok=True)
        self._read(file)
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)

    def _read(self, file: Path) -> None:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        try:
            kept = json.loads(text)
            self._expected = {
                name: span and (float(span[0]), float(span[1])) for name, span in kept["expected"].items()
            }
            self._lost = {name: dict(lost) for name, lost in kept["lost"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            log.error("%s can't be read: every axis must be confirmed by a person", file)
            self._unknown = True

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    @property
    def watched(self) -> set[str]:
        """Axes compared before each move."""
        return {name for name, axis in self._axes.items() if axis.reference == "watched"}

    def compare_start(self, here: Mapping[str, float], homed: Iterable[str]) -> None:
        """After loading: an axis elsewhere than it was left is lost; those that homed on loading are where they say."""
        homed = set(homed)
        with self._lock:
            for name in self._axes:
                if name not in here or name in homed:
                    self._expected[name] = None
                elif self._unknown:
                    self._lose(name, here[name], None)
                else:
                    self._compare(name, here[name])
            self._write()

    def compare(self, here: Mapping[str, float]) -> None:
        """Before a move: watched axes must stand where they were left.

        Raises
        ------
        ReferenceLostError
            Naming the first that doesn't, or that was lost before.
        """
        with self._lock:
            changed = False
            for name in here:
                if name in self._axes and self._axes[name].reference == "watched":
                    changed |= self._compare(name, here[name])
            if changed:
                self._write()
        self.require(here)

    def require(self, names: Iterable[str]) -> None:
        """
        Raises
        ------
        ReferenceLostError
            Where one of these axes is lost.
        """
        for name in names:
            lost = self._lost.get(name)
            if lost is not None:
                raise ReferenceLostError(
                    f"{self.told(name)}: it is locked until a person has checked it and says so: queuescope confirm {name}",
                    thing=name,
                    value=lost["found"],
                    limit=lost["left"],
                )

    def lose_all(self, why: str) -> None:
        """Somebody else may move these axes and change their zeros from now on; ``why`` goes on ``z …``."""
        with self._lock:
            for name in self._axes:
                self._lost[name] = {"left": None, "found": 0.0, "at": time.time(), "why": why}
            self._write()

    def lost(self) -> dict[str, str]:
        """By axis: what happened."""
        with self._lock:
            return {name: self.told(name) for name in self._lost}

    def told(self, name: str) -> str:
        lost = self._lost[name]
        if "why" in lost:
            return f"{name} {lost['why']}"
        left = "an unknown position" if lost["left"] is None else f"{lost['left']:g}"
        return f"{name} was left at {left} and stood at {lost['found']:g} {self._units.get(name, '')} though nobody moved it"

    def lose(self, name: str, found: float | None, why: str) -> None:
        """Something moved this axis where it may not be (``found`` None: nobody knows where), though it be never compared.

        ``why`` goes on ``z …``.
        """
        with self._lock:
            self._lost.setdefault(name, {"left": None, "found": found, "at": time.time(), "why": why})
            self._write()
        log.error("reference lost: %s", self.told(name))

    def confirm(self, name: str, here: float, by: str) -> None:
        """A person says that the axis reads right where it stands."""
        if not by.strip():
            raise ArgumentError(
                "confirm_reference.by is empty: say who confirms", thing="confirm_reference.by", value=by
            )
        with self._lock:
            lost = self._lost.pop(name, None)
            if name in self._axes:
                self._expected[name] = (here, here)
            self._write()
        log.warning("%s confirmed the reference of %s at %g (%s)", by, name, here, lost or "it was not lost")

    def leaving(self, here: Mapping[str, float], targets: Mapping[str, float]) -> None:
        """A move begins."""
        spans = {n: (min(here[n], t), max(here[n], t)) if n in here else None for n, t in targets.items()}
        self._expect(spans)

    def arrived(self, positions: Mapping[str, float]) -> None:
        """A move ended with these readbacks."""
        self._expect({name: (position, position) for name, position in positions.items()})

    def forget(self, names: Iterable[str]) -> None:
        """These were stopped, or moved by their controller: any position is expected until their next move has ended."""
        self._expect(dict.fromkeys(names))

    def _expect(self, spans: Mapping[str, tuple[float, float] | None]) -> None:
        known = {name: span for name, span in spans.items() if name in self._axes}
        if known:
            with self._lock:
                self._expected.update(known)
                self._write()

    def _compare(self, name: str, found: float) -> bool:
        """Whether the axis was lost by this."""
        expected, axis = self._expected.get(name), self._axes[name]
        if expected is None or name in self._lost:
            return False
        low, high = expected
        if low - axis.tolerance <= found <= high + axis.tolerance:
            return False
        self._lose(name, found, low if found < low else high)
        return True

    def _lose(self, name: str, found: float, left: float | None) -> None:
        self._lost.setdefault(name, {"left": left, "found": found, "at": time.time()})
        log.error("reference lost: %s", self.told(name))

    def _write(self) -> None:
        """In place and unsynced: it must survive this process, and what an outage garbles counts as lost."""
        if self._file < 0:
            return
        kept = json.dumps({"expected": self._expected, "lost": self._lost}).encode()
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, kept.ljust(os.fstat(self._file).st_size))
