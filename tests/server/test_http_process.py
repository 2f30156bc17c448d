"""`python -m queuescope.server`: its files, its keys, its log, its start and its end (issue 2, items 8 and 9)."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.http import REManagerAPI
from websockets.sync.client import connect

from queuescope.layout import ROLES, Layout


@pytest.fixture(scope="module")
def lone(data_folder: Callable[[str], Path], start_for_module: Any) -> Any:
    """A server with nothing behind it."""
    return start_for_module(data_folder("lone"))


IMPORTS = """
import json, sys
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.server.__main__ import application
application(load_scope("demo-dispim"), Layout(sys.argv[1]))
print(json.dumps(sorted(sys.modules)))
"""


def run_server(data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "queuescope.server", "--scope", "demo-dispim", "--data", str(data)],
        env={**os.environ, "QUEUESCOPE_SERVICES__HTTP__PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_key_is_ever_written_to_the_log(start_and_stop: Any, data_folder: Callable[[str], Path]) -> None:
    """Upstream logs the API key and its secret keys at INFO. Also tried: keys in URLs, wrong keys, a WebSocket, an error."""
    data = data_folder("log")
    server = start_and_stop(data)
    for role in ROLES:
        key = server.layout.key(role)
        server[role].get("/api/auth/whoami").raise_for_status()
        server[""].get(f"/api/status?api_key={key}")
        server[""].get("/api/status", headers={"Authorization": f"ApiKey {key[:-2]}00"})
        server[role].get(f"/api/nothing/{key}")
    address = server.url.replace("http", "ws") + "/api/status/ws"
    with connect(address, additional_headers={"Authorization": f"ApiKey {server.layout.key('agent')}"}, proxy=None):
        pass
    made = server["admin"].post("/api/auth/apikey", json={"expires_in": 60}).json()["secret"]
    server["admin"].get("/api/auth/principal/" + "0" * 32)  # upstream's 500, with a traceback
    server.stop()
    log = server.process.output()
    assert "Bluesky HTTP Server started successfully" in log
    assert "Traceback" in log
    for folder in (server.layout.keys, server.layout.services):
        for file in folder.iterdir():
            if re.fullmatch(rb"[0-9a-f]{64}\s*", file.read_bytes()):
                assert file.read_text().strip() not in log
    assert made not in log
    assert re.search(r"[0-9a-f]{32}(?<!0{32})", log) is None, "something that looks like a secret is in the log"


def test_keys_stand_in_files_that_only_this_user_may_read(lone: Any) -> None:
    layout = lone.layout
    written = [
        layout.services / "http.yml",
        layout.services / "http-auth.db",
        *(layout.key_file(role) for role in ROLES),
    ]
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in written[:2]:
        assert not any(layout.key(role).encode() in path.read_bytes() for role in ROLES)
    command = Path(f"/proc/{lone.process.pid}/cmdline")
    if command.exists():
        assert not any(layout.key(role).encode() in command.read_bytes() for role in ROLES)


def test_it_listens_on_loopback_only_by_default(lone: Any) -> None:
    psutil = pytest.importorskip("psutil")
    listening = [c.laddr.ip for c in psutil.Process(lone.process.pid).net_connections() if c.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


def test_a_replaced_key_counts_after_a_restart_and_the_old_one_no_longer(
    start_and_stop: Any, data_folder: Callable[[str], Path]
) -> None:
    data = data_folder("rotate")
    first = start_and_stop(data)
    old = first.layout.key("agent")
    made = first["admin"].post("/api/auth/apikey", json={"expires_in": 600, "scopes": ["read:status"]}).json()["secret"]
    first.drop()
    first.layout.key_file("agent").unlink()
    second = start_and_stop(data)
    assert second.layout.key("agent") != old
    assert second["agent"].get("/api/status").status_code != 401
    assert second[""].get("/api/auth/whoami", headers={"Authorization": f"ApiKey {old}"}).status_code == 401
    whoami = second[""].get("/api/auth/whoami", headers={"Authorization": f"ApiKey {made}"})
    assert whoami.json()["identities"][0]["id"] == "admin", "a key that an admin made stays"


def test_a_key_with_narrowed_scopes_stays_narrow(lone: Any) -> None:
    server = lone
    made = (
        server["admin"].post("/api/auth/apikey", json={"expires_in": 600, "scopes": ["read:status"]}).json()["secret"]
    )
    narrow = {"Authorization": f"ApiKey {made}"}
    assert server[""].get("/api/auth/scopes", headers=narrow).json()["scopes"] == ["read:status"]
    assert server[""].post("/api/queue/clear", headers=narrow, json={}).status_code == 401
    assert server[""].get("/api/scope", headers=narrow).json()["code"] == "forbidden"


def test_a_port_in_use_is_named_with_the_remedy(data_folder: Callable[[str], Path]) -> None:
    """Issue 2: a port in use gives a clear error."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_server(data_folder("port"), QUEUESCOPE_SERVICES__HTTP__PORT=str(port))
    assert ended.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in ended.stderr
    assert "QUEUESCOPE_SERVICES__HTTP__PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    ended = run_server(blocked)
    assert ended.returncode == 1
    assert str(blocked) in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_key_database_is_named_with_the_remedy(data_folder: Callable[[str], Path]) -> None:
    data = data_folder("damaged")
    (Layout(data).services / "http-auth.db").write_bytes(b"not a database" * 100)
    ended = run_server(data)
    assert ended.returncode == 1
    assert "http-auth.db" in ended.stderr
    assert "remove" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["with a space", "with $HOME in it", "50% of it?", "a#b"])
