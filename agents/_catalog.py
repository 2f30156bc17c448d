"""The catalog of runs, opened with one call."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..layout import Layout

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

READING_ROLES = ("agent", "observer")
"""Whose key is taken from the data directory: the first that this user may read. All read the same."""


class CatalogNotFoundError(LookupError):
    """Nothing says where the catalog is, or with which key it opens. The text says what to do."""


def catalog(data: str | os.PathLike[str] | None = None, key: str | None = None) -> CatalogOfBlueskyRuns:
    """Open the catalog of runs: ``catalog()[run_uid]["primary"]["cam_a"].read()`` is an array (frames, height, width).

    Parameters
    ----------
    data
        The data directory of a running microscope on this machine (default: ``$QUEUESCOPE_DATA``, else
        ``queuescope-data`` in the working directory), or the address of a Tiled server, ``http://host:port``.
    key
        The key of a role. On this machine it is read from ``DIR/keys`` where it isn't given; an address needs one.

    Raises
    ------
    CatalogNotFoundError
        Where nothing runs on the data directory, or no key is there.
    """
    if isinstance(data, str) and data.startswith(("http://", "https://")):
        url = data
        if key is None:
            raise CatalogNotFoundError(
                f"{url} opens with a key only: pass key=…, the key of the role agent or observer"
            )
    else:
        layout = Layout(data)
        url = _address(layout)
        key = key or _key(layout)
    from tiled.client import from_uri

    return from_uri(url, _own_clients(), api_key=key)


def _own_clients() -> Any:
    """Tiled's table of client classes, for this catalog alone.

    ``catalog.v1``, ``catalog.v2`` and databroker enter their own class for runs into the table that all clients of a process
    share; from then on ``run["primary"]["cam_a"]`` is a KeyError everywhere (bluesky_tiled_plugins 2.0.12).
    """
    import bluesky_tiled_plugins
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH
    from tiled.utils import OneShotCachedMap

    shared = DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"]
    classes = {name: partial(shared.__getitem__, name) for name in shared}
    for name in ("CatalogOfBlueskyRuns", "BlueskyRun", "BlueskyEventStream"):
        classes[name] = partial(getattr, bluesky_tiled_plugins, name)
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
