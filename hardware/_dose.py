"""The dose meter: power × time on, in % × s, measured around each opening of a gate, per sample and position.

Kept in an append-only file. An opening is written before the gate opens and its time after it has closed, so an opening
without an end is one during which the process died: it counts until the gates were next found closed, as `assumed`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._dose_state import DoseState
from ._errors import ArgumentError, ConfigurationError, DoseError, LimitError

LARGEST = 8_000_000
"""Bytes of the file that are kept; a longer one is replaced by its sums."""


@dataclass
class Account:
    """Whom an opening counts for."""

    sample: str | None = None
    position: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    """By light: what was measured for this account since it was made."""

    def add(self, light: str, dose: float) -> None:
        self.measured[light] = self.measured.get(light, 0.0) + dose


@dataclass
class _Opening:
    number: int
    power_pct: float
    account: Account
    began: float
    """Monotonic."""


class DoseMeter:
    """All doses of a data directory. For any number of threads."""

    def __init__(self, file: Path) -> None:
        """
        Raises
        ------
        ConfigurationError
            Where the file is damaged: a budget can't be held on it.
        """
        self._file = file
        self._lock = threading.RLock()
        self._doses: dict[tuple[str | None, str, str], float] = {}
        """By sample, position and light."""
        self._assumed: dict[tuple[str | None, str], float] = {}
        self._budgets: dict[str, dict[str, float]] = {}
        self._open: dict[str, _Opening] = {}
        self._orphans: dict[int, dict[str, Any]] = {}
        self._sample: str | None = None
        self._number = 0
        file.parent.mkdir(parents=True, exist_ok=True)
        self._replay()
        self._out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)

    def settle(self) -> None:
        """At start, when the gates are closed: what a dead process left open counts until now."""
        with self._lock:
            now = time.time()
            for line in self._orphans.values():
                seconds = max(0.0, now - line["at"])
                self._apply({"off": line["on"], "s": seconds, "assumed": True}, line)
            self._orphans.clear()
            self._replace()

    def close(self) -> None:
        """A gate that is still open then counts until the next start finds it closed."""
        with self._lock:
            if self._out >= 0:
                os.fsync(self._out)
                os.close(self._out)
                self._out = -1

    def account(self, sample: str | None = None, position: str | None = None) -> Account:
        """An account for a run; while a sample is open, its light counts for that sample.

        Raises
        ------
        ArgumentError
            Where another sample is open than the one named.
        """
        with self._lock:
            if sample is not None and self._sample is not None and sample != self._sample:
                raise ArgumentError(
                    f"the run names sample {sample!r}, but {self._sample!r} is open: all light counts for that one; an"
                    " operator opens another",
                    thing="open_recording.plan.sample_id",
                    value=sample,
                )
            return Account(self._sample or sample, position or "")

    def set_sample(self, sample: str | None, budget: Mapping[str, float], lights: Mapping[str, Any]) -> DoseState:
        """See `Hardware.set_sample`."""
        for light, limit in budget.items():
            if light not in lights:
                raise ArgumentError(
                    f"set_sample.budget: {light!r} is none of the lights {sorted(lights)}", thing="set_sample.budget"
                )
            if not math.isfinite(limit) or limit < 0:
                raise LimitError(
                    f"set_sample.budget: {light} {limit} is not a dose of 0 % × s or more",
                    thing=light,
                    value=repr(limit),
                    limit=[0],
                )
        with self._lock:
            line = {"sample": sample, "budget": dict(budget)}
            self._append(line)
            os.fsync(self._out)
            self._apply(line)
            return self.state(sample)

    def state(self, sample: str | None) -> DoseState:
        """The dose of a sample (None: of the open one, or of light without a sample), openings under way included."""
        with self._lock:
            sample = sample or self._sample
            used: dict[str, float] = {}
            places: dict[str, dict[str, float]] = {}
            for (of, place, light), dose in [*self._doses.items(), *self._running()]:
                if of == sample:
                    used[light] = used.get(light, 0.0) + dose
                    there = places.setdefault(place, {})
                    there[light] = there.get(light, 0.0) + dose
            return DoseState(
                sample_id=sample,
                open=sample is not None and sample == self._sample,
                used=used,
                by_position=places,
                assumed={light: dose for (of, light), dose in self._assumed.items() if of == sample},
                budget=self._budgets.get(sample or "", {}),
            )

    def _running(self) -> list[tuple[tuple[str | None, str, str], float]]:
        now = time.monotonic()
        return [
            ((o.account.sample, o.account.position, light), o.power_pct * (now - o.began))
            for light, o in self._open.items()
        ]

    def rest(self, light: str, account: Account) -> float:
        """What the account's sample may still have of a light; infinite without a budget."""
        with self._lock:
            budget = self._budgets.get(account.sample or "", {}).get(light)
            if budget is None:
                return math.inf
            return budget - self.state(account.sample).used.get(light, 0.0)

    def check(self, asked: Mapping[str, float], account: Account) -> None:
        """Refuse what would exceed the rest of a budget.

        Raises
        ------
        DoseError
            Naming sample, light, used, asked and budget.
        """
        for light, dose in asked.items():
            rest = self.rest(light, account)
            if dose > rest or rest <= 0 < dose:
                budget = self._budgets[str(account.sample)][light]
                raise DoseError(
                    f"{light}: {dose:.4g} % × s asked for, but sample {account.sample!r} has had {budget - rest:.4g} of its"
                    f" budget of {budget:.4g}: use less light, or let an operator decide on a new budget (set_sample)",
                    thing=light,
                    sample=account.sample,
                    used=budget - rest,
                    value=dose,
                    limit=budget,
                )

    def opened(self, light: str, power_pct: float, account: Account, durable: bool = False) -> None:
        """Just before a gate opens (an opening under way ends: its power may change)."""
        with self._lock:
            self.closed(light)
            self._number += 1
            line = {"on": self._number, "light": light, "power_pct": power_pct, "at": time.time()}
            self._append({**line, "sample": account.sample, "position": account.position})
            self._open[light] = _Opening(self._number, power_pct, account, time.monotonic())
            out = self._out
        if durable:
            with contextlib.suppress(OSError):  # without the lock: a halt must not wait for the disk
                os.fsync(out)

    def is_open(self, light: str) -> bool:
        """Whether an opening of this light is under way."""
        return light in self._open

    def closed(self, light: str, seconds: float | None = None) -> None:
        """Just after a gate was found closed; without an opening nothing happens. ``seconds``: for how long it was open,
        where that is known better than by the time since.
        """
        with self._lock:
            opening = self._open.pop(light, None)
            if opening is None:
                return
            seconds = time.monotonic() - opening.began if seconds is None else seconds
            opening.account.add(light, opening.power_pct * seconds)
            key = (opening.account.sample, opening.account.position, light)
            self._doses[key] = self._doses.get(key, 0.0) + opening.power_pct * seconds
            self._append({"off": opening.number, "s": seconds})
            if os.fstat(self._out).st_size > LARGEST and not self._open:
                self._replace()

    def _append(self, line: dict[str, Any]) -> None:
        if self._out >= 0:
            os.write(self._out, json.dumps(line).encode() + b"\n")

    def _apply(self, line: dict[str, Any], opening: dict[str, Any] | None = None) -> None:
        """Take one line of the file into account."""
        if "on" in line:
            self._orphans[line["on"]] = line
            self._number = max(self._number, line["on"])
        elif "off" in line:
            opening = opening or self._orphans.pop(line["off"])
            self._sum(opening["sample"], opening["position"], opening["light"], opening["power_pct"] * line["s"])
            if line.get("assumed"):
                key = (opening["sample"], opening["light"])
                self._assumed[key] = self._assumed.get(key, 0.0) + opening["power_pct"] * line["s"]
        elif "dose" in line:
            self._sum(line["of"], line["position"], line["light"], line["dose"])
        elif "assumed" in line:
            self._assumed[line["of"], line["light"]] = line["assumed"]
        else:
            self._sample = line["sample"]
            if self._sample is not None:
                self._budgets[self._sample] = line["budget"]

    def _sum(self, sample: str | None, position: str, light: str, dose: float) -> None:
        key = (sample, position, light)
        self._doses[key] = self._doses.get(key, 0.0) + dose

    def _replay(self) -> None:
        try:
            text = self._file.read_bytes()
        except FileNotFoundError:
            return
        whole, _, torn = text.rpartition(b"\n")
        if torn:  # its gate never opened: the line comes first
            with self._file.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"{self._file}, line {number}: {error!r}: the samples' doses are unknown. Restore the file, or move it"
                    " away knowingly: every dose then starts at 0",
                    thing="dose",
                    value=str(self._file),
                ) from None

    def _replace(self) -> None:
        """The file's sums in place of its lines; nothing may be open."""
        lines: list[dict[str, Any]] = [
            {"of": of, "position": place, "light": light, "dose": dose}
            for (of, place, light), dose in self._doses.items()
        ]
        lines += [{"of": of, "light": light, "assumed": dose} for (of, light), dose in self._assumed.items()]
        lines += [{"sample": sample, "budget": budget} for sample, budget in self._budgets.items()]
        lines.append({"sample": self._sample, "budget": self._budgets.get(self._sample or "", {})})
        draft = self._file.with_name(f".{self._file.name}.draft")
        with draft.open("wb") as file:
            file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.close(self._out)
        try:
            os.replace(draft, self._file)
        finally:
            self._out = os.open(self._file, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        with contextlib.suppress(OSError):
            draft.unlink()
