"""Closed by default: a key per role, readers that can't write, nothing beyond loopback, no key in a log."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from queuescope.config import load_scope
from queuescope.layout import ROLES, Layout
from queuescope.tiled_config import prepare, tiled_url

READS = {
    "metadata": ("GET", "/api/v1/metadata/{uid}"),
    "search": ("GET", "/api/v1/search/"),
    "pixels": ("GET", "/api/v1/array/full/{uid}/primary/cam_a"),
    "table": ("GET", "/api/v1/table/full/{uid}/primary/internal?format=application/json"),
    "documents": ("GET", "/api/v1/container/full/{uid}?format=application/json-seq"),
}
NODE = {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": []}
VOLUME = {
    "structure_family": "array",
    "metadata": {},
    "specs": [],
    "data_sources": [
        {
            "structure_family": "array",
            "structure": {
                "data_type": {"endianness": "little", "kind": "u", "itemsize": 2, "dt_units": None},
                "chunks": [[1]],
                "shape": [1],
                "dims": None,
                "resizable": False,
            },
            "mimetype": "application/x-zarr",
            "parameters": {},
            "assets": [
                {"data_uri": "file://localhost/etc/passwd", "is_directory": False, "parameter": "data_uris", "num": 0}
            ],
            "management": "external",
        }
    ],
}
WRITES = {
    "create": ("POST", "/api/v1/metadata/", NODE),
    "register": ("POST", "/api/v1/register/", VOLUME),
    "repoint": ("PUT", "/api/v1/data_source/{uid}/primary/cam_a", {"data_source": VOLUME["data_sources"][0]}),
    "replace metadata": ("PUT", "/api/v1/metadata/{uid}", {"metadata": {"start": {}}}),
    "patch metadata": (
        "PATCH",
        "/api/v1/metadata/{uid}",
        {"content-type": "application/merge-patch+json", "metadata": {"a": 1}},
    ),
    "write pixels": ("PUT", "/api/v1/array/full/{uid}/primary/cam_a", None),
    "append rows": ("PATCH", "/api/v1/table/partition/{uid}/primary/internal?partition=0", None),
    "end stream": ("DELETE", "/api/v1/stream/close/{uid}", None),
    "delete": ("DELETE", "/api/v1/metadata/{uid}?recursive=true&external_only=false", None),
    "delete revision": ("DELETE", "/api/v1/revisions/{uid}?number=1", None),
}
LINK = {"query": 'mutation { createEntity(input: {name: "x", entityType: "y"}) { id } }'}
NOBODYS = {
    "file": ("GET", "/api/v1/asset/bytes/{uid}/primary/cam_a?id=1"),
    "make a key": ("POST", "/api/v1/auth/apikey"),
    "make somebody else's key": ("POST", "/api/v1/auth/principal/x/apikey"),
    "log in": ("POST", "/api/v1/auth/provider/queuescope/token"),
    "people": ("GET", "/api/v1/auth/principal"),
    "metrics": ("GET", "/api/v1/metrics"),
}


@pytest.fixture
def run_uid(stand: Any, acquire: Any) -> str:
    run = acquire(stand.layout)
    run.expose(2)
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered")
    return str(run.uid)


def client(stand: Any, who: str | None) -> httpx.Client:
    keys = {None: None, "a wrong key": "0" * 64, "no hex": "hello", "the single-user key": "secret"}
    key = keys[who] if who in keys else stand.layout.key(who)
    return httpx.Client(base_url=stand.url, headers={"Authorization": f"Apikey {key}"} if key else {})


@pytest.mark.parametrize("role", ROLES)
def test_every_role_reads_and_none_writes(stand: Any, run_uid: str, role: str) -> None:
    """DESIGN's role table: agents read Tiled and can't write it; so it is for the people, since the courier writes."""
    with client(stand, role) as http:
        before = http.get(f"/api/v1/metadata/{run_uid}").json()
        for method, path in READS.values():
            assert http.request(method, path.format(uid=run_uid)).status_code == 200, path
        for method, path, body in WRITES.values():
            assert http.request(method, path.format(uid=run_uid), json=body).status_code in (401, 403), path
        for method, path in NOBODYS.values():
            assert http.request(method, path.format(uid=run_uid)).status_code in (401, 403, 404, 405), path
        assert http.post("/api/graphql", json=LINK).json()["errors"][0]["message"] == "Not permitted"
        assert http.get(f"/api/v1/metadata/{run_uid}").json()["data"] == before["data"]


@pytest.mark.parametrize("stranger", [None, "a wrong key", "no hex", "the single-user key"])
def test_without_a_key_nothing_is_readable(stand: Any, run_uid: str, stranger: str | None) -> None:
    """R0: closed by default, whatever TILED_… variables the environment holds."""
    calls = [(*call, None) for call in (*READS.values(), *NOBODYS.values())] + list(WRITES.values())
    with client(stand, stranger) as http:
        for method, path, body in calls:
            assert http.request(method, path.format(uid=run_uid), json=body).status_code in (401, 403, 404, 405), path
        assert "Not permitted" in (link := http.post("/api/graphql", json=LINK)).text or link.status_code == 401
        assert http.get("/healthz").json() == {"status": "ready"}
    with (
        pytest.raises((InvalidStatus, ConnectionClosed)),
        connect(
            f"{stand.url.replace('http', 'ws')}/api/v1/stream/single/",
            additional_headers={"Authorization": "Apikey " + "0" * 64},
        ) as socket,
    ):
        socket.recv(timeout=30)


def test_the_courier_can_do_its_work_and_no_more(stand: Any, run_uid: str) -> None:
    with client(stand, "courier") as http:
        made = http.post("/api/v1/metadata/", json=NODE)
        assert made.status_code == 200
        node = made.json()["id"]
        assert http.post(f"/api/v1/register/{node}", json=VOLUME).status_code == 200
        child = http.get(f"/api/v1/search/{node}").json()["data"][0]["id"]
        outside = http.get(f"/api/v1/array/full/{node}/{child}")
        assert outside.status_code >= 400, "a file outside the volumes must not be served"
    with client(stand, "courier") as http:
        assert http.delete(f"/api/v1/metadata/{node}?recursive=true&external_only=true").status_code == 200
        for method, path in NOBODYS.values():
            assert http.request(method, path.format(uid=run_uid)).status_code in (401, 403, 404, 405), path


def test_no_key_reaches_a_log_or_the_configuration(stand: Any, run_uid: str) -> None:
    agent = stand.layout.key("agent")
    httpx.get(f"{stand.url}/api/v1/metadata/{run_uid}", params={"api_key": agent}).raise_for_status()
    ws = f"{stand.url.replace('http', 'ws')}/api/v1/stream/single/{run_uid}?api_key={agent}"
    with connect(ws, additional_headers={"Authorization": f"Apikey {agent}"}) as socket:
        socket.recv(timeout=30)
    stand.tiled.wait_for(r"WebSocket .*\?api_key=\[key\]")
    written = "".join(stand.tiled.lines + stand.courier.lines) + (stand.layout.services / "tiled.yml").read_text()
    for name in (*ROLES, "courier"):
        assert stand.layout.key(name) not in written


def test_private_files_and_a_loopback_socket(stand: Any) -> None:
    services = stand.layout.services
    for path in (services / "tiled.yml", services / "tiled-keys.db", stand.layout.catalog_db):
        assert path.stat().st_mode & 0o777 == 0o600, path
    listening = [
        c.laddr.ip for c in psutil.Process(stand.tiled.pid).net_connections() if c.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_a_changed_key_counts_from_the_next_start(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    prepare(load_scope("demo-dispim", {}), layout)
    old = layout.key("agent")
    layout.key_file("agent").unlink()
    new = layout.key("agent")
    prepare(load_scope("demo-dispim", {}), layout)
    with sqlite3.connect(layout.services / "tiled-keys.db") as database:
        known = {row[0] for row in database.execute("SELECT hashed_secret FROM api_keys")}
    database.close()
    assert hashlib.sha256(bytes.fromhex(new)).digest() in known
    assert hashlib.sha256(bytes.fromhex(old)).digest() not in known
    assert len(known) == len(ROLES) + 1


def test_a_data_directory_that_tiled_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lab #3 has one of # \? \$"):
        prepare(load_scope("demo-dispim", {}), Layout(tmp_path / "lab #3"))


def test_a_catalog_of_another_version_is_named_with_the_remedy(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    scope = load_scope("demo-dispim", {})
    prepare(scope, layout)
    with sqlite3.connect(layout.catalog_db) as database:
        database.execute("UPDATE alembic_version SET version_num = '6825c778aa3c'")
    database.close()
    with pytest.raises(RuntimeError, match=r"catalog\.db was written by another version of Tiled: upgrade it"):
        prepare(scope, layout)


def test_where_tiled_is(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert tiled_url(load_scope("demo-dispim", {}), layout) is None
    layout.runtime_json.write_text('{"tiled": "http://127.0.0.1:4711"}')
    assert tiled_url(load_scope("demo-dispim", {}), layout) == "http://127.0.0.1:4711"
    fixed = load_scope("demo-dispim", {"QUEUESCOPE_SERVICES__TILED": "{host: 127.0.0.1, port: 8000}"})
    assert tiled_url(fixed, layout) == "http://127.0.0.1:8000"
