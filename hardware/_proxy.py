"""Mode `own`: the microscope in the hardware process, seen from here."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import Pyro5.client
import Pyro5.errors

from ..config import Scope
from ..layout import Layout
from ._address import Address, address_of
from ._calls import HardwareCalls
from ._deadlines import REPLY_S, URGENT, URGENT_S, allowance_s
from ._errors import ConfigurationError, HardwareError, HardwareGoneError, HardwareTimeout, NotAllowedError
from ._link import Link, client_link
from ._wire import GOODBYE, Call

CONNECT_S = 5.0
"""A connection to a listening socket that takes longer has failed."""

GOODBYE_S = 1.0


class ProxyHardware(HardwareCalls):
    """`Hardware` over Pyro5, for any number of threads: each call borrows a connection, which is one thread's meanwhile."""

    def __init__(self, scope: Scope, address: Address, key: str, link: Link | None = None) -> None:
        self._scope, self._address, self._link = scope, address, link
        self._axes = scope.axes()
        self._introduction = f"{key} {uuid.uuid4()}"
        """The key, and who this client is: the hardware puts itself safe when the one that drove it vanishes."""
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._busy: dict[int, Any] = {}
        self._closed = False

    def _carry(self, call: Call, values: dict[str, Any]) -> Any:
        if call.name in URGENT:
            return call.unpack_result(self._send_urgently(call.name, call.pack_arguments(values)))
        allowed_s = allowance_s(self._scope, call.name, values, self._axes)
        limit_s = self._scope.micromanager.call_timeout_s + allowed_s + REPLY_S
        return call.unpack_result(self.send(call.name, call.pack_arguments(values), limit_s))

    def _send_urgently(self, name: str, payload: bytes) -> bytes:
        """Over a connection of its own, to the listener that nothing else keeps busy."""
        urgent = ProxyHardware(self._scope, self._address.urgent, "", self._link)
        urgent._introduction = self._introduction.partition(" ")[0]  # not a client that drives the microscope
        try:
            return urgent.send(name, payload, URGENT_S + REPLY_S)
        finally:
            for proxy in urgent._idle:
                _hang_up(proxy)

    def send(self, name: str, payload: bytes, limit_s: float) -> bytes:
        """One round trip.

        Raises
        ------
        HardwareTimeout
            Where no reply came in time. The connection is given up: its late reply can't be mistaken for another one's.
        HardwareGoneError
            Where the process is not there or went away meanwhile.
        """
        try:
            with self._connection(limit_s) as connection:
                return connection._pyroInvoke("call", (name, payload), {})
        except Pyro5.errors.TimeoutError:
            raise HardwareTimeout(
                f"{name} got no reply from the hardware process within {limit_s:.1f} s (micromanager.call_timeout_s"
                " and what the call may take): an adapter hangs, or the process is overloaded",
                thing=name,
                limit=limit_s,
            ) from None
        except (Pyro5.errors.CommunicationError, OSError) as error:
            self._drop_idle()
            if "rejected" in str(error):
                raise NotAllowedError(
                    f"the hardware process at {self._address} refused us: {error}", thing=name
                ) from None
            raise HardwareGoneError(
                f"{name}: the hardware process at {self._address} is gone ({error or type(error).__name__}); what became of"
                " the call is unknown",
                thing="hardware",
                value=name,
            ) from None
        except Pyro5.errors.PyroError as error:
            raise HardwareError(f"{name}: {type(error).__name__}: {error}", thing=name) from error

    @contextmanager
    def _connection(self, limit_s: float) -> Iterator[Any]:
        with self._lock:
            if self._closed:
                raise HardwareGoneError(
                    "this connection to the hardware was closed: connect again", thing="hardware", closed=True
                )
            proxy = self._idle.pop() if self._idle else self._new()
            self._busy[id(proxy)] = proxy
        try:
            proxy._pyroClaimOwnership()
            if proxy._pyroConnection is None:
                self._connect(proxy, min(CONNECT_S, limit_s))
            proxy._pyroTimeout = limit_s
            yield proxy
        finally:
            with self._lock:
                del self._busy[id(proxy)]
                if proxy._pyroConnection is not None and not self._closed:
                    self._idle.append(proxy)

    def _drop_idle(self) -> None:
        """The other connections lead to the same dead process."""
        with self._lock:
            stale, self._idle = self._idle, []
        for proxy in stale:
            _hang_up(proxy)

    def _new(self) -> Any:
        proxy = Pyro5.client.Proxy(self._address.uri)
        proxy._pyroSerializer = "msgpack"
        proxy._pyroHandshake = self._introduction
        return proxy

    def _connect(self, proxy: Any, timeout_s: float) -> None:
        proxy._pyroTimeout = timeout_s
        if self._link is not None:
            self._link.dial(proxy, self._address, timeout_s)
        else:
            proxy._pyroBind()

    def close(self) -> None:
        """Close this client's connections; the hardware goes on. A call under way in another thread ends as gone."""
        with self._lock:
            self._closed = True
            idle, busy = self._idle, list(self._busy.values())
            self._idle = []
        for proxy in idle[:1]:
            with contextlib.suppress(Pyro5.errors.PyroError, OSError):
                proxy._pyroClaimOwnership()
                proxy._pyroTimeout = GOODBYE_S
                proxy._pyroInvoke("call", (GOODBYE, b""), {})
        for proxy in (*idle, *busy):
            _hang_up(proxy)


def _hang_up(proxy: Any) -> None:
    connection = proxy._pyroConnection
    if connection is not None:
        connection.close()


def find_hardware(scope: Scope, layout: Layout, timeout_s: float) -> ProxyHardware:
    """The hardware process of this data directory, waited for.

    Raises
    ------
    HardwareGoneError
        Where none answered within ``timeout_s``.
    ConfigurationError
        Where the one that answered runs another scope.
    """
    address = address_of(scope, layout)
    deadline = time.monotonic() + timeout_s
    pause = 0.02
    while True:
        hardware = None
        try:
            link = None if address.socket_path is not None else client_link(address, layout)
            hardware = ProxyHardware(scope, address, _key(layout), link)
            info = hardware.info()
            break
        except (HardwareGoneError, HardwareTimeout, ConfigurationError) as error:
            if isinstance(error, ConfigurationError) and not address.loopback:
                raise
            if hardware is not None:
                hardware.close()
            if time.monotonic() + pause > deadline:
                raise HardwareGoneError(
                    f"no hardware process answers at {address} after {timeout_s:g} s: start it with"
                    f" python -m queuescope.hardware --scope {scope.path} --data {layout.data} ({error})",
                    thing="hardware",
                    limit=timeout_s,
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
    if info.scope != scope.name:
        hardware.close()
        raise ConfigurationError(
            f"the hardware process at {address} runs the scope {info.scope!r}, not {scope.name!r}: stop it (pid {info.pid}),"
            " or use another data directory",
            thing="scope",
            value=info.scope,
        )
    return hardware


def _key(layout: Layout) -> str:
    """The process's key; empty before it has made one (or its copy was put here, where it runs elsewhere)."""
    try:
        return layout.key_file("hardware").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
