"""The whole stack, once a test session: real MMCore, queueserver, httpserver, Valkey and Tiled on a temporary data directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from queuescope.config import Scope, load_scope
from queuescope.formats import FORMATS, MIMETYPES, Format, ImageFacts, TiffLayout, array_uri
from queuescope.hardware import DatasetPlan, Hardware, connect
from queuescope.hardware._dataset_files import DatasetFiles
from queuescope.hardware._direct import DirectBuffer
from queuescope.hardware._ome_tiff import TiffFiles
from queuescope.hardware._ome_zarr import ZarrFiles
from queuescope.layout import DATA_ENV, SCOPE_ENV, Layout
from queuescope.scripts._probes import NoAnswer, http_request

FILES: dict[Format, Any] = {"ome-zarr": ZarrFiles, "ome-tiff": TiffFiles}
COMMAND = (sys.executable, "-m", "queuescope.scripts")

TOGETHER = ("stack_no_catalog", "stand", "stack", "guarded")
"""Fixtures that start processes once a session: whoever uses one runs in the same process."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """With several test processes (``-n``), before one starts: where it says what stays together."""
    node.workerinput["groups"] = str(_groups_file(os.getpid()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a test process: the longest tests first, so that no process is left alone with one at the end."""
    if "groups" in (given := getattr(config, "workerinput", {})):
        items.sort(key=_turn)
        draft = Path(given["groups"] + given["workerid"])
        draft.write_text(json.dumps({item.nodeid: _group(item) or item.nodeid for item in items}))
        draft.replace(given["groups"])  # each process writes the same


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What shares a fixture stays together, any other test goes where there is room.

    xdist's own ``--dist loadgroup`` does this by changing node ids, which pytest 9.2 doesn't let it.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        groups: dict[str, str] = {}  # noqa: RUF012 (set once)

        def schedule(self) -> None:
            file = _groups_file(os.getpid())
            if not self.groups and file.exists():  # every process has collected, if there is anything to collect
                self.groups = json.loads(file.read_text())
                file.unlink()
            super().schedule()

        def _split_scope(self, nodeid: str) -> str:
            return self.groups[nodeid]

    config.option.loadscopereorder = False  # the order is `_turn`'s
    return Sharing(config, log)


