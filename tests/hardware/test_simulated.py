"""The emulated Tiger controller, its cameras and the incubator, as MMCore's calls see them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymmcore
import pytest

from queuescope.config import load_scope
from queuescope.hardware import DeviceError, ReadbackError
from queuescope.hardware._configuration import find_adapters
from queuescope.hardware._mmcore import Core
from queuescope.hardware.simulated import decode

SCANNER, OTHER = "Scanner:AB:33", "Scanner:CD:33"
PIEZOS = {"A": "PiezoStage:P:34", "B": "PiezoStage:Q:35"}
SCANNERS = {"A": SCANNER, "B": OTHER}
CAMERAS = {"A": "HamCam1", "B": "HamCam2"}
LOGIC = "PLogic:E:36"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, make_scope: Callable[..., Any]) -> Iterator[Core]:
    """The demo's configuration in a bare core."""
    folder = tmp_path_factory.mktemp("simulated")
    scope = make_scope(folder)
    core = Core(find_adapters(scope).folder, folder / "mmcore.log", 10, folder)
    core.mm.loadSystemConfiguration(str(scope.config_path))
    yield core
    core.close()


@pytest.fixture
def mm(loaded: Core) -> Iterator[Any]:
    """Its calls; nothing runs, nothing is wrong, and no time is lost."""
    mm = loaded.mm
    tiger = mm.device("TigerCommHub").controller
    mm.setProperty("TigerCommHub", "TimeScale", "0")
    mm.setProperty(SCANNER, "SPIMInterleaveSidesEnable", "No")
    yield mm
    tiger.faults()
    mm.setProperty(SCANNER, "SPIMState", "Idle")
    for camera in CAMERAS.values():
        mm.stopSequenceAcquisition(camera)
        for name, value in (("TRIGGER SOURCE", "INTERNAL"), ("TRIGGER ACTIVE", "EDGE")):
            mm.setProperty(camera, name, value)
    for scanner in SCANNERS.values():
        mm.setProperty(scanner, "RefreshPropertyValues", "Yes")
        mm.setProperty(scanner, "BeamEnabled", "Yes")
    mm.setProperty(SCANNER, "SPIMNumRepeats", "1")
    mm.setProperty(LOGIC, "OutputChannel", "none of outputs 5-8")


@pytest.fixture
def tiger(mm: Any) -> Any:
    """The controller itself."""
    return mm.device("TigerCommHub").controller


def program(mm: Any, slices: int = 4, sides: str = "AB", **changed: float | str) -> None:
    """What the diSPIM plugin would set: 1 µm and 0.1° a slice about 10 µm and 0.5°."""
    settings = {
        "SPIMNumSlices": slices,
        "SPIMNumSides": len(sides),
        "SPIMFirstSide": sides[0],
        "SPIMNumRepeats": 1,
        "SPIMNumSlicesPerPiezo": 1,
        "SPIMDelayBeforeScan(ms)": 0,
        "SPIMScanDuration(ms)": 20,
        "SPIMDelayBeforeLaser(ms)": 1,
        "SPIMLaserDuration(ms)": 5,
        "SPIMDelayBeforeCamera(ms)": 0.5,
        "SPIMCameraDuration(ms)": 6,
        "SPIMPiezoHomeDisable": "Yes",
        "SPIMScannerHomeDisable": "Yes",
    }
    for name, value in {**settings, **changed}.items():
        mm.setProperty(SCANNER, name, str(value))
    for side in sides:
        mm.setProperty(SCANNERS[side], "SingleAxisYAmplitude(deg)", str(0.1 * (slices - 1)))
        mm.setProperty(SCANNERS[side], "SingleAxisYOffset(deg)", "0.5")
        mm.setProperty(PIEZOS[side], "SingleAxisAmplitude(um)", str(slices - 1))
        mm.setProperty(PIEZOS[side], "SingleAxisOffset(um)", "10")
        mm.setProperty(PIEZOS[side], "SPIMNumSlices", str(slices))
        mm.setProperty(PIEZOS[side], "SPIMState", "Armed")


def arm(mm: Any, frames: int, sides: str = "AB", exposure_ms: float = 5, **properties: str) -> None:
    """Cameras wait for their triggers when this returns."""
    mm.setCameraDevice(CAMERAS[sides[0]])
    for side in sides:
        camera = CAMERAS[side]
        mm.setExposure(camera, exposure_ms)
        mm.setProperty(camera, "TRIGGER SOURCE", "EXTERNAL")
        for name, value in properties.items():
            mm.setProperty(camera, name.replace("_", " "), value)
        mm.startSequenceAcquisition(camera, frames, 0.0, True)


