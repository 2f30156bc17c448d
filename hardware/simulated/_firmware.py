"""The firmware of an emulated ASI Tiger controller with its SPIM state machine: it runs on, whoever listens.

Cards as on a diSPIM: ``33`` two scanners (axes ``A B`` side A, ``C D`` side B; one SPIM state machine for both), ``34`` and
``35`` a piezo each (axes ``P``, ``Q``), ``36`` programmable logic whose outputs 1 and 2 trigger the cameras and 5 to 8 gate the
lasers. Names and meanings are those of Micro-Manager's ASITiger adapter; the period of a slice and the positions of the slices
are computed as its diSPIM plugin does. Only the standard library, and no MMCore: this also runs as a process of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ._tiger import CARD_OF, DEFAULTS, MIRROR_OF, OUTPUTS, PARKED, PIEZO_OF, RANGE, SIDES, Faults, Trigger


class Firmware:
    """The controller. Every method may be called from any thread and returns at once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stop = threading.Condition(self._lock)
        self._settings: dict[str, float | str] = {f"33.{name}": value for name, value in DEFAULTS.items()}
        for axis in RANGE:
            self._settings |= {f"{axis}.amplitude": 0.0, f"{axis}.offset": 0.0, f"{axis}.home": 0.0}
        self._settings |= {"34.SPIMNumSlices": 1, "35.SPIMNumSlices": 1, "36.OutputChannel": "none of outputs 5-8"}
        self._positions = dict.fromkeys(RANGE, 0.0)
        self._states = {"33": "Idle", "34": "Idle", "35": "Idle"}
        self._shutter = False
        self._laser = False
        self._cameras: dict[str, bool] = dict.fromkeys(SIDES, False)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[Trigger], None]] = []
        self._scale = 1.0
        self._clock_ms = 0.0
        self._anchor = (time.monotonic(), 0.0)
        self._runs = self._slices = self._moves = 0
        self._triggers = dict.fromkeys(SIDES, 0)
        self._faults = Faults({}, None, False, False)

    # ------------------------------------------------------------------ the cards

    def read(self, key: str) -> float | str:
        """A setting such as ``33.SPIMNumSlices`` or ``B.amplitude``; also ``CARD.SPIMState`` and ``36.lines``."""
        with self._lock:
            card, _, name = key.partition(".")
            if name == "SPIMState":
                return self._states[card]
            if key == "36.lines":
                return self._lines()
            return self._settings[key]

    def write(self, key: str, value: float | str) -> None:
        """Change a setting, or ``CARD.SPIMState``."""
        with self._lock:
            card, _, name = key.partition(".")
            if name == "SPIMState":
                self._change_state(card, str(value))
            elif key not in self._settings:
                raise KeyError(f"the controller has no setting {key}")
            else:
                self._settings[key] = value

    def position(self, axis: str) -> float:
        with self._lock:
            return self._positions[axis]

    def move(self, axis: str, target: float) -> None:
        """Go there, or to the end of the range."""
        with self._lock:
            self._moves += 1
            self._positions[axis] = min(max(target, -RANGE[axis]), RANGE[axis])

    def shutter(self, is_open: bool | None = None) -> bool:
        """Open or close the logic card's software shutter; returns whether it is open."""
        with self._lock:
            if is_open is not None:
                self._shutter = is_open
            return self._shutter

    def where(self, side: str) -> tuple[float, float, float, int]:
        """A side's piezo in µm, its mirror's x and y in degrees, and the logic card's lines."""
        with self._lock:
            x, y = MIRROR_OF[side]
            return self._positions[PIEZO_OF[side]], self._positions[x], self._positions[y], self._lines()

    def time_scale(self, scale: float | None = None) -> float:
        """Seconds that pass for one of the controller's: 1 is real time, 0 waits for nothing."""
        with self._stop:
            if scale is not None:
                self._scale = scale
                self._set_anchor()
                self._stop.notify_all()
            return self._scale

    # ------------------------------------------------------------------ for tests

    def faults(
        self,
        miss: dict[str, list[int]] | None = None,
        miss_every: int | None = None,
        fire_until_stopped: bool = False,
        refuse_idle: bool = False,
    ) -> None:
        """Set what goes wrong from now on; without arguments, nothing."""
        with self._stop:
            self._faults = Faults(miss or {}, miss_every, fire_until_stopped, refuse_idle)

    def status(self) -> dict[str, Any]:
        with self._lock:
            return {
                "state": self._states["33"],
                "piezos": {"P": self._states["34"], "Q": self._states["35"]},
                "runs": self._runs,
                "slices": self._slices,
                "triggers": dict(self._triggers),
                "laser_on": [output for output in (5, 6, 7, 8) if self._lines() >> (output - 1) & 1],
                "positions": dict(self._positions),
                "moves": self._moves,
                "faults": asdict(self._faults),
            }

    def wait_slices(self, more_than: int, limit_s: float) -> int:
        """Slices run since power-up, once they exceed ``more_than`` or after ``limit_s``."""
        with self._stop:
            self._stop.wait_for(lambda: self._slices > more_than, limit_s)
            return self._slices

    # ------------------------------------------------------------------ the trigger lines

    def listen(self, listener: Callable[[Trigger], None]) -> None:
        """Call this at every edge of a camera line; it must return at once."""
        with self._lock:
            self._listeners.append(listener)

    def ignore(self, listener: Callable[[Trigger], None]) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def _lines(self) -> int:
        laser = OUTPUTS[str(self._settings["36.OutputChannel"])] if self._laser or self._shutter else ()
        return sum(1 << (output - 1) for output in laser) + sum(
            1 << n for n, side in enumerate(SIDES) if self._cameras[side]
        )

    # ------------------------------------------------------------------ the state machine

    def _change_state(self, card: str, wanted: str) -> None:
        if card != "33":
            self._states[card] = wanted
            return
        if wanted == "Running":
            if self._states["33"] != "Running":
                self._states["33"] = "Running"
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="tiger-spim", daemon=True)
                self._thread.start()
            return
        if self._faults.refuse_idle and self._states["33"] == "Running":
            return
        self._stopping = True
        self._stop.notify_all()
        thread = self._thread
        while self._states["33"] == "Running" and thread is not None and thread.is_alive():
            self._stop.wait(0.1)  # a stopped card is dark and at rest when it answers
        self._states["33"] = wanted

    def _number(self, name: str) -> float:
        return float(self._settings[f"33.{name}"])

    def _run(self) -> None:
        with self._stop:
            self._runs += 1
            self._set_anchor()
            self._triggers = dict.fromkeys(SIDES, 0)
        try:
            for repeat, side, index, first in self._order():
                if not self._slice(repeat, side, index, first):
                    break
        finally:
            with self._stop:
                self._laser = False
                self._cameras = dict.fromkeys(SIDES, False)
                self._go_home()
                for card in ("34", "35"):
                    self._states[card] = "Idle"
                if self._states["33"] == "Running":
                    self._states["33"] = "Idle"
                self._stop.notify_all()

    def _order(self) -> Iterator[tuple[int, str, int, bool]]:
        """Repeat, side, slice, and whether a side begins; read as it goes, for settings may be changed on the way."""
        repeat = 0
        while True:
            with self._lock:
                first = str(self._settings["33.SPIMFirstSide"])
                sides = [first, *(s for s in SIDES if s != first)][: int(self._number("SPIMNumSides"))]
                count = max(1, int(self._number("SPIMNumSlices"))) * max(1, int(self._number("SPIMNumSlicesPerPiezo")))
                mixed = self._settings["33.SPIMInterleaveSidesEnable"] == "Yes"
                back = self._settings["33.SPIMAlternateDirectionsEnable"] == "Yes" and repeat % 2 == 1
            indices = range(count - 1, -1, -1) if back else range(count)
            if mixed:
                for index in indices:
                    for side in sides:
                        yield repeat, side, index, index == indices[0] and side == sides[0]
            else:
                for side in sides:
                    for index in indices:
                        yield repeat, side, index, index == indices[0]
            repeat += 1
            if repeat >= self._number("SPIMNumRepeats") and not self._faults.fire_until_stopped:
                return
            if not self._wait_until(self._clock_ms + self._number("SPIMDelayBeforeRepeat(ms)")):
                return

    def _slice(self, repeat: int, side: str, index: int, first: bool) -> bool:
        """One slice; False where it was stopped."""
        with self._stop:
            if self._stopping:
                return False
            if first and not self._wait_until(self._clock_ms + self._number("SPIMDelayBeforeSide(ms)")):
                return False
            self._place(side, index)
            begin = self._clock_ms
            n = self._number
            scan = n("SPIMDelayBeforeScan(ms)") + n("SPIMScanDuration(ms)") * max(1.0, n("SPIMNumScansPerSlice"))
            laser = n("SPIMDelayBeforeLaser(ms)"), n("SPIMDelayBeforeLaser(ms)") + n("SPIMLaserDuration(ms)")
            camera = n("SPIMDelayBeforeCamera(ms)"), n("SPIMDelayBeforeCamera(ms)") + n("SPIMCameraDuration(ms)")
            edges: list[tuple[float, Callable[[], None]]] = [
                (camera[0], lambda: self._fire(side, index, repeat, begin, laser, camera)),
                (camera[1], lambda: self._cameras.update({side: False})),
                (laser[0], lambda: setattr(self, "_laser", True)),
                (laser[1], lambda: setattr(self, "_laser", False)),
            ]
            for at, act in sorted(edges, key=lambda edge: edge[0]):
                if not self._wait_until(begin + at):
                    return False
                act()
            if not self._wait_until(begin + max(scan, laser[1], camera[1])):
                return False
            self._slices += 1
            self._stop.notify_all()
            return True

    def _place(self, side: str, index: int) -> None:
        """Piezo (where its card is armed) and slice mirror of this slice: evenly over the amplitude, about the offset."""
        steps = max(1, int(self._number("SPIMNumSlices")))
        step = index // max(1, int(self._number("SPIMNumSlicesPerPiezo")))
        share = step / (steps - 1) - 0.5 if steps > 1 else 0.0
        piezo, (x, y) = PIEZO_OF[side], MIRROR_OF[side]
        moved = [y, piezo] if self._states[CARD_OF[piezo]] == "Armed" else [y]
        for axis in moved:
            self.move(
                axis, float(self._settings[f"{axis}.offset"]) + share * float(self._settings[f"{axis}.amplitude"])
            )
        self.move(x, float(self._settings[f"{x}.offset"]))

    def _fire(
        self, side: str, index: int, repeat: int, begin: float, laser: tuple[float, float], camera: tuple[float, float]
    ) -> None:
        number = self._triggers[side]
        self._triggers[side] += 1
        every = self._faults.miss_every
        if number in self._faults.miss.get(side, ()) or (every is not None and (number + 1) % every == 0):
            return
        self._cameras[side] = True
        x, y = MIRROR_OF[side]
        trigger = Trigger(
            side=side,
            number=number,
            slice=index,
            repeat=repeat,
            at_ms=begin + camera[0],
            duration_ms=camera[1] - camera[0],
            laser_from_ms=begin + laser[0],
            laser_until_ms=begin + laser[1],
            outputs=OUTPUTS[str(self._settings["36.OutputChannel"])],
            piezo_um=self._positions[PIEZO_OF[side]],
            galvo_x_deg=self._positions[x],
            galvo_y_deg=self._positions[y],
            time_scale=self._scale,
        )
        for listener in list(self._listeners):
            listener(trigger)

    def _go_home(self) -> None:
        if self._settings["33.SPIMPiezoHomeDisable"] != "Yes":
            for axis in PIEZO_OF.values():
                if self._states[CARD_OF[axis]] == "Armed":
                    self.move(axis, float(self._settings[f"{axis}.home"]))
        if self._settings["33.SPIMScannerHomeDisable"] != "Yes":
            for axis in (axis for side in SIDES for axis in MIRROR_OF[side]):
                self.move(axis, PARKED)

    def _wait_until(self, at_ms: float) -> bool:
        """Let the controller's clock come to ``at_ms``; False where it was stopped before."""
        with self._stop:
            while not self._stopping:
                began, began_ms = self._anchor
                left = began + (at_ms - began_ms) / 1000 * self._scale - time.monotonic()
                if left <= 0 or self._scale == 0:
                    break
                self._stop.wait(left)
            self._clock_ms = max(self._clock_ms, at_ms)
            return not self._stopping

    def _set_anchor(self) -> None:
        """From now on the controller's time runs on from here."""
        self._anchor = (time.monotonic(), self._clock_ms)
