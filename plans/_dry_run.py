"""`check`: what a plan would do, found by going through its messages, without hardware."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bluesky import Msg

from ..config import Axis, Scope
from ..devices import CameraPlan, Geometry, ProgramPlan, Shots, added_devices, in_series
from ..hardware import (
    BurstProgram,
    CameraState,
    Envelope,
    FrameMeasure,
    FrameShift,
    HardwareError,
    LimitError,
    VolumeProgram,
)
from ..layout import Layout
from ._channels import cameras_of
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
    cameras: Mapping[str, CameraState] = field(default_factory=dict)
    """How each camera is set: with it, how large a frame is, and how far apart tiles lie."""
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
    """None where nobody said how large a frame of each camera is."""
    moves: int = 0
    """Targets of axes, all of them checked; of a time-lapse's rounds, which are alike, the first."""


def check(template: Template, kwargs: Mapping[str, Any], scope: Scope, circumstances: Circumstances) -> DryRun:
    """Whether a plan would be allowed: parameters, every move against limits and collision rules, light against the budget,
    frames against the disk. It moves nothing and asks no device; what only devices know (filters' labels, the size of a chip)
    isn't checked.

    Raises
    ------
    ValueError
        Where the position of an axis isn't given.
    """
    try:
        parameters = template.check(kwargs)
    except ParameterError as error:
        return DryRun(False, error.problems)
    return go_through(template, parameters, scope, circumstances)


def go_through(template: Template, parameters: Any, scope: Scope, circumstances: Circumstances) -> DryRun:
    """`check` of parameters that the template has validated."""
    missing = sorted(set(scope.axes()) - set(circumstances.positions))
    if missing:
        raise ValueError(f"positions of {missing} are missing: read them first, a made-up one would prove nothing")
    found = template.estimate(parameters, scope)
    problems = [
        Problem("dose", f"{light} would give {dose:g} % × s, the sample has {left:g} left", dose, left)
        for light, dose in found.dose.items()
        if (left := circumstances.dose_left.get(light)) is not None and dose > left
    ]
    stand = _Stand(scope, circumstances)
    context = PlanContext(scope, stand.devices, circumstances.layout, dry=True)
    try:
        stand.go_through(template.body(_once(parameters), context))
    except (HardwareError, FitError) as error:
        fields = error.fields
        problems.append(Problem(str(fields.get("thing", "plan")), str(error), fields.get("value"), fields.get("limit")))
    size, free = stand.bytes_of(found.frames), circumstances.free_bytes
    if size is not None and free is not None and size > free:
        problems.append(Problem("frames", f"{size / 1e9:.2f} GB don't fit, {free / 1e9:.2f} GB are free", size, free))
    seconds = found.seconds + _travelling_s(template, parameters, scope, stand.travel_s)
    return DryRun(not problems, problems, seconds, dict(found.dose), dict(found.frames), size, stand.moves)


def _travelling_s(template: Template, parameters: Any, scope: Scope, round_s: float) -> float:
    """What travel adds to the estimate, where each round travels for ``round_s``: nothing in time that was to spare."""
    rounds, interval_s = getattr(parameters, "rounds", 1), getattr(parameters, "interval_s", 0.0)
    if rounds == 1:
        return round_s
    each_s = template.estimate(_once(parameters), scope).round_s
    return round_s + (rounds - 1) * (max(interval_s, each_s + round_s) - max(interval_s, each_s))


def _once(parameters: Any) -> Any:
    """With one round: they are alike. Of every step, where it has steps."""
    fields = type(parameters).model_fields
    if "steps" in fields and isinstance(parameters.steps, list):
        steps = [step.model_copy(update={"kwargs": _once(step.kwargs)}) for step in parameters.steps]
        return parameters.model_copy(update={"steps": steps})
    return parameters.model_copy(update={"rounds": 1}) if "rounds" in fields else parameters


class _Part:
    """Stands for a device: whatever is set is taken, and read back."""

    ended, seconds = True, 0.0
    outcome = ()

    def __init__(self, name: str, value: Any = None) -> None:
        self.name, self.value = name, value
        self.frames_written: dict[str, int] = {}
        self.dose: dict[str, float] = {}
        self.frames = 0
        self.parent = None

    def another(self, series: str, position: str | None = None) -> _Part:
        return _Part(f"{self.name}_{series}")

    def meter(self, metric: str, series: str = "", position: str | None = None) -> _MeterPart:
        return _MeterPart(in_series(self.name, series))

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


