"""A light-sheet camera as Micro-Manager's Hamamatsu adapter has it, on the trigger lines of the emulated controller."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from pymmcore_plus.experimental.unicore.devices._device_base import Device

from ._cards import TigerCommHub
from ._sensor import GetBuffer, SensorCamera
from ._stamp import Stamp, encode
from ._tiger import Trigger

LINE_MS = 9.74436e-3
"""An ORCA-Flash4 reads two lines, one in each half, in this time."""
PATIENCE_S = 10.0
"""A snap with an external trigger waits so long for it."""
ROLLS = 64
"""Frames begin so many different lines into the pattern: two that follow each other differ."""

LONG_S = 0.2
"""A longer exposure can be ended early."""


class LightSheetCamera(SensorCamera):
    """An sCMOS camera, 16 bit.

    ``TRIGGER SOURCE`` ``EXTERNAL``: a frame for each rising edge on the line of side ``TriggerInput`` (before
    initialisation), while a sequence runs. An edge that comes while it still exposes or reads out is not seen.
    """

    def __init__(self) -> None:
        super().__init__(2048, 2048)
        self._taken = 0
        self._hub: TigerCommHub | None = None
        self._cancel = threading.Event()
        self._waiting: queue.SimpleQueue[Trigger | None] | None = None
        self._register()

    def _register(self) -> None:
        def choice(name: str, *choices: str) -> None:
            self.register_property(name, default_value=choices[0], allowed_values=choices)

        cls = LightSheetCamera
        self.register_property("TriggerInput", default_value="A", allowed_values=("A", "B"), is_pre_init=True)
        choice("TRIGGER SOURCE", "INTERNAL", "EXTERNAL", "SOFTWARE")
        choice("TRIGGER ACTIVE", "EDGE", "LEVEL", "SYNCREADOUT")
        choice("TriggerPolarity", "POSITIVE", "NEGATIVE")
        choice("TRIGGER GLOBAL EXPOSURE", "DELAYED", "GLOBAL RESET")
        choice("SENSOR MODE", "AREA", "PROGRESSIVE")
        choice("ScanMode", "2", "1")
        choice("PixelType", "16bit")
        choice("BitDepth", "16")
        for name, get, put in (
            ("OnCameraCCDXSize", cls._get_width, cls._set_width),
            ("OnCameraCCDYSize", cls._get_height, cls._set_height),
        ):
            self.register_property(name, getter=get, setter=put, limits=(16, 8192), property_type=int)
        self.register_property("Gain", default_value=0.0, limits=(-5.0, 8.0))
        self.register_property("ReadoutTime", getter=cls._readout_s, property_type=float)
        self._limit_settings()

    def joined(self, hub: Device) -> None:
        """The configuration says ``Parent,…``: the hub that its trigger cable comes from."""
        if isinstance(hub, TigerCommHub):
            self._hub = hub

    def shutdown(self) -> None:
        self.stop_sequence()

    # ------------------------------------------------------------------ settings

    def get_camera_name(self) -> str:
        return "C11440-22C (emulated)"

    def _get_width(self) -> int:
        return self._width

    def _set_width(self, value: int) -> None:
        self._width, self._roi = int(value), None

    def _get_height(self) -> int:
        return self._height

    def _set_height(self, value: int) -> None:
        self._height, self._roi = int(value), None

    def readout_ms(self) -> float:
        """Of the lines that are read now."""
        return self.shape()[0] * self._bin / 2 * LINE_MS

    def _readout_s(self) -> float:
        return self.readout_ms() / 1000

    # ------------------------------------------------------------------ frames

    def start_sequence(self, n: int | None, get_buffer: GetBuffer) -> Iterator[Mapping[str, Any]]:
        """Frames as they come; armed for external triggers when this returns, not when the first frame is asked for."""
        self._cancel = threading.Event()
        height, width = self.shape()
        pattern = _beads(height + ROLLS, width, ord(self.get_property_value("TriggerInput")))
        if self.get_property_value("TRIGGER SOURCE") != "EXTERNAL":
            return self._free_running(n, get_buffer, pattern, self._cancel)
        if self._hub is None:
            raise RuntimeError("no trigger cable: add `#py Parent,LABEL,TigerCommHub` to the configuration")
        waiting: queue.SimpleQueue[Trigger | None] = queue.SimpleQueue()
        self._waiting = waiting
        side, firmware = self.get_property_value("TriggerInput"), self._hub.firmware

        def edge(trigger: Trigger) -> None:
            if trigger.side == side:
                waiting.put(trigger)

        firmware.listen(edge)
        return self._triggered(n, get_buffer, pattern, waiting, lambda: firmware.ignore(edge))

    def stop_sequence(self) -> None:
        """Whoever waits for a frame gets none any more."""
        self._cancel.set()
        if self._waiting is not None:
            self._waiting.put(None)

    def _free_running(
        self, n: int | None, get_buffer: GetBuffer, pattern: np.ndarray, cancel: threading.Event
    ) -> Iterator[Mapping[str, Any]]:
        side = self.get_property_value("TriggerInput")
        due = time.perf_counter()
        while n is None or n > 0:
            n = None if n is None else n - 1
            frame = self._blank(get_buffer, pattern)
            piezo, x, y, lines = self._hub.firmware.where(side) if self._hub is not None else (0.0, 0.0, 0.0, 0)
            high = frozenset(output for output in (5, 6, 7, 8) if lines >> (output - 1) & 1)
            encode(frame, Stamp("internal", side, 0, 0, self._taken, piezo, x, y, high))
            self._taken += 1
            due = max(due + self._exposure_ms / 1000, time.perf_counter() - 0.005)
            left = due - time.perf_counter()
            if left > LONG_S and cancel.wait(left):
                return
            if 0 < left <= LONG_S:
                time.sleep(left)  # more exact
            yield {}

    def _triggered(
        self,
        n: int | None,
        get_buffer: GetBuffer,
        pattern: np.ndarray,
        waiting: queue.SimpleQueue[Trigger | None],
        hang_up: Callable[[], None],
    ) -> Iterator[Mapping[str, Any]]:
        active = self.get_property_value("TRIGGER ACTIVE")
        readout_ms, free_at_ms = self.readout_ms(), 0.0
        before: Trigger | None = None
        patience = PATIENCE_S if n == 1 else None
        try:
            while n is None or n > 0:
                try:
                    trigger = waiting.get(timeout=patience)
                except queue.Empty:
                    raise RuntimeError(
                        f"no trigger came within {PATIENCE_S:g} s (TRIGGER SOURCE is EXTERNAL)"
                    ) from None
                if trigger is None:
                    return
                if active == "SYNCREADOUT":
                    exposed, before = before, trigger
                    if exposed is None:
                        continue
                    until_ms = trigger.at_ms
                else:
                    exposed = trigger
                    if trigger.at_ms < free_at_ms - 1e-6:
                        continue  # it still exposes or reads out
                    until_ms = trigger.at_ms + (trigger.duration_ms if active == "LEVEL" else self._exposure_ms)
                    free_at_ms = until_ms + readout_ms
                due = time.perf_counter() + (until_ms - trigger.at_ms) / 1000 * trigger.time_scale
                frame = self._blank(get_buffer, pattern)
                self._taken += 1
                encode(frame, _stamp(exposed, until_ms))
                if self._cancel.wait(max(0.0, due - time.perf_counter())):
                    return
                n = None if n is None else n - 1
                yield {"Trigger": str(exposed.number)}
        finally:
            hang_up()

    def _blank(self, get_buffer: GetBuffer, pattern: np.ndarray) -> np.ndarray:
        """A buffer with a frame of beads on noise in it: copied, which takes a few ms at most."""
        height, width = pattern.shape[0] - ROLLS, pattern.shape[1]
        frame = get_buffer((height, width), np.uint16)
        begin = self._taken * 7 % ROLLS
        np.copyto(frame, pattern[begin : begin + height])
        return frame


def _stamp(trigger: Trigger, until_ms: float) -> Stamp:
    lit = trigger.laser_from_ms < until_ms and trigger.laser_until_ms > trigger.at_ms
    return Stamp(
        trigger="external",
        side=trigger.side,
        slice=trigger.slice,
        repeat=trigger.repeat,
        number=trigger.number,
        piezo_um=trigger.piezo_um,
        galvo_x_deg=trigger.galvo_x_deg,
        galvo_y_deg=trigger.galvo_y_deg,
        lines=frozenset(trigger.outputs) if lit else frozenset(),
    )


@lru_cache(maxsize=4)
def _beads(height: int, width: int, seed: int) -> np.ndarray:
    """Beads on a noisy background, uint16: the same tile over and over, so that it is made quickly."""
    random = np.random.default_rng(seed)
    size = 256
    tile = random.normal(100, 6, (size, size))
    rows, columns = np.mgrid[:size, :size]
    for row, column, height_ in zip(*random.uniform(0, size, (2, 24)), random.uniform(200, 4000, 24), strict=True):
        distance = ((rows - row + size / 2) % size - size / 2) ** 2 + (
            (columns - column + size / 2) % size - size / 2
        ) ** 2
        tile += height_ * np.exp(-distance / 8)
    times = (-(-height // size), -(-width // size))
    return np.ascontiguousarray(np.tile(tile.astype(np.uint16), times)[:height, :width])
