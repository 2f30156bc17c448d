"""What of an `mda` the hardware process takes alone: where each frame truly was, as SequenceTester writes it into each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr
from pymmcore_plus.seq_tester import InfoPacket, decode_image

from queuescope.hardware import BurstProgram, LimitError, VolumeProgram
from queuescope.startup._session import Session, open_session

from .test_common import told
from .test_mda_order import OURS, SCOPE, cfg
from .test_mda_runs import lines, of_stream
from .test_sequence_flights import TWO_CAMERAS
from .test_templates import documents, run

TRIGGERS = """\
Property,Focus,TriggerSequenceMaxLength,{longest}
Property,Focus,TriggerSourceDevice,TCamera-0
Property,Focus,TriggerSourcePort,ExposureStartEdge
"""


@pytest.fixture(scope="module", params=["software", "triggered", "triggered, short memory"])
def tester(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, str]]:
    """The microscope, and how its z moves in a stack."""
    folder: Path = tmp_path_factory.mktemp("flies")
    scope, setup = SCOPE, cfg(OURS)
    if request.param != "software":
        scope += "volume: {trigger: mm_sequence}\n"
        setup += TRIGGERS.format(longest=2 if "short" in request.param else 1000)
    (folder / "mm.cfg").write_text(setup)
    (folder / "scope.yml").write_text(scope)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUEUESCOPE_DATA", str(folder / "data"))
        patch.setenv("QUEUESCOPE_SCOPE", str(folder))
        opened = open_session()
    yield opened, request.param.partition(",")[0]
    opened.hardware.close()


class Taken:
    """A run of ``mda``: what it asked the hardware for, and what it holds."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch, sequence: dict[str, Any]) -> None:
        self.session = session
        self.programs: list[VolumeProgram | BurstProgram] = []
        self.single = 0
        with monkeypatch.context() as patch:
            for name in ("start_volume", "start_burst", "record_frame"):
                patch.setattr(session.hardware, name, self._noted(getattr(session.hardware, name)))
            self.outcome = run(session, "mda", {"sequence": sequence})
        self.run_uid = self.outcome.run_start_uids[0]
        self.docs = documents(session, self.run_uid)

    def _noted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(recording: str, what: Any, *more: Any) -> Any:
            if isinstance(what, VolumeProgram | BurstProgram):
                self.programs.append(what)
            else:
                self.single += 1
            return real(recording, what, *more)

        return call

    def events(self, stream: str) -> list[dict[str, Any]]:
        return of_stream(self.docs, stream)

    def frames(self, stream: str) -> list[InfoPacket]:
        dataset = "camera" if stream == "primary" else f"camera_{stream}"
        path = self.session.layout.volumes / f"{self.run_uid}_{dataset}.ome.zarr" / "0"
        return [decode_image(frame) for frame in zarr.open_array(path, mode="r")[:]]

    def check_places(self, stream: str) -> None:
        """Each event, and each line of the frame list, says where that frame truly was."""
        dataset = "camera" if stream == "primary" else f"camera_{stream}"
        events, listed = self.events(stream), lines(self.session, self.run_uid, dataset)
        frames = self.frames(stream)
        assert len(events) == len(listed) == len(frames) > 0
        for event, line, frame in zip(events, listed, frames, strict=True):
            z = true(frame, "TZStage-0", "ZPositionUm")
            assert (event["z"], line["position"]["z"]) == pytest.approx((z, z))
            assert (event["xy_x"], event["xy_y"]) == (line["position"]["xy.x"], line["position"]["xy.y"])
            assert event["programmed"] == line.get("programmed", False)


def true(frame: InfoPacket, device: str, name: str) -> Any:
    return {(one.device, one.property): one.value for one in frame.current_state}[device, name]


STACK: dict[str, Any] = {
    "channels": [{"config": "FITC", "exposure": 1}, {"config": "DAPI", "exposure": 1, "do_stack": False}],
    "stage_positions": [{"x": 10, "y": 20, "z": 5, "name": "first"}, {"x": -10, "y": 0, "z": -5}],
    "z_plan": {"range": 4, "step": 1},
    "time_plan": {"interval": 0.1, "loops": 2},
}


