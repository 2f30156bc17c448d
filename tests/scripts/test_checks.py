"""Bad surroundings are refused before anything starts, with a sentence that says what to do; nothing is changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from queuescope.config import Scope, load_scope
from queuescope.layout import Layout
from queuescope.scripts import _checks, _valkey
from queuescope.scripts._children import StartError, last_error


def scope_with(**overrides: str) -> Scope:
    return load_scope("demo-dispim", {f"QUEUESCOPE_{name.upper()}": value for name, value in overrides.items()})


def test_a_second_stack_on_a_data_directory_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    _checks.create(layout)
    first = _checks.lock(layout)
    try:
        assert _checks.holder(layout) == os.getpid()
        with pytest.raises(StartError, match=rf"already runs on {tmp_path} \(pid {os.getpid()}\).*queuescope down"):
            _checks.lock(layout)
    finally:
        os.close(first)
    assert _checks.holder(layout) is None
    os.close(_checks.lock(layout))


HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.pwrite(descriptor, b"4194303", 0)  # a pid that nobody has: the supervisor is dead, its reaper still at work
print("held", flush=True)
sys.stdin.read()
"""


def test_a_start_waits_for_the_children_of_a_killed_supervisor(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    _checks.create(layout)
    reaper = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(layout.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reaper.stdin is not None
    assert reaper.stdout is not None
    reaper.stdout.readline()
    assert _checks.holder(layout) == 4194303
    reaper.stdin.close()
    os.close(_checks.lock(layout))
    reaper.wait()
    reaper.stdout.close()


def test_a_port_in_use_is_named_with_its_process_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError) as refused:
            _checks.ports(scope_with(services__http__port=str(port)))
    text = str(refused.value)
    assert f"port {port} of 127.0.0.1 is in use by" in text
    assert f"(pid {os.getpid()})" in text
    assert "services.http.port" in text
    assert "--http-port 0" in text


def test_a_host_that_is_not_this_machine_is_named() -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1 can't be used"):
        _checks.ports(scope_with(services__http__host="192.0.2.1"))


def test_port_0_becomes_two_different_free_ports_that_children_read_from_the_environment() -> None:
    ports = _checks.ports(scope_with(services__http__port="0"))
    assert 0 not in (ports.http, ports.tiled)
    assert ports.http != ports.tiled
    child = load_scope("demo-dispim", ports.environ())
    assert child.services.http.port == ports.http
    assert child.services.tiled.port == ports.tiled  # type: ignore[union-attr]


def test_a_full_disk_is_refused_with_what_is_free_and_what_is_needed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    _checks.create(layout)
    with pytest.raises(
        StartError, match=r"GB free, less than the 1000000000 GB needed \(scope\.yml: storage\.min_free_gb\)"
    ):
        _checks.room(scope_with(storage__min_free_gb="1.0e+9"), layout)


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"the data directory .*file/data can't be used: .*--data"):
        _checks.create(Layout(tmp_path / "file" / "data"))
    assert not (tmp_path / "file" / "data").exists()


def test_a_data_directory_whose_name_is_too_long_for_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="File name too long"):
        _checks.create(Layout(tmp_path / ("x" * 300)))


def test_a_very_long_data_path_has_short_sockets(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "/".join(["a-rather-long-folder-name"] * 10))
    _checks.create(layout)
    for path in (layout.control_socket, layout.info_socket, layout.valkey_socket, layout.hardware_socket):
        assert len(os.fsencode(path)) <= 107
    layout.sockets.rmdir()


def test_valkey_listens_on_a_private_socket_only_and_its_password_is_in_a_private_file(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "a folder")
    _checks.create(layout)
    command = _valkey.command(layout)
    configuration = Path(command[1])
    text = configuration.read_text()
    assert configuration.stat().st_mode & 0o777 == 0o600
    assert layout.key("valkey") not in " ".join(command)
    assert "port 0\n" in text
    assert "appendonly yes\n" in text
    assert f"requirepass {layout.key('valkey')}\n" in text
    layout.sockets.rmdir()


CHAINED = """Traceback (most recent call last):
  File "a.py", line 1
KeyError: 'a'

During handling of the above exception, another exception occurred:

queuescope.hardware.ConfigurationError: no label
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (CHAINED, "ConfigurationError: no label"),
        ("ConfigurationError: no label\nwindow closed\n", "ConfigurationError: no label"),
        ("ERROR:    [Errno 98] address in use\nINFO:     bye\n", "ERROR:    [Errno 98] address in use"),
        ("one\n\ntwo\n", "two"),
        ("", "it said nothing"),
    ],
)
def test_the_last_error_of_a_log_is_found(log: str, line: str) -> None:
    assert last_error(log) == line
