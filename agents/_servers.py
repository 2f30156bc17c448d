"""Named microscopes and who they are: address, key and identity, kept from the first meeting on (decision 0078)."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import ssl
import urllib.parse
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..layout import Layout
from ._errors import NotPairedError, OtherServerError, ServerLostError

SERVERS_ENV = "QUEUESCOPE_SERVERS"
IDENTITY = "Queuescope-Server"
"""Header of a request: the server that it is meant for. Another one refuses it with 421 `other_server`."""
ROLE = "agent"
"""Whose key a client on the microscope's own machine takes."""


@dataclass(frozen=True)
class Server:
    """A microscope's REST server."""

    name: str
    url: str | None = None
    key: str | None = None
    data: str | None = None
    """Data directory, for one on this machine: address and key are read there, each time it is looked for."""
    role: str = ROLE
    server_id: str | None = None
    certificate: str | None = None
    """PEM of the only certificate that is trusted, where the address is https."""

    def address(self) -> tuple[str, str]:
        """Where it is now, and the key that opens it.

        Raises
        ------
        ServerLostError
            Where nothing runs on its data directory.
        """
        if self.data is None:
            assert self.url is not None
            assert self.key is not None
            return self.url.rstrip("/"), self.key
        layout = Layout(self.data)
        runtime = layout.runtime()
        if runtime is None:
            raise ServerLostError(f"nothing runs on {layout.data}: start it with `queuescope up --data {layout.data}`")
        try:
            return str(runtime["http"]), layout.key_file(self.role).read_text(encoding="ascii").strip()
        except OSError as error:
            raise NotPairedError(f"no key of the role {self.role} that this user may read: {error}") from None

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Trusts the pinned certificate and no other; where none is pinned, what this machine trusts."""
        if self.certificate is None:
            return ssl.create_default_context()
        context = ssl.create_default_context(cadata=self.certificate)
        context.check_hostname = False  # it is known by its certificate
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # also where an authority signed it
        return context

    def known_as(self, told: dict[str, Any]) -> Server:
        """This server, with the identity that it tells of itself.

        Raises
        ------
        OtherServerError
            Where it was known as another one.
        """
        found = told.get("server_id")
        if self.server_id not in (None, found):
            raise OtherServerError(
                f"at {self.address()[0]} answers {told.get('scope')} ({found}), not {self.name} ({self.server_id}), which was"
                f" paired: if that is right, `queuescope pair {self.name} … --again`"
            )
        return replace(self, server_id=found)


def servers_file() -> Path:
    """``$QUEUESCOPE_SERVERS``, else ``queuescope/servers.json`` in this user's folder of settings."""
    if told := os.environ.get(SERVERS_ENV):
        return Path(told)
    base = os.environ.get("APPDATA") if os.name == "nt" else os.environ.get("XDG_CONFIG_HOME")
    return Path(base or Path.home() / ".config") / "queuescope" / "servers.json"


def paired() -> dict[str, Server]:
    """Every microscope that was paired on this machine, by name."""
    path = servers_file()
    try:
        return {name: Server(name=name, **told) for name, told in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise NotPairedError(f"{path} can't be read: {error}") from None


def keep(server: Server, again: bool = False) -> None:
    """Remember a server; the file (0600: it holds keys) is replaced at once.

    Raises
    ------
    OtherServerError
        Where this name stands for another one and ``again`` doesn't say that it shall be replaced.
    """
    known = paired()
    before = known.get(server.name)
    if before is not None and not again and _identity(before) != _identity(server):
        raise OtherServerError(
            f"{server.name} is paired with {before.url or before.data} ({before.server_id}) already: --again replaces it"
        )
    known[server.name] = server
    path = servers_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({name: _told(one) for name, one in sorted(known.items())}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def find(
    name: str | None, url: str | None, key: str | None, data: str | os.PathLike[str] | None, role: str = ROLE
) -> Server:
    """The server that `Scope.connect` means.

    Raises
    ------
    NotPairedError
        Where nothing says which.
    """
    if url is not None:
        if key is None:
            raise NotPairedError(f"{url} opens with a key only: pass key=…, or pair it: `queuescope pair NAME {url}`")
        return Server(name or urllib.parse.urlsplit(url).netloc, url=url, key=key)
    if name is not None and data is None:
        known = paired()
        if name not in known:
            names = f"there are {', '.join(sorted(known))}" if known else "none is yet"
            raise NotPairedError(
                f"no microscope {name!r} is paired ({names}): `queuescope pair {name} URL`, or `queuescope pair {name}"
                " --data DIR` for one on this machine"
            )
        return known[name]
    layout = Layout(data)
    told = (layout.runtime() or {}).get("scope")
    return Server(name or str(told or layout.data.name), data=str(layout.data), role=role)


def certificate_of(url: str) -> str | None:
    """PEM of the certificate that an https address shows now; None for http.

    Raises
    ------
    ServerLostError
        Where nobody answers.
    """
    place = urllib.parse.urlsplit(url)
    if place.scheme != "https":
        return None
    try:
        return ssl.get_server_certificate((str(place.hostname), place.port or 443), timeout=10)
    except OSError as error:
        raise ServerLostError(f"{url} does not answer: {error}") from None


def fingerprint(certificate: str) -> str:
    """SHA-256 of a certificate, as browsers show it."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


def _identity(server: Server) -> tuple[str | None, str | None]:
    return server.server_id, server.certificate


def _told(server: Server) -> dict[str, Any]:
    return {name: value for name, value in asdict(server).items() if value is not None and name != "name"}
