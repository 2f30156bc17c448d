"""`mda`: a useq `MDASequence`, event by event in useq's own order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import useq
from bluesky import Msg
from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus
from pydantic import ValidationInfo, WithJsonSchema, create_model, field_validator

from ..config import Scope
from ..devices import CameraDetector, CameraPlan, in_series
from ._acquisition import Acquisition, run_of
from ._channels import cameras_of
from ._costs import DATASET_S, RUN_S, move_s
from ._ending import ending
from ._imaging import camera_choices, common_fields
from ._messages import checkpoint, move, read_together, trigger
from ._parameters import Parameters, choice
from ._reading import answer, value
from ._rounds import LOOK_S, RoundRecord
from ._sequence import Refused, as_validation_error, events
from ._sequence_rules import check_sequence
from ._sequence_survey import Series, is_focusing, series_of_event, settings_of, survey
from ._space import wait_for_space
from ._template import Estimate, PlanBody, PlanContext, Template

AXES = "tpgcz"
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


class EventRecord:
    """Which event of the sequence a frame is: a device to be read beside the camera. An axis that it hasn't is -1."""

    name = "event"
    parent = None
    hints: ClassVar[dict[str, Any]] = {"fields": []}

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._at = 0.0

    def tell(self, event: useq.MDAEvent) -> None:
        self._at = time.time()
        self._values = {f"index_{axis}": event.index.get(axis, -1) for axis in AXES}
        self._values["position_name"] = event.pos_name or ""

    def read(self) -> dict[str, dict[str, Any]]:
        return {key: {"value": value, "timestamp": self._at} for key, value in self._values.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        kinds = {**dict.fromkeys((f"index_{axis}" for axis in AXES), "integer"), "position_name": "string"}
        return {key: {"source": "plan:mda", "dtype": kind, "shape": []} for key, kind in kinds.items()}

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}


def names_of(found: Mapping[Series, int]) -> dict[Series, str]:
    """By series: how it is called. Empty where it is the only one; a second exposure of a channel is ``gfp_2``."""
    if len(found) == 1:
        return dict.fromkeys(found, "")
    names: dict[Series, str] = {}
    for series in found:
        name = series.channel or "dark"
        same = sum(one.channel == series.channel for one in names)
        names[series] = f"{name}_{same + 1}" if same else name
    return names


