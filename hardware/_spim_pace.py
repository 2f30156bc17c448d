"""A volume run by the firmware of an ASI Tiger controller: it moves piezo and scanner, triggers cameras, opens the laser line.

As Micro-Manager's diSPIM plugin does it (``ControllerUtils.java``, ``AcquisitionPanel.java``): the cameras are set to external
triggers and their exposure, the SPIM properties of the scanners and piezos are written, the piezos are armed, the cameras wait,
and ``SPIMState=Running`` on the first side's scanner starts it all. Here every value is read back, every slice and sweep has
passed the envelope before, and however it ends every scanner reads ``Idle`` again and everything changed is what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..config import ExternalTrigger, Scope, SpimController
from ._axes import Axes
from ._cameras import Cameras
from ._capture import Capture, Collector
from ._errors import ArgumentError, ConfigurationError, HardwareError
from ._kept import Kept
from ._lights import Lights
from ._mmcore import Core
from ._pace import Running
from ._scanners import IDLE, STATE, Scanners
from ._spim_program import (
    SCANNER_WHERE_THERE,
    UNEVEN_DEG,
    UNEVEN_UM,
    Ramp,
    Side,
    check_shared,
    piezo_settings,
    ramp,
    scanner_settings,
    tolerance,
)
from ._surface import FrameSettings, VolumeProgram, VolumeView
from ._timing import SliceTiming, slice_timing, volume_ms

PRESET, ACQUIRING, AT_REST = "SetCardPreset", "3 - cell 1 high", "2 - cell 1 low"
"""The property of the PLogic card and its presets: its flag that an acquisition is running."""
FILTER = "FilterFreqX(kHz)"


@dataclass(frozen=True)
class Programme:
    """What the controller will do."""

    sides: tuple[Side, ...]
    timing: SliceTiming
    lasts_s: float
    light_s: float
    """For how long the laser line will be open, altogether."""


class SpimPace:
    """One controller; one volume at a time."""

    def __init__(
        self,
        core: Core,
        scope: Scope,
        axes: Axes,
        cameras: Cameras,
        lights: Lights,
        scanners: Scanners,
        kept: Path,
    ) -> None:
        """``kept``: the file that remembers what is changed for a run."""
        self._core, self._scope, self._axes, self._kept = core, scope, axes, kept
        self._cameras, self._lights, self._scanners = cameras, lights, scanners
        controller = scope.volume.controller
        if controller is None:
            raise ConfigurationError("volume.controller is missing (scope file)", thing="volume.controller")
        self._controller: SpimController = controller

    # ------------------------------------------------------------------ beforehand

    def check(self, program: VolumeProgram) -> None:
        programme = self.programme(program)
        self._cameras.check_same_size([view.camera for view in program.views])
        steps: list[dict[str, float]] = []
        for side in programme.sides:
            view, sheet = side.view, f"{self._galvo(side.view)}.x"
            self._cameras.check(view.camera, FrameSettings(exposure_ms=programme.timing.exposure_ms))
            steps += [{sheet: side.sheet.offset + half * side.sheet.amplitude} for half in (-0.5, 0.5)]
            steps += places(side)
        self._axes.check_sequence(steps, back=True)

    def can_wait(self, program: VolumeProgram) -> bool:
        return False

    def dose(self, program: VolumeProgram) -> dict[str, float]:
        settings = program.views[0].settings
        if settings.light is None:
            return {}
        programme = self.programme(program)
        power = self._lights.check(settings.light, settings.power_pct)
        by_controller = self._by_controller(settings.light)
        return {settings.light: power * (programme.light_s if by_controller else programme.lasts_s)}

    def _by_controller(self, light: str) -> bool:
        return self._scope.lights[light].gated_by == "controller"

    def programme(self, program: VolumeProgram) -> Programme:
        """What the controller is to do.

        Raises
        ------
        ArgumentError, LimitError
            Where it can't, naming what doesn't fit.
        """
        check_shared(program)
        sides = tuple(self._side(view) for view in program.views)
        first = program.views[0]
        external = [self._external(view.camera) for view in program.views]
        timing = slice_timing(
            1000 * self._cameras.exposure_s(first.camera, first.settings),
            max(camera.readout_ms for camera in external),
            max(camera.reset_ms for camera in external),
            max(self._filter_khz(side) for side in sides),
            self._controller.plogic is not None,
        )
        slices = len(first.piezo_um)
        lasts_ms = volume_ms(timing, slices, len(sides), self._controller.delay_before_side_ms)
        return Programme(sides, timing, lasts_ms / 1000, len(sides) * slices * timing.laser_ms / 1000)

    def _external(self, camera: str) -> ExternalTrigger:
        external = self._cameras.camera(camera).external
        if external is None:
            raise ArgumentError(
                f"{camera} has no external trigger (scope file: devices.{camera}.external)",
                thing="program.views.camera",
            )
        return external

    def _filter_khz(self, side: Side) -> float:
        if not self._core.mm.hasProperty(side.scanner, FILTER):
            return 0.0
        return self._core.read_number(side.scanner, side.scanner, FILTER)

    def _galvo(self, view: VolumeView) -> str:
        if view.galvo is None or view.galvo_deg is None:
            raise ArgumentError(
                f"{view.dataset} has no galvo: the controller moves piezo and scanner together",
                thing="program.views.galvo",
            )
        device, _, component = view.galvo.partition(".")
        if component != "y":
            raise ArgumentError(
                f"{view.dataset}: {view.galvo}: the controller places the slices with the scanner's y axis",
                thing="program.views.galvo",
                value=view.galvo,
            )
        return device

    def _side(self, view: VolumeView) -> Side:
        galvo = self._galvo(view)
        devices = {view.camera: "camera", view.piezo: "stage", galvo: "galvo"}
        letters = {name: self._scope.devices[name].view for name in devices}  # type: ignore[union-attr]
        if len(set(letters.values())) > 1 or None in letters.values():
            raise ArgumentError(
                f"{view.dataset}: camera, piezo and scanner must be of one view (scope file: devices.….view), these are"
                f" {letters}",
                thing="program.views",
                value=list(devices),
            )
        assert view.galvo_deg is not None
        scanner = self._scope.devices[galvo].label
        slices = ramp(view.piezo_um, UNEVEN_UM, f"{view.dataset}: piezo_um")
        if slices.amplitude < 0:
            raise ArgumentError(
                f"{view.dataset}: piezo_um descends: the controller's piezo goes upwards",
                thing="program.views.piezo_um",
            )
        return Side(
            view=view,
            letter=str(letters[galvo]),
            scanner=scanner,
            piezo=self._scope.devices[view.piezo].label,
            slices=slices,
            tilt=ramp(view.galvo_deg, UNEVEN_DEG, f"{view.dataset}: galvo_deg"),
            sheet=Ramp(self._sheet_offset(view, galvo), self._sheet_width(view, scanner)),
        )

    def _sheet_offset(self, view: VolumeView, galvo: str) -> float:
        name = f"{galvo}.x"
        return self._axes.read([name])[name] if view.sheet_offset_deg is None else view.sheet_offset_deg

    def _sheet_width(self, view: VolumeView, scanner: str) -> float:
        if view.sheet_width_deg is None:
            return self._core.read_number(scanner, scanner, "SingleAxisXAmplitude(deg)")
        if view.sheet_width_deg < 0:
            raise ArgumentError(
                f"{view.dataset}: sheet_width_deg {view.sheet_width_deg:g} is negative",
                thing="program.views.sheet_width_deg",
                value=view.sheet_width_deg,
                limit=0,
            )
        return view.sheet_width_deg

    # ------------------------------------------------------------------ the run

    def run(self, run: Running[VolumeProgram]) -> None:
        programme = self.programme(run.program)
        kept, moved = Kept(self._core, self._kept), self.moves(run.program)
        exposures = {view.camera: self._cameras.state(view.camera).exposure_ms for view in run.program.views}
        try:
            self._scanners.idle()  # whatever runs was started by somebody else
            self._axes.references.forget(moved)
            self._prepare(programme, kept)
            self._expose(run, programme)
        finally:
            self._stop_controller(run)
            for problem in kept.restore():
                run.note(f"not as before: {problem}")
            for camera, exposure_ms in exposures.items():
                with run.noting("not as before: "):
                    self._cameras.configure(camera, exposure_ms, None)
            if self._controller.plogic is not None:
                with run.noting("not as before: "):
                    self._core.ask("plogic", self._core.mm.setProperty, self._controller.plogic, PRESET, AT_REST)
            self._axes.references.forget(moved)  # it stopped somewhere; the next move reads it

    def _stop_controller(self, run: Running[VolumeProgram]) -> None:
        """However it ends, no scanner runs; where one does all the same, lasers go off and nothing else is moved."""
        try:
            self._scanners.idle()
        except HardwareError as error:
            self._lights.all_off(emission=True)
            run.stay()
            run.note(str(error))

    def _prepare(self, programme: Programme, kept: Kept) -> None:
        """Cameras first, then scanners, then piezos, which are armed last."""
        for side in programme.sides:
            name = side.view.camera
            camera = self._cameras.camera(name)
            for prop, value in self._external(name).properties.items():
                kept.write(name, camera.label, prop, value)
            self._cameras.configure(name, programme.timing.exposure_ms, None)
        delay_ms = self._controller.delay_before_side_ms
        for side in programme.sides:
            there = [entry for entry in SCANNER_WHERE_THERE if self._core.mm.hasProperty(side.scanner, entry[0])]
            for prop, setting in [*there, *scanner_settings(side, programme.sides, programme.timing, delay_ms)]:
                self._set(kept, side.scanner, prop, setting)
            for prop, setting in piezo_settings(side):
                self._set(kept, side.piezo, prop, setting)
        if self._controller.outputs is not None:
            outputs = self._controller.outputs
            kept.write("laser outputs", outputs.label, outputs.property, self._output(programme))
        if self._controller.plogic is not None:
            self._core.ask("plogic", self._core.mm.setProperty, self._controller.plogic, PRESET, ACQUIRING)
        for side in programme.sides:
            self._core.write_exactly(side.piezo, side.piezo, STATE, "Armed")

    def _output(self, programme: Programme) -> str:
        """Where the laser pulses go: to the volume's light where the controller gates it, else nowhere."""
        assert self._controller.outputs is not None
        light = programme.sides[0].view.settings.light
        if light is None or not self._by_controller(light):
            return self._controller.outputs.none
        return str(self._scope.lights[light].output)

    @staticmethod
    def _set(kept: Kept, label: str, prop: str, value: str | float) -> None:
        kept.write(label, label, prop, value if isinstance(value, str) else float(value), tolerance(prop))

    def _expose(self, run: Running[VolumeProgram], programme: Programme) -> None:
        frames = {side.view.camera: len(side.view.piezo_um) for side in programme.sides}
        capture = Capture(self._cameras, frames, self._scope.micromanager.buffer_mb)
        collector = Collector(run, capture, {side.view.camera: places(side) for side in programme.sides})
        scanner = programme.sides[0].scanner
        with ExitStack() as held:
            held.enter_context(self._cameras.held(list(frames)))
            held.callback(
                collector.rest
            )  # left in reverse: the controller, the light, the cameras, what is in the buffer
            held.callback(capture.stop)
            capture.prepare()
            tell = held.enter_context(self._light(run, programme))
            run.recording.exposing()
            capture.start()
            if run.ending.is_set():
                run.ends_early()
                return
            began = time.monotonic()
            try:
                self._axes.permit()
                self._core.ask(scanner, self._core.mm.setProperty, scanner, STATE, "Running")
                self._axes.permit()  # a halt or an interlock meanwhile may have idled it before it ran
                if run.program.views[0].settings.light is not None:
                    self._lights.permit()
                limit_s = 2 * programme.lasts_s + self._core.call_timeout_s
                patience_s = programme.timing.period_ms / 1000
                whole = collector.collect(lambda: self._ended(scanner), patience_s, limit_s)
                ended = self._ended(scanner)
            finally:
                self._stop_controller(run)
            tell(self._light_s(programme, time.monotonic() - began, sum(collector.got.values()), whole))
        missing = collector.missing()
        if missing is not None and whole:
            run.note(self._missed(missing, ended, capture.overflowed))

    def _ended(self, scanner: str) -> bool:
        return self._core.read(scanner, scanner, STATE) == IDLE

    def _missed(self, missing: str, ended: bool, overflowed: bool) -> str:
        if overflowed:
            return f"{missing}: MMCore's buffer overflowed"
        if not ended:
            return f"{missing}, and the controller has not ended in twice its time: it was stopped"
        return (
            f"{missing}: the cameras missed triggers. From the first missing one on, frames stand one slice or more before the"
            " position that frames.jsonl has for them (`programmed`)"
        )

    @contextmanager
    def _light(self, run: Running[VolumeProgram], programme: Programme) -> Iterator[Callable[[float], None]]:
        """The volume's light: pulsed by the controller, or its gate held open; yields what tells for how long it was on."""
        settings, account = run.program.views[0].settings, run.recording.account
        light: AbstractContextManager[Callable[[float], None] | None] = nullcontext()
        if settings.light is not None and self._by_controller(settings.light):
            light = self._lights.pulsed(
                settings.light, settings.power_pct, account, programme.light_s, programme.lasts_s
            )
        elif settings.light is not None:
            light = self._lights.exposing(settings.light, settings.power_pct, account, programme.lasts_s)
        with light as tell:
            yield tell or (lambda seconds: None)

    @staticmethod
    def _light_s(programme: Programme, elapsed_s: float, frames: int, whole: bool) -> float:
        """For how long the laser line was open: all pulses, or of a run that was stopped those that may have begun."""
        if whole:
            return programme.light_s
        pulses = max(frames, int(1000 * elapsed_s / programme.timing.period_ms) + 1)
        return min(programme.light_s, pulses * programme.timing.laser_ms / 1000)

    def moves(self, program: VolumeProgram) -> list[str]:
        galvos = [self._galvo(view) for view in program.views]
        return [view.piezo for view in program.views] + [f"{galvo}.{c}" for galvo in galvos for c in "xy"]

    def halt_steps(self) -> Mapping[str, Callable[[], object]]:
        return {}  # idling the scanners is every halt's step


def places(side: Side) -> list[dict[str, float]]:
    """Where piezo and slice mirror are at each slice, as the controller is told."""
    view, steps = side.view, len(side.view.piezo_um) - 1
    assert view.galvo is not None
    shares = [index / steps - 0.5 if steps else 0.0 for index in range(steps + 1)]
    return [
        {
            view.piezo: round(side.slices.offset + share * side.slices.amplitude, 4),
            view.galvo: round(side.tilt.offset + share * side.tilt.amplitude, 5),
        }
        for share in shares
    ]
