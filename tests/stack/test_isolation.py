"""The hardware process dies, freezes or hangs in the middle of a run: the run ends well told, and the next plan runs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import zarr

from queuescope.config import SCOPES, load_scope
from queuescope.hardware import HardwareError, connect
from queuescope.layout import frames_on_disk, resolve_uri

FAULTS = """  crash: {label: Bottom, kind: property, property: SimulateCrash, choices: ["", "Dereference Null Pointer"]}
  very_slow: {label: Bottom, kind: property, property: Exposure, limits: [1, 60000]}
  emission: {label: Emission,"""
EDITS = (
    ("  emission: {label: Emission,", FAULTS),
    ("call_timeout_s: 10", "call_timeout_s: 2"),
    ("min_free_gb: 1", "min_free_gb: 0"),
)


@pytest.fixture
def frail(another_stack: Any, tmp_path: Path) -> Any:
    """A stack of its own whose cameras can crash and hang."""
    return frail_stack(another_stack, tmp_path, "--no-catalog")


@pytest.fixture
def frail_with_courier(another_stack: Any, tmp_path: Path) -> Any:
    """The same, and somebody who closes what nobody writes any more."""
    return frail_stack(another_stack, tmp_path, "--no-wait-catalog")


def frail_stack(another_stack: Any, tmp_path: Path, how: str) -> Any:
    folder = tmp_path / "frail"
    folder.mkdir()
    text = (SCOPES / "demo-dispim" / "scope.yml").read_text(encoding="utf-8")
    for old, new in EDITS:
        assert old in text
        text = text.replace(old, new)
    (folder / "scope.yml").write_text(text, encoding="utf-8")
    cfg = (SCOPES / "demo-dispim" / "mm.cfg").read_text(encoding="utf-8")
    cfg = cfg.replace("ExposureMs,10000.0", "ExposureMs,60000.0").replace("2048", "256").replace("1024", "256")
    (folder / "mm.cfg").write_text(cfg, encoding="utf-8")
    another_stack.scope = load_scope(folder)
    another_stack.environ["QUEUESCOPE_SCOPE"] = str(another_stack.scope.path)
    started = another_stack.up(how)
    assert started.returncode == 0, started.stderr
    return another_stack


def running(stack: Any, frames: int) -> str:
    """The uid of the run that is open, once it has this many frames on disk."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for log in stack.layout.documents.glob("*.jsonl"):
            written = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if written and json.loads(written[-1])["name"] != "stop":
                counts = [frames_on_disk(volume) for volume in stack.layout.volumes.glob(f"{log.stem}_*.ome.zarr")]
                if counts and min(count or 0 for count in counts) >= frames:
                    return log.stem
        time.sleep(0.02)
    raise AssertionError("no run got its frames")


def documents(stack: Any, uid: str) -> list[tuple[str, dict[str, Any]]]:
    lines = stack.layout.document_log(uid).read_text().splitlines()
    return [(line["name"], line["doc"]) for line in map(json.loads, lines)]


def crash(stack: Any) -> None:
    """DemoCamera's own segfault, set off by a client from outside the run."""

    def dereference() -> None:
        hardware = connect(stack.scope, stack.layout)
        with pytest.raises(HardwareError):
            hardware.set_value("crash", "Dereference Null Pointer")
        hardware.close()

    thread = threading.Thread(target=dereference)
    thread.start()
    thread.join(20)


def send(number: int) -> Callable[[Any], None]:
    return lambda stack: psutil.Process(stack.runtime["pids"]["hardware"]).send_signal(number)


def ended(stack: Any, uid: str, within_s: float) -> tuple[dict[str, Any], float]:
    """The stop document and how long it took to come."""
    began = time.monotonic()
    while time.monotonic() < began + within_s:
        name, document = documents(stack, uid)[-1]
        if name == "stop":
            return document, time.monotonic() - began
        time.sleep(0.02)
    raise AssertionError(f"run {uid} has no stop document after {within_s} s")


def assert_told_and_counted(stack: Any, uid: str, stop: dict[str, Any], words: str) -> None:
    assert stop["exit_status"] == "fail"
    assert words in stop["reason"], stop["reason"]
    resources = [document for name, document in documents(stack, uid) if name == "stream_resource"]
    assert set(stop["frames"]) >= {resource["data_key"] for resource in resources}
    for resource in resources:
        volume = resolve_uri(stack.layout, stack.scope, resource["parameters"]["uri_client"], "hardware")
        told = stop["frames"][resource["data_key"]]
        assert told == frames_on_disk(volume) >= 1
        array: Any = zarr.open_array(f"{volume}/0", mode="r")
        assert array.shape[0] == told
        assert all(array[index].any() for index in range(told))
    code, run = stack.get(f"/api/runs/{uid}")
    assert (code, run["status"]) == (200, "failed")


def back(stack: Any, pid: int, since: float, within_s: float) -> float:
    """Seconds until another hardware process answers; its lights are off."""
    while time.monotonic() < since + within_s:
        try:
            hardware = connect(stack.scope, stack.layout, timeout_s=0.2)
        except HardwareError:
            continue
        if hardware.info().pid != pid:
            seconds = time.monotonic() - since
            lights = hardware.state().lights.values()
            hardware.close()
            assert not any(light.on or light.emission for light in lights)
            return seconds
        hardware.close()
    raise AssertionError(f"no hardware process after {within_s} s")


FAULTS_AT_ONCE: list[Any] = [
    pytest.param(crash, "snap", {"camera": "cam_a", "n": 500}, id="segfault between two frames"),
    pytest.param(send(signal.SIGKILL), "acquire_volume", {"slices": 190}, id="kill -9 in a volume"),
]


@pytest.mark.parametrize(("fault", "plan", "kwargs"), FAULTS_AT_ONCE)
def test_the_hardware_dies_in_a_run(frail: Any, fault: Any, plan: str, kwargs: dict[str, Any]) -> None:
    """R0.3, R3.12: the run fails within 2 s and says why, its frames are counted and read back, the process is back within
    10 s, and the next keyed plan, queued before the fault, runs in the same environment.
    """
    channels = [{"name": "gfp"}]
    first = frail.submit(plan, "isolation.first", channels=channels, **kwargs)
    uid = running(frail, frames=3)
    second = frail.submit("acquire_volume", "isolation.second", slices=3, channels=channels)
    pids = frail.runtime["pids"]
    struck = time.monotonic()
    fault(frail)
    stop, _ = ended(frail, uid, 30)  # 2 s and 10 s on a quiet machine: `bench faults`
    back(frail, pids["hardware"], struck, 60)
    assert_told_and_counted(frail, uid, stop, "the hardware process")
    assert frail.wait(first)["result"]["exit_status"] == "failed"
    assert "is gone" in frail.wait(first)["result"]["msg"]
    item = frail.wait(second)
    assert item["result"]["exit_status"] == "completed", item["result"]["msg"]
    assert (
        frail.run(plan, "isolation.third", channels=channels, **{**kwargs, **SHORT[plan]})["result"]["exit_status"]
        == "completed"
    )
    assert frail.runtime["pids"]["worker"] == pids["worker"]


SHORT = {"snap": {"camera": "cam_a", "n": 2}, "z_stack": {"range_um": 1}, "acquire_volume": {"slices": 2}}


def test_the_hardware_freezes_in_a_run(frail: Any) -> None:
    """R0.3, R3.12: ``kill -STOP``: no answer for 5 s, so the supervisor kills it; from there on a death like any other."""
    first = frail.submit("z_stack", "isolation.frozen-1", range_um=200, centre_um=100, step_um=0.5)
    uid = running(frail, frames=3)
    pid = frail.runtime["pids"]["hardware"]
    struck = time.monotonic()
    send(signal.SIGSTOP)(frail)
    stop, _ = ended(frail, uid, 30)
    back(frail, pid, struck, 60)
    assert_told_and_counted(frail, uid, stop, "the hardware process")
    assert frail.wait(first)["result"]["exit_status"] == "failed"
    assert frail.run("snap", "isolation.frozen-2")["result"]["exit_status"] == "completed"


def test_an_adapter_hangs_in_a_run(frail: Any) -> None:
    """R0.3, R3.12: at the call's deadline (2 s and the longest exposure) the run ends and names device and function."""
    first = frail.submit("snap", "isolation.hang-1", camera="overview", n=500)
    uid = running(frail, frames=3)
    pid = frail.runtime["pids"]["hardware"]
    struck = time.monotonic()
    hardware = connect(frail.scope, frail.layout)
    hardware.set_value("very_slow", 60000.0)
    hardware.close()
    stop, _ = ended(frail, uid, 30)
    assert "overview: snapImage has not returned" in stop["reason"]
    back(frail, pid, struck, 60)
    assert_told_and_counted(frail, uid, stop, "its adapter hangs")
    assert "snapImage has not returned" in frail.wait(first)["result"]["msg"]
    assert frail.run("snap", "isolation.hang-2")["result"]["exit_status"] == "completed"


def test_a_person_is_asked_before_the_rest_is_loaded(another_stack: Any) -> None:
    """R0.3: with `micromanager.restart: ask` the next plan waits with the lights off until somebody rearms, then it runs."""
    stack = another_stack
    stack.environ["QUEUESCOPE_MICROMANAGER__RESTART"] = "ask"
    started = stack.up("--no-catalog")
    assert started.returncode == 0, started.stderr
    first = stack.submit("z_stack", "isolation.ask-1", range_um=100, step_um=0.5, centre_um=100)
    running(stack, frames=3)
    second = stack.submit("snap", "isolation.ask-2")
    send(signal.SIGKILL)(stack)
    assert stack.wait(first)["result"]["exit_status"] == "failed"
    hardware = connect(stack.scope, stack.layout, timeout_s=60)
    info = hardware.info()
    assert (info.stage, info.waits is not None) == ("waiting", True)
    code, ready = stack.get("/api/ready")
    assert code == 503
    assert any("an operator must rearm" in reason for reason in ready["reasons"])
    assert not [item for item in stack.manager().history_get()["items"] if item["item_uid"] == second]
    hardware.rearm("a person")
    hardware.close()
    assert stack.wait(second)["result"]["exit_status"] == "completed"


def test_the_worker_dies_in_a_volume(frail_with_courier: Any) -> None:
    """R3.11, R3.12: nobody steers the volume any more: it ends, lights are off, its files are finished; the run is
    `interrupted`, before and after the courier closed its log, and never runs again by itself.
    """
    frail = frail_with_courier
    channels = [{"name": "gfp", "exposure_ms": 50}]
    frail.submit("acquire_volume", "isolation.worker-1", slices=190, views="A", channels=channels)
    uid = running(frail, frames=3)
    pids = frail.runtime["pids"]
    struck = time.monotonic()
    psutil.Process(pids["worker"]).send_signal(signal.SIGKILL)
    volumes = list(frail.layout.volumes.glob(f"{uid}_*.ome.zarr"))
    shapes: list[int] = []
    while not shapes or max(shapes) >= 190:
        assert time.monotonic() - struck < 60, "the files were not finished"
        time.sleep(0.05)
        shapes = [zarr.open_array(f"{volume}/0", mode="r").shape[0] for volume in volumes]
    assert shapes == [frames_on_disk(volume) for volume in volumes]
    assert frail.runtime["pids"]["hardware"] == pids["hardware"]
    assert not any(light.on for light in frail.hardware().state().lights.values())
    assert frail.get(f"/api/runs/{uid}")[1]["status"] == "interrupted"
    stop, _ = ended(frail, uid, 60)
    assert (stop["exit_status"], stop["interrupted"]) == ("fail", True)
    assert stop["frames"] == dict(
        zip((volume.name.split("_", 1)[1].partition(".")[0] for volume in volumes), shapes, strict=True)
    )
    code, run = frail.get(f"/api/runs/{uid}")
    assert (code, run["status"]) == (200, "interrupted")
    assert {dataset["name"]: dataset["frames_written"] for dataset in run["datasets"]} == stop["frames"]
