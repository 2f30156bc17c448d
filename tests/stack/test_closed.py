"""Closed by default: nothing listens beyond this machine, nothing is open to other users, no key leaks."""

import os
import stat
from pathlib import Path
from typing import Any

import psutil


def processes(stack: Any) -> list[psutil.Process]:
    supervisor = psutil.Process(stack.runtime["pids"]["supervisor"])
    return [supervisor, *supervisor.children(recursive=True)]


def secrets(stack: Any) -> list[str]:
    return [path.read_text().strip() for path in stack.layout.keys.iterdir()]


def test_tcp_listens_on_loopback_only_for_http_and_tiled(stack: Any) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes(stack)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    ports = {int(stack.runtime[name].split(":")[2].split("/")[0]) for name in ("http", "tiled")}
    assert listening == {("127.0.0.1", port) for port in ports}


def test_sockets_and_keys_are_this_users_alone(stack: Any) -> None:
    sockets = stack.layout.sockets
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert not sockets.is_relative_to(stack.layout.data)
    for socket in sockets.iterdir():
        if socket.is_socket():
            assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0, socket
            assert len(os.fsencode(socket)) <= 107
    assert {"hardware.sock", "control.sock", "info.sock", "valkey.sock"} <= {path.name for path in sockets.iterdir()}
    for folder in (stack.layout.keys, stack.layout.services):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for key in stack.layout.keys.iterdir():
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert len(key.read_text().strip()) == 64


def test_no_key_is_in_a_log_or_on_a_command_line(stack: Any) -> None:
    keys = secrets(stack)
    assert len(keys) >= 6
    for process in processes(stack):
        line = " ".join(process.cmdline())
        assert not any(key in line for key in keys), process
    for log in stack.layout.logs.iterdir():
        text = log.read_text(errors="replace")
        assert not any(key in text for key in keys), log


def test_generated_configuration_is_private(stack: Any) -> None:
    for path in Path(stack.layout.services).rglob("*"):
        if path.is_file() and any(key in path.read_text(errors="replace") for key in secrets(stack)):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_valkey_wants_its_password(stack: Any) -> None:
    import pytest
    import redis

    client = redis.Redis(unix_socket_path=str(stack.layout.valkey_socket))
    with client, pytest.raises(redis.AuthenticationError):
        client.ping()
