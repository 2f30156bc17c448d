"""``queuescope keygen``, ``pair``: what a client's scripts need, on the machine where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..layout import Layout
from ._terminal import Data, Json, fail, print_json, show


def keygen(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The new key file, such as exec.key.")],
) -> None:
    """Make the seed of a durable script's keys.

    With the same file the same script is the same operations: what was done is replayed, the rest runs. An existing file is never
    overwritten; keep it with the script, and make another one to run everything anew.
    """
    from .. import agents

    try:
        show.print(escape(str(agents.keygen(file))))
    except agents.KeyFileError as error:
        fail(str(error))


def pair(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What scripts call it: Scope.connect('NAME').")],
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="Its REST server. Left out: the one of the data directory on this machine."),
    ] = None,
    key_file: Annotated[
        str | None,
        typer.Option("--key-file", metavar="FILE", help="The key of a role (keys/agent there); - asks for it."),
    ] = None,
    role: Annotated[str, typer.Option("--role", help="Whose key, of a data directory on this machine.")] = "agent",
    again: Annotated[bool, typer.Option("--again", help="Replace what was paired under this name.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remember a microscope under a name: its address, a key, and who it is.

    From then on a script reaches that microscope and no other: where another one answers at this address, or shows another
    certificate, nothing is sent to it.
    """
    from .. import agents

    try:
        if url is None:
            server = agents.pair(name, data=Layout(data).data, role=role, again=again)
        else:
            server = agents.pair(name, url=url, key=_key(url, key_file), again=again)
    except (agents.ScopeError, OSError) as error:
        fail(str(error))
    pinned = None if server.certificate is None else agents.fingerprint(server.certificate)
    if as_json:
        where = {"url": server.url, "data": server.data}
        print_json({"name": name, **where, "server_id": server.server_id, "sha256": pinned})
        return
    show.print(f"{escape(name)} is {escape(str(server.url or server.data))}")
    show.print(f"server       {server.server_id}")
    if pinned is not None:
        show.print(f"certificate  SHA-256 {pinned}")


def _key(url: str, key_file: str | None) -> str:
    if key_file is None:
        fail(f"{url} opens with a key only: --key-file FILE, a copy of keys/agent of its data directory")
    if key_file == "-":
        return str(typer.prompt("key", hide_input=True, err=True)).strip()
    return Path(key_file).read_text(encoding="ascii").strip()


def add_to(app: typer.Typer) -> None:
    app.command()(keygen)
    app.command()(pair)
