"""`mda`: a useq `MDASequence`, event by event in useq's own order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

from pydantic import ValidationInfo, WithJsonSchema, create_model, field_validator

from ..config import Scope
from ..devices import in_series
from ._acquisition import run_of
from ._channels import cameras_of
from ._costs import DATASET_S, RUN_S, move_s
from ._imaging import camera_choices, common_fields
from ._mda_events import Events
from ._parameters import Parameters, choice
from ._sequence import Refused, as_validation_error
from ._sequence_rules import check_sequence
from ._sequence_series import names_of, settings_of
from ._sequence_survey import survey
from ._template import Estimate, PlanBody, PlanContext, Template

KEYS: dict[str, list[str]] = {
    "axis_order": ["string", "array"],
    "stage_positions": ["array", "object"],
    "grid_plan": ["object", "null"],
    "channels": ["array"],
    "time_plan": ["object", "array", "null"],
    "z_plan": ["object", "null"],
    "autofocus_plan": ["object", "null"],
    "keep_shutter_open_across": ["string", "array"],
    "metadata": ["object"],
    "setup": ["null"],
}
"""What a sequence may have, and as which JSON: an outline, useq's own schema is long."""
DOC = (
    "a useq-schema MDASequence as JSON (https://pymmcore-plus.github.io/useq-schema/schema/sequence/), which must end;"
    " places in um of the stages, relative ones without a position are relative to 0; channels by their name in scope.yml, or"
    " {config, group} of Micro-Manager; no properties, no setup; random points with a seed"
)


def mda(scope: Scope) -> Template | None:
    cameras = camera_choices(scope)
    if not cameras:
        return None
    bounds = [camera.exposure_ms for camera in scope.of_kind("camera").values()] or [(0.0, 0.0)]
    exposure_ms = max(low for low, _ in bounds), min(high for _, high in bounds)

    class Checked(Parameters):
        @field_validator("sequence", mode="after", check_fields=False)
        @classmethod
        def _can_be_done(cls, sequence: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
            try:
                check_sequence(sequence, scope, exposure_ms, info.data.get("camera", cameras[0]))
            except Refused as refused:
                raise as_validation_error(refused) from None
            return sequence

        @property
        def channels(self) -> list[Any]:
            """As other templates have them."""
            found = survey(self.sequence, scope, self.camera).frames  # type: ignore[attr-defined]
            return [SimpleNamespace(name=n) for n in dict.fromkeys(s.channel for s in found if s.channel)]

    views = [name for name, camera in scope.of_kind("camera").items() if camera.view is None]
    common = {name: common_fields(scope)[name] for name in ("on_focus_fail", "roi", "binning", "format")}
    schema = {
        "type": "object",
        "description": DOC,
        "properties": {key: {"type": kind} for key, kind in KEYS.items()},
        "additionalProperties": False,
        "examples": [_example(scope)],
    }
    model = create_model(
        "mda",
        __base__=Checked,
        camera=(choice(cameras, "the camera of every event"), next(iter(views), cameras[0])),
        sequence=(Annotated[dict[str, Any], WithJsonSchema(schema)], ...),
        **common,
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Take a useq MDASequence: a frame at each of its events, in useq's own order.

        Moves the XY stage and z to where the events say, every place checked before the first, and back to where they were at the
        end; the channels' filters; z also by the autofocus, where the sequence has an autofocus plan: frames at that position are
        then taken as far off as the focus was found. A stack, and frames of one place with no time between them, are taken by the
        hardware alone. A channel's light is on during its exposures; from the first frame of a stack to its last where the
        camera's pulses step z (volume.trigger of the scope file), and between frames of one place where the sequence keeps the
        shutter open. A time point begins at its time or, when that has passed, at once: the stream rounds says which were late. A
        failed move or frame fails the run. Each channel has a dataset and a stream, whose events have the index of each frame
        (index_t, index_p, index_g, index_c, index_z; -1: it has none) and where the stages were (programmed: z was commanded, not
        read back). Returns the run UID, the frames written and how many time points were late.
        """
        acquisition = Events(parameters, context)
        metadata: dict[str, Any] = {"axes": sorted(acquisition._survey.axes)}
        return (yield from run_of(acquisition, acquisition.once, **metadata))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        found = survey(parameters.sequence, scope, parameters.camera)
        dose, frames = dict[str, float](), dict[str, int]()
        for series, name in names_of(found.frames).items():
            settings, number = settings_of(series, scope), found.frames[series]
            frames |= {in_series(camera, name): number for camera in cameras_of(scope, parameters.camera)}
            if settings.light:
                given = found.lit_s[series] * (settings.power_pct or 0.0)
                dose[settings.light] = dose.get(settings.light, 0.0) + given
        once_s = RUN_S + len(frames) * DATASET_S
        x, _, z = scope.sample_axes()
        return Estimate(once_s + found.seconds + move_s(scope, x, z), frames, dose, once_s)

    small = {**_example(scope), "time_plan": {"interval": 0.1, "loops": 2}}
    return Template("mda", model, body, estimate, example={"sequence": small})


def _example(scope: Scope) -> dict[str, Any]:
    """One that this microscope can do."""
    x, y, z = scope.sample_axes()
    place = {name: 0.0 for name, axis in (("x", x), ("y", y), ("z", z)) if axis}
    example: dict[str, Any] = {"time_plan": {"interval": 30.0, "loops": 10}}
    if scope.channels:
        example["channels"] = [{"config": next(iter(scope.channels)), "exposure": 20.0}]
    if place:
        example["stage_positions"] = [{**place, "name": "embryo"}]
    if z:
        example["z_plan"] = {"range": 4.0, "step": 1.0}
    return example
