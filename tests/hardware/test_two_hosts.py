"""The hardware process on another host: two network namespaces, joined by a cable that can be pulled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zarr

from queuescope.config import Scope
from queuescope.layout import Layout

PC, STACK = "192.0.2.1", "192.0.2.2"
"""Documentation addresses (RFC 5737), which exist in these namespaces only."""
PORT = 47400


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True)


@dataclass
class Hosts:
    """Names of the two namespaces; each has one end of the cable, called ``cable``."""

    pc: str
    stack: str

    def on(self, host: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", host, *command]

    def pull(self) -> None:
        """The PC's end: neither side is told by the other."""
        assert ip("-n", self.pc, "link", "set", "cable", "down").returncode == 0

    def plug(self) -> None:
        assert ip("-n", self.pc, "link", "set", "cable", "up").returncode == 0


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    mark = uuid.uuid4().hex[:6]
    names = Hosts(f"qs-pc-{mark}", f"qs-stack-{mark}")
    try:
        made = ip("netns", "add", names.pc)
        if made.returncode:
            pytest.skip(f"network namespaces can't be made here: {made.stderr.strip()}")
        assert ip("netns", "add", names.stack).returncode == 0
        made = ip("-n", names.pc, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names.stack)
        if made.returncode:
            pytest.skip(f"veth devices can't be made here: {made.stderr.strip()}")
        for name, address in ((names.pc, PC), (names.stack, STACK)):
            for words in (
                ("addr", "add", f"{address}/30", "dev", "cable"),
                ("link", "set", "lo", "up"),
                ("link", "set", "cable", "up"),
            ):
                done = ip("-n", name, *words)
                assert done.returncode == 0, done.stderr
        yield names
    finally:
        for name in (names.pc, names.stack):
            ip("netns", "delete", name)  # the cable goes with it


CLIENT = """
import json, sys, time
from queuescope.config import load_scope
from queuescope.hardware import *
from queuescope.layout import Layout, resolve_uri
scope, layout = load_scope(sys.argv[1]), Layout(sys.argv[2])
def tell(**facts): print(json.dumps(facts), flush=True)
def asked(): return sys.stdin.readline().strip()
hardware = connect(scope, layout, timeout_s=20)
try:
    hardware.move({"z": 1e6})
except HardwareError as error:
    refused = [type(error).__name__, error.fields["limit"]]
off = [light.model_dump(mode="json") for light in hardware.lights_off()]
state = hardware.open_recording(RecordingPlan(run_uid="remote-run", datasets=(DatasetPlan(name="cam_a", camera="cam_a"),)))
for _ in range(3):
    state = hardware.record_frame(state.recording, {"cam_a": FrameSettings(exposure_ms=2, light="l488")})
state = hardware.close_recording(state.recording)
dataset = state.datasets["cam_a"]
tell(
    moved=hardware.move({"z": 12.5}), mode=hardware.info().mode, refused=refused, lights=off,
    snap=hardware.snap("cam_b", FrameSettings(exposure_ms=2)).shape,
    frames=dataset.frames_written, path=dataset.path, mine=str(resolve_uri(layout, scope, dataset.uri, "clients")),
    event=hardware.events().cursor > 0, halted=hardware.safety().model_dump(mode="json"),
    checksums=hardware.checksums(state.recording, "cam_a"),
)
hardware.set_light("led", True, 5.0)
plan = DatasetPlan(name="cam_a", camera="cam_a", frames=2000)
run = hardware.open_recording(RecordingPlan(run_uid="cut-run-1", datasets=(plan,)))
view = VolumeView(dataset="cam_a", camera="cam_a", settings=FrameSettings(exposure_ms=20, light="l488"),
    piezo="piezo_a", piezo_um=tuple(i / 100 for i in range(2000)))
run = hardware.start_volume(run.recording, VolumeProgram(views=(view,)))
run = hardware.recording(run.recording, seen=run.version, wait_s=20)
tell(phase=run.phase)
began = time.monotonic()
while True:
    try:
        hardware.recording(run.recording, seen=10**6, wait_s=30)
    except HardwareError as error:
        tell(error=type(error).__name__, seconds=time.monotonic() - began, message=str(error))
        break
began = time.monotonic()
try:
    hardware.info()
except HardwareError as error:
    tell(error=type(error).__name__, seconds=time.monotonic() - began)
assert asked() == "plugged"
deadline = time.monotonic() + 20
while True:
    try:
        state = hardware.state()
        break
    except HardwareGoneError:
        assert time.monotonic() < deadline
        time.sleep(0.1)
run = hardware.recording(run.recording)
tell(lights=[light.on for light in state.lights.values()], phase=run.phase, error=run.error,
    frames=run.datasets["cam_a"].frames_written)
hardware.close()
"""


