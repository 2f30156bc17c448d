"""The envelope: limits together, retraction, objectives and holders; whatever is asked, a refusal moves nothing (R3.8)."""

from __future__ import annotations

import math
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queuescope.config import ScopeError
from queuescope.hardware import (
    CollisionError,
    ConfigurationError,
    ConnectedHardware,
    DatasetPlan,
    Envelope,
    HardwareError,
    LimitError,
    RecordingPlan,
    connect,
)
from queuescope.hardware._fit import firmware_limits
from queuescope.layout import Layout

BOX = (50.0, 100.0)
SAFETY = """safety:
  collision: [{piezo_a: [50, 100], piezo_b: [50, 100]}]
  retract_first: [z]
  retract_over: {piezo_a: 400, piezo_b: 400, f: 10}
  holder: dish
queue:   {on_failure: continue}"""
EDITS = [
    ("queue:   {on_failure: continue}", SAFETY),
    (
        '  f:        {label: "ZStage:V:37", kind: stage,',
        '  f:        {label: "ZStage:V:37", limits_for: {objective: {water40: [-20, 20]}, holder: {dish: [-150, 150]}},'
        " kind: stage,",
    ),
]
AXES = ("z", "f", "piezo_a", "piezo_b", "galvo_a.x", "xy.x")
WATER40, WATER20 = "Nikon 40X Water 0.8", "Nikon 20X Water 0.5"


@pytest.fixture(scope="module", params=["worker", "own"])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_scope: Callable[..., Any]
) -> Iterator[ConnectedHardware]:
    """A microscope with a forbidden box, retraction and an objective's limits, in both modes."""
    from .conftest import HardwareProcess

    folder = tmp_path_factory.mktemp("guarded")
    scope, layout = make_scope(folder, request.param, scope=EDITS), Layout(folder / "data")
    process = HardwareProcess(scope.path, layout.data).started() if request.param == "own" else None
    connected = connect(scope, layout)
    try:
        connected.second = connect(scope, layout) if process else connected  # type: ignore[attr-defined]
        yield connected
    finally:
        connected.close()
        if process is not None:
            process.end()
        shutil.rmtree(layout.sockets, ignore_errors=True)


@pytest.fixture
def home(guarded: ConnectedHardware) -> ConnectedHardware:
    """Everything at 0, the objective that narrows f in place."""
    guarded.move({"z": 0})
    for axis in ("piezo_a", "piezo_b", "f", "xy.x"):
        guarded.move({axis: 0})
    guarded.select("objective", WATER40)
    return guarded


@pytest.fixture
def envelope(tmp_path: Path, make_scope: Callable[..., Any]) -> Envelope:
    return Envelope(make_scope(tmp_path, scope=EDITS))


anything = (
    st.floats(width=64)
    | st.floats(-210, 210)
    | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 0.0, 0.4, 75.0, 49.9, 100.1, 5.0])
)
targets = st.dictionaries(st.sampled_from(AXES[:5]), anything, min_size=1, max_size=3)
call = st.one_of(
    st.tuples(st.just("move"), targets),
    st.tuples(st.just("volume"), st.lists(anything, min_size=1, max_size=3)),
    st.tuples(st.just("select"), st.sampled_from([WATER40, WATER20, "nowhere"])),
    st.tuples(st.just("light"), st.tuples(anything, anything)),
    st.tuples(st.just("snap"), st.tuples(anything, anything)),
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=st.lists(call, min_size=1, max_size=4))
def test_no_call_leaves_the_envelope(home: ConnectedHardware, calls: list[tuple[str, Any]]) -> None:
    """R3.8: moves, volumes, turrets, light and frames, by value, alone and combined: what is refused changes nothing, in both
    modes."""
    for name, argument in calls:
        before, turret = home.positions(AXES), home.label("objective")
        try:
            if name == "move":
                home.move(argument)
            elif name == "select":
                home.select("objective", argument)
            elif name == "light":
                home.set_light("l488", True, *argument)
            elif name == "snap":
                bad = {"light": "l488", "power_pct": argument[0], "exposure_ms": argument[1]}
                home._call("snap", "cam_a", bad)  # type: ignore[attr-defined]
            else:
                volume(home, argument)
        except HardwareError:
            assert home.positions(AXES) == before
            assert home.label("objective") == turret
        now, turret = home.positions(AXES), home.label("objective")
        light = home.set_light("l488", False)
        assert 0 <= light.power_pct <= 6.005
        assert not light.on
        assert not all(BOX[0] <= now[axis] <= BOX[1] for axis in ("piezo_a", "piezo_b"))
        assert all(math.isfinite(value) and abs(value) <= 250 for value in now.values())
        assert abs(now["f"]) <= (20 if turret == WATER40 else 150)
        if abs(before["z"]) > 0.5 or abs(now["z"]) > 0.5:
            assert abs(now["f"] - before["f"]) <= 20.5  # retract_over around one anchor: twice 10 at most


