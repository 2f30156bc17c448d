"""The catalog of runs, opened with one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..layout import Layout
from ._where import Whereabouts

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

READING_ROLES = ("agent", "observer")
"""Whose key is taken from the data directory: the first that this user may read. All read the same."""


class CatalogNotFoundError(LookupError):
    """Nothing says where the catalog is, or with which key it opens. The text says what to do."""


def catalog(
    data: str | os.PathLike[str] | None = None,
    key: str | None = None,
    roots: Mapping[str, str | os.PathLike[str]] | None = None,
) -> CatalogOfBlueskyRuns:
    """Open the catalog of runs: ``catalog()[run_uid].frames("cam_a")`` is a lazy array (frames, height, width).

    A Tiled client: ``catalog[-1]``, the beginning of a UID, ``search`` and ``run["primary"]["cam_a"]`` are Tiled's. Runs are
    `Run`, which reads straight from the files where this machine sees them.

    Parameters
    ----------
    data
        The data directory of a running microscope on this machine (default: ``$QUEUESCOPE_DATA``, else
        ``queuescope-data`` in the working directory), or the address of a Tiled server, ``http://host:port``.
    key
        The key of a role. On this machine it is read from ``DIR/keys`` where it isn't given; an address needs one.
    roots
        Where this machine has mounted the microscope's storage roots: ``{"DATA": "/mnt/microscope"}``. A file is read there
        only where it is found to be the one that Tiled reads.

    Raises
    ------
    CatalogNotFoundError
        Where nothing runs on the data directory, or no key is there.
    """
    layout: Layout | None
    if isinstance(data, str) and data.startswith(("http://", "https://")):
        url, layout = data, None
        if key is None:
            raise CatalogNotFoundError(
                f"{url} opens with a key only: pass key=…, the key of the role agent or observer"
            )
    else:
        layout = Layout(data)
        url = _address(layout)
        key = key or _key(layout)
    from tiled.client import from_uri

    return from_uri(url, _own_clients(Whereabouts(layout, roots or {})), api_key=key)


def _own_clients(where: Whereabouts) -> Any:
    """Tiled's table of client classes, for this catalog alone.

    ``catalog.v1``, ``catalog.v2`` and databroker enter their own class for runs into the table that all clients of a process
    share; from then on ``run["primary"]["cam_a"]`` is a KeyError everywhere (bluesky_tiled_plugins 2.0.12).
    """
    import bluesky_tiled_plugins
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH
    from tiled.utils import OneShotCachedMap

    from ._on_disk import client_classes

    shared = DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"]
    classes = {name: partial(shared.__getitem__, name) for name in shared}
    classes["BlueskyEventStream"] = partial(getattr, bluesky_tiled_plugins, "BlueskyEventStream")
    own = client_classes(where)
    for name in own:
        classes[name] = partial(own.__getitem__, name)
    return OneShotCachedMap(classes)


def _address(layout: Layout) -> str:
    runtime = layout.runtime()
    if runtime is None:
        raise CatalogNotFoundError(f"nothing runs on {layout.data}: start it with `queuescope up --data {layout.data}`")
    url = runtime.get("tiled")
    if not url:
        raise CatalogNotFoundError(
            f"{layout.runtime_json} names no Tiled server: is it still starting? (`queuescope ready`)"
        )
    return str(url)


def _key(layout: Layout) -> str:
    for role in READING_ROLES:
        path: Path = layout.key_file(role)
        try:
            return path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, PermissionError):
            continue
    raise CatalogNotFoundError(
        f"no key that this user may read in {layout.keys} (looked for {' and '.join(READING_ROLES)}): pass key=…"
    )
