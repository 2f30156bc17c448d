"""Cameras with an MMCore of their own: they record together whatever their frames' size and type, and no frame is mixed up."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from queuescope.config import Scope, load_scope
from queuescope.hardware import (
    BurstProgram,
    BurstView,
    BusyError,
    ConfigurationError,
    DatasetPlan,
    FrameSettings,
    HardwareGoneError,
    HardwareTimeout,
    ReadbackError,
    RecordingPlan,
    RecordingState,
    connect,
)
from queuescope.hardware._checkup import checkup
from queuescope.hardware._own_cores import split
from queuescope.layout import Layout
from queuescope.scripts._read_back import checksum

SOURCE = Path(__file__).parents[1] / "scopes" / "two-cameras"
FRAMES = 60
SIZES = {"first": ((256, 256), "uint16"), "second": ((96, 160), "uint8")}
"""Height, width and type of each camera's frames."""
CFG = [
    ("Device,Both,Utilities,Multi Camera\n", "Device,Hub 2,DemoCamera,DHub\n"),
    ("Parent,Camera 2,DHub", "Parent,Camera 2,Hub 2\nProperty,Camera 2,MaximumExposureMs,60000"),
    ("Property,Both,Physical Camera 1,Camera 1\nProperty,Both,Physical Camera 2,Camera 2\n", ""),
    (
        "Startup,Camera 2,PixelType,16bit",
        "Startup,Camera 2,PixelType,8bit\nConfigGroup,System,Startup,Core,Camera,Camera 2",
    ),
    ("Photon Flux,2000", "Photon Flux,50"),
]
MORE = """
Property,Camera 1,OnCameraCCDXSize,256
Property,Camera 1,OnCameraCCDYSize,256
ConfigGroup,System,Startup,Camera 2,OnCameraCCDXSize,160
ConfigGroup,System,Startup,Camera 2,OnCameraCCDYSize,96
ConfigGroup,System,Startup,Emission,State,3
ConfigGroup,Speed,Fast,Camera 1,Gain,1
ConfigGroup,Speed,Fast,Emission,State,1
ConfigGroup,Speed,Fast,Camera 2,Gain,2
ConfigGroup,Speed,Slow,Camera 2,Gain,4
ConfigGroup,Speed,Slow,Camera 1,Gain,3
ConfigPixelSize,Res,Camera 2,Binning,1
PixelSize_um,Res,0.5
"""
IMPATIENT = ("buffer_mb: 16", "buffer_mb: 16, call_timeout_s: 1")
BOTH = "  both:     {label: Both, kind: multi_camera, cameras: [first, second]}\n"
SCOPE = [
    ("config: mm.cfg", "config: mm.cfg, core_per_camera: [second], buffer_mb: 16"),
    (
        BOTH,
        """  speed:    {label: Speed, kind: config_group}
  gain:     {label: Camera 2, kind: property, property: Gain, limits: [-5, 8]}
  gain_1:   {label: Camera 1, kind: property, property: Gain, limits: [-5, 8]}
  slow:     {label: Camera 2, kind: property, property: Exposure, limits: [1, 60000]}
  crash:    {label: Camera 2, kind: property, property: SimulateCrash, choices: ["", "Dereference Null Pointer"]}
""",
    ),
    ("red: {light: lamp,", "red: {light: lamp, preset: [Speed, Slow],"),
]


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def apart(
    folder: Path, mode: str = "worker", scope: tuple[tuple[str, str], ...] = (), cfg: tuple[tuple[str, str], ...] = ()
) -> Scope:
    """Two cameras of different size and type, the second one with a core of its own; ``scope`` and ``cfg`` are more edits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mm.cfg").write_text(edited((SOURCE / "mm.cfg").read_text() + MORE, *CFG, *cfg))
    (folder / "scope.yml").write_text(edited((SOURCE / "scope.yml").read_text(), *SCOPE, *scope))
    return load_scope(folder, environ={"QUEUESCOPE_MICROMANAGER__PROCESS": mode})


@pytest.fixture(params=["worker", "own"])
def hardware(request: pytest.FixtureRequest, tmp_path: Path, start_process: Callable[..., Any]) -> Iterator[Any]:
    """In this process, and in one of its own."""
    scope, layout = apart(tmp_path / "scope", request.param), Layout(tmp_path / "data")
    if request.param == "own":
        start_process(scope.path, layout.data).started()
    connected = connect(scope, layout, timeout_s=60)
    yield connected
    connected.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Any]:
    """In this process, where its cores can be looked at."""
    connected = connect(apart(tmp_path / "scope"), Layout(tmp_path / "data"))
    yield connected
    connected.close()


def opened(hardware: Any, frames: int) -> str:
    datasets = tuple(DatasetPlan(name=f"of_{camera}", camera=camera, frames=frames) for camera in SIZES)
    return str(hardware.open_recording(RecordingPlan(run_uid=str(uuid.uuid4()), datasets=datasets)).recording)


def burst(frames: int, exposure_ms: float = 2) -> BurstProgram:
    settings = FrameSettings(exposure_ms=exposure_ms, light="lamp")
    return BurstProgram(
        views=tuple(BurstView(dataset=f"of_{c}", camera=c, settings=settings, frames=frames) for c in SIZES)
    )


def running(hardware: Any, recording: str, frames: int = 2) -> RecordingState:
    """So many frames of each are on disk."""
    state = hardware.recording(recording)
    while state.phase == "running" and min(one.frames_written for one in state.datasets.values()) < frames:
        state = hardware.recording(recording, seen=state.version, wait_s=20)
    return state


def on_disk(hardware: Any, state: RecordingState) -> dict[str, np.ndarray]:
    """Each camera's frames, which have its size and type and are what came from its buffer, in order."""
    found = {}
    for camera, (shape, dtype) in SIZES.items():
        dataset = state.datasets[f"of_{camera}"]
        pixels = zarr.open_array(Path(dataset.path) / "0", mode="r")[...]
        assert pixels.shape[-2:] == shape
        assert pixels.dtype == dtype
        taken = hardware.checksums(state.recording, f"of_{camera}")
        assert len(taken) == dataset.frames_written
        assert [checksum(frame) for frame in pixels[: len(taken)]] == list(taken)
        found[camera] = pixels
    return found