class Events(Acquisition):
    """The events of a sequence, one frame each; then the stages go back to where they were."""

    def __init__(self, parameters: Any, context: PlanContext, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(parameters, context)
        scope = context.scope
        self._clock, self._survey = clock, survey(parameters.sequence, scope)
        camera: CameraDetector = context.devices[parameters.camera]
        self._names = names_of(self._survey.frames)
        self._detectors = {series: camera.another(name) if name else camera for series, name in self._names.items()}
        self.devices = list(self._detectors.values())
        x, _, z = scope.sample_axes()
        self._stage = None if x is None else context.devices[x.partition(".")[0]]
        self._z = None if z is None else context.devices[z]
        self._positioners = [stage for stage in (self._stage, self._z) if stage is not None]
        self.metadata = {
            "motors": [stage.name for stage in self._positioners],
            "channels": list(dict.fromkeys(one.channel for one in self._names if one.channel)),
        }
        self._record, self.rounds_record = EventRecord(), RoundRecord()
        self._number = 0
        self._round: tuple[float, float] | None = None
        """When the time point under way was due, and when it began, in s after the clock of the sequence was set to 0."""
        self._selected: str | None = None
        self._at: dict[Any, Any] = {}
        self._correction: dict[int, float] = {}
        """By position: how far from what the sequence says the focus was found, in µm of z."""
        self._unfocused: set[int] = set()

    def exposing(self) -> tuple[str, ...]:
        return cameras_of(self.context.scope, self.parameters.camera)

    @property
    def taken(self) -> dict[str, int]:
        return {
            in_series(camera, self._names[series]): detector.get_index()
            for series, detector in self._detectors.items()
            for camera in self.cameras
        }

    def result(self) -> dict[str, Any]:
        late = {"late": self.rounds_record.late} if self._survey.times else {}
        return {**super().result(), **late}

    def once(self) -> PlanBody:
        before: dict[Any, float] = {}
        stages = [*([] if self._stage is None else [self._stage.x, self._stage.y]), *([self._z] if self._z else [])]
        for stage in stages:
            before[stage] = yield from value(stage)

        def back() -> PlanBody:
            if self._stage is not None and self._stage in self._at:
                yield from bps.mv(self._stage, (before[self._stage.x], before[self._stage.y]))
            if self._z is not None and (self._z in self._at or self._correction):
                yield from bps.mv(self._z, before[self._z])

        yield from ending(self._all(before), back)
        return True

    def _all(self, before: Mapping[Any, float]) -> PlanBody:
        geometry = self.context.devices[self.cameras[0]].geometry
        field_um = (yield from answer(Msg("locate", geometry)))["readback"].field_um
        for (
            series,
            detector,
        ) in self._detectors.items():  # before a checkpoint: prepared again it would begin a dataset again
            yield from bps.prepare(detector, self._plan(series), wait=True)
        began, due, taken = 0.0, None, 0
        for event in events(self.parameters.sequence, field_um):
            yield from checkpoint()
            if event.reset_event_timer or due is None:
                began = self._clock()
            start = event.min_start_time or 0.0
            if event.reset_event_timer or start != due:
                yield from self._told(taken)
                due, taken = start, 0
                yield from wait_for_space(self.context)
                yield from self._wait(began + start)
                self._round = (start, self._clock() - began)
            if is_focusing(event):
                yield from self._focus_at(event, before)
            elif event.index.get("p", -1) in self._unfocused:
                self.without_focus += 1
            else:
                yield from self._frame(event, before)
                taken += 1
        yield from self._told(taken)

    def _wait(self, until: float) -> PlanBody:
        while not self.context.dry and (rest := until - self._clock()) > 0:
            yield from bps.checkpoint()
            yield from bps.sleep(min(rest, LOOK_S))

    def _told(self, taken: int) -> PlanBody:
        """A time point's event in the stream ``rounds``, where the sequence has time points."""
        if self._round is None or not self._survey.times:
            return
        self.rounds_record.tell(self._number, *self._round, "taken" if taken else "no frames")
        self._number += 1
        yield from checkpoint()
        yield from read_together(self.rounds_record, stream="rounds")

    def _go(self, event: useq.MDAEvent, before: Mapping[Any, float]) -> PlanBody:
        """To where the event says; where it says nothing, an axis stays."""
        moves: dict[Any, Any] = {}
        if self._stage is not None and (event.x_pos is not None or event.y_pos is not None):
            x, y = self._at.get(self._stage, (before[self._stage.x], before[self._stage.y]))
            target = (x if event.x_pos is None else event.x_pos, y if event.y_pos is None else event.y_pos)
            if self._at.get(self._stage) != target:
                moves[self._stage] = target
        if self._z is not None and event.z_pos is not None:
            z_um = event.z_pos + self._correction.get(event.index.get("p", -1), 0.0)
            if self._at.get(self._z) != z_um:
                moves[self._z] = z_um
        if moves:
            for stage, target in moves.items():
                stage.check_value(target)
            self._at |= moves  # before they are there: whoever is stopped on the way goes back too
            yield from move(moves)

    def _focus_at(self, event: useq.MDAEvent, before: Mapping[Any, float]) -> PlanBody:
        """Focus once at the event's place; its frames are taken as far from what the sequence says as the focus was found."""
        ((name, settings),) = self.context.scope.of_kind("autofocus").items()
        autofocus, stage = self.context.devices[name], self.context.devices[settings.axis]
        place = event.index.get("p", -1)
        last = self._correction.pop(place, None)
        self._unfocused.discard(place)
        yield from self._go(event, before)
        asked = yield from value(stage)
        try:
            yield from bps.checkpoint()
            offset = getattr(event.action, "autofocus_motor_offset", None)
            if offset is not None:
                lock = bps.abs_set(autofocus.offset, offset, wait=True)
                yield from ending(lock, lambda: bps.abs_set(autofocus, False, wait=True))
            else:
                yield from bps.abs_set(autofocus, "full", wait=True)
        except FailedStatus:
            match self.parameters.on_focus_fail:
                case "fail":
                    raise
                case "skip":
                    self._unfocused.add(place)
                case _ if last is not None:
                    self._correction[place] = last
            self._at.pop(stage, None)
            return
        found = yield from value(stage)
        self._at.pop(stage, None)
        self._correction[place] = found - asked if stage is self._z else 0.0

    def _frame(self, event: useq.MDAEvent, before: Mapping[Any, float]) -> PlanBody:
        series = series_of_event(event, self.context.scope)
        detector = self._detectors[series]
        yield from self._go(event, before)
        if series.channel is not None and self._selected != series.channel:
            yield from bps.mv(self.context.devices["channel"], series.channel)
            self._selected = series.channel
        self._record.tell(event)
        yield from trigger(detector)
        yield from read_together(detector, self._record, *self._positioners, stream=self._names[series] or "primary")

    def _plan(self, series: Series) -> CameraPlan:
        only_z = self._survey.axes <= {"c", "z"} and "z" in self._survey.axes
        return CameraPlan(
            settings=settings_of(series, self.context.scope),
            frames=self._survey.frames[series],
            axis="z" if only_z else "t",
            step_um=(self.parameters.sequence.get("z_plan") or {}).get("step") or None if only_z else None,
            channel=series.channel,
            format=self.parameters.format,
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
            found = survey(self.sequence, scope).frames  # type: ignore[attr-defined]
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
        then taken as far off as the focus was found. A channel's light is on during its exposures only, also where the sequence
        keeps the shutter open. A time point begins at its time or, when that has passed, at once: the stream rounds says which
        were late. A failed move or frame fails the run. Each channel has a dataset and a stream, whose events have the index of
        each frame (index_t, index_p, index_g, index_c, index_z; -1: it has none) and where the stages were. Returns the run UID,
        the frames written and how many time points were late.
        """
        acquisition = Events(parameters, context)
        metadata: dict[str, Any] = {"axes": sorted(acquisition._survey.axes)}
        return (yield from run_of(acquisition, acquisition.once, **metadata))

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        found, dose, frames = survey(parameters.sequence, scope), dict[str, float](), dict[str, int]()
        for series, name in names_of(found.frames).items():
            settings, number = settings_of(series, scope), found.frames[series]
            frames |= {in_series(camera, name): number for camera in cameras_of(scope, parameters.camera)}
            if settings.light:
                seconds = number * (settings.exposure_ms or 10.0) / 1000
                dose[settings.light] = dose.get(settings.light, 0.0) + seconds * (settings.power_pct or 0.0)
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
