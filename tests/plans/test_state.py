"""What templates that take no image leave behind, and what a pause does to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted

from queuescope.config import Position
from queuescope.hardware import DeviceError, FocusLockError, LightOff, Verification
from queuescope.plans import ParameterError, templates
from queuescope.startup._session import Session, open_session

from .test_templates import begin, documents, positions, run


@pytest.fixture(autouse=True)
def _idle_afterwards(session: Session) -> Iterator[None]:
    """A test that fails in a pause is alone in that."""
    yield
    session.run_engine.msg_hook = None
    if session.run_engine.state != "idle":
        session.run_engine.abort()


@pytest.fixture(scope="module")
def retracting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A widefield microscope whose z must be at home before anything else moves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(tmp_path_factory.mktemp("retracting")))
        patch.setenv("QUEUESCOPE_SCOPE", "demo-widefield")
        patch.setenv("QUEUESCOPE_MICROMANAGER__PROCESS", "worker")
        patch.setenv("QUEUESCOPE_STORAGE__MIN_FREE_GB", "0")
        patch.setenv("QUEUESCOPE_SAFETY__RETRACT_FIRST", "[z]")
        opened = open_session()
    yield opened
    opened.hardware.close()


def test_an_objective_is_turned_in_with_the_stages_retracted(retracting: Session) -> None:
    """R4 set_objective(name) retracts first; the hardware refuses the turn with z anywhere else."""
    retracting.hardware.move({"z": 40.0})
    outcome = run(retracting, "set_objective", {"name": "air40"})
    assert outcome.plan_result["retracted"] == {"z": 0.0}
    assert outcome.plan_result["label"] == retracting.hardware.label("objective") == "Nikon 40X Plan Fluor ELWD"
    reading = documents(retracting, outcome.run_start_uids[0])[-2][1]["data"]
    assert (reading["objective"], reading["z"]) == ("Nikon 40X Plan Fluor ELWD", 0.0)


def test_where_a_step_left_the_microscope_is_gone_back_to_before_a_plan(retracting: Session) -> None:
    """R1.12 `restore`: retracted first, turned, moved, and the retracted stage last; the plan comes after that, in one run."""
    run(retracting, "set_objective", {"name": "air20"})
    retracting.hardware.move({"xy.x": 10.0})
    retracting.hardware.move({"z": 40.0})
    left = retracting.left()
    run(retracting, "set_objective", {"name": "air10"})
    retracting.hardware.move({"xy.x": 50.0})
    sent: list[str] = []
    retracting.run_engine.msg_hook = lambda msg: sent.append(msg.obj.name) if msg.command == "set" else None
    with retracting.restoring(left):
        outcome = run(retracting, "read_state", {})
    assert not list(
        left.differences(retracting.left(), {name: axis.tolerance for name, axis in retracting.scope.axes().items()})
    )
    assert [name for name in sent if name != "xy_x"] == ["z", "objective", "z"]
    assert sent.index("objective") < next(n for n, name in enumerate(sent) if name.startswith("xy")) < len(sent) - 1
    assert len(outcome.run_start_uids) == 1
    sent.clear()
    with retracting.restoring(left):
        run(retracting, "read_state", {})
    assert sent == [], "what is in place is left alone"


def test_a_safe_shutdown_retracts_and_tells_each_step(retracting: Session) -> None:
    """R3.9 each light in its own step, verified; then motion, the focus lock, the stages."""
    retracting.hardware.move({"z": 40.0})
    retracting.hardware.set_light("lamp", True)
    outcome = run(retracting, "shutdown_safe", {})
    assert positions(retracting)["z"] == 0.0
    assert retracting.hardware.light("lamp").on is False
    assert outcome.plan_result["steps"] == {
        "lights": "done",
        "z stopped": "done",
        "xy stopped": "done",
        "focus lock released": "done",
        "z at home": "done",
        "lamp": "off, verified",
        "led": "off, verified",
    }


def test_a_step_that_fails_keeps_no_other_from_being_tried(
    retracting: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3.9 whatever failed before; and the run says that the microscope is not safe."""
    burning = LightOff(light="lamp", off=False, state=Verification.ASSUMED, error="the controller is gone")
    retracting.hardware.move({"z": 40.0})
    with monkeypatch.context() as patch:
        patch.setattr(retracting.hardware, "lights_off", lambda emission=False: (burning,))
        with pytest.raises(DeviceError, match=r"not safe: .*lamp: not off: the controller is gone"):
            run(retracting, "shutdown_safe", {})
    assert positions(retracting)["z"] == 0.0, "the stage was retracted all the same"
    stop = documents(retracting, retracting.run_engine._run_start_uids[-1])[-1][1]
    assert stop["exit_status"] == "fail"
    assert "lamp" in stop["reason"]


