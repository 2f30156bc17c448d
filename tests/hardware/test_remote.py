"""The hardware process over TCP: certificates on both sides, and nothing else gets in."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queuescope.config import Scope
from queuescope.hardware import (
    ConfigurationError,
    HaltedError,
    LatchFile,
    NotAllowedError,
    connect,
    halt_hardware,
)
from queuescope.hardware._address import address_of
from queuescope.hardware._clients import Clients
from queuescope.layout import Layout

MakeScope = Callable[..., Scope]
Start = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def tcp(make_scope: MakeScope, folder: Path, host: str = "127.0.0.1", port: int | None = None) -> Scope:
    return make_scope(
        folder, "own", scope=[("services: {", f"services: {{hardware: 'tcp://{host}:{port or free_port()}', ")]
    )


def make_keys(data: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "queuescope.hardware", "--make-keys", str(folder), "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True)


def test_keys_are_made_by_one_command(tmp_path: Path) -> None:
    """R0.9: each side gets its private key and the other's certificate, 0600; keys in use are never overwritten."""
    done = make_keys(tmp_path / "data", tmp_path / "for the pc")
    assert done.returncode == 0, done.stderr
    sides = {Layout(tmp_path / "data").keys: "client", tmp_path / "for the pc": "server"}
    for folder, own in sides.items():
        other = {"client": "server", "server": "client"}[own]
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("hardware_*")}
        assert files == {f"hardware_{own}.pem": 0o600, f"hardware_{other}.crt": 0o600}
    again = make_keys(tmp_path / "data", tmp_path / "another")
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_an_address_without_certificates_is_refused_with_the_remedy(
    tmp_path: Path, make_scope: MakeScope, start_process: Start
) -> None:
    """R0.9: by the process before it loads anything, and by the client without waiting."""
    scope = tcp(make_scope, tmp_path, host="192.0.2.1", port=6000)
    process = start_process(scope.path, tmp_path / "data")
    event = process.event()
    assert (event["event"], event["type"]) == ("refused", "ConfigurationError")
    assert "--make-keys FOLDER" in event["error"]
    assert process.wait() == 1
    with pytest.raises(ConfigurationError, match=r"hardware_client\.pem.*--make-keys FOLDER"):
        connect(scope, Layout(tmp_path / "data"), timeout_s=30)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_no_address_means_every_network(tmp_path: Path, make_scope: MakeScope, host: str) -> None:
    """R0.9: beyond loopback it listens at the one address that the scope names."""
    scope = tcp(make_scope, tmp_path, host=host)
    with pytest.raises(ConfigurationError, match="every network"):
        address_of(scope, Layout(tmp_path / "data"))


def test_only_the_holder_of_the_other_certificate_gets_in(
    tmp_path: Path, make_scope: MakeScope, start_process: Start
) -> None:
    """R0.9: no certificate, a stranger's, plain text and silence are refused; meanwhile others are served."""
    scope, layout = tcp(make_scope, tmp_path), Layout(tmp_path / "data")
    start_process(scope.path, layout.data).started()
    place = (address_of(scope, layout).host, address_of(scope, layout).port)
    with socket.create_connection(place) as silent:
        hardware = connect(scope, layout, timeout_s=60)  # a silent peer keeps nobody out
        assert hardware.move({"z": 2.0}) == {"z": 2.0}
        assert silent.fileno() >= 0
    with socket.create_connection(place) as plain:
        plain.settimeout(20)
        plain.sendall(b"PYRO" * 20)
        assert plain.recv(100)[:1] in (b"", b"\x15")  # the end, or a TLS alert
    naked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    naked.check_hostname, naked.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(place) as raw, naked.wrap_socket(raw) as connection:
        connection.settimeout(20)
        with pytest.raises(ssl.SSLError):
            connection.recv(1)

    stranger = Layout(tmp_path / "stranger")
    assert make_keys(stranger.data, tmp_path / "unused").returncode == 0
    with pytest.raises(NotAllowedError, match="refused us"):  # the stranger does not take this server for his
        connect(scope, stranger, timeout_s=10)
    (stranger.keys / "hardware_server.crt").write_bytes((layout.keys / "hardware_server.crt").read_bytes())
    with pytest.raises(NotAllowedError, match="refused us"):  # and the server not him for its client
        connect(scope, stranger, timeout_s=10)
    assert hardware.positions(("z",)) == {"z": 2.0}
    hardware.close()


