"""The hardware process: one Pyro object with one method, `call`, whose allow-list is the surface."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import Pyro5
import Pyro5.callcontext
import Pyro5.errors
import Pyro5.serializers
import Pyro5.server
from Pyro5 import protocol

from ..config import Scope
from ..layout import Layout
from ..lean import settle
from ._address import OBJECT, Address, address_of
from ._clients import Clients
from ._deadlines import URGENT
from ._errors import ArgumentError, ConfigurationError, HardwareError, NotAllowedError
from ._link import Link, server_link
from ._microscope import Microscope
from ._restart import Note, needs_person
from ._surface import LightOff
from ._watch import watch
from ._wire import GOODBYE, call_named, packed_error, run

log = logging.getLogger("queuescope.hardware")

EXIT_S = 4.5
"""An orderly end takes no longer; then the process is ended hard, because an adapter hangs."""


class Endpoint:
    """What clients can reach."""

    def __init__(self, microscope: Microscope, clients: Clients | None = None) -> None:
        self._microscope, self._clients = microscope, clients
        self._under_way: dict[int, tuple[Any, int]] = {}
        """Connection and sequence number of the call that each thread carries out."""

    @Pyro5.server.expose
    def call(self, name: str, payload: bytes) -> bytes:
        """Carry out a call of the surface; every outcome, errors included, is the reply."""
        thread, context = threading.get_ident(), Pyro5.callcontext.current_context
        self._under_way[thread] = (context.client, context.seq)
        if self._clients is not None:
            self._clients.busy(context.client)
        try:
            return self._outcome(name, payload)
        finally:
            self._under_way.pop(thread, None)
            if self._clients is not None:
                self._clients.idle(context.client)

    def answer_for(self, thread: int, error: HardwareError) -> None:
        """Reply in place of a thread that an adapter keeps; the process ends right after it."""
        if thread in self._under_way:
            connection, seq = self._under_way[thread]
            serializer = Pyro5.serializers.serializers["msgpack"]
            data = serializer.dumps(packed_error(error))
            reply = protocol.SendingMessage(protocol.MSG_RESULT, 0, seq, serializer.serializer_id, data)
            with contextlib.suppress(Pyro5.errors.CommunicationError, OSError):  # the client has gone
                connection.send(reply.data)
                connection.close()  # nobody would read the next request on it

    def _outcome(self, name: str, payload: bytes) -> bytes:
        try:
            connection = Pyro5.callcontext.current_context.client
            if self._clients is not None and name == GOODBYE:
                self._clients.goodbye(connection)
                return packed_error(HardwareError("goodbye"))
            call = call_named(name)
            if self._clients is not None:
                self._clients.asked(connection, name)
            if not isinstance(payload, bytes | bytearray):
                raise ArgumentError(f"{name}: the payload is {type(payload).__name__}, not bytes", thing=name)
            result = run(self._microscope, call, call.unpack_arguments(payload))
            clients = self._clients if name == "open_recording" else None
            if clients is not None and not clients.opened(connection, result.recording):
                self._microscope.close_recordings([result.recording], "the client that opened it is gone")
            return call.pack_result(result)
        except HardwareError as error:
            return packed_error(error)
        except Exception as error:
            log.exception("the reply to %r failed", name)
            kind = type(error).__name__
            return packed_error(HardwareError(f"{name}: {kind}: {error}", thing=str(name), type=kind))


class UrgentEndpoint(Endpoint):
    """The same, for calls that wait behind nothing, and for no others."""

    @Pyro5.server.expose
    def call(self, name: str, payload: bytes) -> bytes:
        if name not in URGENT:
            return packed_error(NotAllowedError(f"{name!r} is not one of {sorted(URGENT)}", thing=str(name)))
        return bytes(super().call(name, payload))


class _Daemon(Pyro5.server.Daemon):
    """Lets in only who knows the key (file ``keys/hardware``), or over TCP holds the pinned certificate."""

    key = ""
    link: Link | None = None
    clients: Clients | None = None

    def _handshake(self, conn: Any, denied_reason: str | None = None) -> bool:
        if self.link is not None:
            try:
                self.link.greet(conn.sock)
            except OSError as error:
                log.warning("a connection over TCP was refused: %s", error)
                return False
        accepted = bool(super()._handshake(conn, denied_reason))
        conn.sock.settimeout(None)
        return accepted

    def validateHandshake(self, conn: Any, data: Any) -> str:
        key, _, client = data.partition(" ") if isinstance(data, str) else ("", "", "")
        if self.link is None and not hmac.compare_digest(key.encode(), self.key.encode()):
            raise PermissionError(
                "the key of the hardware process is wrong: use the same data directory (keys/hardware)"
            )
        if self.clients is not None and client:
            self.clients.joined(conn, client)
        return "queuescope"

    def clientDisconnect(self, conn: Any) -> None:
        if self.clients is not None:
            self.clients.left(conn)


def listen(
    address: Address, key: str, endpoint: Endpoint, clients: Clients | None, link: Link | None
) -> Pyro5.server.Daemon:
    """A daemon that listens at the address, over TCP with the ``link``'s certificates; serve it with ``requestLoop``.

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
    daemon.key, daemon.clients, daemon.link = key, clients, link
    if link is not None:
        link.listen(daemon)
    daemon.register(endpoint, OBJECT)
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
            service = Service(scope, layout, stopping)
            try:
                service.answer()
                threading.Thread(
                    target=watch, args=(stopping, service.look_for_hangs), name="watch", daemon=True
                ).start()
                stopping.wait()
            finally:
                service.stop()
        except _StoppedWhileWaiting:
            emit("stopped", lights=[], recordings=[])
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


