"""Several microscopes from one script, each the one that was paired: R2.12."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from queuescope.agents import (
    NotPairedError,
    OtherServerError,
    RefusedError,
    Scope,
    ServerLostError,
    fingerprint,
    keygen,
    pair,
)
from queuescope.hardware._certificates import _pair as new_certificate
from queuescope.layout import Layout
from queuescope.ledger import Ledger, Operations
from queuescope.scripts.cli import complete_app


@pytest.fixture(autouse=True)
def servers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's pairings are kept."""
    path = tmp_path / "settings" / "servers.json"
    monkeypatch.setenv("QUEUESCOPE_SERVERS", str(path))
    return path


@pytest.fixture(scope="module")
def two(start_for_module: Callable[..., Any], data_folder: Callable[[str], Path]) -> list[Any]:
    """Two microscopes."""
    found = []
    for name in ("left", "right"):
        folder = data_folder(name)
        server = start_for_module(folder)
        Layout(folder).runtime_json.write_text(
            json.dumps({"server_id": str(uuid.uuid4()), "http": server.url, "scope": name})
        )
        found.append(server)
    return found


@pytest.fixture
def queues(two: list[Any], recording_queue: Callable[..., Any]) -> Iterator[None]:
    with recording_queue(two[0].layout), recording_queue(two[1].layout):
        yield


def identity(server: Any) -> str:
    return str(server.layout.runtime()["server_id"])


def known(server: Any, key: str) -> bool:
    return Operations(Ledger(server.layout.ledger_db)).by_key(key) is not None


def test_a_job_goes_to_the_one_named(two: list[Any], queues: None, servers_file: Path, tmp_path: Path) -> None:
    """R2.12: by address, or by data directory; what is kept has keys in it and is this user's."""
    left, right = two
    pair("left", url=left.url, key=left.layout.key("agent"))
    assert pair("right", data=right.layout.data).server_id == identity(right)
    assert stat.S_IMODE(servers_file.stat().st_mode) == 0o600
    assert left.layout.key("agent") in servers_file.read_text()
    assert right.layout.key("agent") not in servers_file.read_text()
    keyfile = keygen(tmp_path / "exec.key")
    with Scope.connect("left", keyfile=keyfile) as one, Scope.connect("right", keyfile=keyfile) as other:
        assert (one.name, one.server_id) == ("left", identity(left))
        assert (other.name, other.server_id) == ("right", identity(right))
        one.submit("snap", key="pairing.left-1")
        other.submit("snap", key="pairing.right-1")
        with one.durable("night"), other.durable("night"):
            assert one.key("a") == other.key("a"), "each server has its own record"
            assert one.random() != other.random(), "and each its own numbers"
    assert [known(server, "pairing.left-1") for server in two] == [True, False]
    assert [known(server, "pairing.right-1") for server in two] == [False, True]
    with pytest.raises(NotPairedError, match=r"no microscope 'middle' is paired \(there are left, right\)"):
        Scope.connect("middle")


def test_a_server_whose_identity_changed_is_refused(two: list[Any], queues: None) -> None:
    """R2.12: when it is opened, and while it is: another data directory at this address gets nothing."""
    left, _ = two
    pair("left", url=left.url, key=left.layout.key("agent"))
    before = left.layout.runtime_json.read_text()
    with Scope.connect("left") as scope:
        left.layout.runtime_json.write_text(json.dumps({"server_id": "another", "http": left.url}))
        try:
            with pytest.raises(OtherServerError, match="pair left"):
                scope.submit("snap", key="pairing.stray-1")
            with pytest.raises(OtherServerError):
                Scope.connect("left")
            with pytest.raises(OtherServerError, match="paired with"):
                pair("left", url=left.url, key=left.layout.key("agent"))
            assert pair("left", url=left.url, key=left.layout.key("agent"), again=True).server_id == "another"
        finally:
            left.layout.runtime_json.write_text(before)
    assert not known(left, "pairing.stray-1")


def test_what_can_not_be_paired_says_why(two: list[Any]) -> None:
    left, _ = two
    with pytest.raises(RefusedError, match="unauthenticated"):
        pair("left", url=left.url, key="0" * 64)
    with pytest.raises(NotPairedError, match="pass key="):
        pair("left", url=left.url)
    with pytest.raises(ServerLostError, match="nothing runs on"):
        Scope.connect(data=left.layout.data / "nowhere", patience_s=0.1)


class Front:
    """What a lab puts in front of a server for the network: TLS with a certificate of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder, self._to = folder, int(url.rpartition(":")[2])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate = self.renew()
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self.port = 0

        async def main() -> None:
            self._end = asyncio.Event()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await self._end.wait()
            server.close()

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(main(),))
        self._thread.start()
        started.wait(10)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def renew(self) -> str:
        key, certificate = new_certificate("front")
        (self.folder / "front.pem").write_bytes(key + certificate)
        self._context.load_cert_chain(self.folder / "front.pem")
        return certificate.decode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._to)

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    to.write(data)
                    await to.drain()
            to.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()


def test_a_certificate_is_pinned(two: list[Any], queues: None, tmp_path: Path) -> None:
    """R2.12: the one that was shown at the pairing and no other, for requests and for events."""
    left, _ = two
    with contextlib.closing(Front(left.url, tmp_path)) as front:
        met = pair("safe", url=front.url, key=left.layout.key("agent"))
        assert met.certificate == front.certificate
        assert met.certificate is not None
        assert fingerprint(met.certificate) == fingerprint(front.certificate)
        with Scope.connect("safe") as scope:
            job = scope.submit("snap", key="pairing.safe-1")
            assert next(job.events()).data["state"] == "accepted"
            front.renew()
            with pytest.raises(OtherServerError, match="another certificate"):
                scope.submit("snap", key="pairing.safe-2")
        with pytest.raises(OtherServerError, match="another certificate"):
            Scope.connect("safe")
    assert not known(left, "pairing.safe-2")


def test_the_commands(two: list[Any], servers_file: Path, tmp_path: Path) -> None:
    """R2.12, R1.1: `queuescope pair` and `keygen`."""
    left, right = two
    run = CliRunner().invoke
    done = run(complete_app(), ["pair", "left", "--data", str(left.layout.data), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["server_id"] == identity(left)
    key_file = tmp_path / "agent.key"
    key_file.write_text(right.layout.key("agent") + "\n")
    done = run(complete_app(), ["pair", "left", right.url, "--key-file", str(key_file)])
    assert done.exit_code == 1
    assert "--again replaces it" in done.stderr
    done = run(complete_app(), ["pair", "left", right.url, "--key-file", str(key_file), "--again"])
    assert done.exit_code == 0, done.output
    with Scope.connect("left") as scope:
        assert scope.server_id == identity(right)
    made = tmp_path / "exec.key"
    assert run(complete_app(), ["keygen", str(made)]).exit_code == 0
    before = made.read_text()
    again = run(complete_app(), ["keygen", str(made)])
    assert (again.exit_code, made.read_text()) == (1, before)
    assert "not overwritten" in again.stderr
