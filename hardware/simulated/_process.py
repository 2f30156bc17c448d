"""The emulated controller as a process of its own: like the real one, it runs on when the hardware process has died.

``python -m queuescope.hardware.simulated._process FILE`` writes address and key to FILE and answers until it is told to end, or
until nobody has been attached for a while. `attach_or_start` finds it again. No pickles: messages are JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from ._firmware import Firmware
from ._tiger import Trigger

LINGER_S = 10.0
"""It ends when it has been idle and nobody attached for so long."""
ABANDONED_S = 120.0
"""It ends, whatever it does, when nobody has been attached for so long."""
START_S = 20.0

CALLS = frozenset(
    ("read", "write", "position", "move", "shutter", "where", "time_scale", "faults", "status", "wait_slices")
)


class RemoteFirmware:
    """`Firmware` in another process; each thread that asks has a connection of its own.

    Raises
    ------
    OSError
        From every call, where the process is gone.
    """

    def __init__(self, address: Any, key: bytes, pid: int) -> None:
        self._address, self._key, self.pid = address, key, pid
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._open: list[Connection] = []
        self._heard: dict[Callable[[Trigger], None], Connection] = {}
        self._idle.put(self._connect())

    def _connect(self) -> Connection:
        found = Client(self._address, authkey=self._key)
        self._open.append(found)
        return found

    def _ask(self, name: str, *args: Any, **named: Any) -> Any:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            connection.send_bytes(json.dumps([name, args, named]).encode())
            answer = json.loads(connection.recv_bytes())
        except EOFError as error:
            raise ConnectionError(f"the emulated controller (process {self.pid}) is gone") from error
        self._idle.put(connection)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def read(self, key: str) -> float | str:
        return self._ask("read", key)

    def write(self, key: str, value: float | str) -> None:
        self._ask("write", key, value)

    def position(self, axis: str) -> float:
        return float(self._ask("position", axis))

    def move(self, axis: str, target: float) -> None:
        self._ask("move", axis, target)

    def shutter(self, is_open: bool | None = None) -> bool:
        return bool(self._ask("shutter", is_open))

    def where(self, side: str) -> tuple[float, float, float, int]:
        piezo, x, y, lines = self._ask("where", side)
        return piezo, x, y, lines

    def time_scale(self, scale: float | None = None) -> float:
        return float(self._ask("time_scale", scale))

    def faults(self, **faults: Any) -> None:
        self._ask("faults", **faults)

    def status(self) -> dict[str, Any]:
        return self._ask("status")

    def wait_slices(self, more_than: int, limit_s: float) -> int:
        return int(self._ask("wait_slices", more_than, limit_s))

    def listen(self, listener: Callable[[Trigger], None]) -> None:
        connection = self._connect()
        connection.send_bytes(json.dumps(["listen", [], {}]).encode())
        connection.recv_bytes()
        self._heard[listener] = connection

        def follow() -> None:
            with contextlib.suppress(OSError, EOFError, TypeError):  # TypeError: closed while it waits
                while True:
                    told = json.loads(connection.recv_bytes())
                    listener(Trigger(**{**told, "outputs": tuple(told["outputs"])}))

        threading.Thread(target=follow, name="tiger-lines", daemon=True).start()

    def ignore(self, listener: Callable[[Trigger], None]) -> None:
        connection = self._heard.pop(listener, None)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.send_bytes(b"[]")  # it hangs up, which ends `follow`

    def end(self) -> None:
        """End the process; returns when it has."""
        with contextlib.suppress(OSError, EOFError):
            connection = self._connect()
            connection.send_bytes(json.dumps(["end", [], {}]).encode())
            connection.recv_bytes()  # no answer comes: the connection closes when the process has ended
        self.close()

    def close(self) -> None:
        """Detach; it runs on."""
        for listener in list(self._heard):
            self.ignore(listener)
        for connection in self._open:
            connection.close()
        self._open.clear()


def state_file(folder: Path) -> Path:
    return folder / "simulated-tiger.json"


def attach(folder: Path) -> RemoteFirmware:
    """The controller that was started for this folder.

    Raises
    ------
    ConnectionError
        Where there is none.
    """
    path = state_file(folder)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        address = tuple(found["address"]) if isinstance(found["address"], list) else found["address"]
        return RemoteFirmware(address, bytes.fromhex(found["key"]), found["pid"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ConnectionError(f"no emulated controller answers for {folder}: {error}") from error


def attach_or_start(folder: Path) -> RemoteFirmware:
    """The same, started first where there is none.

    Raises
    ------
    RuntimeError
        Where it does not start.
    """
    with contextlib.suppress(ConnectionError):
        return attach(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state_file(folder).unlink(missing_ok=True)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(state_file(folder))],
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        start_new_session=True,
    )
    threading.Thread(target=process.wait, name="tiger-process", daemon=True).start()  # it may end before this one does
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        with contextlib.suppress(ConnectionError):
            return attach(folder)
        time.sleep(0.02)
    raise RuntimeError(f"the emulated controller did not start within {START_S:g} s (exit code {process.poll()})")


class Server:
    """Answers connections, a thread each."""

    def __init__(self, path: Path) -> None:
        self._path, self._key = path, secrets.token_bytes(32)
        self._firmware = Firmware()
        self._listener = Listener(authkey=self._key)
        self._attached = 0
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Until it ends itself."""
        self._announce()
        threading.Thread(target=self._accept, daemon=True).start()
        while not self._over():
            time.sleep(0.2)
        self._leave()

    def _announce(self) -> None:
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        told = {"address": self._listener.address, "key": self._key.hex(), "pid": os.getpid()}
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            json.dump(told, file)
        draft.replace(self._path)

    def _over(self) -> bool:
        if not self._path.exists():  # the data directory is gone
            return self._attached == 0
        with self._lock:
            alone_s = time.monotonic() - self._since if self._attached == 0 else 0.0
        idle = self._firmware.status()["state"] != "Running"
        return alone_s > (LINGER_S if idle else ABANDONED_S)

    def _leave(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self._path.read_text(encoding="utf-8"))["pid"] == os.getpid():
                self._path.unlink()
        os._exit(0)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except Exception:
                continue  # a wrong key, or one that hung up at once
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with self._lock:
            self._attached += 1
        try:
            while True:
                name, args, named = json.loads(connection.recv_bytes())
                if name == "listen":
                    self._tell(connection)
                    return
                if name == "end":
                    self._leave()
                connection.send_bytes(json.dumps(self._answer(name, args, named)).encode())
        except (OSError, EOFError, ValueError):
            pass
        finally:
            connection.close()
            with self._lock:
                self._attached -= 1
                self._since = time.monotonic()

    def _answer(self, name: str, args: list[Any], named: dict[str, Any]) -> dict[str, Any]:
        if name not in CALLS:
            return {"error": f"{name!r} is not one of {sorted(CALLS)}"}
        try:
            return {"value": getattr(self._firmware, name)(*args, **named)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _tell(self, connection: Connection) -> None:
        """Send every trigger until the other end hangs up."""
        waiting: queue.SimpleQueue[Trigger | None] = queue.SimpleQueue()
        self._firmware.listen(waiting.put)
        connection.send_bytes(b"{}")

        def hung_up() -> None:
            with contextlib.suppress(OSError, EOFError):
                connection.recv_bytes()
            waiting.put(None)

        threading.Thread(target=hung_up, daemon=True).start()
        try:
            while (trigger := waiting.get()) is not None:
                connection.send_bytes(json.dumps(asdict(trigger)).encode())
        finally:
            self._firmware.ignore(waiting.put)


if __name__ == "__main__":
    Server(Path(sys.argv[1])).run()
