"""The emulated controller as a process of its own: it keeps firing when its client has died, and is found again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil
import pymmcore
import pytest

from queuescope.hardware import DeviceError
from queuescope.hardware._configuration import find_adapters
from queuescope.hardware._mmcore import Core
from queuescope.hardware.simulated import RemoteFirmware, attach, decode
from queuescope.layout import Layout

OWN = [("TigerCommHub,SerialPort,in-process", "TigerCommHub,SerialPort,process")]


@pytest.fixture
def stand(make_scope: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Scope and layout of a microscope whose controller is a process of its own, which is ended afterwards."""
    folder = tmp_path_factory.mktemp("stand")
    scope, layout = make_scope(folder, "own", cfg=OWN), Layout(folder / "data")
    yield scope, layout
    with suppress(ConnectionError):
        attach(layout.services).end()


def gone(pid: int) -> bool:
    """Ended, be it that nobody has asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def firing(tiger: RemoteFirmware) -> None:
    """The state machine runs for ever from now on."""
    tiger.time_scale(0.05)
    tiger.faults(fire_until_stopped=True)
    tiger.write("36.OutputChannel", "output 6 only")
    tiger.write("33.SPIMState", "Running")


def test_it_keeps_firing_after_its_client_died_and_is_idled_by_the_next(
    stand: Any, start_process: Callable[..., Any]
) -> None:
    """R3.9, R0.3: what a real controller does, and why a restart idles scanners before anything else."""
    scope, layout = stand
    process = start_process(scope.path, layout.data).started()
    tiger = attach(layout.services)
    firing(tiger)
    process.signal(signal.SIGKILL)
    process.wait()
    seen = tiger.status()["slices"]
    assert tiger.wait_slices(seen + 5, 20) > seen + 5, "nobody is there, and it fires"
    with pytest.raises(RuntimeError, match="is not one of"):
        tiger._ask("end_of_the_world")

    again = start_process(scope.path, layout.data)
    assert again.event()["event"] == "lights-off-first"
    assert again.event()["event"] == "ready"
    assert attach(layout.services).pid == tiger.pid, "the same controller was found again"
    status = tiger.status()
    assert (status["state"], status["laser_on"]) == ("Idle", [])
    assert tiger.wait_slices(status["slices"], 0.2) == status["slices"]

    again.signal(signal.SIGTERM)
    assert again.event()["event"] == "stopped"
    again.wait()
    assert not gone(tiger.pid), "it runs on when the hardware process has ended well, too"
    tiger.end()
    limit = time.monotonic() + 20
    while not gone(tiger.pid):
        assert time.monotonic() < limit, "it did not end"
        time.sleep(0.02)
    with pytest.raises(ConnectionError, match="no emulated controller answers"):
        attach(layout.services)


def test_its_triggers_reach_the_cameras(stand: Any) -> None:
    """The trigger lines go over the same socket: a frame says which slice it is of. A controller that is gone is an error."""
    scope, layout = stand
    layout.create()
    core = Core(find_adapters(scope).folder, layout.logs / "mmcore.log", 10, layout.services)
    try:
        core.mm.loadSystemConfiguration(str(scope.config_path))
        mm = core.mm
        for name, value in (("SPIMNumSlices", "3"), ("SPIMFirstSide", "B"), ("SPIMScanDuration(ms)", "20")):
            mm.setProperty("Scanner:CD:33", name, value)
        mm.setProperty("HamCam2", "TRIGGER SOURCE", "EXTERNAL")
        mm.setCameraDevice("HamCam2")
        mm.startSequenceAcquisition("HamCam2", 3, 0.0, True)
        mm.setProperty("Scanner:CD:33", "SPIMState", "Running")
        slices = []
        while len(slices) < 3 and (mm.isSequenceRunning("HamCam2") or mm.getRemainingImageCount()):
            time.sleep(0.002)
            if mm.getRemainingImageCount():
                stamp = decode(mm.popNextImageMD(pymmcore.Metadata()))
                assert stamp is not None
                slices.append((stamp.side, stamp.slice))
        assert slices == [("B", 0), ("B", 1), ("B", 2)]
        attach(layout.services).end()
        with pytest.raises(DeviceError, match="galvo"):
            core.ask("galvo_b", mm.getGalvoPosition, "Scanner:CD:33")
    finally:
        core.close()
