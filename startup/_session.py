"""What one RE worker works with, built once when its environment opens: hardware, devices, plans, RunEngine, ledger."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from bluesky import Msg, RunEngine
from bluesky.run_engine import RunEngineResult
from bluesky.utils import RunEngineInterrupted
from event_model import DocumentNames, unpack_event_page

from .. import __version__
from ..config import Scope, load_scope
from ..devices import Reconnection, RunRecordings, build_devices
from ..hardware import Hardware, RecordingError, connect
from ..layout import DEFAULT_SCOPE, SCOPE_ENV, Layout
from ..ledger import Decisions, Ledger, Left, Operations, Waits, bell, hints, meta_of
from ..plans import ParameterError, PlanContext, Template, build_plans, channel_names, restoring, templates
from ._circumstances import First
from ._deciding import Deciding
from ._document_log import DocumentLog
from ._frame_sizes import FrameSizes
from ._gate import Gate
from ._space import RoundsWait, Space
from ._telling import Progress

HARDWARE_DEADLINE_S = 30.0
"""How long an opening environment waits for the hardware process."""


class ScopeRunEngine(RunEngine):
    """A RunEngine whose frames are taken once.

    A run's recordings end before its stop document, which says how many frames of each dataset are on disk and what dose of
    each light was measured. What was told in an event or a stream document is never repeated: after a pause the RunEngine
    repeats the messages since the last checkpoint, so saving, collecting and declaring a stream each make a checkpoint, in the
    same step.

    A pause, stop or abort that comes when the plan has done everything changes nothing: it has ended, with its result.
    """

    def __init__(self, recordings: RunRecordings, **kwargs: Any) -> None:
        self._recordings = recordings
        self._problem: str | None = None
        """Of the run that ended last: why its files are not what was asked for."""
        self._returned: list[Any] = []
        """What the plan returned, once it has; bluesky loses it to a pause in that moment."""
        super().__init__({}, call_returns_result=True, **kwargs)
        self.preprocessors.append(self._keep_result)
        for command, coroutine in (
            ("save", self._save),
            ("collect", self._collect),
            ("declare_stream", self._declare_stream),
        ):
            self.register_command(command, self._then_checkpoint(coroutine))
        self.register_command("checkpoint", self._pass_checkpoint)
        self.register_command("require_good_run", self._require_good_run)

    async def _pass_checkpoint(self, msg: Msg) -> None:
        self._recordings.past()
        await self._checkpoint(msg)

    def __call__(self, *args: Any, **metadata: Any) -> Any:
        self._returned.clear()
        self._recordings.ending = False
        return self._until_over(lambda: super(ScopeRunEngine, self).__call__(*args, **metadata))

    def resume(self) -> Any:
        self._recordings.ending = False
        return self._until_over(super().resume)

    def will_end(self) -> None:
        """Before a pause that a stop or an abort follows: what can't be held while it is paused ends at once (decision 0087)."""
        self._recordings.ending = True

    def _keep_result(self, plan: Any) -> Any:
        result = yield from plan
        self._returned.append(result)
        return result

    def _until_over(self, go_on: Callable[[], Any]) -> Any:
        try:
            return go_on()
        except RunEngineInterrupted:
            if self.state != "idle" or not self._returned:
                raise
            return RunEngineResult(tuple(self._run_start_uids), self._returned[0], "success", False, "", None)

    def _then_checkpoint(self, coroutine: Callable[[Msg], Awaitable[Any]]) -> Callable[[Msg], Awaitable[Any]]:
        async def run(msg: Msg) -> Any:
            result = await coroutine(msg)
            self._recordings.told()
            self._reset_checkpoint_state()
            return result

        return run

    async def _require_good_run(self, msg: Msg) -> bool:
        """``Msg("require_good_run")``: raises `RecordingError` where the files of the run before are not good."""
        if self._problem is not None:
            raise RecordingError(self._problem)
        return True

    async def emit(self, name: DocumentNames, doc: Any) -> None:
        if name == DocumentNames.start:
            doc.update(doc.pop("of_step", {}))  # a step's own, in place of what the whole operation came with
            position = (doc.get("plan_args") or {}).get("position")
            self._recordings.start_run(
                doc["uid"],
                doc.get("sample_id"),
                position if isinstance(position, str) else None,
                doc.get("session_id"),
            )
        elif name == DocumentNames.stop:
            try:
                # Not in a thread: a pause would cancel the waiting here, and the stop document with it.
                doc["frames"], problem = self._recordings.end_run()
                doc["dose"] = self._recordings.dose
            except Exception as error:  # the stop document must come, whatever goes wrong here
                problem = f"files not closed: {type(error).__name__}: {error}"
            self._problem = problem
            if problem is not None:
                doc["exit_status"] = "fail"
                doc["reason"] = "; ".join(filter(None, [doc.get("reason"), problem]))
        if name == DocumentNames.event_page:  # a reader of events needn't know how they came
            for event in unpack_event_page(doc):
                await super().emit(DocumentNames.event, event)
            return
        await super().emit(name, doc)