def volume(hardware: ConnectedHardware, piezo: list[float]) -> None:
    plan = RecordingPlan(
        run_uid=str(uuid.uuid4()), datasets=(DatasetPlan(name="cam_a", camera="cam_a", frames=len(piezo)),)
    )
    state = hardware.open_recording(plan)
    try:
        view = {
            "dataset": "cam_a",
            "camera": "cam_a",
            "settings": {"exposure_ms": 1},
            "piezo": "piezo_a",
            "piezo_um": tuple(piezo),
        }
        state = hardware._call("start_volume", state.recording, {"views": (view,)})  # type: ignore[attr-defined]
        while state.phase == "running":
            state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    finally:
        hardware.close_recording(state.recording)


@pytest.mark.parametrize(
    ("first", "asked", "why"),
    [
        ({"piezo_a": 75}, {"piezo_b": 75}, "piezo_a 75 → 75, piezo_b 0 → 75"),
        ({"piezo_a": 75}, {"piezo_b": 150}, "touches the forbidden box"),
        ({}, {"piezo_a": 75, "piezo_b": 75}, "touches the forbidden box"),
        ({}, {"piezo_a": 150, "piezo_b": 150}, "go around it"),
        ({"z": 5}, {"xy.x": 50}, "z stands at 5 um and must be at its home 0 before xy.x moves"),
        ({}, {"z": 5, "xy.x": 50}, "must be at its home"),
        ({"z": 5}, {"f": 10.1}, "safety.retract_over"),
    ],
)
def test_a_combination_is_refused_to_everybody(
    home: ConnectedHardware, first: dict[str, float], asked: dict[str, float], why: str
) -> None:
    """R3.8: through the client, a second client, and a raw call past the client's own checks."""
    home.move(first)
    before = home.positions(AXES)
    for hardware in (home, home.second):  # type: ignore[attr-defined]
        with pytest.raises(CollisionError, match=why.replace("[", r"\[")) as caught:
            hardware.move(asked)
        assert {"thing", "value", "limit"} <= set(caught.value.fields)
    if hasattr(home, "send"):
        reply = msgpack.unpackb(home.send("move", msgpack.packb({"targets": asked}), 10))
        assert reply["error"]["type"] == "CollisionError"
    assert home.positions(AXES) == before