def test_cameras_of_different_size_and_type_record_together(
    hardware: Any, follow: Callable[..., RecordingState]
) -> None:
    """R4.1 in one burst; each frame in its own camera's dataset, with its size, once."""
    recording = opened(hardware, FRAMES)
    state = follow(hardware, hardware.start_burst(recording, burst(FRAMES)))
    assert state.phase == "done", state.error
    assert {one.frames_written for one in state.datasets.values()} == {FRAMES}
    frames = on_disk(hardware, hardware.close_recording(recording))
    for camera, (shape, dtype) in SIZES.items():
        snapped = hardware.snap(camera, FrameSettings(exposure_ms=2))
        assert (snapped.shape, snapped.dtype) == (shape, dtype)
        means = frames[camera].mean(axis=(-2, -1))
        assert np.allclose(means, snapped.mean(), rtol=0.2), "each frame looks like one of this camera"
        assert snapped.max() < np.iinfo(dtype).max
        assert len({checksum(frame) for frame in frames[camera]}) == FRAMES, "no frame came twice"


def test_each_camera_is_set_and_read_in_its_core(hardware: Any) -> None:
    state = hardware.state()
    assert not state.errors
    assert {n: ((c.height, c.width), c.dtype) for n, c in state.cameras.items()} == SIZES, "System/Startup reached both"
    assert state.labels["emission"] == "State-3"
    assert hardware.configure_camera("second", exposure_ms=7, binning=2).width == 80
    state = hardware.state()
    assert (state.cameras["second"].exposure_ms, state.cameras["first"].binning) == (7, 1)
    assert hardware.set_value("gain", 5.0) == 5.0
    assert hardware.state().cameras["second"].gain == 5
    assert hardware.value("gain_1") == 0


def test_a_preset_reaches_both_cores(hardware: Any) -> None:
    """R3.10 each entry waited for and read back where its device is; the label is what all of them read."""
    seen = hardware.events().cursor
    assert hardware.select("speed", "Fast") == "Fast" == hardware.label("speed")
    assert (hardware.value("gain_1"), hardware.value("gain"), hardware.label("emission")) == (1, 2, "State-1")
    hardware.apply_channel("red")
    assert (hardware.value("gain_1"), hardware.value("gain"), hardware.label("speed")) == (3, 4, "Slow")
    hardware.set_value("gain", 8.0)
    assert hardware.label("speed") == "", "the own core's part counts"
    told: list[tuple[str, Any]] = []
    while ("speed", "") not in told or ("gain", 8.0) not in told:
        batch = hardware.events(seen, 20)
        assert batch.events, f"nothing came any more after {told}"
        seen = batch.cursor
        told.extend((event.name, event.value) for event in batch.events)


def test_an_entry_that_does_not_hold_in_the_own_core_is_an_error(local: Any) -> None:
    """R3.10"""
    own = local._microscope._core.of("Camera 2")
    real = own.mm

    class Stubborn:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        @staticmethod
        def setProperty(label: str, name: str, value: str) -> None: ...

    own.mm = Stubborn()
    with pytest.raises(ReadbackError, match=r"speed: Camera 2\.Gain was set to '2' and reads '0'"):
        local.select("speed", "Fast")
    own.mm = real


