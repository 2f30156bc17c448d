"""A burst: cameras that free-run in one sequence each, or single frames at a steady rate in software time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from ..config import Scope
from ._axes import Axes
from ._cameras import Cameras
from ._capture import Capture, Collector
from ._deadlines import exposure_s
from ._dose import Account
from ._lights import Lights
from ._pace import Running
from ._surface import BurstProgram, FrameSettings


class BurstPace:
    """Needs nothing of the hardware but cameras."""

    def __init__(self, scope: Scope, axes: Axes, cameras: Cameras, lights: Lights) -> None:
        self._scope, self._axes, self._cameras, self._lights = scope, axes, cameras, lights
        self._sequence: Capture | None = None

    def check(self, program: BurstProgram) -> None:
        if program.rate_hz is None:
            self._cameras.check_same_size([view.camera for view in program.views])

    def can_wait(self, program: BurstProgram) -> bool:
        """Between the frames of a steady rate, not in a sequence."""
        return program.rate_hz is not None

    def dose(self, program: BurstProgram) -> dict[str, float]:
        """A sequence has its light on from the first frame to the last; single frames during their exposures."""
        light = program.views[0].settings.light
        if light is None:
            return {}
        power = self._lights.check(light, program.views[0].settings.power_pct)
        each = [view.frames * self._cameras.exposure_s(view.camera, view.settings) for view in program.views]
        return {light: power * (max(each) if program.rate_hz is None else sum(each))}

    def moves(self, program: BurstProgram) -> list[str]:
        return []

    def run(self, run: Running[BurstProgram]) -> None:
        position, _ = self._axes.read_all()
        if run.program.rate_hz is None:
            self._in_one_sequence(run, position)
        else:
            self._at_a_steady_rate(run, position, 1 / run.program.rate_hz)

    def _in_one_sequence(self, run: Running[BurstProgram], position: dict[str, float]) -> None:
        views = run.program.views
        for view in views:
            self._cameras.configure(view.camera, view.settings.exposure_ms, None)
        frames = {view.camera: view.frames for view in views}
        capture = Capture(self._cameras, frames, self._scope.micromanager.buffer_mb)
        collector = Collector(run, capture, {camera: [position] * count for camera, count in frames.items()}, False)
        lasts_s = max(view.frames * self._cameras.exposure_s(view.camera, view.settings) for view in views)
        settings = views[0].settings
        light = self._lights.exposing(settings.light, settings.power_pct, run.recording.account, lasts_s)
        with ExitStack() as held:
            held.enter_context(self._cameras.held(list(frames)))
            held.callback(collector.rest)  # left in reverse: no more frames, no light, then what is in the buffer
            capture.prepare()
            held.enter_context(light)
            held.callback(capture.stop)
            self._sequence = capture
            self._axes.permit()
            if not run.goes_on():
                return
            run.recording.exposing()
            capture.start()
            patience_s = 2 * max(exposure_s(self._scope, view.camera, view.settings) for view in views)
            silence_s = patience_s + self._scope.micromanager.call_timeout_s
            affordable_s = self._affordable_s(settings, run.recording.account)
            began = time.monotonic()
            whole = collector.collect(lambda: not capture.running, patience_s, affordable_s, silence_s)
            spent, gone_silent = time.monotonic() - began > affordable_s, capture.running
        self._sequence = None
        missing = collector.missing()
        if missing is not None and whole:
            why = "the camera stopped before all were taken"
            if capture.overflowed:
                why = "MMCore's buffer overflowed"
            elif spent:
                why = f"its light was on for {affordable_s:.3g} s, which is all that the sample's budget has left"
            elif gone_silent:
                why = f"no frame came for {silence_s:g} s, and the camera was stopped"
            run.note(f"{missing}: {why}")

    def _affordable_s(self, settings: FrameSettings, account: Account) -> float:
        """For how long the light may be on: a camera may take longer for its frames than their exposures."""
        if settings.light is None:
            return math.inf
        power = self._lights.check(settings.light, settings.power_pct)
        return self._lights.meter.rest(settings.light, account) / power if power > 0 else math.inf

    def _at_a_steady_rate(self, run: Running[BurstProgram], position: dict[str, float], interval_s: float) -> None:
        began = time.monotonic()
        for index in range(max(view.frames for view in run.program.views)):
            due = began + index * interval_s
            run.ending.wait(max(0.0, due - time.monotonic()))
            for view in run.program.views:
                if index < view.frames:
                    if not run.goes_on():
                        return
                    run.recording.exposing()
                    frame = self._cameras.take(view.camera, view.settings, run.recording.account)
                    run.record(view.dataset, frame, position)

    def halt_steps(self) -> Mapping[str, Callable[[], object]]:
        return {"burst": self._halt}

    def _halt(self) -> None:
        """No more frames."""
        if self._sequence is not None:
            self._sequence.stop()
