"""`burst`: frames in quick succession, with nothing moving."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, create_model, model_validator

from ..config import Scope
from ..devices import ProgramPlan, in_series
from ..hardware import BurstProgram, BurstView
from ._acquisition import Flown, one_run
from ._channels import channels_of, frame_settings
from ._costs import FLOWN, UNKNOWN_EXPOSURE_S, readouts_s, select_s
from ._imaging import common_fields, example_channel, getting_there_s, imaging_estimate, sweep_estimate
from ._parameters import MAX_FRAMES, Parameters, choice, count, number
from ._template import Estimate, PlanBody, PlanContext, Template


def burst(scope: Scope) -> Template | None:
    cameras = list(scope.of_kind("camera"))
    if not cameras:
        return None
    views = [name for name, camera in scope.of_kind("camera").items() if camera.view]
    first = views or cameras[:1]

    class Checked(Parameters):
        @model_validator(mode="after")
        def _feasible(self) -> Self:
            names, rate_hz = list(getattr(self, "cameras", [])), getattr(self, "rate_hz", None)
            if len(set(names)) < len(names):
                raise ValueError(f"cameras: {names} names a camera twice")
            if rate_hz is not None:
                channel = channels_of(self)[0]
                exposure_s = len(names) * (frame_settings(channel, scope).exposure_ms or 0.0) / 1000
                if exposure_s * rate_hz > 1:
                    raise ValueError(
                        f"rate_hz: {rate_hz:g} frames a second need {1000 / rate_hz:g} ms each, the exposures take"
                        f" {1000 * exposure_s:g} ms: a lower rate, shorter exposures, or rate_hz null (as fast as possible)"
                    )
            return self

    model = create_model(
        "burst",
        __base__=Checked,
        frames=(count(1, MAX_FRAMES, "frames of each camera"), ...),
        cameras=(
            Annotated[
                list[choice(cameras, "a camera")],  # type: ignore[misc]
                Field(min_length=1, max_length=4, description="the cameras that expose"),
            ],
            first,
        ),
        rate_hz=(
            number(0.001, 1000, "Hz", "frames a second, one camera after the other; null: as fast as the cameras go")
            | None,
            None,
        ),
        **common_fields(scope, channels=1),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take frames in quick succession with one or more cameras; nothing moves meanwhile.

        Moves to the position, the stage that focuses and the channel's filter where given, before. As fast as the cameras go
        (rate_hz null) the channel's light is on from the first frame to the last; at a steady rate during the exposures only.
        Returns the run UID, the frames written, and the seconds from the first exposure until the last frame was on disk.
        """
        return (yield from one_run(Burst(parameters, context)))

    return Template("burst", model, body, _estimate, acquire=Burst, example={"frames": 5, **example_channel(scope)})


class Burst(Flown):
    flyer = "burst"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.waits = self.parameters.rate_hz is not None

    def exposing(self) -> tuple[str, ...]:
        return tuple(self.parameters.cameras)

    def program(self, channel: Any, series: str) -> PlanBody:
        yield from ()
        parameters, settings = self.parameters, frame_settings(channel, self.context.scope)
        views = tuple(
            BurstView(dataset=in_series(camera, series), camera=camera, settings=settings, frames=parameters.frames)
            for camera in self.cameras
        )
        datasets = self.datasets(self.cameras, parameters.frames, channel, series)
        return ProgramPlan(BurstProgram(views=views, rate_hz=parameters.rate_hz), datasets)


def _estimate(parameters: Any, scope: Scope) -> Estimate:
    """Single frames one after the other at a steady rate; else all cameras at once, each of which reads out while it exposes."""
    found = imaging_estimate(parameters, scope, parameters.cameras, parameters.frames)
    settings = frame_settings(channels_of(parameters)[0], scope)
    exposure_s = UNKNOWN_EXPOSURE_S if settings.exposure_ms is None else settings.exposure_ms / 1000
    seconds, dose = found.seconds, found.dose
    if parameters.rate_hz is not None:
        seconds = max(seconds, found.once_s + parameters.frames / parameters.rate_hz)
    else:
        frame_s = max(exposure_s, *readouts_s(scope, parameters.cameras))
        before_s = getting_there_s(parameters, scope) + select_s(scope, channels_of(parameters)[0])
        seconds = found.once_s + before_s + FLOWN.begin_s + parameters.frames * frame_s
        dose = {light: one / len(parameters.cameras) for light, one in dose.items()}
    taken = Estimate(seconds, found.frames, dose, found.once_s)
    return taken + sweep_estimate(parameters, scope, parameters.cameras[0])
