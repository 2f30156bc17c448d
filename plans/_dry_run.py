"""`check`: what a plan would do, found by going through its messages, without hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky import Msg

from ..config import Axis, Scope
from ..devices import Geometry, ProgramPlan
from ..hardware import (
    BurstProgram,
    Envelope,
    FrameMeasure,
    FrameShift,
    HardwareError,
    LimitError,
    VolumeProgram,
)
from ..layout import Layout
from ._focus_fit import FitError
from ._parameters import ParameterError, Problem
from ._template import PlanContext, Template

MOST_MESSAGES = 2_000_000


@dataclass(frozen=True)
class Circumstances:
    """What the microscope is like when the plan would begin. Whoever asks has read it; nothing is read here."""

    positions: Mapping[str, float]
    """Of every axis."""
    objective: str | None = None
    """Name of the one in place; None: unknown, so the narrowest limits of all count."""
    dose_left: Mapping[str, float] = field(default_factory=dict)
    """By light, in % × s, where the open sample has a budget."""
    bytes_of: Callable[[Mapping[str, int]], int] | None = None
    """Bytes of so many frames, by dataset."""
    free_bytes: int | None = None
    """Room on the disk, less what must stay free."""
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True)
class DryRun:
    ok: bool
    problems: list[Problem]
    seconds: float = 0.0
    dose: dict[str, float] = field(default_factory=dict)
    """By light: % × s."""
    frames: dict[str, int] = field(default_factory=dict)
    """By dataset."""
    bytes: int | None = None
    """None where nobody said how large a frame is."""
    moves: int = 0
    """Targets of axes, all of them checked; of a time-lapse's rounds, which are alike, the first."""


def check(template: Template, kwargs: Mapping[str, Any], scope: Scope, circumstances: Circumstances) -> DryRun:
    """Whether a plan would be allowed: parameters, every move against limits and collision rules, light against the budget,
    frames against the disk. It moves nothing and asks no device; what only devices know (filters' labels, a camera's chip, and
    with it how far apart tiles lie) isn't checked.

    Raises
    ------
    ValueError
        Where the position of an axis isn't given.
    """
    missing = sorted(set(scope.axes()) - set(circumstances.positions))
    if missing:
        raise ValueError(f"positions of {missing} are missing: read them first, a made-up one would prove nothing")
    try:
        parameters = template.check(kwargs)
    except ParameterError as error:
        return DryRun(False, error.problems)
    found = template.estimate(parameters, scope)
    problems = [
        Problem("dose", f"{light} would give {dose:g} % × s, the sample has {left:g} left", dose, left)
        for light, dose in found.dose.items()
        if (left := circumstances.dose_left.get(light)) is not None and dose > left
    ]
    size = None if circumstances.bytes_of is None else circumstances.bytes_of(found.frames)
    if size is not None and circumstances.free_bytes is not None and size > circumstances.free_bytes:
        free = circumstances.free_bytes
        problems.append(Problem("frames", f"{size / 1e9:.2f} GB don't fit, {free / 1e9:.2f} GB are free", size, free))
    if "rounds" in type(parameters).model_fields:  # they are alike
        parameters = parameters.model_copy(update={"rounds": 1})
    stand = _Stand(scope, circumstances)
    try:
        stand.go_through(template.body(parameters, PlanContext(scope, stand.devices, circumstances.layout, dry=True)))
    except (HardwareError, FitError) as error:
        fields = error.fields
        problems.append(Problem(str(fields.get("thing", "plan")), str(error), fields.get("value"), fields.get("limit")))
    return DryRun(not problems, problems, found.seconds, dict(found.dose), dict(found.frames), size, stand.moves)


class _Part:
    """Stands for a device: whatever is set is taken, and read back."""

    ended, seconds = True, 0.0
    outcome = ()

    def __init__(self, name: str, value: Any = None) -> None:
        self.name, self.value = name, value
        self.frames_written: dict[str, int] = {}
        self.parent = None

    @property
    def geometry(self) -> _Part:
        return _Part(f"{self.name}_geometry")

    def another(self, series: str, position: str | None = None) -> _Part:
        return _Part(f"{self.name}_{series}")

    def meter(self, metric: str) -> _MeterPart:
        return _MeterPart(self.name)

    def get_index(self) -> int:
        return 0

    def check_value(self, value: Any) -> None:
        pass

    def targets(self, value: Any) -> dict[str, float]:
        """Where its axes go when it is set to this."""
        return {}

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self.value, "timestamp": 0.0}}


class _MeterPart(_Part):
    """Stands for a camera that measures its frames: all are alike."""

    def newest(self) -> None:
        return None

    def shift(self, frame: Any, reference: Any) -> FrameShift:
        return FrameShift(x_px=0.0, y_px=0.0, correlation=1.0)

    def read(self) -> dict[str, Any]:
        return {f"{self.name}_{key}": {"value": 1.0, "timestamp": 0.0} for key in FrameMeasure.model_fields}