def test_a_marked_position_is_known_at_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4 mark_position(name): named by people, used by agents, in every process, without a restart."""
    submitted = templates(session.scope, session.layout)["snap"]  # as the manager has had it since it started
    begin(session)
    with pytest.raises(ParameterError, match=r"position: there is no position 'embryo_9', there are .*mark_position"):
        submitted.check({"position": "embryo_9"})
    marked = run(session, "mark_position", {"name": "embryo_9"}).plan_result
    assert marked["position"] == {"x_um": 0.0, "y_um": 0.0, "z_um": 3.0}
    assert marked["before"] is None
    submitted.check({"position": "embryo_9"})
    session.hardware.move({"xy.x": 40.0, "z": 0.0})
    outcome = run(session, "snap", {"camera": "overview", "position": "embryo_9"})
    assert positions(session)["xy.x"] == pytest.approx(0.0, abs=0.1)
    assert positions(session)["z"] == pytest.approx(3.0, abs=0.1)
    assert documents(session, outcome.run_start_uids[0])[0][1]["plan_args"]["position"] == "embryo_9"
    session.hardware.move({"xy.x": 10.0})
    again = run(session, "mark_position", {"name": "embryo_9"}).plan_result
    assert again["before"] == marked["position"]


def test_a_name_of_the_scope_file_is_not_marked_over(session: Session) -> None:
    scope = session.scope.model_copy(update={"positions": {"dish": Position(x_um=1, y_um=2)}})
    made = templates(scope, session.layout)
    made["snap"].check({"position": "dish"})
    with pytest.raises(ParameterError, match=r"name: 'dish' is a position of scope.yml"):
        made["mark_position"].check({"name": "dish"})


def test_a_light_is_on_for_its_time_and_no_longer(session: Session) -> None:
    """R3.9 no light outlives its plan; what it gave is counted as estimated."""
    before = session.hardware.dose().used.get("l488", 0.0)
    outcome = run(session, "set_light", {"light": "l488", "on": True, "power_pct": 3.0, "max_s": 0.4})
    lit = [doc["data"]["l488"] for kind, doc in documents(session, outcome.run_start_uids[0]) if kind == "event"]
    assert lit == [True, False]
    assert (outcome.plan_result["power_pct"], outcome.plan_result["on"]) == (3.0, False)
    assert session.hardware.dose().used["l488"] - before == pytest.approx(1.2, rel=0.5)


def test_a_light_that_is_on_while_its_plan_pauses_goes_off_and_comes_back(session: Session) -> None:
    run_engine = session.run_engine

    def hook(msg: Any) -> None:
        if msg.command == "sleep":
            threading.Thread(target=run_engine.request_pause).start()
            run_engine.msg_hook = None

    run_engine.msg_hook = hook
    with pytest.raises(RunEngineInterrupted):
        run(session, "set_light", {"light": "l488", "on": True, "max_s": 1.5})
    assert session.hardware.light("l488").on is False
    lit: list[bool] = []
    run_engine.msg_hook = lambda msg: lit.append(session.hardware.light("l488").on) if msg.command == "sleep" else None
    run_engine.resume()
    run_engine.msg_hook = None
    assert lit
    assert all(lit)
    assert session.hardware.light("l488").on is False


def test_a_focus_lock_outlives_its_plan_until_it_is_released(session: Session) -> None:
    """R4 autofocus(mode: once | lock | release)."""
    begin(session)
    assert run(session, "autofocus", {"mode": "lock"}).plan_result["locked"] is True
    assert session.hardware.focus_state("autofocus").enabled
    with pytest.raises(FailedStatus) as refused:
        run(session, "move_z", {"z_um": 12.0})
    assert isinstance(refused.value.__cause__, FocusLockError)
    assert run(session, "autofocus", {"mode": "release"}).plan_result["locked"] is False
    run(session, "move_z", {"z_um": 12.0})


def test_a_temperature_that_is_not_reached_in_time_fails_the_run(session: Session) -> None:
    with pytest.raises(FailedStatus, match=r"hasn't got there after 0\.2 s"):
        run(session, "set_temperature", {"target_c": 41.0, "timeout_s": 0.2})
    assert documents(session, session.run_engine._run_start_uids[-1])[-1][1]["exit_status"] == "fail"