def _groups_file(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"queuescope-tests-{pid}.json"


def _group(item: pytest.Item) -> str | None:
    """What this test shares: a session's processes, or fixtures of its module; None where it shares nothing."""
    fixtures: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 (private)
    for name in TOGETHER:
        if name in fixtures:
            return f"{name} of {fixtures[name][-1].baseid}"
    shares = any(one.scope in ("class", "module") for found in fixtures.values() for one in found)
    return str(item.path) if shares else None


def _turn(item: pytest.Item) -> int:
    """0: on the stack that lives longest; 1: on a stack of its own; 2: with others; 3: alone and short."""
    fixtures = getattr(item, "fixturenames", ())
    if "stack_no_catalog" in fixtures:
        return 0
    if "another_stack" in fixtures:
        return 1
    return 2 if _group(item) is not None else 3


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works() -> None:
    """A shell that starts the tests in the background has them ignore SIGINT, and whatever they start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def short_runtime_folder() -> Iterator[None]:
    """Unix sockets lie in a folder with a short path, which goes when the tests end."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="qs") as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


def command(
    *words: str, environ: dict[str, str] | None = None, timeout_s: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run ``queuescope WORDS`` as people do."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env={**os.environ, **(environ or {})}, timeout=timeout_s
    )


class Stack:
    """A running stack and what tests ask of it."""

    def __init__(self, data: Path, scope: str = "demo-dispim") -> None:
        self.data = data
        self.layout = Layout(data)
        self.scope: Scope = load_scope(scope)
        self.environ = {**os.environ, DATA_ENV: str(data), SCOPE_ENV: str(self.scope.path)}
        """For stock tools and our own command."""
        self._hardware: Any = None
        self._manager: Any = None

    def up(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.command("up", "--http-port", "0", *words)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``queuescope WORDS`` on this stack."""
        return command(*words, environ=self.environ)

    @property
    def runtime(self) -> dict[str, Any]:
        """``runtime.json``, read now."""
        found = self.layout.runtime()
        assert found is not None, "the stack does not run"
        return found

    @property
    def http(self) -> str:
        return str(self.runtime["http"])

    @property
    def tiled(self) -> str:
        return str(self.runtime["tiled"])

    def key(self, role: str) -> str:
        return self.layout.key(role)

    def get(self, path: str, role: str = "observer") -> tuple[int, Any]:
        """Status and JSON body of a REST call."""
        return http_request(self.http + path, self.key(role))

    def post(self, path: str, body: dict[str, Any], role: str = "operator") -> tuple[int, Any]:
        return http_request(self.http + path, self.key(role), body, timeout_s=30)

    def hardware(self) -> Hardware:
        """A connection to the hardware process."""
        if self._hardware is None:
            self._hardware = connect(self.scope, self.layout)
        return self._hardware  # type: ignore[no-any-return]

    def manager(self) -> Any:
        """queueserver's own client, over 0MQ."""
        if self._manager is None:
            from bluesky_queueserver_api.zmq import REManagerAPI

            zmq = self.runtime["zmq"]
            self._manager = REManagerAPI(zmq_control_addr=zmq["control"], zmq_info_addr=zmq["info"])
        return self._manager

    def submit(self, name: str, op_key: str | None = None, **kwargs: Any) -> str:
        """Queue a plan; return its item UID."""
        item: dict[str, Any] = {"item_type": "plan", "name": name, "args": [], "kwargs": kwargs}
        if op_key is not None:
            item["meta"] = {"op_key": op_key}
        return str(self.manager().item_add(item)["item"]["item_uid"])

    def wait(self, item_uid: str, timeout_s: float = 60) -> dict[str, Any]:
        """The item's entry in queueserver's history, once it has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for item in self.manager().history_get()["items"]:
                if item["item_uid"] == item_uid:
                    return dict(item)
            time.sleep(0.05)
        raise AssertionError(f"item {item_uid} did not end within {timeout_s} s")

    def run(self, name: str, op_key: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """`submit` and `wait`."""
        return self.wait(self.submit(name, op_key, **kwargs))

    def release(self) -> None:
        """Close this process's own connections."""
        for connection in (self._hardware, self._manager):
            if connection is not None:
                connection.close()
        self._hardware = self._manager = None

    def processes(self) -> list[psutil.Process]:
        """Whatever runs on this data directory, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            try:
                belongs = process.pid != os.getpid() and process.environ().get(DATA_ENV) == str(self.data)
                if belongs or str(self.data) in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def down(self) -> None:
        """Stop it; nothing may be left running."""
        self.release()
        stopped = self.command("down")
        left = self.processes()
        for process in left:
            process.kill()
        shutil.rmtree(self.layout.volumes, ignore_errors=True)  # pytest keeps the rest
        assert stopped.returncode == 0, stopped.stderr
        assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def stack_no_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack as soon as plans would run; its catalog may still be starting."""
    found = Stack(tmp_path_factory.mktemp("stack") / "data")
    started = found.up("--no-wait-catalog", "--json")
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["http"] == found.http
    yield found
    found.down()


@pytest.fixture(scope="session")
def stack(stack_no_catalog: Stack) -> Stack:
    """The whole stack, Tiled included."""
    deadline = time.monotonic() + 120
    while True:
        try:
            if http_request(stack_no_catalog.tiled.removesuffix("/api/v1") + "/healthz")[0] == 200:
                return stack_no_catalog
        except NoAnswer:
            pass
        assert time.monotonic() < deadline, "Tiled did not answer within 120 s"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def make_stack() -> type[Stack]:
    """``make_stack(data, scope)``: a stack, not started; `Stack.down` it."""
    return Stack


@pytest.fixture
def another_stack(tmp_path: Path) -> Iterator[Stack]:
    """A data directory of its own for tests that start and kill things; not started."""
    found = Stack(tmp_path / "a data folder")
    yield found
    if found.layout.lock.exists():
        found.down()


class WrittenRun:
    """A run on disk without a microscope: its document log as the worker writes it, its volumes written by the recorder's files.

    ``frames`` holds what was "acquired", by dataset: random pixels, so that no two frames are alike. They can be compressed only
    where ``brightest`` is far below what their type holds.
    """

    def __init__(
        self,
        layout: Layout,
        status: str | None = "success",
        form: Format = "ome-zarr",
        brightest: int | None = None,
    ) -> None:
        self.layout, self.uid = layout, str(uuid.uuid4())
        self.status, self.form, self.brightest = status, form, brightest
        self.frames: dict[str, list[np.ndarray]] = {}
        self._files: dict[str, DatasetFiles] = {}
        self._buffer = DirectBuffer()
        self._random = np.random.default_rng(7)
        for folder in (layout.volumes, layout.documents):
            folder.mkdir(parents=True, exist_ok=True)
        start = {"uid": self.uid, "time": 1.7e9, "plan_name": "acquire_volume", "sample_id": "e1", "session_id": "s1"}
        self.document("start", start | {"scan_id": 1, "plan_args": {"slices": 3}})

    def document(self, name: str, doc: dict[str, Any]) -> None:
        with self.layout.document_log(self.uid).open("a") as file:
            file.write(json.dumps({"name": name, "doc": doc}) + "\n")

    def dataset(
        self,
        name: str = "cam_a",
        frames: int = 3,
        shape: tuple[int, int] = (16, 24),
        dtype: str = "uint16",
        planned: int | None = None,
        told: bool = True,
        **plan: Any,
    ) -> np.ndarray:
        """Write ``frames`` frames and the documents that tell of them; returns them."""
        planned = frames if planned is None else planned
        plan = {"axis": "z", "step_um": 2.0, "channel": "gfp"} | plan
        described = DatasetPlan(name=name, camera=name, frames=planned, **plan)
        facts = ImageFacts(
            run_uid=self.uid,
            name=name,
            frame_shape=shape,
            dtype=dtype,
            axes=(described.axis,),
            sizes=(planned or 1,),
            pixel_um=0.5,
            step_um=described.step_um,
            channel=described.channel,
            acquired_at=1.7e9,
        )
        files: DatasetFiles = FILES[described.format or self.form](self.layout.volumes, described, facts)
        files.create()
        self._files[name], self.frames[name] = files, []
        if told:
            kind = {"uint8": "|u1", "uint16": "<u2"}[dtype]
            key = {"source": name, "dtype": "array", "shape": list(shape), "dtype_numpy": kind, "external": "STREAM:"}
            settings = {f"{name}_exposure_ms": 10.0, f"{name}_bit_depth": 12}
            configuration = {name: {"data": settings, "timestamps": dict.fromkeys(settings, 1.0), "data_keys": {}}}
            descriptor = {"uid": f"d-{name}", "run_start": self.uid, "name": "primary", "time": 1.7e9}
            self.document("descriptor", descriptor | {"data_keys": {name: key}, "configuration": configuration})
            resource = {
                "uid": f"r-{name}",
                "run_start": self.uid,
                "data_key": name,
                "mimetype": MIMETYPES[files.format],
                "uri": array_uri(files.path),
                "parameters": {
                    "chunk_shape": [1, *shape],
                    "uri_client": f"data://DATA/volumes/{files.path.name}",
                    "frames_planned": planned,
                },
            }
            self.document("stream_resource", resource)
        for _ in range(frames):
            self.expose(name)
        return np.array(self.frames[name])

    def expose(self, name: str = "cam_a") -> np.ndarray:
        """One frame more: its pixels, then its line."""
        files, index = self._files[name], len(self.frames[name])
        brightest = np.iinfo(files.dtype).max if self.brightest is None else self.brightest
        frame = self._random.integers(0, brightest, files.frame_shape, files.dtype)
        checksum = files.write(index, frame, self._buffer)
        line = {
            "index": index,
            "time": 1.7e9 + 0.02 * index,
            "position": {"piezo_a": 2.0 * index},
            "checksum": checksum,
        }
        files.append_line(line)
        self.frames[name].append(frame)
        return frame

    def volume(self, name: str = "cam_a") -> Path:
        return self._files[name].path

    def chunk(self, index: int, name: str = "cam_a") -> Path:
        """The file of one frame's pixels."""
        return self.volume(name) / "0" / "c" / str(index) / "0" / "0"

    def spoil(self, index: int, name: str = "cam_a") -> None:
        """Flip one bit of a frame, where it lies on disk."""
        path, offset = self.volume(name), 0
        if self._files[name].format == "ome-zarr":
            path = self.chunk(index, name)
        else:
            with path.open("rb") as file:
                offset = TiffLayout.read(file)[0].frame(index)
        with path.open("rb+") as file:
            file.seek(offset + 5)
            (byte,) = file.read(1)
            file.seek(offset + 5)
            file.write(bytes([byte ^ 8]))

    def frame_list(self, name: str = "cam_a") -> Path:
        return self._files[name].frames_jsonl

    def end(self) -> WrittenRun:
        """Finish the files, then the stop document."""
        for name, files in self._files.items():
            files.finish(len(self.frames[name]))
        counts = {name: len(frames) for name, frames in self.frames.items()}
        stop = {"uid": f"s-{self.uid}", "run_start": self.uid, "time": 1.7e9 + 9, "exit_status": self.status}
        self.document("stop", stop | {"num_events": {}, "frames": counts, "reason": ""})
        return self


@pytest.fixture(params=FORMATS)
def volume_format(request: pytest.FixtureRequest) -> Format:
    """Each format of volumes in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def write_run() -> Iterator[Callable[..., WrittenRun]]:
    """``write_run(layout)``: a run on disk, begun."""
    runs: list[WrittenRun] = []

    def begin(layout: Layout, **options: Any) -> WrittenRun:
        runs.append(WrittenRun(layout, **options))
        return runs[-1]

    yield begin
    for run in runs:
        for files in run._files.values():
            files.release()