def run(mm: Any) -> None:
    """Start, and wait for the end."""
    mm.setProperty(SCANNER, "SPIMState", "Running")
    until(lambda: mm.getProperty(SCANNER, "SPIMState") == "Idle")


def until(done: Callable[[], bool], limit_s: float = 30) -> None:
    limit = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.005)


def frames(mm: Any, expected: int) -> dict[str, list[Any]]:
    """By side: the stamps of so many frames, in their order."""
    until(lambda: mm.getRemainingImageCount() >= expected)
    found: dict[str, list[Any]] = {"A": [], "B": []}
    side_of = {camera: side for side, camera in CAMERAS.items()}
    while mm.getRemainingImageCount():
        metadata = pymmcore.Metadata()
        stamp = decode(mm.popNextImageMD(metadata))
        side = side_of[metadata.GetSingleTag("Camera").GetValue()]
        assert stamp is not None
        assert stamp.side == side
        assert metadata.GetSingleTag("ImageNumber").GetValue() == str(len(found[side]))
        found[side].append(stamp)
    return found


def test_a_run_takes_every_slice_where_it_should_be(mm: Any) -> None:
    """R3.12 the truth about each slice is in its frame: side by side, slice by slice, both cameras at the same time."""
    mm.setProperty(LOGIC, "OutputChannel", "output 6 only")
    program(mm)
    arm(mm, 4)
    run(mm)
    found = frames(mm, 8)
    for side in "AB":
        assert [s.slice for s in found[side]] == [0, 1, 2, 3]
        assert [s.piezo_um for s in found[side]] == pytest.approx([8.5, 9.5, 10.5, 11.5])
        assert [s.galvo_y_deg for s in found[side]] == pytest.approx([0.35, 0.45, 0.55, 0.65])
        assert {s.lines for s in found[side]} == {frozenset({6})}
        assert {s.trigger for s in found[side]} == {"external"}
        assert not mm.isSequenceRunning(CAMERAS[side])
    assert mm.getPosition(PIEZOS["A"]) == 11.5, "homing is disabled: it stays at the last slice"
    assert mm.getProperty(PIEZOS["A"], "SPIMState") == "Idle"


def test_a_piezo_that_is_not_armed_stays(mm: Any) -> None:
    program(mm, sides="A")
    mm.setProperty(PIEZOS["A"], "SPIMState", "Idle")
    mm.setPosition(PIEZOS["A"], 3.0)
    arm(mm, 4, "A")
    run(mm)
    assert {s.piezo_um for s in frames(mm, 4)["A"]} == {3.0}


def test_the_other_orders_of_slices(mm: Any) -> None:
    """Side B first, both sides a slice, every second repeat backwards."""
    program(mm, 2, "BA", SPIMNumRepeats=2, SPIMAlternateDirectionsEnable="Yes")
    arm(mm, 4)
    run(mm)
    found = frames(mm, 8)
    assert [(s.repeat, s.slice) for s in found["A"]] == [(0, 0), (0, 1), (1, 1), (1, 0)]
    program(mm, 2, "BA", SPIMInterleaveSidesEnable="Yes", SPIMAlternateDirectionsEnable="No")
    order: list[tuple[str, int]] = []

    def note(trigger: Any) -> None:
        order.append((trigger.side, trigger.slice))

    tiger = mm.device("TigerCommHub").controller
    tiger.listen(note)
    run(mm)
    tiger.ignore(note)
    assert order == [("B", 0), ("A", 0), ("B", 1), ("A", 1)]


def test_home_is_where_they_go_unless_that_is_disabled(mm: Any) -> None:
    """And a mirror at home is parked: the next software move brings it back, as `BeamEnabled` is still Yes."""
    program(mm, sides="A", SPIMPiezoHomeDisable="No", SPIMScannerHomeDisable="No")
    run(mm)
    assert mm.getPosition(PIEZOS["A"]) == 0
    assert list(mm.getGalvoPosition(SCANNER)) == [5, 5]
    mm.setGalvoPosition(SCANNER, 0.1, 0.2)
    assert list(mm.getGalvoPosition(SCANNER)) == [0.1, 0.2]


