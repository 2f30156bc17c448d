"""The microscope: MMCore and everything built on it, in whatever process it lives."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np

from .. import __version__
from ..config import Scope
from ..layout import Layout
from ._axes import Axes
from ._callbacks import Callbacks
from ._cameras import Cameras
from ._configuration import find_adapters, load_configuration, load_first, make_cores
from ._deadlines import LOADING_S
from ._dose import DoseMeter
from ._dose_state import DoseState
from ._errors import (
    ArgumentError,
    DeviceError,
    HardwareError,
    HardwareGoneError,
    HardwareTimeout,
    LimitError,
    RestartPendingError,
)
from ._event_types import EventBatch, EventKind
from ._events import LONGEST_WAIT_S, Events
from ._fit import check_fit
from ._focusing import Focusing, release_first
from ._handing_over import STEP_S, HandsOver
from ._interlocks import Interlocks
from ._joysticks import Joysticks
from ._kept import Kept
from ._lights import Lights
from ._mmcore import import_mmcore
from ._optics import Optics
from ._ownership import Ownership
from ._paces import pace_of
from ._recorder import Recorder
from ._references import References
from ._release import Released, not_ours
from ._restart import idle_sequences
from ._safety import Safety
from ._safety_state import HaltReport, SafetyState
from ._scanners import Scanners
from ._surface import (
    SAMPLE_ID,
    BurstProgram,
    CameraState,
    FocusMetric,
    FocusState,
    FrameAt,
    FrameLine,
    FrameMeasure,
    FrameSettings,
    FrameShift,
    HardwareInfo,
    HardwareState,
    LightOff,
    LightState,
    RecordingPlan,
    RecordingState,
    VolumeProgram,
)
from ._together import MultiCameras
from ._watch import hung

log = logging.getLogger("queuescope.hardware")


Told = TypeVar("Told", float, str, float | str)

MOVES_OR_SHINES = frozenset(
    (
        *("move", "select", "focus", "lock_focus", "set_light", "apply_channel"),
        *("snap", "record_frame", "record_together", "start_volume", "start_burst"),
    )
)


def _end_soon() -> None:
    """End the process hard, a moment later: who halted gets the answer that says so."""
    print(json.dumps({"event": "halted-hard", "message": "an adapter hangs; ending the process"}), flush=True)
    print("queuescope.hardware: halted, but an adapter hangs; ending the process", file=sys.stderr, flush=True)
    threading.Timer(0.1, os._exit, (4,)).start()


class Microscope(HandsOver):
    """`Hardware` on MMCore. Arguments have the surface's types (`_wire` sees to that); values are checked here."""

    def __init__(
        self,
        scope: Scope,
        layout: Layout,
        mode: Literal["own", "worker"],
        between: Callable[[Microscope, tuple[LightOff, ...]], None] | None = None,
    ) -> None:
        """Load the configuration, compare it with the scope, close every gate and switch emissions off.

        With ``between``, hubs and lights are loaded first, alone, and switched off; then it is called, may serve this
        half-made microscope and wait; then the rest is loaded (see `_restart`).

        Raises
        ------
        ConfigurationError
            Where they don't fit. Everything is unloaded again.
        DeviceError
            Where a light could not be switched off.
        """
        self._scope, self._mode = scope, mode
        self._instance, self._started_at = str(uuid.uuid4()), time.time()
        self._closing = threading.Lock()
        self._closed = False
        self._ending: str | None = None
        self._stage: Literal["waiting", "loading", "ready", "released"] = "loading"
        self._waits: str | None = None
        self._not_loaded: HardwareError | None = None
        """Why the rest could not be loaded after a person had reclaimed and rearmed."""
        self._approved, self._ready = threading.Event(), threading.Event()
        self._layout, self._handing = layout, threading.Lock()
        self._kept = layout.services / "changed-properties.json"
        self._ownership = Ownership(layout, mode)
        try:
            self._adapters = find_adapters(scope)
            self._core = make_cores(scope, layout, self._adapters)
        except BaseException:
            self._ownership.release()
            raise
        try:
            self._safety = Safety(scope, layout, _end_soon if mode == "own" else None)
            self._released = Released(layout)
            if self._released.latch is not None:
                self._let_go()
                return
            self._meter = DoseMeter(layout.dose)
            if between is not None:
                between(self, self._dark_first())
            self._load()
        except BaseException:
            self._core.close()
            self._ownership.release()
            raise
        self._assemble()

    def _load(self) -> None:
        """Load the whole configuration, compare it with the scope, switch lights off."""
        load_configuration(self._core, self._scope, self._adapters)
        check_fit(self._core, self._scope)
        self._core.mm.setAutoShutter(False)
        self._lights = Lights(self._core, self._scope, self._meter, self._safety.permit_light)
        burning = [off for off in self._lights.all_off(emission=True) if not off.off]
        if burning:
            told = "; ".join(f"{off.light}: {off.error}" for off in burning)
            raise DeviceError(f"lights could not be switched off at start: {told}", thing=burning[0].light)
        self._scanners = Scanners(self._core)
        self._scanners.idle()
        for problem in Kept(self._core, self._kept).restore():
            log.error("a process that died had changed it: %s", problem)
        self._meter.settle()

    def _assemble(self) -> None:
        """Build everything that works with the loaded devices."""
        scope, layout = self._scope, self._layout
        references = References(scope.axes(), layout.services / "references.json")
        self._axes = Axes(self._core, scope, references, self._safety.permit_motion)
        self._optics = Optics(self._core, scope, self._axes)
        self._cameras = Cameras(self._core, scope, self._lights, self._optics)
        together = MultiCameras(self._core, scope, self._cameras, self._lights)
        pace = pace_of(self._core, scope, self._axes, self._cameras, together, self._lights, self._scanners, self._kept)
        self._recorder = Recorder(scope, layout, self._axes, self._cameras, self._lights, pace, together)
        self._joysticks = Joysticks(self._core, scope.safety.joysticks, layout.services / "joysticks.json")
        self._events = Events()
        self._callbacks = Callbacks(self._core, scope, self._axes, self._events, lambda: self._recorder.idle)
        self._focusing = Focusing(
            self._core,
            scope,
            self._axes,
            self._safety,
            publish=self._callbacks.read_back,
            tell=lambda name, locked: self._events.publish("focus", name, locked),
            interrupt=self._recorder.interrupt,
        )
        self._safety.watch(
            motion={**self._axes.stop_steps(), **self._scanners.idle_steps(), **pace.halt_steps()},
            lights={**self._lights.off_steps(), **self._scanners.idle_steps()},
            told=self._recorder.interrupt,
            interlocks=Interlocks(self._core, scope),
            locks=self._focusing.release_steps(),
        )
        self._stage = "ready"
        self._ready.set()

    def _dark_first(self) -> tuple[LightOff, ...]:
        load_first(self._core, self._scope, self._adapters)
        self._core.mm.setAutoShutter(False)
        self._lights = Lights(self._core, self._scope, self._meter, self._safety.permit_light)
        off = self._lights.all_off(emission=True)
        idle_sequences(self._core)
        if all(one.off for one in off):
            self._meter.settle()
        release_first(self._core, self._scope)
        return off

    def needs_person(self, why: str) -> None:
        """From now on whoever asks is told why the rest isn't loaded: before anybody can ask, `wait_for_person` after."""
        self._waits, self._stage = why, "waiting"

    def wait_for_person(self, stopping: threading.Event) -> bool:
        """With the lights off, until somebody rearms; False where ``stopping`` came first."""
        log.warning(
            "restarted after a process that died; lights are off; waits for a person (queuescope rearm): %s",
            self._waits,
        )
        while not self._approved.wait(0.05):
            if stopping.is_set():
                return False
        self._waits, self._stage = None, "loading"
        return True

    def close(self) -> tuple[tuple[LightOff, ...], list[RecordingState]]:
        """Stop motion and recordings, lights and emissions off, files finished, devices unloaded: each in its own step.

        Returns the outcome for each light and the recordings that were still open; nothing at a second call.
        """
        with self._closing:
            if self._closed:
                return (), []
            self._closed = True
        held = self._handing.acquire(timeout=STEP_S)  # whoever hands it over just now ends that first
        try:
            return self._close()
        finally:
            if held:
                self._handing.release()

    def _close(self) -> tuple[tuple[LightOff, ...], list[RecordingState]]:
        self._safety.close()
        if self._stage != "ready":  # released, or reclaimed and waiting for a person with the lights off
            self._core.close()
            self._ownership.release()
            return (), []
        self._callbacks.close()
        self._recorder.interrupt("the hardware is shutting down")
        motion = threading.Thread(target=self._stop_motion, name="stop-motion", daemon=True)
        motion.start()
        self._lights.all_off(emission=True)
        motion.join(STEP_S)
        ended = self._recorder.close(STEP_S)
        off = self._lights.all_off(emission=True)  # again: a frame in hand may have opened its gate meanwhile
        self._joysticks.restore()
        self._lights.close()
        self._axes.close()
        self._core.close()
        self._ownership.release()
        return off, ended

    def make_safe(self, why: str) -> tuple[LightOff, ...]:
        """Stop motion, end a running volume and close every gate; returns the outcome for each light. Never raises."""
        if self._closed or self._stage != "ready":
            return ()
        self._recorder.interrupt(why)
        motion = threading.Thread(target=self._stop_motion, name="stop-motion", daemon=True)
        motion.start()
        self._lights.all_off(emission=False)
        motion.join(STEP_S)
        self._recorder.join(STEP_S)
        for problem in self._joysticks.restore():
            log.error("%s", problem)
        return self._lights.all_off(emission=False)  # again: a frame in hand may have opened its gate meanwhile

    def close_recordings(self, recordings: list[str], why: str) -> None:
        """Finish the files of recordings that nobody will close any more."""
        for recording in recordings if self._stage == "ready" else []:
            self._recorder.give_up(recording, why)

    def _stop_motion(self) -> None:
        for stop in (lambda axes: self._scanners.idle(), self._focusing.release_all, self._axes.stop):
            try:
                stop(None)
            except HardwareError as error:
                log.error("%s", error)

    def hung(self) -> tuple[int, HardwareError] | None:
        """The thread and the error of a call into an adapter that overstays its allowance, or None."""
        return None if self._closed else hung(self._core, self._scope)

    def refuse_all(self, why: HardwareError) -> None:
        """From now on every call but `lights_off` raises `HardwareGoneError`: this process is about to end."""
        self._ending = str(why)

    def give_up(self, why: HardwareError) -> tuple[LightOff, ...]:
        """An adapter hangs: end what runs, and switch off what answers. The process must end after it."""
        if self._stage != "ready":
            return () if self._stage == "released" else self._lights.all_off(emission=True)
        self._recorder.interrupt(str(why))
        for step in (self._stop_motion, lambda: self._recorder.fail_all(str(why), STEP_S)):
            threading.Thread(target=step, name="give-up", daemon=True).start()
        return self._lights.all_off(emission=True)

    def info(self) -> HardwareInfo:
        self._not_ended()
        versions = {
            "mmcore": self._core.mm.getVersionInfo().removeprefix("MMCore version "),
            "device_interface": self._core.mm.getAPIVersionInfo(),
            "pymmcore_plus": import_mmcore().__version__,
            "queuescope": __version__,
        }
        return HardwareInfo(
            scope=self._scope.name,
            instance=self._instance,
            pid=os.getpid(),
            mode=self._mode,
            started_at=self._started_at,
            versions=versions,
            config=str(self._scope.config_path),
            adapters=str(self._core.adapters),
            stage=self._stage,
            waits=str(self._released.error()) if self._stage == "released" else self._waits,
        )

    def state(self) -> HardwareState:
        self._alive()
        positions, errors = self._axes.read_all()
        labels, values, more = self._optics.read_all()
        focus, unread = self._focusing.read_all()
        errors.update(more | unread)
        cameras: dict[str, CameraState] = {}
        for name in self._scope.of_kind("camera"):
            try:
                cameras[name] = self._cameras.state(name, patience_s=1.0)
            except HardwareError as error:
                errors[name] = str(error)
        lights: dict[str, LightState] = {}
        for name in self._scope.lights:
            try:
                lights[name] = self._lights.state(name)
            except HardwareError as error:
                errors[name] = str(error)
        return HardwareState(
            time=time.time(),
            positions=positions,
            labels=labels,
            values=values,
            cameras=cameras,
            lights=lights,
            errors=errors,
            focus=focus,
            reference_lost=self._axes.references.lost(),
            safety=self._safety.state(),
        )

    def positions(self, axes: tuple[str, ...]) -> dict[str, float]:
        self._alive()
        return self._axes.read(axes)

    def move(self, targets: dict[str, float]) -> dict[str, float]:
        self._idle("move")
        return self._told("position", self._axes.move(targets))

    def stop(self, axes: tuple[str, ...] | None = None) -> None:
        self._alive()
        self._recorder.interrupt("motion was stopped", axes)
        try:
            if axes is None:
                self._scanners.idle()
        finally:
            try:
                self._focusing.release_all(axes)
            finally:
                self._axes.stop(axes)

    def select(self, device: str, label: str) -> str:
        self._idle("select")
        got = self._told("label", {device: self._optics.select(device, label)})[device]
        if self._scope.devices[device].kind == "config_group":
            self._tell_touched(self._scope.devices[device].label, label)
        return got

    def confirm_reference(self, axis: str, by: str) -> float:
        self._idle("confirm_reference")
        return self._axes.confirm_reference(axis, by)

    def labels(self, device: str) -> tuple[str, ...]:
        self._alive()
        return self._optics.labels(device)

    def label(self, device: str) -> str:
        self._alive()
        return self._optics.label(device)

    def light(self, light: str) -> LightState:
        self._alive()
        return self._lights.state(light)

    def value(self, device: str) -> float | str:
        self._alive()
        return self._optics.value(device)

    def set_value(self, device: str, value: float | str) -> float | str:
        self._idle("set_value")
        self._safety.refuse_interlock(device)
        return self._told("value", {device: self._optics.set_value(device, value)})[device]

    def focus(self, autofocus: str, how: Literal["full", "incremental"] = "full") -> dict[str, float]:
        self._idle("focus")
        return self._focusing.once(autofocus, how)

    def lock_focus(self, autofocus: str, on: bool, offset: float | None = None) -> FocusState:
        if on:
            self._idle("lock_focus")
            return self._focusing.lock(autofocus, offset)
        self._alive()
        return self._focusing.release(autofocus)

    def focus_state(self, autofocus: str) -> FocusState:
        self._alive()
        return self._focusing.state(autofocus)

    def set_light(self, light: str, on: bool, power_pct: float | None = None, max_s: float | None = None) -> LightState:
        if on:
            self._idle("set_light")
        else:
            self._alive()
            self._recorder.check_idle("set_light")
        return self._lights.set(light, on, power_pct, max_s)

    def lights_off(self, emission: bool = False) -> tuple[LightOff, ...]:
        if self._closed:
            return ()
        if self._stage == "released":
            return not_ours(self._scope, self._released.error())
        return self._lights.all_off(emission)

    def dose(self, sample_id: str | None = None) -> DoseState:
        self._alive()
        return self._meter.state(sample_id)

    def set_sample(self, sample_id: str | None, budget: dict[str, float]) -> DoseState:
        self._idle("set_sample")
        if sample_id is not None and not re.fullmatch(SAMPLE_ID, sample_id):
            raise ArgumentError(
                f"set_sample.sample_id {sample_id!r} doesn't match {SAMPLE_ID}", thing="set_sample.sample_id"
            )
        return self._meter.set_sample(sample_id, budget, self._scope.lights)

    def apply_channel(self, channel: str) -> None:
        self._idle("apply_channel")
        self._optics.apply_channel(channel)
        part = self._scope.channels[channel]
        wheel = self._scope.filter_of(part)
        if wheel is not None:
            self._told("label", {wheel: str(part.emission)})
        self._tell_touched(*(part.preset or (None, None)))

    def _tell_touched(self, group: str | None, preset: str | None) -> None:
        labels, values = self._optics.touched(group, preset)
        self._told("label", labels)
        self._told("value", values)
        self._callbacks.presets_may_differ()

    def configure_camera(
        self,
        camera: str,
        exposure_ms: float | None = None,
        binning: int | None = None,
        roi: tuple[int, int, int, int] | None = None,
    ) -> CameraState:
        self._idle("configure_camera")
        return self._cameras.configure(camera, exposure_ms, binning, roi)

    def snap(self, camera: str, settings: FrameSettings) -> np.ndarray:
        self._idle("snap")
        self._cameras.check(camera, settings)
        self._permit_light(settings)
        return self._cameras.take(camera, settings).array

    def open_recording(self, plan: RecordingPlan) -> RecordingState:
        self._alive()
        return self._recorder.open(plan)

    def record_frame(self, recording: str, settings: dict[str, FrameSettings], durable: bool = True) -> RecordingState:
        self._idle("record_frame")
        self._permit_light(*settings.values())
        return self._recorder.record_frame(recording, settings, durable)

    def record_together(
        self, recording: str, multi_camera: str, settings: FrameSettings, durable: bool = True
    ) -> RecordingState:
        self._idle("record_together")
        self._permit_light(settings)
        return self._recorder.record_together(recording, multi_camera, settings, durable)

    def start_volume(self, recording: str, program: VolumeProgram) -> RecordingState:
        self._idle("start_volume")
        self._permit_light(*(view.settings for view in program.views))
        return self._recorder.start_volume(recording, program)

    def start_burst(self, recording: str, program: BurstProgram) -> RecordingState:
        self._idle("start_burst")
        self._permit_light(*(view.settings for view in program.views))
        return self._recorder.start_burst(recording, program)

    def hold_recording(self, recording: str, hold: bool) -> RecordingState:
        self._alive()
        return self._recorder.hold_recording(recording, hold)

    def stop_recording(self, recording: str) -> RecordingState:
        self._alive()
        return self._recorder.stop_recording(recording)

    def recording(self, recording: str, seen: int = -1, wait_s: float = 0.0, gather_s: float = 0.0) -> RecordingState:
        self._alive()
        return self._recorder.state(recording, seen, wait_s, gather_s)

    def close_recording(self, recording: str) -> RecordingState:
        self._alive()
        return self._recorder.close_recording(recording)

    def checksums(self, recording: str, dataset: str) -> tuple[str, ...]:
        self._alive()
        return self._recorder.checksums(recording, dataset)

    def frame_lines(self, recording: str, dataset: str, start: int = 0) -> tuple[FrameLine, ...]:
        self._alive()
        return self._recorder.lines(recording, dataset, start)

    def measure_frame(self, frame: FrameAt, metric: FocusMetric) -> FrameMeasure:
        self._alive()
        return self._recorder.measure(frame, metric)

    def frame_shift(self, frame: FrameAt, reference: FrameAt) -> FrameShift:
        self._alive()
        return self._recorder.shift(frame, reference)

    def events(self, seen: int = -1, wait_s: float = 0.0) -> EventBatch:
        self._alive()
        if not 0 <= wait_s <= LONGEST_WAIT_S:  # NaN included
            raise LimitError(
                f"wait_s {wait_s} is outside [0, {LONGEST_WAIT_S:g}]",
                thing="wait_s",
                value=repr(wait_s),
                limit=[0, LONGEST_WAIT_S],
            )
        batch = self._events.after(seen, wait_s)
        self._alive()
        return batch

    def _told(self, kind: EventKind, readbacks: dict[str, Told]) -> dict[str, Told]:
        """What we did ourselves is an event too; many adapters don't tell it."""
        for name, value in readbacks.items():
            if kind == "position":
                self._callbacks.read_back(name, float(value))
            else:
                self._events.publish(kind, name, value)
                self._callbacks.presets_may_differ()
        return readbacks

    def _alive(self) -> None:
        self._not_ended()
        if self._stage == "released":
            self._released.refuse()
        if self._stage != "ready":
            todo = f"an operator must rearm (queuescope rearm): {self._waits}" if self._waits else "loading the rest"
            raise RestartPendingError(
                f"the hardware has switched its lights off, and has not loaded everything yet; {todo}",
                thing="hardware",
                value=self._waits,
            )

    def _not_ended(self) -> None:
        if self._closed:
            raise HardwareGoneError("the hardware was closed: connect again", thing="hardware", closed=True)
        if self._ending is not None:
            raise HardwareGoneError(f"the hardware process is ending: {self._ending}", thing="hardware")

    def safety(self) -> SafetyState:
        self._alive()
        return self._safety.state()

    def halt(self, reason: str, by: str) -> HaltReport:
        return self._safety.halt(reason, by)

    def rearm(self, by: str) -> SafetyState:
        self._not_ended()
        if self._stage in ("waiting", "loading"):
            log.warning("%s lets the hardware load everything", by)
            self._approved.set()
            if not self._ready.wait(LOADING_S):
                raise HardwareTimeout(
                    f"the configuration has not loaded within {LOADING_S:g} s", thing="hardware", limit=LOADING_S
                )
            if self._not_loaded is not None:
                raise self._not_loaded
        return self._safety.rearm(by)

    def hold_joysticks(self, hold: bool) -> tuple[str, ...]:
        self._alive()
        if hold:
            return self._joysticks.hold()
        problems = self._joysticks.restore()
        if problems:
            raise DeviceError("; ".join(problems), thing="safety.joysticks")
        return ()

    def arm(self, until: float | None, by: str) -> SafetyState:
        self._alive()
        return self._safety.arm(until, by)

    def explain(self, call: str, error: HardwareError) -> HardwareError:
        """What a failed call failed of, where a halt or an interlock made it fail."""
        return self._safety.explain(error) if call in MOVES_OR_SHINES else error

    def _permit_light(self, *settings: FrameSettings) -> None:
        """Before anything moves for a frame that needs light."""
        if any(one.light is not None for one in settings):
            self._safety.permit_light()

    def _idle(self, call: str) -> None:
        """A running volume owns the microscope: nothing else may move, expose or switch meanwhile; while halted, nothing."""
        self._alive()
        self._safety.permit_motion()
        self._recorder.check_idle(call)