def test_what_an_own_core_tells_is_an_event(local: Any) -> None:
    """R0.6: an exposure that somebody sets past us."""
    seen = local.events().cursor
    local._microscope._core.of("Camera 2").mm.setExposure("Camera 2", 33.0)
    told: list[tuple[str, str, Any]] = []
    while ("exposure", "second", 33.0) not in told:
        batch = local.events(seen, 20)
        assert batch.events, f"nothing came any more after {told}"
        seen = batch.cursor
        told.extend((event.kind, event.name, event.value) for event in batch.events)


def test_a_halt_stops_every_core(local: Any, follow: Callable[..., RecordingState]) -> None:
    """R3.11"""
    recording = opened(local, 5000)
    local.start_burst(recording, burst(5000, exposure_ms=10))
    running(local, recording)
    local.halt("the embryo moves", "test")
    state = follow(local, local.recording(recording))
    assert state.phase == "failed"
    core = local._microscope._core
    assert not any(core.of(label).mm.isSequenceRunning(label) for label in ("Camera 1", "Camera 2"))
    assert not local.light("lamp").on
    local.rearm("test")
    on_disk(local, local.close_recording(recording))


def test_an_own_core_that_hangs_is_noticed(tmp_path: Path) -> None:
    """R0.3, R5.7: as one in the main core; nor is the microscope released meanwhile."""
    local: Any = connect(apart(tmp_path / "scope", scope=(IMPATIENT,)), Layout(tmp_path / "data"))
    entered, leave = threading.Event(), threading.Event()
    own = local._microscope._core.of("Camera 2")

    def getGain(*_: Any) -> str:
        entered.set()
        leave.wait(60)
        return "0"

    thread = threading.Thread(target=lambda: own.ask("second", getGain, "Camera 2", "Gain"))
    thread.start()
    assert entered.wait(20)
    with pytest.raises(BusyError, match="second is still busy"):
        local.release("Ada", "alignment")
    found = local._microscope.hung()
    leave.set()
    thread.join(20)
    assert "second: getGain has not returned" in str(found[1])
    assert local._microscope.hung() is None
    local.close()


def test_a_crash_or_hang_costs_the_process_and_it_comes_back(tmp_path: Path, start_process: Callable[..., Any]) -> None:
    """R0.3: lights first, which need no camera's core; then both cores are loaded again."""
    scope, layout = apart(tmp_path / "scope", "own", scope=(IMPATIENT,)), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    with pytest.raises(HardwareGoneError):
        hardware.set_value("crash", "Dereference Null Pointer")
    assert process.wait() == -signal.SIGSEGV
    hardware.close()
    process = start_process(scope.path, layout.data)
    assert [process.event()["event"], process.event()["event"]] == ["lights-off-first", "ready"]
    hardware = connect(scope, layout, timeout_s=60)
    assert hardware.snap("second", FrameSettings(exposure_ms=2)).shape == SIZES["second"][0]
    hardware.set_value("slow", 60000.0)
    with pytest.raises(HardwareTimeout, match="second: snapImage has not returned"):
        hardware.snap("second", FrameSettings())
    assert process.wait() == 4
    hardware.close()


def test_every_core_is_released_and_reclaimed(local: Any) -> None:
    """R5.7"""
    core = local._microscope._core
    (own,) = core.own.values()
    assert sorted(own.mm.getLoadedDevices()) == ["Camera 2", "Core", "Hub 2"]
    assert not {"Camera 2", "Hub 2"} & set(core.mm.getLoadedDevices())
    local.release("Ada", "alignment in Micro-Manager")
    assert core.mm.getLoadedDevices() == own.mm.getLoadedDevices() == ("Core",)
    assert local.reclaim("Ada").stage == "ready"
    assert not local.state().errors
    assert local.snap("second", FrameSettings(exposure_ms=2)).shape == SIZES["second"][0]
    local.close()
    assert core.mm.getLoadedDevices() == own.mm.getLoadedDevices() == ("Core",)


def test_each_core_logs_into_a_file_of_its_own(local: Any, tmp_path: Path) -> None:
    """MMCore writes them in a thread of its own, a little later."""
    logs, pause = Layout(tmp_path / "data").logs, threading.Event()
    for name, camera in (("mmcore.log", "Camera 1"), ("mmcore-second.log", "Camera 2")):
        for _ in range(1000):
            if camera in (logs / name).read_text():
                break
            pause.wait(0.01)
        assert camera in (logs / name).read_text()


def test_doctor_reads_every_core(tmp_path: Path) -> None:
    found = checkup(apart(tmp_path / "scope"), Layout(tmp_path / "data"))
    assert (found.problems, found.unread) == ([], {})
    assert found.frame_bytes == {"first": 256 * 256 * 2, "second": 96 * 160}