def test_a_mirror_with_its_beam_off_does_not_move(mm: Any) -> None:
    """R3.10 as with the real adapter: the position is kept for when the beam comes back."""
    mm.setGalvoPosition(SCANNER, 0.5, 0.0)
    mm.setProperty(SCANNER, "BeamEnabled", "No")
    assert list(mm.getGalvoPosition(SCANNER)) == [5, 5]
    mm.setGalvoPosition(SCANNER, 0.3, 0.4)
    assert list(mm.getGalvoPosition(SCANNER)) == [5, 5]
    mm.setProperty(SCANNER, "BeamEnabled", "Yes")
    assert list(mm.getGalvoPosition(SCANNER)) == [0.3, 0.4]


def test_missed_triggers_leave_gaps(mm: Any, tiger: Any) -> None:
    """R3.12 galvo, piezo and laser go on; the camera just doesn't see the edge."""
    tiger.faults(miss={"A": [1]}, miss_every=4)
    program(mm)
    arm(mm, 4)
    run(mm)
    found = frames(mm, 5)
    assert [s.slice for s in found["A"]] == [0, 2]
    assert [s.slice for s in found["B"]] == [0, 1, 2]
    assert tiger.status()["triggers"] == {"A": 4, "B": 4}
    assert mm.isSequenceRunning("HamCam1"), "it still waits"
    mm.stopSequenceAcquisition("HamCam1")
    assert not mm.isSequenceRunning("HamCam1")


def test_a_camera_that_still_exposes_does_not_see_a_trigger(mm: Any) -> None:
    """R3.12 exposure and readout must fit into a slice; the controller's clock decides, not this machine's."""
    program(mm, 6, "A")
    arm(mm, 6, "A", exposure_ms=25)
    run(mm)
    assert [s.slice for s in frames(mm, 3)["A"]] == [0, 2, 4]


def test_a_synchronous_camera_needs_one_trigger_more(mm: Any) -> None:
    program(mm, 5, "A")
    arm(mm, 4, "A", TRIGGER_ACTIVE="SYNCREADOUT")
    run(mm)
    assert [s.slice for s in frames(mm, 4)["A"]] == [0, 1, 2, 3]


def test_a_laser_outside_the_exposure_lights_nothing(mm: Any) -> None:
    mm.setProperty(LOGIC, "OutputChannel", "outputs 5-8")
    program(mm, 2, "A", **{"SPIMDelayBeforeLaser(ms)": 10})
    arm(mm, 2, "A")
    run(mm)
    assert {s.lines for s in frames(mm, 2)["A"]} == {frozenset()}


def test_the_laser_output_is_high_while_the_shutter_is_open(mm: Any) -> None:
    """R3.9 the lines can be read at any time."""
    mm.setProperty(LOGIC, "OutputChannel", "output 7 only")
    mm.setShutterOpen(LOGIC, True)
    assert mm.getProperty(LOGIC, "FrontpanelOutputState") == str(1 << 6)
    mm.setShutterOpen(LOGIC, False)
    assert mm.getProperty(LOGIC, "FrontpanelOutputState") == "0"


def test_it_fires_until_it_is_stopped(mm: Any, tiger: Any) -> None:
    """R3.11 and is dark and idle when the call that stops it returns."""
    tiger.faults(fire_until_stopped=True)
    mm.setProperty("TigerCommHub", "TimeScale", "0.05")
    mm.setProperty(LOGIC, "OutputChannel", "output 5 only")
    program(mm, 2, "A")
    before = tiger.status()["slices"]
    mm.setProperty(SCANNER, "SPIMState", "Running")
    assert tiger.wait_slices(before + 5, 20) > before + 5
    mm.setProperty(OTHER, "SPIMState", "Idle")  # it is the same card
    assert mm.getProperty(SCANNER, "SPIMState") == "Idle"
    status = tiger.status()
    assert (status["state"], status["laser_on"]) == ("Idle", [])
    assert tiger.wait_slices(status["slices"], 0.1) == status["slices"]


def test_one_that_refuses_to_stop_reads_running(mm: Any, loaded: Core, tiger: Any) -> None:
    """R3.10"""
    tiger.faults(fire_until_stopped=True, refuse_idle=True)
    program(mm, 2, "A")
    mm.setProperty(SCANNER, "SPIMState", "Running")
    with pytest.raises(ReadbackError, match="was set to 'Idle' and reads 'Running'"):
        loaded.write_exactly("scanner", SCANNER, "SPIMState", "Idle")