class _AxisPart(_Part):
    def __init__(self, axis: Axis, here: dict[str, float]) -> None:
        super().__init__(axis.name.replace(".", "_"))
        self.axis, self._here = axis, here

    def check_value(self, value: Any) -> None:
        low, high = self.axis.limits
        if not low <= value <= high:
            raise LimitError(
                f"{self.axis.name} {value} {self.axis.units} is outside [{low}, {high}] (scope.yml: {self.axis.source})",
                thing=self.axis.name,
                value=value,
                limit=[low, high],
            )

    def targets(self, value: Any) -> dict[str, float]:
        return {self.axis.name: float(value)}

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self._here[self.axis.name], "timestamp": 0.0}}


class _PairPart(_Part):
    def __init__(self, name: str, x: _AxisPart, y: _AxisPart) -> None:
        super().__init__(name)
        self.x, self.y = x, y

    def check_value(self, value: Any) -> None:
        self.x.check_value(value[0])
        self.y.check_value(value[1])

    def targets(self, value: Any) -> dict[str, float]:
        return self.x.targets(value[0]) | self.y.targets(value[1])

    def read(self) -> dict[str, Any]:
        return self.x.read() | self.y.read()


class _LightPart(_Part):
    def read(self) -> dict[str, Any]:
        return super().read() | {f"{self.name}_power_pct": {"value": 0.0, "timestamp": 0.0}}


class _Stand:
    """A microscope of the scope file's rules alone."""

    def __init__(self, scope: Scope, circumstances: Circumstances) -> None:
        self.here = dict(circumstances.positions)
        self.moves = 0
        self._envelope, self._objective = Envelope(scope), circumstances.objective
        self._anchor: Mapping[str, float] | None = None
        self._turrets = set(scope.of_kind("objective"))
        axes = {name: _AxisPart(axis, self.here) for name, axis in scope.axes().items()}
        self.devices: dict[str, Any] = {}
        for name, device in scope.devices.items():
            match device.kind:
                case "stage":
                    self.devices[name] = axes[name]
                case "xy_stage" | "galvo":
                    self.devices[name] = _PairPart(name, axes[f"{name}.x"], axes[f"{name}.y"])
                case _:
                    self.devices[name] = _Part(name)
        self.devices |= {name: _LightPart(name, False) for name in scope.lights}
        self.devices |= {name: _Part(name) for name in ("volume", "burst", "channel", "lights_off")}

    def go_through(self, plan: Any) -> None:
        """
        Raises
        ------
        HardwareError
            What the hardware would raise at the first move that isn't allowed.
        """
        answer = None
        for _ in range(MOST_MESSAGES):
            try:
                msg = plan.send(answer)
            except StopIteration:
                return
            try:
                answer = self._answer(msg)
            except (HardwareError, FitError):
                plan.close()
                raise
        plan.close()

    def _answer(self, msg: Msg) -> Any:
        match msg.command:
            case "open_run":
                return "dry-run"
            case "read":
                return msg.obj.read()
            case "locate":
                whole = Geometry(1, None, (0.0, 0.0))  # no device says how large a frame is: tiles stay in the middle
                return {"setpoint": Geometry(1), "readback": whole}
            case "set":
                self._set(msg.obj, msg.args[0])
            case "prepare":
                value = msg.args[0]
                program = value.program if isinstance(value, ProgramPlan) else value
                if isinstance(program, VolumeProgram | BurstProgram):
                    self._program(program)
        return None

    def _set(self, part: _Part, value: Any) -> None:
        part.check_value(value)
        if part.name in self._turrets:
            self._envelope.check_turn(self.here, value)
            self._objective = self._envelope.objective_of(value)
        if targets := part.targets(value):
            self._move(targets)
        part.value = value

    def _move(self, targets: dict[str, float]) -> None:
        self._envelope.check_move(self.here, targets, self._objective, self._anchor)
        self._anchor = self._envelope.anchor_after(self.here, targets, self._anchor)
        self.here.update(targets)
        self.moves += len(targets)

    def _program(self, program: VolumeProgram | BurstProgram) -> None:
        """Slice by slice, and back."""
        if isinstance(program, BurstProgram):
            return
        before = dict(self.here)
        for view in program.views:
            for index, um in enumerate(view.piezo_um):
                galvo = {} if view.galvo is None or view.galvo_deg is None else {view.galvo: view.galvo_deg[index]}
                self._move({view.piezo: um, **galvo})
        moved = {name: before[name] for name in before if before[name] != self.here[name]}
        if moved:
            self._move(moved)
