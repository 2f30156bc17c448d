"""A volume paced by its camera: MMCore uploads the slices to the stage, and each frame's pulse takes the stage one further.

`Volume.advance` says how it is wired. ``exposure_start``: the stage goes to a frame's position when that frame's exposure
begins; ``exposure_end``: it stands there already, and goes to the next one when the exposure has ended. Which of the two is true
shows in where the stage stands after the last frame: a volume that ends elsewhere fails, since its frames are off by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ..config import Scope
from ._axes import MICROMETRES, Axes
from ._cameras import Cameras
from ._capture import Capture, Collector
from ._deadlines import exposure_s
from ._errors import ArgumentError, ReadbackError
from ._lights import Lights
from ._mmcore import Core
from ._pace import Running, axes_of
from ._software_pace import refuse_sheet
from ._surface import VolumeProgram, VolumeView


class StagePace:
    """One camera and one stage at a time; as many bursts as the stage's memory asks for."""

    def __init__(self, core: Core, scope: Scope, axes: Axes, cameras: Cameras, lights: Lights) -> None:
        self._core, self._scope, self._axes, self._cameras, self._lights = core, scope, axes, cameras, lights
        self._at_end = scope.volume.advance == "exposure_end"
        self._sequencing: tuple[Capture, str, str] | None = None

    def check(self, program: VolumeProgram) -> None:
        refuse_sheet(program, "a stage's sequence sweeps nothing")
        if program.order == "slice" and len(program.views) > 1:
            raise ArgumentError(
                "order slice: with volume.trigger: mm_sequence one camera paces one stage, so the views follow each other: say"
                " order volume",
                thing="program.order",
                value=program.order,
            )
        for view in program.views:
            if view.galvo is not None:
                raise ArgumentError(
                    f"{view.dataset}: MMCore can't sequence the galvo {view.galvo}: leave it out, or use volume.trigger:"
                    " software (scope file)",
                    thing="program.views.galvo",
                    value=view.galvo,
                )
            self._longest(view)

    def _longest(self, view: VolumeView) -> int:
        """Slices that fit into the stage's memory."""
        axis = self._axes.axis(view.piezo)
        mm, ask = self._core.mm, self._core.ask
        sequenceable = ask(axis.name, mm.isStageSequenceable, axis.label)
        longest = ask(axis.name, mm.getStageSequenceMaxLength, axis.label) if sequenceable else 0
        if longest < 1:
            raise ArgumentError(
                f"{axis.name} ({axis.label}) can't be sequenced: its adapter says that it takes no sequence (for ASI stages set"
                " UseSequence to Yes; others name it otherwise); or use volume.trigger: software (scope file)",
                thing=axis.name,
                value=longest,
                limit=1,
            )
        return longest

    def can_wait(self, program: VolumeProgram) -> bool:
        return False

    def dose(self, program: VolumeProgram) -> dict[str, float]:
        """The gate is open from the first frame of a burst to its last."""
        asked: dict[str, float] = {}
        for view in program.views:
            light = view.settings.light
            if light is not None:
                power = self._lights.check(light, view.settings.power_pct)
                asked[light] = asked.get(light, 0.0) + power * self._lasts_s(view, len(view.piezo_um))
        return asked

    def _lasts_s(self, view: VolumeView, frames: int) -> float:
        external = self._cameras.camera(view.camera).external
        readout_s = 0.0 if external is None else external.readout_ms / 1000
        return frames * (self._cameras.exposure_s(view.camera, view.settings) + readout_s)

    def moves(self, program: VolumeProgram) -> list[str]:
        return axes_of(program)

    def run(self, run: Running[VolumeProgram]) -> None:
        for view in run.program.views:
            longest = self._longest(view)
            for start in range(0, len(view.piezo_um), longest):
                if run.ends_early():
                    return
                if not self._burst(run, view, view.piezo_um[start : start + longest]):
                    return

    def _burst(self, run: Running[VolumeProgram], view: VolumeView, slices: tuple[float, ...]) -> bool:
        """The frames of these slices; False where it is the volume's end."""
        name, frames = view.piezo, len(slices)
        self._axes.move({name: slices[0]})
        self._cameras.configure(view.camera, view.settings.exposure_ms, None)
        places = {view.camera: [{name: position} for position in slices]}
        capture = Capture(self._cameras, {view.camera: frames}, self._scope.micromanager.buffer_mb)
        collector = Collector(run, capture, places)
        lasts_s = self._lasts_s(view, frames)
        light = self._lights.exposing(view.settings.light, view.settings.power_pct, run.recording.account, lasts_s)
        with ExitStack() as held:
            held.enter_context(self._cameras.held([view.camera]))
            held.enter_context(self._sequence(name, slices, lambda: collector.complete))
            held.callback(collector.rest)  # left in reverse: no more frames, no light, then what is in the buffer
            capture.prepare()
            held.enter_context(light)
            held.callback(capture.stop)
            self._sequencing = (capture, name, self._axes.axis(name).label)
            self._axes.permit()
            run.recording.exposing()
            capture.start()
            patience_s = 2 * exposure_s(self._scope, view.camera, view.settings)
            limit_s = 2 * lasts_s + self._core.call_timeout_s
            whole = collector.collect(lambda: not capture.running, patience_s, limit_s)
        missing = collector.missing()
        if missing is not None and whole:
            overflow = " (MMCore's buffer overflowed)" if capture.overflowed else ""
            run.note(f"{missing}{overflow}: the camera stopped before all were taken")
        return whole and missing is None

    @contextmanager
    def _sequence(self, name: str, slices: tuple[float, ...], complete: Callable[[], bool]) -> Iterator[None]:
        """Let the camera's pulses move the stage through these slices; where all frames came, it must be where the last
        pulse puts it.
        """
        axis = self._axes.axis(name)
        mm, ask = self._core.mm, self._core.ask
        upload = (*slices[1:], slices[0]) if self._at_end else slices
        self._axes.references.forget([name])
        ask(name, mm.loadStageSequence, axis.label, [position * MICROMETRES[axis.units] for position in upload])
        ask(name, mm.startStageSequence, axis.label)
        try:
            yield
        finally:
            self._sequencing = None
            ask(name, mm.stopStageSequence, axis.label)
        self._core.wait(name, axis.label)
        here = self._axes.read([name])[name]
        self._axes.references.arrived({name: here})
        if complete() and len(slices) > 1 and abs(here - upload[-1]) > axis.tolerance:
            raise ReadbackError(
                f"{name} stands at {here:g} {axis.units} after its sequence, which ends at {upload[-1]:g}: its frames are not"
                f" where they should be (tolerance {axis.tolerance:g}). It missed pulses, or volume.advance:"
                f" {self._scope.volume.advance} (scope file) is not how it is wired",
                thing=name,
                value=upload[-1],
                got=here,
                limit=axis.tolerance,
            )

    def halt_steps(self) -> Mapping[str, Callable[[], object]]:
        return {"stage sequence": self._halt}

    def _halt(self) -> None:
        """No more pulses, then no more steps."""
        sequencing = self._sequencing
        if sequencing is None:
            return
        capture, name, label = sequencing
        try:
            capture.stop()
        finally:
            self._core.ask(name, self._core.mm.stopStageSequence, label)
