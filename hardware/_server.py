"""The hardware process: one Pyro object with one method, `call`, whose allow-list is the surface."""

from __future__ import annotations

import hmac
import json
import logging
import os
import signal
import sys
import threading
from typing import Any

import Pyro5
import Pyro5.serializers
import Pyro5.server

from ..config import Scope
from ..layout import Layout
from ._address import OBJECT, Address, address_of
from ._errors import ArgumentError, ConfigurationError, HardwareError
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
            call = call_named(name)
            if not isinstance(payload, bytes | bytearray):
                raise ArgumentError(f"{name}: the payload is {type(payload).__name__}, not bytes", thing=name)
            return call.pack_result(run(self._microscope, call, call.unpack_arguments(payload)))
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
    stopping, ended = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    failure: list[BaseException] = []

    def work() -> None:
        try:
            service = Service(scope, layout)
            try:
                threading.Thread(target=service.loop, args=(stopping,), name="requests", daemon=True).start()
                stopping.wait()
            finally:
                service.stop()
        except BaseException as error:
            failure.append(error)
        finally:
            stopping.set()
            ended.set()

    threading.Thread(target=work, name="service", daemon=True).start()  # the main thread stays free for signals
    while not stopping.wait(1.0):
        pass
    guard = threading.Timer(EXIT_S, _end_hard)
    guard.daemon = True
    guard.start()
    ended.wait()
    return _report(failure)


def _report(failure: list[BaseException]) -> int:
    if not failure:
        return 0
    error = failure[0]
    if not isinstance(error, HardwareError):
        log.error("the hardware process failed", exc_info=error)
    emit("refused", error=str(error), type=type(error).__name__)
    print(f"queuescope.hardware: {error}", file=sys.stderr, flush=True)
    return 1


class Service:
    """Microscope and daemon, made in this order and given up in reverse."""

    def __init__(self, scope: Scope, layout: Layout) -> None:
        address = address_of(scope, layout)
        self._microscope = Microscope(scope, layout, "own")
        try:
            self._daemon = listen(address, layout.key("hardware"), self._microscope)
        except BaseException:
            self._microscope.close()
            raise
        info = self._microscope.info()
        emit("ready", address=str(address), **info.model_dump(mode="json"))

    def loop(self, stopping: threading.Event) -> None:
        """Answer requests; should that ever end by itself, the process ends too."""
        try:
            self._daemon.requestLoop()
        finally:
            stopping.set()

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
