"""`z_stack`: one stage, step by step, and a frame at each."""

from __future__ import annotations

from typing import Any, Self

from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from pydantic import create_model, model_validator

from ..config import Scope
from ..devices import ProgramPlan
from ..hardware import DatasetPlan, VolumeProgram, VolumeView
from ._flying import fly
from ._imaging import (
    camera_choices,
    cameras_of,
    channel_name,
    datasets_of,
    frame_settings,
    go_and_select,
    imaging_estimate,
)
from ._movement import device_of
from ._parameters import MAX_FRAMES, Parameters, channel_field, choice, number, position_field
from ._template import Estimate, PlanBody, PlanContext, Template


def centred_steps(centre: float, slices: int, step: float) -> list[float]:
    """``slices`` positions ``step`` apart around ``centre``, in ascending order for a positive step."""
    return [centre + (index - (slices - 1) / 2) * step for index in range(slices)]


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
        axis=(choice(list(stages), "the stage that moves"), z if z in stages else next(iter(stages), ...)),
        camera=(choice(cameras, "the camera"), cameras[0] if cameras else ...),
        channels=(channel_field(scope), None),
        position=(position_field(scope), None),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take a stack: move a stage step by step, one frame at each, then go back to where it was.

        Moves the axis named (and to the position and the channel's filter where given). The channel's light is on during the
        exposures. Returns the run UID, the frames written, and the seconds from the first exposure until the last frame was
        on disk.
        """
        volume, axis = context.devices["volume"], device_of(context, parameters.axis)
        slices = stack_slices(parameters.range_um, parameters.step_um)
        settings = frame_settings(parameters, context.scope)

        def inner() -> PlanBody:
            yield from go_and_select(parameters, context)
            start = yield from bps.rd(axis)
            centre = start if parameters.centre_um is None else parameters.centre_um
            targets = centred_steps(centre, slices, parameters.step_um)
            for target in targets:
                axis.check_value(target)
            view = VolumeView(
                dataset=parameters.camera,
                camera=parameters.camera,
                settings=settings,
                piezo=axis.name,
                piezo_um=tuple(targets),
            )
            datasets = tuple(
                DatasetPlan(
                    name=camera,
                    camera=camera,
                    frames=slices,
                    axis="z",
                    step_um=parameters.step_um,
                    channel=channel_name(parameters),
                )
                for camera in cameras_of(context.scope, parameters.camera)
            )
            program = VolumeProgram(views=(view,), trigger="software")
            metadata = {"motors": [axis.name], "volume_trigger": "software"}
            return (yield from fly(volume, ProgramPlan(program, datasets), metadata, waits=True))

        return (yield from bpp.stage_wrapper(inner(), [volume]))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        slices = stack_slices(parameters.range_um, parameters.step_um)
        return imaging_estimate(parameters, scope, datasets_of(scope, parameters.camera, slices), slices)

    return Template("z_stack", model, body, estimate)


def stack_slices(range_um: float, step_um: float) -> int:
    """Slices that cover a range: one more than there are whole steps in it."""
    return int(range_um / step_um + 1e-9) + 1
