"""The process: found, refused, killed, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaozarrs
import zarr

from queuescope.config import Scope
from queuescope.hardware import (
    ConfigurationError,
    DatasetPlan,
    FrameSettings,
    HardwareError,
    HardwareGoneError,
    HardwareTimeout,
    RecordingPlan,
    VolumeProgram,
    VolumeView,
    connect,
)
from queuescope.layout import Layout

MakeScope = Callable[..., Scope]
Start = Callable[..., Any]


def test_mode_worker_starts_nothing(tmp_path: Path, make_scope: MakeScope) -> None:
    """R0.1: no process, no socket, no name server."""
    me = psutil.Process()
    before = (len(me.children(recursive=True)), len(me.net_connections(kind="all")))
    hardware = connect(make_scope(tmp_path, "worker"), Layout(tmp_path / "data"))
    after = (len(me.children(recursive=True)), len(me.net_connections(kind="all")))
    sockets = list(Layout(tmp_path / "data").sockets.glob("*.sock"))
    hardware.close()
    assert after == before
    assert sockets == []


def test_looking_for_the_process_has_a_deadline_and_sleeps(
    tmp_path: Path, make_scope: MakeScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R0.9: the error says where it looked and how to start it."""
    slept = []
    sleep = time.sleep
    here = threading.get_ident()  # other tests' threads may sleep meanwhile

    def counted(seconds: float) -> None:
        if threading.get_ident() == here:
            slept.append(seconds)
        sleep(seconds)

    monkeypatch.setattr("queuescope.hardware._proxy.time.sleep", counted)
    layout = Layout(tmp_path / "data")
    with pytest.raises(HardwareGoneError, match=r"python -m queuescope\.hardware") as caught:
        connect(make_scope(tmp_path, "own"), layout, timeout_s=0.3)
    assert str(layout.hardware_socket) in str(caught.value)
    assert slept
    assert min(slept) >= 0.02
    assert sum(slept) <= 0.3


