"""Three machines that see three paths: one folder, mounted for each process at another place, and nowhere else for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr

SLICES = 4
WORKER = f"""
from queuescope.startup._session import open_session
session = open_session()
info = {{"name": "acquire_volume", "kwargs": {{"slices": {SLICES}}}, "item_uid": "item-1"}}
result = session.run_engine(session.plans["acquire_volume"](slices={SLICES}), **session.run_metadata(info))
session.hardware.close()
print(result.plan_result["run_uid"])
"""
ROUTE = """
import sys
from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.server._runs import read_run
print(read_run(load_scope("demo-dispim"), Layout(), sys.argv[1], sys.argv[2]).model_dump_json())
"""
CLIENT = """
import hashlib, json, os, sys
from queuescope.agents import catalog
url, key, uid, mount, others = sys.argv[1:]
runs = catalog(url, key, roots={"DATA": mount})
run = runs[uid]
run.path("cam_a")  # which file it is, it asks Tiled; from then on nobody
asked = []
hooks = runs.context.http_client.event_hooks
runs.context.http_client.event_hooks = {**hooks, "request": [*hooks["request"], lambda r: asked.append(r.url.path)]}
frames = run.frames("cam_a").compute()
print(json.dumps({
    "path": str(run.path("cam_a")), "shape": frames.shape, "sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
    "asked": [path for path in asked if "/array/" in path],
    "seen": [name for at in json.loads(others) for name in os.listdir(at)],
}))
"""


class Views:
    """The folder ``store``, and where the machines of the three views see it."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.store.mkdir()
        self.at = {view: folder / f"at the {view}" for view in ("hardware", "tiled", "clients")}
        for point in self.at.values():
            point.mkdir()

    def command(self, view: str, *words: str) -> list[str]:
        """In a mount namespace of its own: this process alone sees the store there."""
        script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", str(self.store), str(self.at[view]), *words]

    @property
    def environ(self) -> dict[str, str]:
        return {"QUEUESCOPE_STORAGE__ROOTS__DATA": json.dumps({view: str(at) for view, at in self.at.items()})}


@pytest.fixture
def views(tmp_path: Path) -> Iterator[Views]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mount namespaces need root and util-linux")
    views = Views(tmp_path)
    tried = subprocess.run(views.command("tiled", "true"), capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"folders can't be mounted here: {tried.stderr.strip()}")
    yield views
    assert all(not list(at.iterdir()) for at in views.at.values()), "something was written beside the mounts"


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_three_machines_see_one_file_at_three_paths(
    views: Views, make_stand: Any, make_process: Any, tmp_path: Path
) -> None:
    """Issue 4, by UID (`storage.roots`): the hardware writes under its path, the documents and Tiled have the server's, REST
    tells the clients', and a client reads from disk at its own.
    """
    stand = make_stand(tmp_path / "data", **views.environ, QUEUESCOPE_STORAGE__MIN_FREE_GB="0")
    (views.store / "volumes").mkdir()

    def run(view: str, *words: str) -> str:
        done = subprocess.run(
            views.command(view, sys.executable, *words),
            env={**os.environ, **stand.environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def start(view: str, module: str, pattern: str) -> Any:
        process = make_process("", stand.environment, views.command(view, sys.executable, "-m", module))
        process.wait_for(pattern)
        return process

    hardware = start("hardware", "queuescope.hardware", '"event": "ready"')
    stand.tiled = start("tiled", "queuescope.tiled_config.tiled_server", "Uvicorn running on")
    stand.courier = start("tiled", "queuescope.tiled_config", "connected to Tiled")
    try:
        uid = run("tiled", "-c", WORKER)
        stand.courier.wait_for(f"run {uid} delivered: .* {2 * SLICES} frames, success")
        told = json.loads(run("tiled", "-c", ROUTE, uid, f"{stand.url}/api/v1"))
        others = json.dumps([str(views.at[view]) for view in ("hardware", "tiled")])
        arguments = (stand.url, stand.layout.key("agent"), uid, str(views.at["clients"]), others)
        read = json.loads(run("clients", "-c", CLIENT, *arguments))
        asset = stand.client()[uid]["primary"]["cam_a"].data_sources()[0].assets[0].data_uri
        through_tiled = stand.client()[uid]["primary"]["cam_a"].read()
    finally:
        stand.close()
        hardware.end()
    name = f"volumes/{uid}_cam_a.ome.zarr"
    frames = zarr.open_array(views.store / name / "0", mode="r")[:]
    dataset = next(dataset for dataset in told["datasets"] if dataset["name"] == "cam_a")
    assert dataset["uri"] == f"data://DATA/{name}"
    assert dataset["path"] == read["path"] == str(views.at["clients"] / name)
    assert asset.endswith(f"{(views.at['tiled'] / name).as_uri().removeprefix('file://')}/0")
    assert read["shape"] == [SLICES, *frames.shape[1:]]
    assert (
        read["sha256"]
        == hashlib.sha256(frames.tobytes()).hexdigest()
        == hashlib.sha256(through_tiled.tobytes()).hexdigest()
    )
    assert read["asked"] == [], "the frames came through Tiled"
    assert read["seen"] == [], "the client saw the other machines' mounts"
