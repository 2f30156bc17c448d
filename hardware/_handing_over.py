"""`Hardware.release` and `Hardware.reclaim`: the part of the microscope that unloads its devices and loads them again."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from abc import ABC, abstractmethod
from typing import Literal

from ..config import Scope
from ..layout import Layout
from ._axes import Axes
from ._callbacks import Callbacks
from ._dose import DoseMeter
from ._errors import BusyError, HardwareError
from ._focusing import Focusing
from ._joysticks import Joysticks
from ._lights import Lights
from ._mmcore import Core
from ._recorder import Recorder
from ._release import (
    Released,
    check_person,
    darken,
    in_background,
    let_focus_go,
    movers,
    refuse_busy,
    wait_quiet,
)
from ._safety import Safety
from ._safety_state import Latch
from ._scanners import Scanners
from ._surface import HardwareInfo, LightOff

log = logging.getLogger("queuescope.hardware")

STEP_S = 1.5
"""At the end no step waits longer than this for something that hangs."""


class HandsOver(ABC):
    """A microscope that may be somebody else's for a while. What it declares here the microscope makes."""

    _scope: Scope
    _layout: Layout
    _core: Core
    _safety: Safety
    _meter: DoseMeter
    _lights: Lights
    _axes: Axes
    _scanners: Scanners
    _focusing: Focusing
    _recorder: Recorder
    _callbacks: Callbacks
    _joysticks: Joysticks
    _instance: str
    _started_at: float
    _closed: bool
    _released: Released
    _handing: threading.Lock
    """Held while it is released, loaded or closed."""
    _stage: Literal["waiting", "loading", "ready", "released"]
    _waits: str | None
    _approved: threading.Event
    _ready: threading.Event
    _not_loaded: HardwareError | None

    @abstractmethod
    def info(self) -> HardwareInfo: ...

    @abstractmethod
    def _alive(self) -> None: ...

    @abstractmethod
    def _not_ended(self) -> None: ...

    @abstractmethod
    def _dark_first(self) -> tuple[LightOff, ...]: ...

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _assemble(self) -> None: ...

    def release(self, by: str, reason: str) -> HardwareInfo:
        check_person("release", by)
        with self._handing:
            if self._stage == "released":
                return self.info()
            self._alive()
            refuse_busy(self._recorder, self._axes)
            self._released.latch = Latch(by=by, reason=reason, at=time.time())
            self._stage = "released"  # whoever calls now is refused
            try:
                refuse_busy(self._recorder, self._axes)
                self._safety.disarm(by)
                darken(self._lights)
                self._focusing.release_all()
                self._scanners.idle()
                let_focus_go(self._core)
                wait_quiet(self._core)
                self._released.begin(self._released.latch)
            except HardwareError:
                self._stage, self._released.latch = "ready", None
                raise
            self._give_away()
            return self.info()

    def _give_away(self) -> None:
        self._axes.references.lose_all(f"may have been moved and zeroed by others: it was {self._released.error()}")
        self._let_go()
        self._callbacks.close()
        self._recorder.close(STEP_S)
        self._joysticks.restore()
        self._lights.close()
        self._axes.close()
        try:
            wait_quiet(self._core)
        except BusyError as error:
            log.error("unloaded all the same: %s", error)
        self._core.close()

    def _let_go(self) -> None:
        self._stage = "released"
        self._safety.let_go(self._released.refuse)

    def reclaim(self, by: str) -> HardwareInfo:
        check_person("reclaim", by)
        with self._handing:
            self._not_ended()
            if self._stage != "released":
                return self.info()
            self._instance, self._started_at = str(uuid.uuid4()), time.time()
            self._not_loaded = None
            self._approved.clear()
            self._ready.clear()
            self._stage, self._waits = "loading", None
            try:
                self._meter = DoseMeter(self._layout.dose)
                off = self._dark_first()
                log.info("reclaimed by %s, lights first: %s", by, off)
                self._waits = movers(self._scope)
                if self._waits is None:
                    self._load_again(by)
            except BaseException:
                self._unload_again()
                raise
            if self._waits is not None:
                self._stage = "waiting"
                in_background(lambda: self._load_when_approved(by))
            return self.info()

    def _unload_again(self) -> None:
        """It could not be reclaimed, perhaps because the other program still has a port."""
        self._stage, self._waits = "released", None
        self._meter.close()
        self._core.close()

    def _load_again(self, by: str) -> None:
        self._load()
        self._assemble()
        self._released.end(by)

    def _load_when_approved(self, by: str) -> None:
        """A person said that loading may move what `moves_on_init`."""
        while not self._approved.wait(0.05):
            if self._closed:
                return
        with self._handing:
            if self._closed:
                return
            self._stage, self._waits = "loading", None
            try:
                self._load_again(by)
            except HardwareError as error:
                log.error("reclaimed, but not loaded: %s", error)
                self._not_loaded = error
                self._unload_again()
                self._ready.set()
