"""A camera whose frames each have an event: single frames and programs into one dataset."""

from __future__ import annotations

from typing import Any

import pytest

from queuescope.devices import CameraPlan, Shots
from queuescope.hardware import BurstProgram, BurstView, DeviceError, FrameSettings, HardwareGoneError

from .test_program import devices  # noqa: F401 (a fixture)

ROW = {"number": {"source": "test", "dtype": "integer", "shape": []}}


def shots(*numbers: int, program: Any = None) -> Shots:
    return Shots(tuple({"number": number} for number in numbers), program)


def burst(frames: int) -> BurstProgram:
    return BurstProgram(views=(BurstView(dataset="camera", camera="camera", settings=FrameSettings(), frames=frames),))


@pytest.fixture
def camera(devices: tuple[dict[str, Any], Any]) -> Any:  # noqa: F811
    """Prepared for five frames of a run that is open."""
    built, recordings = devices
    recordings.start_run("run-0001")
    found = built["camera"].sequenced("", {"z": built["z"]}, ROW)
    found.stage()
    found.prepare(CameraPlan(FrameSettings(exposure_ms=1), frames=5)).wait(20)
    return found


def test_frames_are_told_once_in_their_order(camera: Any, devices: tuple[dict[str, Any], Any]) -> None:  # noqa: F811
    """Every message may come twice, as after a pause; and what was collected before a document came is offered again."""
    built, recordings = devices
    told: list[Any] = []
    for z, one in ((3.0, shots(7)), (5.0, shots(1, 2, 3, program=burst(3))), (4.0, shots(9))):
        built["z"].set(z).wait(20)
        for _ in range(2):
            camera.prepare(one).wait(20)
            if one.program is not None:
                camera.kickoff().wait(20)
            while True:
                camera.trigger().wait(20)
                offered = [[*camera.collect_asset_docs()], [*camera.collect_pages()]]
                assert [len([*camera.collect_asset_docs()]), [*camera.collect_pages()]] == [len(offered[0]), offered[1]]
                recordings.told()
                for page in offered[1]:
                    told += zip(*(page["data"][key] for key in ("number", "z", "programmed")), strict=True)
                if camera.ended:
                    break
    assert told == [
        (7, 3.0, False),
        *((number, 5.0, False) for number in (1, 2, 3)),
        (9, 4.0, False),
    ]
    assert camera.frames_written == {"camera": 5}


def test_frames_are_told_though_the_hardware_has_gone(
    camera: Any,
    devices: tuple[dict[str, Any], Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R3.12: those that are on disk, with their places, which its frame list has."""
    hardware = camera._hardware
    camera.prepare(shots(1, 2, 3, 4, 5, program=burst(5))).wait(20)
    camera.kickoff().wait(20)

    def gone(*args: Any, **more: Any) -> Any:
        raise HardwareGoneError("the hardware process has ended")

    state = hardware.recording(camera._state.recording)
    while state.phase == "running":
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    monkeypatch.setattr(hardware, "recording", gone)
    monkeypatch.setattr(hardware, "frame_lines", gone)
    with pytest.raises(HardwareGoneError):
        camera.trigger().wait(20)
    assert len([*camera.collect_asset_docs()]) == 2
    (page,) = camera.collect_pages()
    assert (page["data"]["number"], page["data"]["z"]) == ([1, 2, 3, 4, 5], [0.0] * 5)


def test_a_place_that_was_not_read_is_an_error(camera: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3.10: nothing is invented."""
    real = camera._hardware.frame_lines

    def without_z(*args: Any) -> Any:
        return tuple(line.model_copy(update={"position": {}}) for line in real(*args))

    monkeypatch.setattr(camera._hardware, "frame_lines", without_z)
    camera.prepare(shots(7)).wait(20)
    status = camera.trigger()
    with pytest.raises(DeviceError, match="z could not be read when frame 0 of camera was taken"):
        status.wait(20)
    assert [*camera.collect_asset_docs()] == [] == [*camera.collect_pages()]