def test_it_serves_from_any_path(start_and_stop: Any, data_folder: Callable[[str], Path], name: str) -> None:
    server = start_and_stop(data_folder(name))
    assert server["observer"].get("/api/auth/whoami").json()["identities"][0]["id"] == "observer"
    assert (server.layout.services / "http-auth.db").stat().st_size > 0


def test_variables_for_other_servers_open_nothing(start_and_stop: Any, data_folder: Callable[[str], Path]) -> None:
    server = start_and_stop(
        data_folder("variables"),
        QSERVER_HTTP_SERVER_ALLOW_ANONYMOUS_ACCESS="1",
        ALLOW_ANONYMOUS_ACCESS="1",
        QSERVER_HTTP_SERVER_SINGLE_USER_API_KEY="abcdefabcdefabcdef",
        QSERVER_ZMQ_CONTROL_ADDRESS="tcp://127.0.0.1:1",
    )
    assert server[""].get("/api/status").status_code == 401
    key = {"Authorization": "ApiKey abcdefabcdefabcdef"}
    assert server[""].get("/api/status", headers=key).status_code == 401


def test_it_starts_before_the_queue_server_and_finds_it_later(
    start_and_stop: Any, recording_queue: Any, data_folder: Callable[[str], Path]
) -> None:
    """The order of starting is free, and the queue server may come again."""
    data = data_folder("early")
    server = start_and_stop(data)
    assert server["observer"].get("/api/ready").status_code == 503
    assert server["observer"].get("/api/status").status_code == 408
    for _ in range(2):
        with recording_queue(Layout(data)):
            assert server["observer"].get("/api/status").json()["success"] is True
        assert server["observer"].get("/api/ready").json()["components"]["manager"]["ok"] is False


def test_it_ends_on_sigterm_with_a_websocket_open(start_and_stop: Any, data_folder: Callable[[str], Path]) -> None:
    server = start_and_stop(data_folder("end"))
    address = server.url.replace("http", "ws") + "/api/status/ws"
    headers = {"Authorization": f"ApiKey {server.layout.key('observer')}"}
    with connect(address, additional_headers=headers, proxy=None):
        assert server.stop() == 0


def test_forty_silent_clients_do_not_stop_it(lone: Any) -> None:
    """Upstream's stream_console_output keeps one thread of forty for each client, also after it left: that route is closed."""
    for _ in range(45):
        assert lone["admin"].get("/api/stream_console_output").status_code == 403
    assert lone["observer"].get("/api/auth/whoami").status_code == 200


def test_what_the_process_does_not_need_is_not_imported(data_folder: Callable[[str], Path]) -> None:
    """DESIGN section 2: server/ knows neither devices nor MMCore; memory and start time are goals."""
    data = data_folder("imports")
    listed = subprocess.run([sys.executable, "-c", IMPORTS, str(data)], capture_output=True, text=True, check=True)
    modules = set(json.loads(listed.stdout.splitlines()[-1]))
    for name in ("queuescope.devices", "queuescope.plans", "queuescope.startup", "pymmcore_plus", "pymmcore", "tiled"):
        assert name not in modules
    for heavy in ("pandas", "bluesky", "ophyd", "zarr", "Pyro5", "matplotlib", "httpx._main"):
        assert heavy not in modules


def test_stock_clients_get_the_reason_of_a_refusal(guarded: Any) -> None:
    """bluesky-queueserver-api shows `detail` of a refusal."""
    server, _ = guarded
    client = REManagerAPI(http_server_uri=server.url)
    try:
        client.set_authorization_key(api_key=server.layout.key("agent"))
        with pytest.raises(REManagerAPI.HTTPClientError, match=r"400: item\.meta\.op_key is missing"):
            client.item_add(BPlan("rest"))
        with pytest.raises(REManagerAPI.HTTPClientError, match=r"403: .*needs one of the roles admin, operator"):
            client.queue_clear()
    finally:
        client.close()


def test_the_key_database_holds_one_row_a_role(start_and_stop: Any, data_folder: Callable[[str], Path]) -> None:
    data = data_folder("rows")
    for _ in range(2):
        server = start_and_stop(data)
        server.drop()
    with sqlite3.connect(server.layout.services / "http-auth.db") as db:
        rows = db.execute("select id, note from api_keys join identities using (principal_id)").fetchall()
    db.close()
    assert sorted(rows) == [(role, "role key") for role in sorted(ROLES)]


def test_many_clients_at_once_are_all_answered(guarded: Any) -> None:
    """Every request writes its key's last use into SQLite: none may fail with a locked database."""
    server, _ = guarded

    def ask(role: str) -> list[int]:
        headers = {"Authorization": f"ApiKey {server.layout.key(role)}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
            return [client.get("/api/auth/scopes").status_code for _ in range(10)]

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        assert {code for codes in clients.map(ask, [*ROLES, *ROLES]) for code in codes} == {200}