class _StoppedWhileWaiting(Exception):
    """SIGTERM came before a person did."""


class Service:
    """Microscope and daemon, made in this order and given up in reverse."""

    def __init__(self, scope: Scope, layout: Layout, stopping: threading.Event) -> None:
        self._scope, self._layout, self._stopping = scope, layout, stopping
        self._clients = Clients(self._client_gone)
        self._daemons: list[Pyro5.server.Daemon] = []
        self._answering = False
        self._note = Note(layout)
        self._left = self._note.left()
        try:
            microscope = Microscope(scope, layout, "own", None if self._left is None else self._between)
            try:
                self._note.begin()
                self._listen(microscope)
            except BaseException:
                microscope.close()
                raise
        except BaseException:
            for daemon in self._daemons:
                daemon.shutdown()
            raise
        settle()  # a collection that looked through all that was imported would keep a frame waiting
        emit("ready", address=str(address_of(scope, layout)), **self._microscope.info().model_dump(mode="json"))

    def _between(self, microscope: Microscope, lights: tuple[LightOff, ...]) -> None:
        """Lights are off, nothing else is loaded: wait for a person where the scope says so."""
        assert self._left is not None
        died = self._left["pid"]
        emit("lights-off-first", died=died, lights=[light.model_dump(mode="json") for light in lights])
        why = needs_person(self._scope, self._left)
        if why is not None:
            microscope.needs_person(f"process {died} died, and {why}")
            self._listen(microscope)
            self.answer()
            if not microscope.wait_for_person(self._stopping):
                raise _StoppedWhileWaiting

    def _listen(self, microscope: Microscope) -> None:
        self._microscope = microscope
        if self._daemons:
            return
        address, key = address_of(self._scope, self._layout), self._layout.key("hardware")
        link = None if address.socket_path is not None else server_link(address, self._layout)
        self._endpoint = Endpoint(microscope, self._clients)
        self._daemons.append(listen(address, key, self._endpoint, self._clients, link))
        self._daemons.append(listen(address.urgent, key, UrgentEndpoint(microscope), None, link))

    def answer(self) -> None:
        """Answer requests, from the first call on; should that ever end by itself, the process ends too."""
        if not self._answering:
            self._answering = True
            for daemon in self._daemons:
                threading.Thread(target=self._loop, args=(daemon,), name="requests", daemon=True).start()

    def _loop(self, daemon: Pyro5.server.Daemon) -> None:
        try:
            daemon.requestLoop()
        finally:
            self._stopping.set()

    def _client_gone(self, client: str) -> None:
        """Whoever drove the microscope is gone: nobody would end what it began."""
        why = "the client that drove the microscope is gone"
        log.error("%s (%s): its volume ends, motion stops, gates close", why, client)
        lights = self._microscope.make_safe(why)
        emit("client-gone", client=client, at=time.time(), lights=[light.model_dump(mode="json") for light in lights])
        self._microscope.close_recordings(self._clients.recordings(client), why)

    def look_for_hangs(self) -> None:
        """A call into an adapter that overstays its allowance costs the process."""
        if (found := self._microscope.hung()) is None:
            return
        thread, error = found
        self._microscope.refuse_all(error)
        self._endpoint.answer_for(thread, error)
        lights = self._microscope.give_up(error)
        emit("hung", error=str(error), lights=[light.model_dump(mode="json") for light in lights])
        print(f"queuescope.hardware: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(4)

    def stop(self) -> None:
        """Lights first, then the socket."""
        self._clients.close()
        lights, recordings = self._microscope.close()
        for daemon in self._daemons:
            daemon.shutdown()
        if all(light.off for light in lights):
            self._note.end()
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
