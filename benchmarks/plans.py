"""What plans cost: each stepping template per step, beside bare pymmcore-plus moves and snaps; how well a time-lapse keeps time;
how long each template takes, and how long it said that it would.

Frames are 64 × 64, so that neither disk nor camera counts. A step's milliseconds are the difference of a long and a short plan,
so what a run costs once is no part of them. Bare and ours alternate. A volume that the controller steps (an emulated one, in real
time) is held against the period that it was told. Ours runs in a RunEngine as the worker's, with every
document on disk, and the hardware process beside it, as in a stack; bare is in this process. How long a template takes is the
median of three runs of its example, after one that opens connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import ENV_PREFIX, load_scope
from ..hardware import slice_timing
from ..layout import DATA_ENV, DEFAULT_SCOPE, SCOPE_ENV, Layout
from ..plans import Template, go_through
from ..startup._circumstances import circumstances_of
from ..startup._session import Session, open_session
from ._result import Result, Row, Tell, row
from .device import bare_core, running

STEP_GOAL_MS = 2.0
FLY_GOAL_MS = 0.1
EXPOSURE_MS = 1.0
BY_ITSELF = (
    "edge_search",  # nobody answers it, and how long that takes is its client's business
    "center_on_pixel",  # there is no calibrated run to begin from
)
"""Templates whose time on the demo scope says nothing of their estimate."""
LOOKING = ("focus_sweep", "head_focus_descent", "calibrate_piezo_galvo", "calibrate_stage_camera", "register_views")
"""Templates that the demo's empty images refuse: they run on `demo-beads`."""
SIDE = 64
CAMERA, STAGE = "overview", "z"
FLOWN_CAMERA = "cam_a"
"""Of view A, which the controller triggers."""
FRAME = {
    "camera": CAMERA,
    "roi": {"x_px": 0, "y_px": 0, "width_px": SIDE, "height_px": SIDE},
}
"""Without a light: bare has none either."""
LIT = {**FRAME, "channels": [{"name": "brightfield", "exposure_ms": EXPOSURE_MS}]}


@dataclass(frozen=True)
class Case:
    """A template that does ``n`` steps, and the same by hand."""

    name: str
    plan: str
    goal_ms: float
    kwargs: Callable[[int], dict[str, Any]]
    bare: Callable[[Any, int], None]


def measure(quick: bool, tell: Tell) -> Result:
    """5 and 25 steps, twice, and 3 rounds where ``quick``; else 20 and 220, seven times, and 60 rounds."""
    short, long, repetitions, rounds = (5, 25, 2, 3) if quick else (20, 220, 7, 60)
    with _stand("software") as session:
        result = _measured(session, short, long, repetitions, rounds, tell)
    tell("plans: acquire_volume by the controller")
    with _stand("tiger_spim") as session:
        flown = _flown(session, short, long, repetitions)
    with _stand("software", "demo-beads") as session:
        looking = _looking(session, tell)
    parts = (result, flown, looking)
    ratios = {name: ratio for part in parts for name, ratio in part.ratios.items()}
    return Result("plans", [one for part in parts for one in part.rows], ratios)


@contextlib.contextmanager
def _stand(trigger: str, name: str = DEFAULT_SCOPE) -> Iterator[Session]:
    """A session as the worker's, on a bundled scope with this volume trigger, and its hardware process."""
    for key, value in {
        "MICROMANAGER__PROCESS": "own",
        "VOLUME__TRIGGER": trigger,
        "STORAGE__MIN_FREE_GB": "0",
    }.items():
        os.environ[ENV_PREFIX + key] = value
    with tempfile.TemporaryDirectory(prefix="queuescope-bench-") as folder:
        scope, layout = load_scope(name), Layout(Path(folder) / "data")
        os.environ[SCOPE_ENV], os.environ[DATA_ENV] = str(scope.path), str(layout.data)
        with running(scope, layout):
            session = open_session()
            try:
                yield session
            finally:
                session.hardware.close()  # type: ignore[attr-defined]


