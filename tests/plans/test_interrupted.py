"""Every template, paused, stopped, aborted and halted at points of its message stream; and what it leaves behind and what its run
holds where nobody interrupts it. Issue 5, item 8.

A few points of each by default; ``QUEUESCOPE_TEST_POINTS=all`` takes every message (minutes), a number so many of each.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from bluesky.utils import RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from queuescope.startup._session import Session, open_session

from ..hardware.conftest import HardwareProcess, scope_in
from .pausing import Ask, pausing_at
from .test_common import told
from .test_focus import PIEZO, STAGE, SWEEP, WHITE
from .test_live import looking
from .test_templates import documents, run

POINTS = os.environ.get("QUEUESCOPE_TEST_POINTS", "2")
"""``all``, or how many of each template in the middle of its stream."""


@dataclass(frozen=True)
class Case:
    """A template with parameters that use much of what it can do, and what is true when it has ended."""

    kwargs: dict[str, Any]
    frames: dict[str, int]
    """By dataset."""
    streams: set[str]
    leaves: set[str]
    """What stands otherwise than before, by its name in `Stand.left`."""
    beads: bool = False
    """On a sample whose focus, sheet and pixels are known."""
    looked_at: bool = False


def case(kwargs: dict[str, Any], frames: str = "", streams: str = "primary", leaves: str = "", **more: Any) -> Case:
    """``frames``: ``cam_a 3 cam_b 3``."""
    words = frames.split()
    counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    return Case(kwargs, counts, set(streams.split()), set(leaves.split()), **more)


GFP = [{"name": "gfp"}]
TWO = [{"name": "gfp"}, {"name": "mcherry", "exposure_ms": 5.0}]
PART = {"roi": {"x_px": 16, "y_px": 8, "width_px": 64, "height_px": 48}}
HERE, THERE = {"x_um": 10.0, "y_um": 5.0}, {"x_um": -10.0, "y_um": -3.0, "z_um": 8.0}
SHOTS = {"plan": "snap", "kwargs": {"camera": "cam_a", "n": 1, "channels": TWO}}
STACK = {"plan": "z_stack", "kwargs": {"camera": "overview", "range_um": 2.0, "step_um": 2.0, "channels": TWO}}
PLACES = {"plan": "multi_position", "kwargs": {"positions": [HERE, THERE], "do": STACK, "safe_z_um": -5.0}}
VOLUME = {"plan": "acquire_volume", "kwargs": {"views": "A", "slices": 2, "channels": GFP, "binning": 2}}
FAST = {"plan": "burst", "kwargs": {"frames": 3, "cameras": ["cam_a"], "channels": GFP, "focus": "lock"}}
SEQUENCE = {
    "channels": [{"config": "gfp"}, {"config": "mcherry"}],
    "z_plan": {"range": 2, "step": 1},
    "stage_positions": [{"x": 9, "y": 5, "z": 7}],
    "autofocus_plan": {"axes": ["p"], "autofocus_motor_offset": 20},
}
COARSE = {"range_um": 16.0, "step_um": 2.0}

CASES: dict[str, Case] = {
    "read_state": case({}),
    "move_axis": case({"axis": "piezo_a", "by": 7.5}, leaves="piezo_a"),
    "move_xy": case({"x_um": 15.0, "y_um": -4.0}, leaves="xy.x xy.y"),
    "move_z": case({"z_um": 12.0}, leaves="z"),
    "home": case({"axis": "piezo_a"}, leaves="piezo_a"),
    "set_light": case({"light": "l488", "on": True, "power_pct": 3.0, "max_s": 0.2}),
    "set_objective": case({"name": "water20"}, leaves="objective"),
    "set_temperature": case({"target_c": 37.0, "wait": False}),
    "autofocus": case({"mode": "lock"}, leaves="lock"),
    "mark_position": case({"name": "embryo"}),
    "shutdown_safe": case({}, streams=""),
    "snap": case(
        {"camera": "cam_a", "n": 2, "channels": TWO, "focus": "lock", "position": HERE, **PART},
        "cam_a_gfp 2 cam_a_mcherry 2",
        streams="gfp mcherry",
        leaves="xy.x xy.y channel exposure",
    ),
    "z_stack": case(
        {**STACK["kwargs"], "order": "zc"},
        "overview_gfp 2 overview_mcherry 2",
        streams="gfp mcherry",
        leaves="channel exposure",
    ),
    "burst": case(
        {"frames": 4, "rate_hz": 50.0, "channels": GFP, **PART}, "cam_a 4 cam_b 4", leaves="channel exposure"
    ),
    "acquire_volume": case(
        {"slices": 3, "channels": GFP, "sheet_offset_deg": 0.5}, "cam_a 3 cam_b 3", leaves="channel exposure"
    ),
    "tile_scan": case(
        {"rows": 1, "columns": 2, "camera": "overview", "channels": GFP, **PART},
        "overview 2",
        leaves="channel exposure",
    ),
    "overview": case({"positions": [HERE, THERE], "channels": GFP}, "overview 2", leaves="channel exposure"),
    "mda": case(
        {"sequence": SEQUENCE, **PART},
        "overview_gfp 3 overview_mcherry 3",
        streams="gfp mcherry",
        leaves="channel exposure",
    ),
    "edge_search": case(
        {"axis": "xy.x", "step_um": 5.0, "max_steps": 2, "camera": "overview", "channels": GFP, "position": HERE},
        "overview 1",
        streams="primary decisions",
        leaves="xy.x xy.y channel exposure",
    ),
    "live": case(
        {"camera": "cam_a", "channel": "gfp", "exposure_ms": 200.0, "max_s": 0.5},
        leaves="channel exposure",
        looked_at=True,
    ),
    "multi_position": case(
        PLACES["kwargs"],
        "overview_gfp_p1 2 overview_mcherry_p1 2 overview_gfp_p2 2 overview_mcherry_p2 2",
        streams="gfp_p1 mcherry_p1 gfp_p2 mcherry_p2",
        leaves="xy.x xy.y z channel exposure",
    ),
    "multi_embryo_round": case(
        {"embryos": [{"id": "e1", "position": HERE, "power_pct": 1.0}, {"id": "e2", "position": THERE}], "do": VOLUME},
        "cam_a_e1 2 cam_a_e2 2",
        streams="e1 e2",
        leaves="xy.x xy.y z channel exposure",
    ),
    "time_lapse": case(
        {"do": PLACES, "interval_s": 0.1, "rounds": 2, "on_late": "run"},
        "overview_gfp_p1 4 overview_mcherry_p1 4 overview_gfp_p2 4 overview_mcherry_p2 4",
        streams="gfp_p1 mcherry_p1 gfp_p2 mcherry_p2 rounds",
        leaves="xy.x xy.y z channel exposure",
    ),
    "adaptive_time_lapse": case(
        {"positions": [HERE], "do": SHOTS, "interval_s": 0.1, "rounds": 2, "on_late": "run"},
        "cam_a_gfp_p1 2 cam_a_mcherry_p1 2",
        streams="gfp_p1 mcherry_p1 rounds visits",
        leaves="xy.x xy.y channel exposure",
    ),
    "temperature_burst": case(
        {"target_c": 37.0, "do": FAST, "interval_s": 0.1, "rounds": 2},
        "cam_a 6",
        streams="primary rounds temperature",
        leaves="channel exposure",
    ),
    "protocol": case(
        {"steps": [{"plan": "move_z", "kwargs": {"z_um": 12.0}}, SHOTS, {"plan": "move_z", "kwargs": {"z_um": 4.0}}]},
        "cam_a_gfp 1 cam_a_mcherry 1",
        streams="primary gfp mcherry",
        leaves="z channel exposure",
    ),
    "z_stack, swept": case(
        {"camera": "wide", "range_um": 2.0, "step_um": 2.0, "focus": "sweep", "sweep": COARSE, **WHITE},
        "wide 2 wide_focus 9",
        streams="primary focus focus_fit",
        leaves="z channel exposure",
        beads=True,
    ),
    "focus_sweep": case(
        {**SWEEP, "step_um": 2.0}, "wide 11", streams="primary fit", leaves="channel exposure", beads=True
    ),
    "head_focus_descent": case(
        {"axis": "z", "descent_um": 20.0, "step_um": 2.0, "camera": "wide", "apply": False, **WHITE},
        "wide 5",
        streams="primary fit",
        leaves="channel exposure",
        beads=True,
    ),
    "calibrate_piezo_galvo": case(
        {**PIEZO, "piezo_um": [-20.0, 20.0], "steps": 9},
        "side_a 18",
        streams="primary peaks fit",
        leaves="channel exposure",
        beads=True,
    ),
    "calibrate_stage_camera": case(STAGE, "wide 5", streams="primary fit", leaves="channel exposure", beads=True),
    "register_views": case(
        WHITE, "side_a 1 side_b 1", streams="primary view_b fit", leaves="channel exposure", beads=True
    ),
    "center_on_pixel": case(
        {"dataset": "wide", "index": 0, "x_frac": 0.6, "y_frac": 0.4}, leaves="xy.x xy.y", beads=True
    ),
}


def template_of(name: str) -> str:
    return name.partition(",")[0]


class Stand:
    """A microscope, and how everything on it stands before each case."""

    def __init__(self, session: Session, **axes: float) -> None:
        self.session = session
        session.hardware.move({name: um for name, um in axes.items() if name[:2] == "xy"})
        session.hardware.move({name: um for name, um in axes.items() if name[:2] != "xy"})
        for camera in session.scope.of_kind("camera"):
            session.hardware.configure_camera(camera, exposure_ms=7.0)
        session.devices["channel"].hardware_restarted()
        self.before = self.left()
        self.shot = ""
        """A run with a frame of the sample."""
        self._complete: dict[str, Complete] = {}

    def left(self) -> dict[str, Any]:
        """What plans may leave otherwise than it was, read now."""
        state = self.session.hardware.state()
        assert not state.errors
        found: dict[str, Any] = dict(state.positions)
        found |= {name: state.labels[name] for name in ("objective",)}
        found["channel"] = self.session.devices["channel"].get()
        found["exposure"] = {name: camera.exposure_ms for name, camera in state.cameras.items()}
        found["geometry"] = {name: (camera.binning, camera.roi) for name, camera in state.cameras.items()}
        found["lit"] = {name for name, light in state.lights.items() if light.on}
        found["lock"] = any(focus.enabled for focus in state.focus.values())
        return found

    def changed(self) -> set[str]:
        """Names of what is otherwise than it was."""
        now, found = self.left(), set[str]()
        for name, value in self.before.items():
            same = abs(now[name] - value) < 0.02 if isinstance(value, float) else now[name] == value
            if not same:
                found.add(name)
        return found

    def begin(self) -> None:
        """Everything as it was in the beginning. What a plan had asked for that was halted may come late: then once more."""
        self.session.devices["channel"].hardware_restarted()
        self.session.layout.positions.unlink(missing_ok=True)
        for _ in range(50):
            if not (changed := self.changed()):
                return
            self._put_back(changed)
        raise AssertionError(f"{changed} can't be put back")

    def _put_back(self, changed: set[str]) -> None:
        hardware, before = self.session.hardware, self.before
        if "lock" in changed:
            hardware.lock_focus("autofocus", False)
            changed.add("z")
        axes = {name: to for name, to in before.items() if name in changed and isinstance(to, float)}
        for device in {name.partition(".")[0] for name in axes}:
            hardware.move({name: to for name, to in axes.items() if name.partition(".")[0] == device})
        if "objective" in changed:
            hardware.select("objective", before["objective"])
        for camera in before["exposure"] if {"exposure", "geometry"} & changed else ():
            hardware.configure_camera(camera, before["exposure"][camera], *before["geometry"][camera])

    def run(self, name: str) -> Any:
        kwargs = CASES[name].kwargs
        if name == "center_on_pixel":
            kwargs = {**kwargs, "run_uid": self.shot}
        with looking(self.session) if CASES[name].looked_at else nullcontext():
            return run(self.session, template_of(name), kwargs)

    def complete(self, name: str) -> Complete:
        """What it does where nobody interrupts it: once for all that ask."""
        if name not in self._complete:
            self.begin()
            with pausing_at(self.session.run_engine) as seen:
                outcome = self.run(name)
            self._complete[name] = Complete(outcome, seen, self.changed(), self.runs())
        return self._complete[name]

    def runs(self) -> list[list[tuple[str, dict[str, Any]]]]:
        """The documents of each run of the plan that ran last, all of them valid."""
        logs = [documents(self.session, uid) for uid in self.session.run_engine._run_start_uids]
        for docs in logs:
            for kind, doc in docs:
                schema_validators[DocumentNames[kind]].validate(doc)
        return logs

    def on_disk(self, run_uid: str, dataset: str) -> int:
        return len((self.session.layout.volumes / f"{run_uid}_{dataset}.frames.jsonl").read_text().splitlines())


@dataclass(frozen=True)
class Complete:
    outcome: Any
    messages: list[str]
    changed: set[str]
    runs: list[list[tuple[str, dict[str, Any]]]]


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory, beads_session: Session) -> Iterator[dict[bool, Stand]]:
    """The demo diSPIM with small sensors, its hardware in a process of its own; and (True) the sample of beads."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_VOLUME__TRIGGER", "tiger_spim")
        scope = scope_in(folder, "own")
        patch.setenv("QUEUESCOPE_SCOPE", str(scope.path))
        patch.setenv("QUEUESCOPE_DATA", str(folder / "data"))
        process = HardwareProcess(scope.path, folder / "data").started()
        small = open_session()
    beads = beads_session
    run(beads, "calibrate_stage_camera", {**STAGE, "store": True})
    found = {False: Stand(small, piezo_a=5.0, z=3.0), True: Stand(beads, z=10.0, piezo_a=3.2)}
    found[True].shot = run(beads, "snap", {"camera": "wide", **WHITE}).run_start_uids[0]
    yield found
    small.hardware.close()
    process.end()