def test_the_microscope_on_another_host(
    tmp_path: Path, hosts: Hosts, make_scope: Callable[..., Scope], start_process: Callable[..., Any]
) -> None:
    """R0.3, R0.4, R0.9, R3.9: calls, typed errors and frames cross the link; a pulled cable is a typed error for the client
    within 5 s, and within 8 s no light is on and no volume runs at the other end; plugged in again, the same client goes on.
    """
    scope = make_scope(
        tmp_path,
        "own",
        scope=[
            ("services: {", f"services: {{hardware: 'tcp://{PC}:{PORT}', "),
            ("{hardware: ., tiled: ., clients: .}", "{hardware: disk, tiled: ../pc/disk, clients: ../pc/disk}"),
        ],
    )
    pc, stack = Layout(tmp_path / "pc"), Layout(tmp_path / "stack")
    words = ["--make-keys", str(pc.keys), "--data", str(stack.data)]
    subprocess.run([sys.executable, "-m", "queuescope.hardware", *words], check=True, capture_output=True)
    command = [sys.executable, "-m", "queuescope.hardware", "--scope", str(scope.path), "--data", str(pc.data)]
    process = start_process(scope.path, pc.data, command=hosts.on(hosts.pc, *command)).started()

    client = subprocess.Popen(
        hosts.on(hosts.stack, sys.executable, "-c", CLIENT, str(scope.path), str(stack.data)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "QUEUESCOPE_MICROMANAGER__PROCESS": "own"},
    )
    assert client.stdout is not None
    assert client.stdin is not None
    try:
        smoke = json.loads(client.stdout.readline())
        assert smoke["moved"] == {"z": 12.5}
        assert smoke["mode"] == "own"
        assert smoke["refused"] == ["LimitError", [-50.0, 250.0]]
        assert all(light["off"] for light in smoke["lights"])
        assert smoke["event"]
        assert smoke["halted"], "halt's own port answers across the link, too"
        assert smoke["path"] == str(pc.data / "disk" / "volumes" / "remote-run_cam_a.ome.zarr")
        assert smoke["mine"] == smoke["path"], "../pc/disk, as seen from the stack's data directory"
        assert not (stack.data / "disk").exists()
        frames = zarr.open_array(f"{smoke['mine']}/0", mode="r")
        assert (frames.shape[0], smoke["frames"], len(smoke["checksums"])) == (3, 3, 3)
        assert frames.shape[1:] == tuple(smoke["snap"])

        assert json.loads(client.stdout.readline()) == {"phase": "running"}
        hosts.pull()
        at = time.time()
        cut = json.loads(client.stdout.readline())
        assert cut["error"] == "HardwareGoneError", cut
        assert cut["seconds"] < 5
        again = json.loads(client.stdout.readline())
        assert again["error"] == "HardwareGoneError", again
        assert again["seconds"] < 6
        event = process.event()
        assert event["event"] == "client-gone"
        assert event["at"] - at < 8
        assert all(light["off"] for light in event["lights"])
        hosts.plug()
        client.stdin.write("plugged\n")
        client.stdin.flush()
        after = json.loads(client.stdout.readline())
        assert not any(after["lights"])
        assert after["phase"] in ("done", "failed", "closed")
        assert "is gone" in after["error"]
        assert 0 < after["frames"] < 2000
        client.wait(20)
    finally:
        client.kill()
        client.communicate()