def _measured(session: Session, short: int, long: int, repetitions: int, rounds: int, tell: Tell) -> Result:
    core = bare_core(session.scope, session.hardware.info().adapters)
    _prepare(core)
    session.hardware.configure_camera(CAMERA, exposure_ms=EXPOSURE_MS)
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    for case in CASES:
        tell(f"plans: {case.name}")
        ours: list[float] = []
        bare: list[float] = []
        run(session, case.plan, case.kwargs(2))  # opens connections
        case.bare(core, 2)
        for _ in range(repetitions):
            ours.append(_per_step(lambda n, case=case: run(session, case.plan, case.kwargs(n)), short, long))  # type: ignore[misc]
            bare.append(_per_step(lambda n, case=case: case.bare(core, n), short, long))  # type: ignore[misc]
        rows += [row(f"{case.name}, bare pymmcore-plus", "ms/step", bare), row(case.name, "ms/step", ours)]
        added = statistics.median(ours) - statistics.median(bare)
        ratios[f"{case.name}: ms added (goal {case.goal_ms:g})"] = added
    core.unloadAllDevices()
    tell(f"plans: {rounds} rounds of a second")
    rows.append(row("begin of a round after its time, 1 s time-lapse", "ms", jitter(session, rounds)))
    for name, template in session.templates.items():
        if name in BY_ITSELF or name in LOOKING:
            continue
        rows += _whole_rows(session, name, template, ratios, tell)
    return Result("plans", rows, ratios)


def _flown(session: Session, short: int, long: int, repetitions: int) -> Result:
    """A slice that the controller times by itself, beside the period that it was given."""
    camera = session.scope.of_kind("camera")[FLOWN_CAMERA].external
    assert camera is not None
    session.hardware.configure_camera(FLOWN_CAMERA, exposure_ms=EXPOSURE_MS)
    period_ms = slice_timing(EXPOSURE_MS, camera.readout_ms, camera.reset_ms).period_ms
    run(session, "acquire_volume", volume(2))
    ours = [_per_step(lambda n: run(session, "acquire_volume", volume(n)), short, long) for _ in range(repetitions)]
    name = "acquire_volume (the controller steps)"
    rows = [row(f"{name}, its period", "ms/step", [period_ms]), row(name, "ms/step", ours)]
    return Result("plans", rows, {f"{name}: ms added (goal {FLY_GOAL_MS:g})": statistics.median(ours) - period_ms})


def volume(n: int) -> dict[str, Any]:
    """Of one view, in so many slices."""
    return {"slices": n, "step_um": 0.1, "views": "A", "roi": FRAME["roi"]}


def _looking(session: Session, tell: Tell) -> Result:
    """Templates that look for something in their frames, where there is something."""
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    begun = session.hardware.state().positions
    for name in LOOKING:
        back = partial(session.hardware.move, begun)
        rows += _whole_rows(session, name, session.templates[name], ratios, tell, back)
    return Result("plans", rows, ratios)


def _whole_rows(
    session: Session,
    name: str,
    template: Template,
    ratios: dict[str, float],
    tell: Tell,
    before: Callable[[], object] = lambda: None,
) -> tuple[Row, Row]:
    """``before`` each run, outside its time."""
    tell(f"plans: {name}, estimated and real")
    told = estimated_s(session, template)
    whole(session, name, template)  # opens connections, imports
    seconds = []
    for _ in range(3):
        before()
        seconds.append(_seconds(lambda: whole(session, name, template)))
    ratios[f"{name}: estimated / real (goal 0.85 to 1.15)"] = told / statistics.median(seconds)
    return row(f"{name}, estimated", "seconds", [told]), row(f"{name}, real", "seconds", seconds)


def estimated_s(session: Session, template: Template) -> float:
    """As `queuescope run --check` tells it, for a template's example."""
    here = circumstances_of(session.scope, session.layout, session.hardware.state(), None)
    return go_through(template, template.check(template.example), session.scope, here).seconds


def whole(session: Session, name: str, template: Template) -> None:
    """A template's example."""
    run(session, name, dict(template.example))


def run(session: Session, plan: str, kwargs: dict[str, Any]) -> Any:
    """Run a plan as the worker does, without queue and ledger."""
    metadata = session.run_metadata({"item_uid": "bench", "name": plan, "kwargs": kwargs})
    return session.run_engine(session.plans[plan](**kwargs), **metadata)