@pytest.fixture
def stand(stands: dict[bool, Stand], name: str) -> Iterator[Stand]:
    found = stands[CASES[name].beads]
    yield found
    if found.session.run_engine.state != "idle":  # it failed in a pause, alone
        found.session.run_engine.abort()


def test_every_template_is_here(stands: dict[bool, Stand]) -> None:
    assert {template_of(name) for name in CASES} == set(stands[False].session.templates)


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_it_leaves_and_what_its_run_holds(stand: Stand, name: str) -> None:
    expected, found = CASES[name], stand.complete(name)
    assert found.outcome.exit_status == "success"
    assert found.changed == expected.leaves
    assert {doc["name"] for docs in found.runs for kind, doc in docs if kind == "descriptor"} == expected.streams
    frames = {name: count for docs in found.runs for name, count in docs[-1][1]["frames"].items()}
    assert frames == expected.frames
    check_runs(stand, found.runs, {"success"})


@pytest.mark.parametrize("way", ["resume", "stop", "abort", "halt"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_interrupted_anywhere(stand: Stand, name: str, way: str) -> None:
    """Paused it is dark; resumed it ends as if nothing had been; stopped and aborted everything is where its docs say. Its stop
    document tells how it ended and what is on disk.
    """
    complete = stand.complete(name)
    where = points(len(complete.messages), f"{name} {way}")
    if way == "resume":
        for positions in [[one] for one in where] if POINTS == "all" else [where]:
            check_resumed(stand, name, complete, positions)
    else:
        for position in where:
            check_ended(stand, name, way, position)  # type: ignore[arg-type]


def points(messages: int, seed: str) -> list[int]:
    if POINTS == "all":
        return list(range(messages))
    drawn = random.Random(seed).sample(range(1, messages - 1), min(int(POINTS), messages - 2))
    return [0, *sorted(drawn), messages - 1]


def check_resumed(stand: Stand, name: str, complete: Complete, positions: list[int]) -> None:
    """Paused at each of these messages, in one run."""
    stand.begin()
    run_engine, outcome = stand.session.run_engine, None
    go_on: Callable[[], Any] = lambda: stand.run(name)  # noqa: E731
    with pausing_at(run_engine, *positions) as seen:
        while outcome is None:
            try:
                outcome = go_on()
            except RunEngineInterrupted:
                assert run_engine.state == "paused", (positions, seen)
                assert stand.left()["lit"] == set(), (positions, seen)
                go_on = run_engine.resume
    at = (positions, seen)
    assert outcome.exit_status == "success", at
    assert alike(outcome.plan_result, complete.outcome.plan_result), at
    assert stand.changed() == complete.changed, at
    runs = stand.runs()
    check_runs(stand, runs, {"success"})
    for docs, same in zip(runs, complete.runs, strict=True):
        assert docs[-1][1]["frames"] == same[-1][1]["frames"], at
        assert told(docs) == {dataset: list(range(count)) for dataset, count in docs[-1][1]["frames"].items()}, at


def check_ended(stand: Stand, name: str, way: Ask, position: int) -> None:
    """By turns from a pause, as queueserver does it, and while it runs."""
    stand.begin()
    run_engine = stand.session.run_engine
    with pausing_at(run_engine, position, ask="pause" if position % 2 else way) as seen:
        try:
            stand.run(name)
        except RunEngineInterrupted:
            if run_engine.state == "paused":
                assert stand.left()["lit"] == set(), (position, seen[-1])
                getattr(run_engine, way)()
    at = (position, seen)
    assert run_engine.state == "idle", at
    changed = stand.changed()
    assert "lit" not in changed, at
    if way != "halt":
        assert changed <= CASES[name].leaves, at
    runs = stand.runs()
    ended = {"success"} if way == "stop" else {"abort"}
    for docs in runs[:-1]:
        check_runs(stand, [docs], {"success"})
    check_runs(stand, runs[-1:], ended | ({"success"} if seen.count("close_run") >= len(runs) else set()))


def check_runs(stand: Stand, runs: list[list[tuple[str, dict[str, Any]]]], ends: set[str]) -> None:
    """A stop document that tells how it ended and what is on disk; what was told of is there."""
    for docs in runs:
        kind, stop = docs[-1]
        assert kind == "stop"
        assert stop["exit_status"] in ends, stop
        for dataset, frames in stop["frames"].items():
            assert stand.on_disk(stop["run_start"], dataset) == frames
        for dataset, indices in told(docs).items():
            assert indices == list(range(len(indices)))
            assert len(indices) <= stop["frames"][dataset]


VOLATILE = {"run_uid", "seconds", "dose", "late", "state", "sharpness", "frames"}


def alike(one: Any, other: Any) -> bool:
    """The same, but for what is another each time."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(key in VOLATILE or alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0.1, abs_tol=0.1)
    return bool(one == other)


FILM = {"channels": ["gfp"], "time_plan": {"interval": 0, "loops": 200}, "keep_shutter_open_across": "t"}
LONG: dict[str, tuple[dict[str, Any], int]] = {
    "acquire_volume": ({"slices": 60, "channels": GFP}, 60),
    "burst": ({"frames": 200, "cameras": ["overview"], "channels": GFP}, 200),
    "mda": ({"camera": "overview", "sequence": FILM}, 200),
}
"""What takes long, and how many frames of each camera it takes."""


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("ends", [False, True])
def test_a_pause_waits_for_what_cant_be_held(stand: Stand, name: str, ends: bool) -> None:
    """Inside a hardware-timed volume a pause takes effect at its end; where a cancel asks for it the volume ends at once."""
    stand.begin()
    session, run_engine = stand.session, stand.session.run_engine
    kwargs, each = LONG[name]

    def hook(msg: Any) -> None:
        if msg.command == "collect":  # its first frames are there
            run_engine.msg_hook = None
            if ends:
                run_engine.will_end()
            asyncio.run_coroutine_threadsafe(run_engine._request_pause_coro(), run_engine.loop)

    run_engine.msg_hook = hook
    with pytest.raises(RunEngineInterrupted):
        run(session, name, kwargs)
    assert stand.left()["lit"] == set()
    if ends:
        run_engine.abort()
    else:
        run_engine.resume()
    ((*_, (_, stop)),) = stand.runs()
    check_runs(stand, stand.runs(), {"abort" if ends else "success"})
    frames, planned = sum(stop["frames"].values()), each * len(stop["frames"])
    assert 0 < frames < planned if ends else frames == planned
    assert stand.changed() == {"channel", "exposure"}