CLIENT = """
import sys, threading, time
from queuescope.config import load_scope
from queuescope.hardware import *
from queuescope.layout import Layout
hardware = connect(load_scope(sys.argv[1]), Layout(sys.argv[2]), timeout_s=60)
exec(sys.argv[3])
print("done", flush=True)
sys.stdin.readline()
hardware.close()
"""

OtherClient = Callable[[Scope, Layout, str], subprocess.Popen[str]]


@pytest.fixture
def other_client() -> Iterator[OtherClient]:
    """``other_client(scope, layout, act)``: a client in a process of its own that has done ``act``; a line on its standard
    input makes it close in good order.
    """
    started: list[subprocess.Popen[str]] = []

    def start(scope: Scope, layout: Layout, act: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(scope.path), str(layout.data), act],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "QUEUESCOPE_MICROMANAGER__PROCESS": "own"},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("over", ["unix socket", "tcp"])
def test_the_hardware_puts_itself_safe_when_its_client_is_gone(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, over: str, other_client: OtherClient
) -> None:
    """R3.9: a client that is killed after it opened a gate and began a volume leaves no light on and no volume running."""
    scope = tcp(make_scope, tmp_path) if over == "tcp" else make_scope(tmp_path, "own")
    layout = Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    watcher = connect(scope, layout, timeout_s=60)
    act = (
        "plan = RecordingPlan(run_uid='gone-client', datasets=(DatasetPlan(name='cam_a', camera='cam_a', frames=2000),));"
        "state = hardware.open_recording(plan);"
        "hardware.set_light('led', True, 5.0);"
        "view = VolumeView(dataset='cam_a', camera='cam_a', settings=FrameSettings(exposure_ms=20, light='l488'),"
        " piezo='piezo_a', piezo_um=tuple(i / 100 for i in range(2000)));"
        "state = hardware.start_volume(state.recording, VolumeProgram(views=(view,)));"
        "open(sys.argv[2] + '/recording', 'w').write(state.recording);"
        "threading.Thread(target=hardware.recording, args=(state.recording, 10**6, 30), daemon=True).start();"
        "[time.sleep(0.001) for _ in iter(lambda: len(hardware._busy), 1)]"
    )
    client = other_client(scope, layout, act)
    recording = (layout.data / "recording").read_text()
    assert watcher.light("led").on
    assert watcher.recording(recording).phase == "running"
    client.kill()
    client.wait()
    killed = time.time()
    event = process.event()
    assert event["event"] == "client-gone"
    assert event["at"] - killed < 8
    assert all(light["off"] for light in event["lights"])
    ended = watcher.recording(recording)
    assert ended.phase in ("done", "failed", "closed")
    assert "is gone" in str(ended.error)
    assert ended.datasets["cam_a"].frames_written < 2000
    assert not any(light.on for light in watcher.state().lights.values())
    watcher.close()


