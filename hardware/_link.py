"""The link over TCP: TLS 1.3 with a certificate on each side, pinned; a cut is noticed within `CUT_S` on both.

Pyro5's own TLS settings are global to a process, trust the system's authorities on the client, and shake hands in the loop
that accepts: one silent peer would keep everybody out. So sockets are wrapped here, one handshake a thread, with a deadline.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import Pyro5.errors
import Pyro5.protocol
import Pyro5.serializers
import Pyro5.socketutil

from ..layout import Layout
from ._address import OBJECT, Address
from ._certificates import CLIENT, SERVER, make_keys
from ._errors import ConfigurationError

CUT_S = 3
"""A peer whose machine hasn't acknowledged anything for so long is cut off."""

HANDSHAKE_S = 5.0


@dataclass(frozen=True)
class Link:
    """One side's TLS, and the only certificate that it takes from the other."""

    context: ssl.SSLContext
    peer: bytes
    """DER."""

    def check(self, connection: ssl.SSLSocket) -> None:
        """
        Raises
        ------
        PermissionError
            Where the peer showed another certificate.
        """
        if not hmac.compare_digest(connection.getpeercert(binary_form=True) or b"", self.peer):
            raise PermissionError("the peer's certificate is not the pinned one")

    def listen(self, daemon: Any) -> None:
        """Wrap a daemon's socket; each accepted connection shakes hands in its own thread (`greet`)."""
        server = daemon.transportServer
        server.sock = self.context.wrap_socket(server.sock, server_side=True, do_handshake_on_connect=False)

    def greet(self, connection: ssl.SSLSocket) -> None:
        """The server's side of a new connection.

        Raises
        ------
        OSError
            Where the peer has no certificate, another one, or says nothing for `HANDSHAKE_S`.
        """
        connection.settimeout(HANDSHAKE_S)
        connection.do_handshake()
        self.check(connection)
        keep_watch(connection)

    def dial(self, proxy: Any, address: Address, timeout_s: float) -> None:
        """Connect a Pyro proxy.

        Raises
        ------
        Pyro5.errors.CommunicationError
            Where nobody answers, or one side refuses the other ("rejected").
        """
        with _translated(address):
            plain = socket.create_connection((address.host, address.port), timeout=timeout_s)
            try:
                connection = self.context.wrap_socket(plain)  # detaches `plain`
            except BaseException:
                plain.close()
                raise
            try:
                self.check(connection)
                keep_watch(connection)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                proxy._pyroConnection = _introduced(proxy, connection)
            except BaseException:
                connection.close()
                raise


@contextlib.contextmanager
def _translated(address: Address) -> Iterator[None]:
    try:
        yield
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError) as error:
        raise Pyro5.errors.CommunicationError(f"cannot connect to {address}: {error}") from error
    except (ssl.SSLError, PermissionError) as error:
        raise Pyro5.errors.CommunicationError(f"connection to {address} rejected: {error}") from error
    except OSError as error:
        raise Pyro5.errors.CommunicationError(f"cannot connect to {address}: {error}") from error
    except Pyro5.errors.ConnectionClosedError as error:
        # in TLS 1.3 a refused certificate shows at the first read
        verb = "rejected" if "alert" in str(error) else "closed"
        raise Pyro5.errors.CommunicationError(f"connection to {address} {verb}: {error}") from error


def _introduced(proxy: Any, connection: ssl.SSLSocket) -> Any:
    """Pyro's own handshake, which a proxy only does on sockets that it made itself."""
    link = Pyro5.socketutil.SocketConnection(connection, OBJECT)
    serializer = Pyro5.serializers.serializers["msgpack"]
    words = serializer.dumps({"handshake": proxy._pyroHandshake, "object": OBJECT})
    protocol = Pyro5.protocol
    link.send(protocol.SendingMessage(protocol.MSG_CONNECT, 0, 0, serializer.serializer_id, words).data)
    reply = protocol.recv_stub(link, [protocol.MSG_CONNECTOK, protocol.MSG_CONNECTFAIL])
    if reply.type == protocol.MSG_CONNECTFAIL:
        raise PermissionError(serializer.loads(reply.data))
    return link


def keep_watch(connection: socket.socket) -> None:
    """Let the kernel ask every second whether the other machine is there, and give up after `CUT_S`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 1),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", CUT_S),
        ("TCP_USER_TIMEOUT", CUT_S * 1000),
    ):
        if hasattr(socket, option):  # Windows has no TCP_USER_TIMEOUT
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def server_link(address: Address, layout: Layout) -> Link:
    """The hardware's side. On loopback both sides share the data directory: then keys are made where there are none.

    Raises
    ------
    ConfigurationError
        Where its certificates are missing or can't be read; says how to make and copy them.
    """
    if address.loopback and not any(layout.keys.glob("hardware_*.*")):
        make_keys(layout.keys, layout.keys)
    return _link(address, layout, SERVER, CLIENT, ssl.PROTOCOL_TLS_SERVER)


def client_link(address: Address, layout: Layout) -> Link:
    """The stack's side; see `server_link`."""
    return _link(address, layout, CLIENT, SERVER, ssl.PROTOCOL_TLS_CLIENT)


def _link(address: Address, layout: Layout, own: str, other: str, protocol: Any) -> Link:
    own_file, other_file = layout.keys / f"{own}.pem", layout.keys / f"{other}.crt"
    missing = [str(path) for path in (own_file, other_file) if not path.is_file()]
    if missing:
        raise ConfigurationError(
            f"{address} needs certificates on both sides; missing here: {', '.join(missing)}. Make them once on the stack's"
            " machine with python -m queuescope.hardware --make-keys FOLDER --data DIR, then move the files in FOLDER to the"
            " folder keys of the hardware PC's data directory",
            thing="services.hardware",
            value=str(address),
        )
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned, whatever the host is called
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(own_file)
        context.load_verify_locations(other_file)
        peer = ssl.PEM_cert_to_DER_cert(Path(other_file).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(
            f"the certificates in {layout.keys} ({own_file.name}, {other_file.name}) can't be used: {error}: make new ones"
            " (python -m queuescope.hardware --make-keys FOLDER)",
            thing="services.hardware",
            value=str(layout.keys),
        ) from error
    return Link(context, peer)