def test_properties_are_answered_from_a_cache_unless_refreshed(mm: Any, tiger: Any) -> None:
    """R3.10 a readback proves nothing then: the state stays what was last written. SPIM settings are the card's."""
    mm.setProperty(SCANNER, "RefreshPropertyValues", "No")
    mm.setProperty(OTHER, "RefreshPropertyValues", "No")
    program(mm, 3, "A")
    assert mm.getProperty(OTHER, "SPIMNumSlices") == "3"
    mm.setProperty(SCANNER, "SPIMState", "Running")
    until(lambda: tiger.status()["state"] == "Idle")
    assert mm.getProperty(SCANNER, "SPIMState") == "Running"
    mm.setProperty(SCANNER, "RefreshPropertyValues", "Yes")
    assert mm.getProperty(SCANNER, "SPIMState") == "Idle"


def test_what_is_not_allowed_is_refused_by_name(mm: Any, loaded: Core) -> None:
    for label, name, value in (
        (PIEZOS["A"], "SPIMState", "Running"),
        (SCANNER, "SPIMNumSides", "3"),
        (SCANNER, "SPIMNumSlices", "many"),
        ("HamCam1", "TRIGGER SOURCE", "CAR HORN"),
        ("HamCam1", "ReadoutTime", "1"),
        ("HamCam1", "TriggerInput", "B"),
        ("HamCam1", "Colour", "red"),
    ):
        with pytest.raises(DeviceError, match=name):
            loaded.write_exactly("x", label, name, value)


def test_a_snap_with_an_external_trigger_waits_for_it(mm: Any) -> None:
    mm.setCameraDevice("HamCam1")
    mm.setProperty("HamCam1", "TRIGGER SOURCE", "EXTERNAL")
    program(mm, 1, "A")
    taken = threading.Event()

    def snap() -> None:
        mm.snapImage()
        taken.set()

    threading.Thread(target=snap, daemon=True).start()

    def fire() -> bool:  # until the camera is armed, triggers are lost
        run(mm)
        return taken.wait(0.05)

    until(fire)
    stamp = decode(mm.getImage())
    assert stamp is not None
    assert stamp.trigger == "external"


def test_an_ordinary_frame_says_where_it_was_taken(mm: Any) -> None:
    mm.setCameraDevice("HamCam2")
    mm.setPosition(PIEZOS["B"], -4.25)
    mm.setGalvoPosition(OTHER, 0.0, 1.5)
    mm.setExposure("HamCam2", 1.0)
    mm.snapImage()
    image = mm.getImage()
    stamp = decode(image)
    assert stamp is not None
    assert (stamp.trigger, stamp.side, stamp.piezo_um, stamp.galvo_y_deg) == ("internal", "B", -4.25, 1.5)
    assert image[1:].std() > 0
    assert image.shape == (mm.getImageHeight(), mm.getImageWidth())
    mm.setROI("HamCam2", 10, 20, 64, 32)
    mm.snapImage()
    assert mm.getImage().shape == (32, 64)
    mm.clearROI()


def test_the_incubator_follows_its_setpoint_as_time_passes(mm: Any) -> None:
    """R3.10 and a silent one raises."""
    mm.setProperty("Incubator", "Setpoint", "30")
    assert float(mm.getProperty("Incubator", "Temperature")) == pytest.approx(37, abs=0.5)
    mm.setProperty("Incubator", "ClockOffset(s)", "120")
    assert float(mm.getProperty("Incubator", "Temperature")) == pytest.approx(30 + 7 * 0.368, abs=0.5)
    mm.setProperty("Incubator", "ClockOffset(s)", "3600")
    assert float(mm.getProperty("Incubator", "Temperature")) == pytest.approx(30, abs=0.01)
    mm.setProperty("Incubator", "SimulatedFault", "heater off")
    mm.setProperty("Incubator", "ClockOffset(s)", "7200")
    assert float(mm.getProperty("Incubator", "Temperature")) == pytest.approx(23, abs=0.01)
    mm.setProperty("Incubator", "SimulatedFault", "no answer")
    with pytest.raises(RuntimeError, match="does not answer"):
        mm.getProperty("Incubator", "Temperature")
    mm.setProperty("Incubator", "SimulatedFault", "none")


def test_the_bundled_configuration_names_what_a_tiger_dispim_has() -> None:
    """The labels of a real stand, so that a lab's scope file fits."""
    text = Path(load_scope("demo-dispim").config_path).read_text()
    for label in (*SCANNERS.values(), *PIEZOS.values(), LOGIC, "TigerCommHub", *CAMERAS.values()):
        assert f"#py pyDevice,{label}," in text