def test_two_clients_can_not_meet_in_the_box(home: ConnectedHardware) -> None:
    """R3.8: each would be allowed by itself; whoever comes second is refused."""
    for _ in range(5):
        refused = []
        together = threading.Barrier(2)

        def move(hardware: ConnectedHardware, axis: str, refused: list[Any], together: threading.Barrier) -> None:
            together.wait(10)
            try:
                hardware.move({axis: 75})
            except CollisionError as error:
                refused.append(error)

        second = home.second  # type: ignore[attr-defined]
        threads = [
            threading.Thread(target=move, args=(hardware, axis, refused, together))
            for hardware, axis in ((home, "piezo_a"), (second, "piezo_b"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(refused) == 1
        home.move({"piezo_a": 0})
        home.move({"piezo_b": 0})


def test_going_around_and_coming_back_is_allowed(home: ConnectedHardware) -> None:
    """R3.8: the rules leave a way to where one may be."""
    home.move({"piezo_a": 150})
    home.move({"piezo_b": 75})
    home.move({"z": 5})
    home.move({"f": 9.9, "piezo_b": 0})
    assert home.positions(("f", "piezo_b")) == pytest.approx({"f": 9.9, "piezo_b": 0}, abs=0.1)
    home.move({"z": 0})
    home.move({"f": 19})


def test_small_steps_add_up(home: ConnectedHardware) -> None:
    """R3.8: many moves within the tolerance don't creep away from a lowered objective."""
    home.move({"z": 5})
    refused = 0
    for step in range(1, 10):
        try:
            home.move({"xy.x": 0.4 * step})
        except CollisionError:
            refused += 1
    assert refused == 7
    assert abs(home.positions(("xy.x",))["xy.x"]) <= 1.0


def test_a_volume_into_the_box_moves_nothing(home: ConnectedHardware) -> None:
    """R3.8: a program is followed slice by slice before its first move."""
    home.move({"piezo_b": 75})
    before = home.positions(AXES)
    with pytest.raises(CollisionError, match="forbidden box"):
        volume(home, [0.0, 10.0, 49.0, 51.0])
    assert home.positions(AXES) == before


def test_the_objective_turns_only_with_everything_retracted(home: ConnectedHardware) -> None:
    """R3.8, R5.8: z at home, and no axis where the new objective may not be."""
    home.move({"z": 5})
    with pytest.raises(CollisionError, match="before the objective turret turns"):
        home.select("objective", WATER20)
    home.move({"z": 0})
    home.select("objective", WATER20)
    home.move({"f": 100})
    with pytest.raises(
        CollisionError, match=r"f stands at 100 um, outside \[-20, 20\] that objective 'water40' allows"
    ):
        home.select("objective", WATER40)
    assert home.label("objective") == WATER20
    with pytest.raises(LimitError, match=r"\[-150, 150\].*narrowed by limits_for for water20 and dish"):
        home.move({"f": 160})
    home.move({"f": 0})


def test_an_unknown_objective_has_the_narrowest_limits(envelope: Envelope) -> None:
    """R5.8: not knowing what is in place never widens a limit; and all of it can be asked without MMCore."""
    assert envelope.limits("f", "water20") == (-150, 150)
    assert envelope.limits("f", "water40") == envelope.limits("f", None) == (-20, 20)
    with pytest.raises(CollisionError):
        envelope.check_sequence({"piezo_a": 0, "piezo_b": 60, "z": 0, "f": 0}, [{"piezo_a": 40}, {"piezo_a": 60}])


def test_from_inside_a_box_only_retraction_leads_out(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R3.8: who was led into a box by hand comes out the way that is known to be safe."""
    edit = ("queue:   {on_failure: continue}", "safety: {collision: [{z: [50, 100], f: [0, 9]}], retract_first: [z]}")
    envelope = Envelope(make_scope(tmp_path, scope=[edit]))
    here = dict.fromkeys(envelope.asks_positions(["z"]), 0.0) | {"z": 60.0, "f": 5.0}
    envelope.check_move(here, {"z": 0})
    envelope.check_move(here, {"z": 55})
    for asked in ({"z": 61}, {"z": -40}, {"f": 20}, {"z": 0, "f": 20}, {"z": 200}):
        with pytest.raises(CollisionError):
            envelope.check_move(here, asked)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (("home: 0, reference: none}\n  f:", "reference: none}\n  f:"), "devices.z.home is missing"),
        (("objective: {water40: [-20, 20]}", "objective: {water41: [-20, 20]}"), "none of the objectives"),
        (("objective: {water40: [-20, 20]}", "objective: {water40: [-20, 201]}"), "reaches beyond the axis's limits"),
        (("holder: dish\n", "holder: slide\n"), "none of the holders"),
    ],
)
def test_a_scope_that_contradicts_itself_is_refused(
    tmp_path: Path, make_scope: Callable[..., Any], edit: tuple[str, str], why: str
) -> None:
    """R3.8: at load, naming the entry."""
    with pytest.raises(ScopeError, match=why):
        make_scope(tmp_path, scope=[*EDITS, edit])


class Firmware:
    """A controller's limits as ASI's adapter tells them."""

    def __init__(self, **properties: str) -> None:
        self._properties = properties

    def hasProperty(self, label: str, name: str) -> bool:
        return name in self._properties

    def getProperty(self, label: str, name: str) -> str:
        return self._properties[name]

    def hasPropertyLimits(self, label: str, name: str) -> bool:
        return False


def test_firmware_limits_are_read_in_the_scopes_units(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R5.8: mm in the controller, µm in the scope; none where the device tells none."""
    axes = make_scope(tmp_path).axes()
    asi = Firmware(**{"LowerLim(mm)": "-1.5", "UpperLim(mm)": "2", "LowerLimX(mm)": "-9", "UpperLimX(mm)": "8"})
    assert firmware_limits(asi, axes["z"]) == (-1500, 2000)
    assert firmware_limits(asi, axes["xy.x"]) == (-9000, 8000)
    assert firmware_limits(asi, axes["xy.y"]) is None
    assert firmware_limits(Firmware(), axes["z"]) is None


def test_a_scope_wider_than_the_firmware_is_refused_at_load(
    tmp_path: Path, make_scope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5.8: the message has both."""
    monkeypatch.setattr(
        "queuescope.hardware._fit.firmware_limits", lambda mm, axis: (-40.0, 250.0) if axis.name == "z" else None
    )
    with pytest.raises(ConfigurationError, match=r"the scope allows \[-50.0, 250.0\] um, .* are \[-40.0, 250.0\]"):
        connect(make_scope(tmp_path), Layout(tmp_path / "data"))


def test_a_firmware_wider_than_the_scope_is_told(
    tmp_path: Path, make_scope: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R5.8: at every load with both, since a hand at the joystick could go there; `doctor --hardware` calls it a problem."""
    monkeypatch.setattr(
        "queuescope.hardware._fit.firmware_limits", lambda mm, axis: (-110.0, 250.0) if axis.name == "z" else None
    )
    connect(make_scope(tmp_path), Layout(tmp_path / "data")).close()
    told = [record.getMessage() for record in caplog.records if "own limits" in record.getMessage()]
    assert len(told) == 1
    assert "z: the controller's own limits [-110.0, 250.0] reach beyond the scope's [-50.0, 250.0] um" in told[0]


def test_a_holder_narrows_the_limits(tmp_path: Path, make_scope: Callable[..., Any]) -> None:
    """R5.8: which one is mounted no device tells: a person says so in the scope file; unsaid, the narrowest counts."""
    narrower = (
        "kind: stage, limits: [-50, 250], home: 0, reference: none}",
        "kind: stage, limits: [-50, 250], home: 0, reference: none,"
        " limits_for: {holder: {chamber: [-50, 200], slide: [-10, 100]}}}",
    )
    for number, (holder, highest) in enumerate((("chamber", 200.0), ("slide", 100.0), ("null", 100.0))):
        folder = tmp_path / str(number)
        scope = make_scope(folder, scope=[narrower, ("storage:", f"safety: {{holder: {holder}}}\nstorage:")])
        hardware = connect(scope, Layout(folder / "data"))
        assert hardware.move({"z": highest}) == {"z": highest}
        with pytest.raises(LimitError, match=rf"{highest:g}"):
            hardware.move({"z": highest + 1})
        hardware.close()
