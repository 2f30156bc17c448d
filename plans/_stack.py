"""`z_stack`: one stage, step by step, and a frame at each."""

from __future__ import annotations

from typing import Any, Self

from bluesky import plan_stubs as bps
from pydantic import create_model, model_validator

from ..config import Scope
from ..devices import ProgramPlan, in_series
from ..hardware import VolumeProgram, VolumeView
from ._acquisition import Acquisition, Flown, one_run
from ._channels import cameras_of, channels_of, frame_settings
from ._costs import AT_POINTS, FLOWN, move_s, step_s
from ._ending import ending
from ._imaging import camera_choices, common_fields, example_channel, imaging_estimate, sweep_estimate
from ._movement import device_of
from ._parameters import MAX_FRAMES, Parameters, choice, number
from ._reading import value
from ._stepped import Stepped
from ._steps import centred_steps, stack_slices
from ._sweeping import sweep_of
from ._template import Estimate, PlanBody, PlanContext, Template


def stack_targets(acquisition: Acquisition) -> PlanBody:
    """Where the slices of one round are, around where the axis is now or around ``centre_um``; all of them allowed."""
    parameters = acquisition.parameters
    axis = device_of(acquisition.context, parameters.axis)
    centre = parameters.centre_um
    if centre is None:
        centre = yield from value(axis)
    targets = centred_steps(centre, stack_slices(parameters.range_um, parameters.step_um), parameters.step_um)
    for target in targets:
        axis.check_value(target)
    return targets


class Stack(Flown):
    """One channel's whole stack after the other's: the hardware process moves the stage."""

    waits = True

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.metadata = {"motors": [self.moves], "volume_trigger": "software"}

    @property
    def moves(self) -> str | None:
        return str(self.parameters.axis)

    def exposing(self) -> tuple[str, ...]:
        return cameras_of(self.context.scope, self.parameters.camera)

    def program(self, channel: Any, series: str) -> PlanBody:
        parameters, targets = self.parameters, (yield from stack_targets(self))
        view = VolumeView(
            dataset=in_series(parameters.camera, series),
            camera=parameters.camera,
            settings=frame_settings(channel, self.context.scope),
            piezo=parameters.axis,
            piezo_um=tuple(targets),
        )
        datasets = self.datasets(self.cameras, len(targets), channel, series, axis="z", step_um=parameters.step_um)
        return ProgramPlan(VolumeProgram(views=(view,), trigger="software"), datasets)


class StackByStep(Stepped):
    """All channels at each slice."""

    axis = "z"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.step_um = self.parameters.step_um
        self.metadata = {"motors": [self.moves], "volume_trigger": "software"}

    @property
    def moves(self) -> str | None:
        return str(self.parameters.axis)

    def points(self) -> PlanBody:
        axis = device_of(self.context, self.parameters.axis)
        return [{axis: target} for target in (yield from stack_targets(self))]

    def _take(self) -> PlanBody:
        axis = device_of(self.context, self.parameters.axis)
        before = yield from value(axis)

        def back() -> PlanBody:
            yield from bps.mv(axis, before)

        yield from ending(super()._take(), back)


def by_step(parameters: Any) -> bool:
    return parameters.order == "zc" and len(channels_of(parameters)) > 1


def stack_of(parameters: Any, *args: Any, **more: Any) -> Acquisition:
    return (StackByStep if by_step(parameters) else Stack)(parameters, *args, **more)


def z_stack(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
    stages = {name: scope.axes()[name] for name, stage in scope.of_kind("stage").items() if stage.units == "um"}
    if not cameras or not stages:
        return None
    _, _, z = scope.sample_axes()
    widest = max((axis.limits[1] - axis.limits[0] for axis in stages.values()), default=0.0)
    lowest = min((axis.limits[0] for axis in stages.values()), default=0.0)
    highest = max((axis.limits[1] for axis in stages.values()), default=0.0)

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_the_limits(self) -> Self:
            range_um, step_um, centre = (
                getattr(self, "range_um", 0.0),
                getattr(self, "step_um", 1.0),
                getattr(self, "centre_um", None),
            )
            axis = stages[getattr(self, "axis", "")]
            low, high = axis.limits
            slices = stack_slices(range_um, step_um)
            if slices > MAX_FRAMES:
                raise ValueError(f"step_um: range_um / step_um gives {slices} slices, more than {MAX_FRAMES}")
            if centre is not None and (sweep := sweep_of(self, scope)) is not None and sweep.axis == axis.name:
                raise ValueError(f"centre_um: the sweep of {axis.name} finds the middle: leave it out")
            half = (slices - 1) * step_um / 2
            outside = half * 2 > high - low if centre is None else centre - half < low or centre + half > high
            if outside:
                where = f"{range_um} um" if centre is None else f"[{centre - half}, {centre + half}] um"
                raise ValueError(
                    f"range_um: {axis.name} over {where} leaves [{low}, {high}] (scope.yml: {axis.source})"
                )
            return self

    model = create_model(
        "z_stack",
        __base__=Checked,
        range_um=(number(0, widest, "um", "height of the stack, first to last slice"), ...),
        step_um=(number(0.01, max(widest, 0.01), "um", "distance of two slices"), ...),
        centre_um=(number(lowest, highest, "um", "middle of the stack; null: where the axis is") | None, None),
        order=(
            choice(
                ["cz", "zc"], "with several channels: cz, one whole stack after the other; zc, all channels at each z"
            ),
            "cz",
        ),
        axis=(choice(list(stages), "the stage that moves"), z if z in stages else next(iter(stages), ...)),
        camera=(choice(cameras, "the camera"), cameras[0] if cameras else ...),
        **common_fields(scope),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take a stack: move a stage step by step, one frame at each, then go back to where it was.

        Moves the axis named (and to the position, the stage that focuses and the channels' filters where given). A channel's
        light is on during its exposures. Returns the run UID, the frames written, and the seconds from the first exposure until
        the last frame was on disk.
        """
        return (yield from one_run(stack_of(parameters, context)))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        slices = stack_slices(parameters.range_um, parameters.step_um)
        cameras, way = cameras_of(scope, parameters.camera), AT_POINTS if by_step(parameters) else FLOWN
        stacks = 1 if by_step(parameters) else len(channels_of(parameters))
        moves_s = stacks * (slices * step_s(scope, parameters.axis) + move_s(scope, parameters.axis))
        taken = imaging_estimate(parameters, scope, cameras, slices, slices, way)
        return taken + Estimate(seconds=moves_s) + sweep_estimate(parameters, scope, cameras[0])

    return Template(
        "z_stack",
        model,
        body,
        estimate,
        acquire=stack_of,
        example={"range_um": 4.0, "step_um": 1.0, **example_channel(scope)},
    )