@dataclass(frozen=True)
class Session:
    scope: Scope
    layout: Layout
    hardware: Hardware
    devices: Mapping[str, Any]
    plans: Mapping[str, Any]
    templates: Mapping[str, Template]
    run_engine: ScopeRunEngine
    operations: Operations
    reconnection: Reconnection
    rounds: RoundsWait
    gate: Gate
    first: First

    def run_metadata(self, plan_info: Mapping[str, Any]) -> dict[str, Any]:
        """The start document's part that isn't the plan's (DESIGN section 3), from a queue item as the worker gets it."""
        meta = meta_of(plan_info)
        self.first.sample_id = meta.get("sample_id")
        name, kwargs = plan_info["name"], plan_info.get("kwargs") or {}
        metadata: dict[str, Any] = {
            "op_key": meta.get("op_key"),
            "attempt": meta.get("attempt", 1),
            "item_uid": plan_info.get("item_uid"),
            "user": plan_info.get("user"),
            "user_group": plan_info.get("user_group"),
            "session_id": meta.get("session_id"),
            "sample_id": meta.get("sample_id"),
            "scope": self.scope.name,
            "plan_name": name,
            "plan_args": kwargs,
            "versions": dict(versions()),
            "objective": self._objective(),
            "channels": [],
            "estimated_dose": {},
        }
        template = self.templates.get(name)
        if template is not None:
            parameters = template.check(kwargs)
            metadata["estimated_dose"] = template.estimate(parameters, self.scope).dose
            metadata["channels"] = channel_names(parameters)
        return {**meta, **metadata}

    def progress(self, plan_info: Mapping[str, Any]) -> Progress | None:
        """Who tells how far a plan is; None for one without a key, which nobody follows."""
        meta, template = meta_of(plan_info), self.templates.get(str(plan_info.get("name")))
        if not (key := meta.get("op_key")):
            return None
        planned = 0
        if template is not None:
            with contextlib.suppress(ParameterError):  # the plan itself says so
                parameters = template.check(plan_info.get("kwargs") or {})
                planned = sum(template.estimate(parameters, self.scope).frames.values())
        return Progress(hints(self.layout), key, int(meta.get("attempt") or 1), planned)

    def left(self) -> Left:
        """Where the microscope is now, for whoever goes on from here (R1.12).

        Raises
        ------
        HardwareError
            Where something of it can't be read.
        """
        turned = self.scope.of_kind("objective", "state", "config_group")
        return Left(
            axes=self.hardware.positions(tuple(self.scope.axes())),
            labels={name: self.hardware.label(name) for name in turned},
            sample=self.hardware.dose().sample_id,
        )

    @contextlib.contextmanager
    def restoring(self, left: Left | None) -> Iterator[None]:
        """A plan that is started inside brings the microscope back there first."""
        if left is None:
            yield
            return
        context = PlanContext(self.scope, self.devices, self.layout)

        def first(plan: Any) -> Any:
            yield from restoring(context, left.axes, left.labels)
            return (yield from plan)

        self.run_engine.preprocessors.append(first)
        try:
            yield
        finally:
            self.run_engine.preprocessors.remove(first)

    def _objective(self) -> dict[str, Any] | None:
        turret = next(iter(self.scope.of_kind("objective")), None)
        if turret is None:
            return None
        label = self.hardware.label(turret)
        for name, objective in self.scope.objectives.items():
            if objective.label == label:
                return {"name": name, "label": label, "na": objective.na, "pixel_um": objective.pixel_um}
        return {"name": None, "label": label, "na": None, "pixel_um": None}


@cache
def versions() -> dict[str, str]:
    """Looked up once: reading packages' metadata takes milliseconds, and every run tells it."""
    packages = ("bluesky", "bluesky-queueserver", "ophyd", "pymmcore-plus", "pymmcore")
    return {"queuescope": __version__, **{package: version(package) for package in packages}}


def open_session() -> Session:
    """Connect to the hardware and build everything from the scope file.

    Raises
    ------
    ScopeError, HardwareError
        Which fail the opening of the environment, with their text in the worker's log.
    """
    scope = load_scope(os.environ.get(SCOPE_ENV, DEFAULT_SCOPE))
    layout = Layout()
    layout.create()
    hardware = connect(scope, layout, timeout_s=HARDWARE_DEADLINE_S)
    devices, recordings = build_devices(scope, layout, hardware)
    ledger = Ledger(layout.ledger_db)
    run_engine = ScopeRunEngine(recordings, scan_id_source=lambda _: ledger.next_scan_id())
    run_engine.subscribe(DocumentLog(layout.documents))
    sizes = FrameSizes(scope, layout)
    sizes.ask(hardware)
    run_engine.subscribe(sizes, "descriptor")
    ours = templates(scope, layout)
    rounds = RoundsWait(Space(scope, layout, ours), Waits(layout))
    run_engine.register_command("disk_hold", rounds.look)
    run_engine.register_command("disk_hold_over", rounds.over)
    deciding = Deciding(Decisions(ledger, bell(layout)), lambda: rounds.item_uid)
    for command in ("open", "look", "use", "over"):
        run_engine.register_command(f"decision_{command}", getattr(deciding, command))
    first = First(scope, layout, hardware, ours)
    run_engine.register_command("check_first", first.look)
    return Session(
        scope=scope,
        layout=layout,
        hardware=hardware,
        devices=devices,
        plans=build_plans(scope, devices, layout),
        templates=ours,
        run_engine=run_engine,
        operations=Operations(ledger, bell(layout)),
        reconnection=Reconnection(hardware, devices),
        rounds=rounds,
        gate=Gate(scope, layout),
        first=first,
    )
