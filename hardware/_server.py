"""The hardware process: one Pyro object with one method, `call`, whose allow-list is the surface."""

from __future__ import annotations

import hmac
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import Pyro5
import Pyro5.serializers
import Pyro5.server

from ..config import Scope
from ..layout import Layout
from ._address import OBJECT, Address, address_of
from ._errors import ConfigurationError, HardwareError
from ._microscope import Microscope
from ._wire import call_named, packed_error, run

log = logging.getLogger("queuescope.hardware")

EXIT_S = 4.5
"""An orderly end takes no longer; then the process is ended hard, because an adapter hangs."""


class Endpoint:
    """What clients can reach."""

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope

    @Pyro5.server.expose
    def call(self, name: str, payload: bytes) -> bytes:
        """Carry out a call of the surface; every outcome, errors included, is the reply."""
        try:
            call = call_named(str(name))
            return call.pack_result(run(self._microscope, call, call.unpack_arguments(bytes(payload))))
        except HardwareError as error:
            return packed_error(error)
        except Exception as error:
            log.exception("the reply to %r failed", name)
            kind = type(error).__name__
            return packed_error(HardwareError(f"{name}: {kind}: {error}", thing=str(name), type=kind))


class _Daemon(Pyro5.server.Daemon):
    """Lets in only who knows the key (file ``keys/hardware``)."""

    key = ""

    def validateHandshake(self, conn: Any, data: Any) -> str:
        if not isinstance(data, str) or not hmac.compare_digest(data.encode(), self.key.encode()):
            raise PermissionError(
                "the key of the hardware process is wrong: use the same data directory (keys/hardware)"
            )
        return "queuescope"


class SocketLock:
    """Held as long as the process lives, so that a socket file without its lock is a dead process's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "a+", encoding="ascii")  # noqa: SIM115 (held, not read)
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows: the TCP port itself is exclusive there
        except OSError:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise ConfigurationError(
                f"a hardware process (pid {pid}) already runs for this data directory: stop it first, or use another --data",
                thing="hardware",
                value=pid,
            ) from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()


def listen(address: Address, key: str, microscope: Microscope) -> Pyro5.server.Daemon:
    """A daemon that listens at the address; serve it with ``requestLoop``.

    Raises
    ------
    ConfigurationError
        Where the address is taken.
    """
    Pyro5.config.SOCK_REUSE = os.name == "posix"  # elsewhere it would let two processes share a port
    Pyro5.config.SOCK_NODELAY = True
    for name in [name for name in Pyro5.serializers.serializers if name != "msgpack"]:
        serializer = Pyro5.serializers.serializers.pop(name)
        Pyro5.serializers.serializers_by_id.pop(serializer.serializer_id)  # marshal is unsafe on foreign bytes
    Pyro5.config.SERIALIZER = "msgpack"
    try:
        if address.socket_path is not None:
            address.socket_path.unlink(missing_ok=True)  # we hold its lock: whoever made it is dead
            daemon = _Daemon(unixsocket=str(address.socket_path))
            address.socket_path.chmod(0o600)
        else:
            daemon = _Daemon(host=address.host, port=address.port)
    except OSError as error:
        raise ConfigurationError(
            f"the hardware process can't listen at {address}: {error.strerror or error}: another program uses it, or the host"
            " is not this machine (scope file: services.hardware)",
            thing="services.hardware",
            value=str(address),
        ) from error
    daemon.key = key
    daemon.register(Endpoint(microscope), OBJECT)
    return daemon


def serve(scope: Scope, layout: Layout) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    Standard output gets one JSON line an event: ``{"event": "ready", …}``, ``{"event": "stopped", "lights": […],
    "recordings": […]}``, ``{"event": "refused", "error": …}``. Logging goes to standard error.
    """
    ended = threading.Event()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    failure: list[BaseException] = []
    service: list[_Service] = []

    def work() -> None:
        try:
            one = _Service(scope, layout)
            service.append(one)
            one.loop(stopping.is_set)
        except BaseException as error:
            failure.append(error)
        finally:
            ended.set()
            stopping.set()

    thread = threading.Thread(target=work, name="serve", daemon=True)  # the main thread stays free for signals
    thread.start()
    while not stopping.wait(1.0):
        pass
    guard = threading.Timer(EXIT_S, _end_hard)
    guard.daemon = True
    guard.start()
    if service:
        service[0].stop()
    ended.wait()
    return _report(failure)


def _report(failure: list[BaseException]) -> int:
    if not failure:
        return 0
    error = failure[0]
    if not isinstance(error, HardwareError | OSError):
        log.error("the hardware process failed", exc_info=error)
    emit("refused", error=str(error), type=type(error).__name__)
    print(f"queuescope.hardware: {error}", file=sys.stderr, flush=True)
    return 1


class _Service:
    """Lock, microscope and daemon, made in this order and given up in reverse."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        layout.create()
        address = address_of(scope, layout)
        self._lock = SocketLock(layout.sockets / "hardware.lock")
        self._microscope = Microscope(scope, layout, "own")
        try:
            self._daemon = listen(address, layout.key("hardware"), self._microscope)
        except BaseException:
            self._microscope.close()
            raise
        info = self._microscope.info()
        emit("ready", address=str(address), **info.model_dump(mode="json"))

    def loop(self, stopping: Callable[[], bool]) -> None:
        self._daemon.requestLoop(lambda: not stopping())

    def stop(self) -> None:
        """Lights first, then the socket."""
        lights, recordings = self._microscope.close()
        self._daemon.shutdown()
        emit(
            "stopped",
            lights=[light.model_dump(mode="json") for light in lights],
            recordings=[recording.model_dump(mode="json") for recording in recordings],
        )


def emit(event: str, **details: Any) -> None:
    """One JSON line on standard output."""
    print(json.dumps({"event": event, **details}), flush=True)


def _end_hard() -> None:
    print("queuescope.hardware: an adapter hangs; ending the process", file=sys.stderr, flush=True)
    os._exit(3)