def test_a_halt_reaches_the_hardware_over_tcp(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, other_client: OtherClient
) -> None:
    """R3.11: on its port of its own, while the other one is busy with a volume; it latches at both ends, and nothing is on."""
    scope, layout = tcp(make_scope, tmp_path), Layout(tmp_path / "data")
    start_process(scope.path, layout.data).started()
    act = (
        "plan = RecordingPlan(run_uid='halted-far', datasets=(DatasetPlan(name='cam_a', camera='cam_a', frames=2000),));"
        "state = hardware.open_recording(plan);"
        "view = VolumeView(dataset='cam_a', camera='cam_a', settings=FrameSettings(exposure_ms=20, light='l488'),"
        " piezo='piezo_a', piezo_um=tuple(i / 100 for i in range(2000)));"
        "state = hardware.start_volume(state.recording, VolumeProgram(views=(view,)));"
        "open(sys.argv[2] + '/recording', 'w').write(state.recording)"
    )
    other_client(scope, layout, act)
    outcome = halt_hardware(scope, layout, "it bleaches", "a person")
    assert (outcome.confirmed, outcome.killed) == (True, False), outcome.detail
    assert LatchFile.halt(layout).exists()
    watcher = connect(scope, layout, timeout_s=60)
    assert watcher.safety().halted == outcome.halted
    assert not any(light.on or light.emission for light in watcher.state().lights.values())
    recording = watcher.recording((layout.data / "recording").read_text(), wait_s=20)
    while recording.phase == "running":
        recording = watcher.recording(recording.recording, seen=recording.version, wait_s=20)
    assert "halted by a person" in str(recording.error)
    with pytest.raises(HaltedError):
        watcher.move({"z": 1.0})
    assert watcher.rearm("a person").halted is None
    watcher.close()


def test_a_recording_of_a_client_that_left_while_it_was_opened_is_nobodys() -> None:
    """R3.12: its files must be finished at once, for nobody will close them."""
    clients, connection = Clients(lambda client: None), object()
    clients.joined(connection, "worker")
    assert clients.opened(connection, "first")
    clients.left(connection)
    assert not clients.opened(connection, "second")
    assert clients.recordings("worker") == ["first"]
    clients.close()


def test_a_stopped_client_leaves_no_light_on(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, other_client: OtherClient
) -> None:
    """R3.9: its connections stay, so nobody misses it; the gate that it opened is closed all the same, after its time."""
    scope, layout = (
        make_scope(tmp_path, "own", scope=[("  led:\n", "  led:\n    max_on_s: 2\n")]),
        Layout(tmp_path / "data"),
    )
    start_process(scope.path, layout.data).started()
    watcher = connect(scope, layout, timeout_s=60)
    seen = watcher.events().cursor
    client = other_client(scope, layout, "hardware.set_light('led', True, 5.0)")
    client.send_signal(signal.SIGSTOP)
    told: list[bool] = []
    while told[-1:] != [False]:
        batch = watcher.events(seen, 20)
        assert batch.events, "the gate was not closed"
        seen = batch.cursor
        told += [event.value for event in batch.events if (event.kind, event.name) == ("light", "led")]
    assert told[0] is True
    assert not watcher.light("led").on
    watcher.close()


def test_a_client_that_only_looked_or_said_goodbye_is_not_missed(
    tmp_path: Path, make_scope: MakeScope, start_process: Start, other_client: OtherClient
) -> None:
    """R0.7: what a person left on stays on, and the death of a reader (the HTTP server) disturbs nothing."""
    scope, layout = make_scope(tmp_path, "own"), Layout(tmp_path / "data")
    process = start_process(scope.path, layout.data).started()
    polite = other_client(scope, layout, "hardware.set_light('led', True, 5.0)")
    reader = other_client(scope, layout, "hardware.state()")
    polite.communicate("\n", timeout=20)
    reader.kill()
    reader.wait()
    driver = other_client(scope, layout, "hardware.move({'z': 1.0})")
    watcher = connect(scope, layout, timeout_s=60)
    assert watcher.light("led").on
    driver.kill()
    driver.wait()
    event = process.event()  # the first one there is: neither of the others was missed
    assert event["event"] == "client-gone"
    assert not watcher.light("led").on
    watcher.close()
    process.signal(signal.SIGTERM)
    assert process.event()["event"] == "stopped"