class _GeometryPart(_Part):
    """A camera's ROI and binning, as they are and as a plan sets them."""

    def __init__(self, camera: str, state: CameraState | None) -> None:
        super().__init__(f"{camera}_geometry")
        self._state, self._binning, self._roi = state, 1, (0, 0, 0, 0)
        self._field_um = (0.0, 0.0)  # where no camera says how large a frame is, tiles stay in the middle
        if state is not None:
            self._binning, self._roi = state.binning, state.roi
            self._field_um = (state.width * state.pixel_um, state.height * state.pixel_um)

    def change(self, asked: Geometry) -> None:
        if asked.binning is not None:
            self._binning = asked.binning
        if asked.roi is not None:
            self._roi = asked.roi

    def locate(self) -> dict[str, Geometry]:
        here = Geometry(self._binning, self._roi)
        return {"setpoint": here, "readback": Geometry(self._binning, self._roi, self._field_um)}

    @property
    def frame_bytes(self) -> int | None:
        """Of one frame as it is set now; None where nobody said how the camera is."""
        state = self._state
        if state is None:
            return None
        shape = (state.height, state.width)
        if (self._binning, self._roi) != (state.binning, state.roi):
            shape = (self._roi[3] // self._binning, self._roi[2] // self._binning)
        return math.prod(shape) * np.dtype(state.dtype).itemsize


class _CameraPart(_Part):
    """``cameras``: those that expose."""

    def __init__(self, name: str, cameras: tuple[str, ...], geometry: _GeometryPart | None, series: str = "") -> None:
        super().__init__(name)
        self.cameras, self.geometry, self.series = cameras, geometry, series
        self.ahead, self.taken = self, 0

    def another(self, series: str, position: str | None = None) -> _CameraPart:
        return _CameraPart(self.name, self.cameras, self.geometry, series)

    def sequenced(self, series: str, axes: Any, described: Any) -> _CameraPart:
        return self.another(series)

    def expect(self, shots: Shots) -> None:
        pass


class _Stand:
    """A microscope of the scope file's rules alone."""

    def __init__(self, scope: Scope, circumstances: Circumstances) -> None:
        self.here = dict(circumstances.positions)
        self.moves = 0
        self.travel_s = 0.0
        """What the distances take, beside `move_s`."""
        self._speeds = {
            name: device.speed_per_s
            for name, device in scope.of_kind("stage", "xy_stage").items()
            if device.speed_per_s is not None
        }
        self._envelope, self._objective = Envelope(scope), circumstances.objective
        self._anchor: Mapping[str, float] | None = None
        self._turrets = set(scope.of_kind("objective"))
        axes = {name: _AxisPart(axis, self.here) for name, axis in scope.axes().items()}
        self._geometries = {
            name: _GeometryPart(name, circumstances.cameras.get(name)) for name in scope.of_kind("camera")
        }
        self._sizes: dict[str, int | None] = {}
        """Bytes of a frame, by dataset."""
        self.devices: dict[str, Any] = {}
        for name, device in scope.devices.items():
            match device.kind:
                case "stage":
                    self.devices[name] = axes[name]
                case "xy_stage" | "galvo":
                    self.devices[name] = _PairPart(name, axes[f"{name}.x"], axes[f"{name}.y"])
                case "camera" | "multi_camera":
                    self.devices[name] = _CameraPart(name, cameras_of(scope, name), self._geometries.get(name))
                case _:
                    self.devices[name] = _Part(name)
        self.devices |= {name: _LightPart(name, False) for name in scope.lights}
        self.devices |= {
            name: _Part(name)
            for name in ("volume", "burst", "channel", "lights_off", "live_view", *added_devices(scope))
        }

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
                return msg.obj.locate()
            case "set":
                self._set(msg.obj, msg.args[0])
            case "prepare":
                value = msg.args[0]
                self._sizes |= self._sizes_of(msg.obj, value)
                program = value.program if isinstance(value, ProgramPlan | Shots) else value
                if isinstance(program, VolumeProgram | BurstProgram):
                    self._program(program)
        return None

    def bytes_of(self, frames: Mapping[str, int]) -> int | None:
        """Bytes of so many frames, by dataset, as large as the plan set them."""
        total = 0
        for dataset, count in frames.items():
            named = [name for name in self._geometries if dataset == name or dataset.startswith(f"{name}_")]
            size = self._sizes.get(dataset)
            if size is None and named:  # the plan didn't come so far
                size = self._geometries[max(named, key=len)].frame_bytes
            if size is None:
                return None
            total += count * size
        return total

    def _sizes_of(self, part: _Part, plan: Any) -> dict[str, int | None]:
        if isinstance(plan, ProgramPlan):
            return {dataset.name: self._geometries[dataset.camera].frame_bytes for dataset in plan.datasets}
        if isinstance(plan, CameraPlan) and isinstance(part, _CameraPart):
            return {in_series(name, part.series): self._geometries[name].frame_bytes for name in part.cameras}
        return {}

    def _set(self, part: _Part, value: Any) -> None:
        part.check_value(value)
        if isinstance(part, _GeometryPart):
            part.change(value)
        if part.name in self._turrets:
            self._envelope.check_turn(self.here, value)
            self._objective = self._envelope.objective_of(value)
        if targets := part.targets(value):
            self._move(targets)
        part.value = value

    def _move(self, targets: dict[str, float]) -> None:
        self._envelope.check_move(self.here, targets, self._objective, self._anchor)
        self._anchor = self._envelope.anchor_after(self.here, targets, self._anchor)
        self.travel_s += self._travel_s(targets)
        self.here.update(targets)
        self.moves += len(targets)

    def _travel_s(self, targets: Mapping[str, float]) -> float:
        """Of axes that start together: until the last has come."""
        ways: dict[str, list[float]] = {}
        for axis, target in targets.items():
            ways.setdefault(axis.partition(".")[0], []).append(target - self.here[axis])
        return max((math.hypot(*way) / self._speeds.get(name, math.inf) for name, way in ways.items()), default=0.0)

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
        if moved and not program.stays:
            self._move(moved)