def jitter(session: Session, rounds: int) -> list[float]:
    """Milliseconds from when each round was due until it began."""
    lapse = {"do": {"plan": "snap", "kwargs": FRAME}, "interval_s": 1.0, "rounds": rounds}
    outcome = run(session, "time_lapse", lapse)
    lines = session.layout.document_log(outcome.run_start_uids[0]).read_text(encoding="utf-8").splitlines()
    documents = [(entry["name"], entry["doc"]) for entry in map(json.loads, lines)]
    (stream,) = [doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == "rounds"]
    told = [doc["data"] for name, doc in documents if name == "event" and doc["descriptor"] == stream]
    return [(one["began_s"] - one["due_s"]) * 1000 for one in told[1:]]  # the first begins the clock


def _per_step(take: Callable[[int], Any], short: int, long: int) -> float:
    few = _seconds(lambda: take(short))
    return (_seconds(lambda: take(long)) - few) / (long - short) * 1000


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# By hand -----------------------------------------------------------------------------------------------------------------


def _label(name: str) -> str:
    return str(load_scope(DEFAULT_SCOPE).devices[name].label)


def _prepare(core: Any) -> None:
    camera = _label(CAMERA)
    core.setCameraDevice(camera)
    core.setROI(camera, 0, 0, SIDE, SIDE)
    core.setExposure(camera, EXPOSURE_MS)
    core.setAutoShutter(False)


def _snaps(core: Any, n: int) -> None:
    for _ in range(n):
        core.snapImage()
        core.getImage()


def _lit_snaps(core: Any, n: int) -> None:
    shutter = str(load_scope(DEFAULT_SCOPE).lights["led"].gate.label)
    for _ in range(n):
        core.setShutterOpen(shutter, True)
        core.snapImage()
        core.setShutterOpen(shutter, False)
        core.getImage()


def _stack(core: Any, n: int) -> None:
    stage = _label(STAGE)
    for index in range(n):
        core.setPosition(stage, index * 0.1)
        core.waitForDevice(stage)
        core.getPosition(stage)
        core.snapImage()
        core.getImage()
    core.setPosition(stage, 0.0)
    core.waitForDevice(stage)


def _places(core: Any, n: int) -> None:
    stage = _label("xy")
    for index in range(n):
        core.setXYPosition(stage, index * 0.1, 0.0)
        core.waitForDevice(stage)
        core.getXYPosition(stage)
        core.snapImage()
        core.getImage()
    core.setXYPosition(stage, 0.0, 0.0)
    core.waitForDevice(stage)


def _sequence(core: Any, n: int) -> None:
    core.startSequenceAcquisition(n, 0, True)
    taken = 0
    while taken < n:
        if core.getRemainingImageCount():
            core.popNextImage()
            taken += 1
        else:
            time.sleep(0.0002)
    core.stopSequenceAcquisition()


def _grid(n: int) -> dict[str, Any]:
    return {"grid": {"rows": 1, "columns": n, "step_x_um": 0.1, "step_y_um": 0.1}, **FRAME}


def _slices(n: int) -> dict[str, Any]:
    return {"axis": STAGE, "centre_um": 0.0, "range_um": (n - 1) * 0.1, "step_um": 0.1, **FRAME}


def _sequenced(n: int) -> dict[str, Any]:
    stack = {"stage_positions": [{"z": 0.0}], "z_plan": {"range": (n - 1) * 0.1, "step": 0.1}}
    return {"sequence": stack, **FRAME}


def _frames(n: int) -> dict[str, Any]:
    return {"frames": n, "cameras": [CAMERA], "roi": FRAME["roi"]}


CASES = (
    Case("snap (steps)", "snap", STEP_GOAL_MS, lambda n: {"n": n, **FRAME}, _snaps),
    Case("snap with light (steps)", "snap", STEP_GOAL_MS, lambda n: {"n": n, **LIT}, _lit_snaps),
    Case("overview (steps)", "overview", STEP_GOAL_MS, _grid, _places),
    Case(
        "time_lapse of snap (steps)",
        "time_lapse",
        STEP_GOAL_MS,
        lambda n: {"do": {"plan": "snap", "kwargs": FRAME}, "interval_s": 0, "rounds": n},
        _snaps,
    ),
    Case("z_stack (flies)", "z_stack", FLY_GOAL_MS, _slices, _stack),
    Case("mda of a z stack (flies)", "mda", FLY_GOAL_MS, _sequenced, _stack),
    Case("burst (flies)", "burst", FLY_GOAL_MS, _frames, _sequence),
)
