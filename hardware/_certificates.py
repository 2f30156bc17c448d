"""Certificates for a hardware process that is reached over TCP: made here, pinned on both sides, private keys 0600.

Each side has one self-signed certificate and trusts exactly the other's: no authority, no names, no expiry to go wrong on a
microscope PC whose clock is.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from ._errors import ConfigurationError

SERVER, CLIENT = "hardware_server", "hardware_client"
"""``NAME.pem`` holds a private key and its certificate, ``NAME.crt`` the certificate alone, for the other side."""

FOREVER = datetime(9999, 12, 31, tzinfo=UTC)
"""RFC 5280's "no well-defined expiration": a certificate is taken back by deleting it."""


def make_keys(clients: Path, server: Path) -> None:
    """Make both pairs: what the stack's side needs into ``clients``, what the hardware's side needs into ``server``.

    Raises
    ------
    ConfigurationError
        Where one of the files exists already: keys in use are never overwritten.
    """
    files = [
        *(clients / name for name in (f"{CLIENT}.pem", f"{SERVER}.crt")),
        *(server / name for name in (f"{SERVER}.pem", f"{CLIENT}.crt")),
    ]
    for path in files:
        if path.exists():
            raise ConfigurationError(
                f"{path} exists already: move it away to make new keys (both sides need the new ones then)",
                thing="keys",
                value=str(path),
            )
    for folder in (clients, server):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, own, other in ((CLIENT, clients, server), (SERVER, server, clients)):
        key, certificate = _pair(name)
        _write(own / f"{name}.pem", key + certificate)
        _write(other / f"{name}.crt", certificate)


def _pair(name: str) -> tuple[bytes, bytes]:
    """A private key and its self-signed certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"queuescope {name}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(FOREVER)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