def test_the_process_is_found_when_it_comes_late(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.9: whoever connects first waits."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data)
    hardware = connect(scope, layout, timeout_s=20)
    assert hardware.info().pid == process.pid
    hardware.close()


def test_only_this_user_may_open_the_socket(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.9: nothing listens beyond this machine; mode 0600 in a 0700 folder."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    assert stat.S_IMODE(layout.hardware_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.sockets.stat().st_mode) == 0o700
    assert psutil.Process(process.pid).net_connections(kind="inet") == []


def test_tcp_by_choice(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.9: at the address that the scope names, and there only."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    edit = ("services: {", f"services: {{hardware: 'tcp://127.0.0.1:{port}', ")
    scope, layout = make_scope(tmp_path, "own", scope=[edit]), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    assert hardware.info().pid == process.pid
    listening = [c.laddr for c in psutil.Process(process.pid).net_connections(kind="inet") if c.status == "LISTEN"]
    assert {(a.ip, a.port) for a in listening} == {("127.0.0.1", port), ("127.0.0.1", port + 1)}
    hardware.close()
    other = start_process(scope.path, tmp_path / "other")
    event = other.event()
    assert (event["event"], event["type"]) == ("refused", "ConfigurationError")
    assert f"tcp://127.0.0.1:{port}" in event["error"]
    assert other.wait() == 1


def test_a_killed_process_ends_calls_at_once(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, new_plan: Callable[..., RecordingPlan]
) -> None:
    """R0.3: kill −9 in the middle of a call gives `HardwareGoneError`, never a hang; a new process takes over its socket."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    state = hardware.open_recording(new_plan(DatasetPlan(name="cam_a", camera="cam_a")))
    outcome: list[tuple[HardwareError, float]] = []

    def wait() -> None:
        try:
            hardware.recording(state.recording, seen=10**6, wait_s=30)
        except HardwareError as error:
            outcome.append((error, time.monotonic()))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while len(hardware._busy) < 1:  # type: ignore[attr-defined]
        time.sleep(0.001)
    assert hardware.info().pid == process.pid  # the long call has been sent by now, and others still get through
    process.signal(signal.SIGKILL)
    killed = time.monotonic()
    waiting.join(25)
    error, ended = outcome[0]
    assert type(error) is HardwareGoneError
    assert ended - killed < 2
    with pytest.raises(HardwareGoneError, match="is gone"):
        hardware.info()
    process.wait()
    assert layout.hardware_socket.exists(), "a killed process leaves its socket file"
    again = start_process(scope.path, layout.data).started()
    assert hardware.info().pid == again.pid, "the same client works on with the new process"
    hardware.close()


def wait_stopped(pid: int) -> None:
    """Until each of its threads has seen the SIGSTOP: one that still runs could answer."""
    threads = Path(f"/proc/{pid}/task")
    while any((t / "stat").read_text().rpartition(")")[2].split()[0] != "T" for t in threads.iterdir()):
        time.sleep(0.001)


def test_a_frozen_process_gives_a_timeout(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.3: each call has a deadline of its own; afterwards the connection is in step again."""
    scope = make_scope(tmp_path, "own", scope=[("call_timeout_s: 10", "call_timeout_s: 0.5")])
    layout = Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    process.signal(signal.SIGSTOP)
    wait_stopped(process.pid)
    with pytest.raises(HardwareTimeout, match=r"value got no reply .* within 2\.5 s") as caught:
        hardware.value("chamber")
    assert caught.value.fields == {"thing": "value", "limit": 2.5}
    process.signal(signal.SIGCONT)
    assert hardware.positions(("z",)) == {"z": 0.0}
    hardware.close()


def test_a_second_process_is_refused(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """The first one's pid is named, and it goes on undisturbed."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    first = start_process(scope.path, layout.data).started()
    second = start_process(scope.path, layout.data)
    event = second.event()
    assert event["event"] == "refused"
    assert f"process {first.pid}" in event["error"]
    assert second.wait() == 1
    hardware = connect(scope, layout, timeout_s=60)
    assert hardware.info().pid == first.pid
    hardware.close()


@pytest.mark.parametrize(("runs", "asked"), [("own", "worker"), ("worker", "own")])
def test_changing_the_mode_while_running_is_refused(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, runs: str, asked: str
) -> None:
    """R0.8: "restart required", in both directions; what runs goes on."""
    first, second = make_scope(tmp_path / runs, runs), make_scope(tmp_path / asked, asked)
    layout = Layout(tmp_path / "data")
    if runs == "own":
        start_process(first.path, layout.data).started()
    hardware = connect(first, layout, timeout_s=60)
    if asked == "worker":
        with pytest.raises(ConfigurationError, match=r"restart required: micromanager\.process is now `worker`"):
            connect(second, layout)
    else:
        event = start_process(second.path, layout.data).event()
        assert event["event"] == "refused"
        assert "restart required: micromanager.process is now `own`" in event["error"]
    assert hardware.positions(("z",)) == {"z": 0.0}
    hardware.close()


def test_another_scope_is_refused(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """A client never drives a microscope that it doesn't mean."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    start_process(scope.path, layout.data).started()
    other = make_scope(tmp_path / "other", "own", scope=[("name: demo-dispim", "name: other")])
    with pytest.raises(ConfigurationError, match="runs the scope 'demo-dispim', not 'other'"):
        connect(other, layout, timeout_s=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_leaves_lights_off_and_files_whole(
    tmp_path: Path,
    make_scope: MakeScope,
    start_process: Start,
    new_plan: Callable[..., RecordingPlan],
    view: Callable[..., VolumeView],
    number: int,
) -> None:
    """R0.7, R3.9: in the middle of a volume; exit 0, the socket is gone, each light is told, the frames read back."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    hardware.set_light("led", True, 20.0)
    state = hardware.open_recording(
        new_plan(DatasetPlan(name="cam_a", camera="cam_a", frames=150, axis="z", step_um=1))
    )
    slow = view("cam_a", "a", 150, settings=FrameSettings(exposure_ms=100))
    state = hardware.start_volume(state.recording, VolumeProgram(views=(slow,)))
    while state.datasets["cam_a"].frames_written < 2:
        state = hardware.recording(state.recording, seen=state.version, wait_s=20)
    process.signal(number)
    event = process.event()
    assert event["event"] == "stopped"
    assert [(light["light"], light["off"], light["state"]) for light in event["lights"]] == [
        (name, True, "verified") for name in ("l405", "l488", "l561", "l637", "led")
    ]
    assert process.wait() == 0
    assert not layout.hardware_socket.exists()
    (recording,) = event["recordings"]
    assert "shutting down" in recording["error"]
    path = Path(recording["datasets"]["cam_a"]["path"])
    yaozarrs.validate_zarr_store(str(path))
    frames = zarr.open_array(f"{path}/0", mode="r").shape[0]
    jsonl = path.with_name(path.name.replace(".ome.zarr", ".frames.jsonl")).read_text().splitlines()
    assert frames == len(jsonl) == recording["datasets"]["cam_a"]["frames_written"] >= 2
    with pytest.raises(HardwareGoneError):
        hardware.info()
    hardware.close()


def test_a_killed_process_leaves_readable_frames(killed_volume: Any) -> None:
    """R3.12: after SIGKILL every line of the frame list has its frame, and the metadata is valid."""
    import xxhash

    path = killed_volume.path
    yaozarrs.validate_zarr_store(str(path))
    array = zarr.open_array(f"{path}/0", mode="r")
    text = killed_volume.frame_list.read_text()
    recorded = [json.loads(line) for line in text[: text.rindex("\n")].splitlines()]
    assert len(recorded) >= 3
    for line in recorded:
        frame = array[line["index"]]
        assert line["checksum"] == "xxh3_128:" + xxhash.xxh3_128_hexdigest(frame.tobytes())  # type: ignore[union-attr]


def test_a_client_that_goes_leaves_the_hardware_running(
    tmp_path: Path, make_scope: MakeScope, start_process: Start
) -> None:
    """R0.7: who started the hardware cleans it up, nobody else does."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    start_process(scope.path, layout.data).started()
    first, second = (connect(scope, layout, timeout_s=60) for _ in range(2))
    first.set_light("led", True, 5.0)
    first.close()
    first.close()
    with pytest.raises(HardwareGoneError, match="was closed"):
        first.info()
    assert second.light("led").on
    second.close()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("ZStage:Z:32", "ZStage:Z:99"), "no device 'ZStage:Z:99'"),
        (("services: {", "services: {hardware: 'ipc://somewhere', "), "is not tcp://host:port"),
        (("name: demo-dispim", "nome: demo-dispim"), "nome is not a known entry"),
    ],
)
def test_what_can_not_run_says_why(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, edit: tuple[str, str], words: str
) -> None:
    """Issue 2, 'Done when': bad input gives a clear error; the process ends with code 1 and leaves no socket."""
    path = make_scope(tmp_path, "own").path
    path.write_text(path.read_text(encoding="utf-8").replace(*edit), encoding="utf-8")
    process = start_process(path, tmp_path / "data")
    event = process.event()
    assert event["event"] == "refused"
    assert words in event["error"]
    assert process.wait() == 1
    assert not Layout(tmp_path / "data").hardware_socket.exists()


def test_a_long_data_path_does_no_harm(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """Issue 2, 'Done when': a data directory with a very long path, with spaces in it."""
    scope = make_scope(tmp_path, "own")
    layout = Layout(tmp_path / "a folder with spaces" / ("long" * 40) / ("path" * 40))
    layout.data.parent.mkdir(parents=True)
    start_process(scope.path, layout.data).started()
    hardware = connect(scope, layout, timeout_s=60)
    state = hardware.open_recording(
        RecordingPlan(run_uid="long-path", datasets=(DatasetPlan(name="cam_a", camera="cam_a", frames=1),))
    )
    assert os.path.isdir(state.datasets["cam_a"].path)
    hardware.close()


def disturbed(scope: Scope, data: Path, *lines: str) -> list[str]:
    """A command that starts the process after these lines."""
    arguments = ["queuescope.hardware", "--scope", str(scope.path), "--data", str(data)]
    main = "from queuescope.hardware.__main__ import main; main()"
    return [sys.executable, "-c", "\n".join([*lines, f"import sys; sys.argv = {arguments!r}", main])]


def test_an_adapter_that_hangs_does_not_keep_the_process(
    tmp_path: Path, make_scope: MakeScope, start_process: Start
) -> None:
    """R3.9: SIGTERM ends it within 5 s all the same, with another exit code; lights were off before the hang."""
    scope = make_scope(tmp_path, "own")
    hang = 'Core.close = lambda self: (print(\'{"event": "unloading"}\', flush=True), time.sleep(60))'
    lines = ("import time", "from queuescope.hardware._mmcore import Core", hang)
    process = start_process(
        scope.path, tmp_path / "data", command=disturbed(scope, tmp_path / "data", *lines)
    ).started()
    process.signal(signal.SIGTERM)
    assert process.event() == {"event": "unloading"}
    assert process.wait() == 3


def test_ending_while_loading_is_orderly(tmp_path: Path, make_scope: MakeScope, start_process: Start) -> None:
    """R0.7: SIGTERM in the middle of loading still unloads and switches off."""
    scope = make_scope(tmp_path, "own")
    lines = (
        "import os, signal",
        "from queuescope.hardware import _microscope",
        "check = _microscope.check_fit",
        "_microscope.check_fit = lambda *a: (check(*a), os.kill(os.getpid(), signal.SIGTERM))",
    )
    process = start_process(scope.path, tmp_path / "data", command=disturbed(scope, tmp_path / "data", *lines))
    assert [process.event()["event"] for _ in range(2)] == ["ready", "stopped"]
    assert process.wait() == 0