def test_a_stack_is_one_program(tester: tuple[Session, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 5, item 4, hardware sequencing: each of the four stacks; the single frames between them are steps."""
    session, how = tester
    session.hardware.move({"z": 3.0})
    taken = Taken(session, monkeypatch, STACK)
    assert [len(program.views[0].piezo_um) for program in taken.programs] == [5] * 4
    assert {program.trigger for program in taken.programs} == {None if how == "triggered" else "software"}
    assert taken.single == 4
    events = taken.events("fitc")
    wanted = [(t, p, z) for t in (0, 1) for p in (0, 1) for z in range(5)]
    assert [(e["index_t"], e["index_p"], e["index_z"]) for e in events] == wanted
    assert [e["position_name"] for e in events] == (["first"] * 5 + [""] * 5) * 2
    assert [e["z"] for e in events] == pytest.approx([z + at for z in (5, -5) for at in range(-2, 3)] * 2)
    assert {(e["xy_x"], e["xy_y"]) for e in events} == {(10, 20), (-10, 0)}
    assert {e["programmed"] for e in events} == {how == "triggered"}
    assert {frame.camera_info.is_sequence for frame in taken.frames("fitc")} == {how == "triggered"}
    assert {e["programmed"] for e in taken.events("dapi")} == {False}
    for stream in ("fitc", "dapi"):
        taken.check_places(stream)
    template = session.templates["mda"]
    estimate = template.estimate(template.check({"sequence": STACK}), session.scope)
    assert taken.docs[-1][1]["dose"]["lamp"] >= 0.999 * estimate.dose["lamp"] > 0
    assert taken.docs[0][1]["volume_trigger"] == ("mm_sequence" if how == "triggered" else "software")
    assert {true(frame, "TSwitcher-0", "Position") for frame in taken.frames("fitc")} == {2}
    assert session.hardware.positions(("z", "xy.x", "xy.y")) == pytest.approx({"z": 3.0, "xy.x": 0.0, "xy.y": 0.0})
    assert not any(light.on for light in session.hardware.state().lights.values())


def test_one_series_may_have_both(tester: tuple[Session, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A position with one slice is a step, one with five a program: into the same dataset, in the sequence's order."""
    session, _ = tester
    five = {"z_plan": {"range": 4, "step": 1}}
    places = [{"z": 1}, {"z": 20, "sequence": five}, {"z": 2}, {"z": 30, "sequence": five}]
    taken = Taken(session, monkeypatch, {"channels": [{"config": "FITC", "exposure": 1}], "stage_positions": places})
    assert (len(taken.programs), taken.single) == (2, 2)
    taken.check_places("primary")
    depths = [1, *range(18, 23), 2, *range(28, 33)]
    assert [e["z"] for e in taken.events("primary")] == pytest.approx(depths)
    assert [doc["seq_num"] for kind, doc in taken.docs if kind == "event"] == list(range(1, 13))
    data = [doc for kind, doc in taken.docs if kind == "stream_datum"]
    assert [n for doc in data for n in range(doc["indices"]["start"], doc["indices"]["stop"])] == list(range(12))
    assert [n for doc in data for n in range(doc["seq_nums"]["start"], doc["seq_nums"]["stop"])] == list(range(1, 13))


FILM: dict[str, Any] = {"time_plan": {"interval": 0, "loops": 20}}
LIT = [{"config": "FITC", "exposure": 1}]


@pytest.mark.parametrize(
    ("sequence", "free"),
    [
        (FILM, True),
        ({**FILM, "channels": LIT}, False),
        ({**FILM, "channels": LIT, "keep_shutter_open_across": "t"}, True),
    ],
    ids=["dark", "lit", "shutter kept open"],
)
def test_frames_of_one_place_are_a_burst(
    tester: tuple[Session, str], monkeypatch: pytest.MonkeyPatch, sequence: dict[str, Any], free: bool
) -> None:
    """The camera free-runs where the light may stay on between its frames, or where there is none."""
    session, _ = tester
    taken = Taken(session, monkeypatch, sequence)
    ((program,), single) = taken.programs, taken.single
    assert single == 0
    assert isinstance(program, BurstProgram)
    assert program.views[0].frames == 20
    assert {frame.camera_info.is_sequence for frame in taken.frames("primary")} == {free}
    assert [e["index_t"] for e in taken.events("primary")] == list(range(20))
    assert not any(e["programmed"] for e in taken.events("primary"))
    taken.check_places("primary")


def test_what_waits_for_its_time_is_a_step(tester: tuple[Session, str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Taken(tester[0], monkeypatch, {"time_plan": {"interval": 0.01, "loops": 5}})
    assert (taken.programs, taken.single) == ([], 5)


def test_after_a_focus_a_program_is_as_far_off_as_it_was_found(
    tester: tuple[Session, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = tester

    def focus(name: str, mode: str) -> Any:
        session.hardware.move({"z": session.hardware.positions(("z",))["z"] + 2.5})

    monkeypatch.setattr(session.hardware, "focus", focus)
    sequence = {**STACK, "time_plan": None, "autofocus_plan": {"axes": ["p"]}, "channels": LIT}
    taken = Taken(session, monkeypatch, sequence)
    assert len(taken.programs) == 2
    taken.check_places("primary")
    assert [e["z"] for e in taken.events("primary")] == pytest.approx(
        [z + at + 2.5 for z in (5, -5) for at in range(-2, 3)]
    )


def test_no_program_begins_that_would_leave_the_limits(
    tester: tuple[Session, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known only when the focus was found: the last slice would be at 1001 µm."""
    session, _ = tester
    started: list[Any] = []
    monkeypatch.setattr(session.hardware, "focus", lambda name, mode: session.hardware.move({"z": 999.0}))
    monkeypatch.setattr(session.hardware, "start_volume", lambda *args: started.append(args))
    sequence = {
        "channels": LIT,
        "stage_positions": [{"x": 0, "y": 0, "z": 990}],
        "z_plan": {"range": 4, "step": 1},
        "autofocus_plan": {"axes": ["p"]},
    }
    with pytest.raises(LimitError, match="z 1001"):
        run(session, "mda", {"sequence": sequence})
    assert started == []


def test_cameras_that_expose_together_fly_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of both, and single frames of both, into one dataset each."""
    shutil.copytree(TWO_CAMERAS, tmp_path / "scope")
    for name, value in {
        "DATA": str(tmp_path / "data"),
        "SCOPE": str(tmp_path / "scope"),
        "MICROMANAGER__PROCESS": "worker",
        "STORAGE__MIN_FREE_GB": "0",
    }.items():
        monkeypatch.setenv(f"QUEUESCOPE_{name}", value)
    session = open_session()
    try:
        sequence = {"stage_positions": [{"z": 1}, {"z": 5, "sequence": {"z_plan": {"range": 3, "step": 1}}}, {"z": 2}]}
        outcome = run(session, "mda", {"sequence": sequence, "camera": "both"})
        docs = documents(session, outcome.run_start_uids[0])
    finally:
        session.hardware.close()
    assert outcome.plan_result["datasets"] == {"first": 6, "second": 6}
    assert told(docs) == {"first": list(range(6)), "second": list(range(6))}
    assert [e["z"] for e in of_stream(docs, "primary")] == pytest.approx([1, 3.5, 4.5, 5.5, 6.5, 2], abs=0.01)