def test_a_python_camera_may_have_its_own_core(
    tmp_path: Path, make_scope: Callable[..., Any], new_plan: Callable[..., Any], follow: Callable[..., RecordingState]
) -> None:
    """Beside another Python camera; without the hub that they share."""
    scope = make_scope(
        tmp_path / "scope",
        scope=[("process: own", "process: own\n  core_per_camera: [cam_b]")],
        cfg=[
            ("#py Parent,HamCam2,TigerCommHub\n", ""),
            ("HamCam2,OnCameraCCDXSize,128", "HamCam2,OnCameraCCDXSize,64"),
        ],
    )
    hardware = connect(scope, Layout(tmp_path / "data"))
    recording = hardware.open_recording(
        new_plan(*(DatasetPlan(name=c, camera=c, frames=FRAMES) for c in ("cam_a", "cam_b")))
    ).recording
    settings = FrameSettings(exposure_ms=2)
    views = tuple(BurstView(dataset=c, camera=c, settings=settings, frames=FRAMES) for c in ("cam_a", "cam_b"))
    state = follow(hardware, hardware.start_burst(recording, BurstProgram(views=views)))
    assert state.phase == "done", state.error
    state = hardware.close_recording(recording)
    for camera, shape in (("cam_a", (128, 128)), ("cam_b", (128, 64))):
        pixels = zarr.open_array(Path(state.datasets[camera].path) / "0", mode="r")[...]
        assert pixels.shape == (FRAMES, *shape)
        assert [checksum(frame) for frame in pixels] == list(hardware.checksums(recording, camera))
        assert pixels.any(axis=(1, 2)).all()
    hardware.close()


@pytest.mark.parametrize(
    ("scope", "cfg", "told"),
    [
        ((), (("Parent,Camera 2,Hub 2", "Parent,Camera 2,DHub"),), r"needs 'DHub', which 'Camera 1', 'Emission'"),
        (
            (("core_per_camera: [second]", "core_per_camera: [first, second]"),),
            (("Parent,Camera 1,DHub", "Parent,Camera 1,Hub 2"),),
            r"first \(Camera 1\) needs 'Hub 2', which 'Camera 2' needs too",
        ),
        (
            (("  speed: ", f"{BOTH}  speed: "),),
            (),
            r"'both' uses second \(Camera 2\).*take second out of 'both'",
        ),
        (
            (),
            (
                (
                    "Device,Hub 2,",
                    "Device,Pair,Utilities,Multi Camera\nProperty,Pair,Physical Camera 1,Camera 2\nDevice,Hub 2,",
                ),
            ),
            r"'Pair' uses second \(Camera 2\)",
        ),
        (
            (("{label: Camera 2, kind: camera", "{label: Camera 3, kind: camera"),),
            (),
            r"has no device 'Camera 3'; it has",
        ),
    ],
)
def test_what_can_not_be_taken_out_is_refused_before_anything_is_loaded(
    tmp_path: Path, scope: tuple[tuple[str, str], ...], cfg: tuple[tuple[str, str], ...], told: str
) -> None:
    """Names the entry, the camera and what to do."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        connect(apart(tmp_path / "scope", scope=scope, cfg=cfg), Layout(tmp_path / "data"))
    assert caught.value.fields["thing"] == "micromanager.core_per_camera"
    assert caught.value.fields["value"] in ("first", "second")
    assert "Device " not in (tmp_path / "data" / "logs" / "mmcore.log").read_text()


def test_a_camera_takes_its_port_along(tmp_path: Path) -> None:
    """Hub, port, and the port's own properties; the rest stays, presets whole."""
    scope = apart(tmp_path / "scope")
    lines = [
        "Device,COM3,SerialManager,COM3",
        "Device,Hub 2,Vendor,Hub",
        "Device,Camera 2,Vendor,Cam",
        "Device,Z,Vendor,Z",
        "Property,Hub 2,Port,COM3",
        "Parent,Camera 2,Hub 2",
        "Property,Core,Initialize,1",
        "Property,COM3,BaudRate,9600",
        "Property,Core,Camera,Camera 2",
        "Delay,Z,5",
        "Delay,Camera 2,5",
        "ConfigGroup,System,Startup,Camera 2,Gain,1",
        "ConfigGroup,Camera,Other,Core,Camera,Camera 2",
        "ConfigGroup,Speed,Fast,Camera 2,Gain,2",
        "# the end",
    ]
    parts = split(lines, scope)
    assert parts.own == {"Camera 2": [lines[i] for i in (0, 1, 2, 4, 5, 6, 7, 10, 11)]}
    assert parts.main == [lines[i] for i in (3, 6, 9, 13, 14)]
