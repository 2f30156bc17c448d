"""Pairing: the first meeting with a microscope, after which only that one is spoken to."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from ..layout import Layout
from ._errors import NotPairedError
from ._link import Link
from ._servers import ROLE, Server, certificate_of, find, keep

MEET_S = 10.0


def pair(
    name: str,
    *,
    url: str | None = None,
    key: str | None = None,
    data: str | os.PathLike[str] | None = None,
    role: str = ROLE,
    again: bool = False,
) -> Server:
    """Meet a microscope and remember it under a name; returns it with its identity, for a person to compare.

    Parameters
    ----------
    url, key
        Its REST server and the key of a role. The certificate that an https address shows now is the only one trusted later.
    data, role
        Or its data directory on this machine; address and key are then read there each time.
    again
        Replace another one that has this name.

    Raises
    ------
    NotPairedError
        Where it has no identity: a server that was started by hand.
    OtherServerError
        Where the name stands for another one.
    ServerLostError, RefusedError
        Where it doesn't answer, or the key isn't valid there.
    """
    if url is not None:
        server = replace(find(name, url, key, None), certificate=certificate_of(url))
    else:
        server = find(name, None, None, Layout(data).data, role)
    server = asyncio.run(_met(server))
    if server.server_id is None:
        raise NotPairedError(f"the server at {server.address()[0]} has no identity: start it with `queuescope up`")
    keep(server, again)
    return server


async def _met(server: Server) -> Server:
    link = Link(server, MEET_S)
    try:
        await link.meet()
        return link.server
    finally:
        await link.close()
