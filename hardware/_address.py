"""Where the hardware process listens: a unix socket that only this user may open, or TCP with certificates by choice."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..config import Scope
from ..layout import Layout
from ._errors import ConfigurationError

OBJECT = "hardware"
"""Name of the one Pyro object."""

LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True)
class Address:
    """A unix socket or a TCP host and port."""

    socket_path: Path | None
    host: str = ""
    port: int = 0

    @property
    def uri(self) -> str:
        if self.socket_path is not None:
            return f"PYRO:{OBJECT}@./u:{self.socket_path}"
        return f"PYRO:{OBJECT}@{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """TCP that never leaves this machine."""
        return self.socket_path is None and (self.host == "localhost" or _ip_is(self.host, "is_loopback"))

    @property
    def urgent(self) -> Address:
        """Where halt is heard, whatever goes on at this address: a socket beside it, or the next TCP port."""
        if self.socket_path is not None:
            return Address(self.socket_path.with_name("halt.sock"))
        return Address(None, self.host, self.port + 1)

    def __str__(self) -> str:
        return str(self.socket_path) if self.socket_path is not None else f"tcp://{self.host}:{self.port}"


def address_of(scope: Scope, layout: Layout) -> Address:
    """The address that the scope means.

    Raises
    ------
    ConfigurationError
        For something else than ``tcp://host:port``, a socket path that is too long, or a system without unix sockets.
    """
    text = scope.services.hardware
    if text is not None:
        parts = urlsplit(text)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme != "tcp" or not parts.hostname or not port or parts.path:
            raise ConfigurationError(
                f"services.hardware: {text!r} is not tcp://host:port", thing="services.hardware", value=text
            )
        if _ip_is(parts.hostname, "is_unspecified"):
            raise ConfigurationError(
                f"services.hardware: {text!r} would listen on every network of the PC: name the address of one of its network"
                " interfaces",
                thing="services.hardware",
                value=text,
            )
        return Address(None, parts.hostname, port)
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(
            "this system has no unix sockets: set services.hardware in the scope file to tcp://127.0.0.1:PORT",
            thing="services.hardware",
        )
    path = layout.hardware_socket
    if len(str(path).encode()) > LONGEST_SOCKET_PATH:
        raise ConfigurationError(
            f"the socket's path {path} is longer than {LONGEST_SOCKET_PATH} characters: set XDG_RUNTIME_DIR to a shorter folder",
            thing="XDG_RUNTIME_DIR",
            value=str(path),
        )
    return Address(path)


def _ip_is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), what))
    except ValueError:  # a name
        return False
