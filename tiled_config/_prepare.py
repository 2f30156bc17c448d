"""The Tiled server's files: its configuration, its catalog, and a database of keys with what each may do."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from ..config import Scope
from ..layout import ROLES, Layout, shared_folders
from ._database import catalog_uri, log_in, make_catalog, sqlite, stamp, storage_uris
from ._logging import log_config

READ_SCOPES = ["read:metadata", "read:data"]
"""What the key of every role may do: documents come from the courier alone."""
COURIER = "courier"
COURIER_SCOPES = [
    *READ_SCOPES,
    "create:node",
    "write:metadata",
    "write:data",
    "register",
    "delete:node",
    "delete:revision",  # Tiled asks for it when a node is deleted
]

_HERE = __name__.rpartition(".")[0]


def tiled_url(scope: Scope, layout: Layout) -> str | None:
    """Address of the Tiled server (``http://host:port``), or None while nobody has said which port it took."""
    service = scope.services.tiled
    if service != "embedded" and service.port:
        host = f"[{service.host}]" if ":" in service.host else service.host
        return f"http://{host}:{service.port}"
    return (layout.runtime() or {}).get("tiled")


def prepare(scope: Scope, layout: Layout) -> Path:
    """Write everything the Tiled server needs and return its configuration file (mode 0600).

    The catalog is made where there is none. The database of keys is made anew each time from the files in ``DIR/keys``,
    so a changed key counts from the next start, and one that is gone opens nothing.

    Raises
    ------
    ValueError
        Where the data directory's path holds a character that Tiled would misread.
    RuntimeError
        Where the catalog's database can't be used, or was written by another version of Tiled.
    """
    for folder in (layout.data, *volume_folders(scope, layout)):
        if set("#?$") & set(str(folder)):
            raise ValueError(
                f"{folder} has one of # ? $ in its path, which Tiled can't open: choose another data directory"
            )
    layout.create()
    # The catalog's own tables and arrays hold the scalars of event documents; volumes stay where they were acquired.
    tables, arrays = storage_uris(scope, layout)
    keys = layout.services / "tiled-keys.db"
    umask = os.umask(0o077)
    try:
        Path(arrays).mkdir(exist_ok=True)
        log_in(scope, layout)
        asyncio.run(make_catalog(catalog_uri(scope, layout)))
        asyncio.run(_make_keys(keys, layout))
        path = layout.services / "tiled.yml"
        draft = path.with_suffix(".new")
        draft.write_text(
            yaml.safe_dump(_configuration(scope, layout, tables, arrays, keys), sort_keys=False), encoding="utf-8"
        )
        draft.replace(path)
    finally:
        os.umask(umask)
    return path


def volume_folders(scope: Scope, layout: Layout) -> list[Path]:
    """The folders Tiled may read, as Tiled sees them: where the files of runs are."""
    return [folder for root in scope.storage.roots for folder in shared_folders(scope, layout, root, "tiled")]


def _configuration(scope: Scope, layout: Layout, tables: str, arrays: str, keys: Path) -> dict[str, Any]:
    service = scope.services.tiled
    host, port = ("127.0.0.1", 0) if service == "embedded" else (service.host, service.port)
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": catalog_uri(scope, layout),
                    # Tiled compares these with the path of an asset's URI as it stands there, percent-encoded.
                    "readable_storage": [quote(str(folder)) for folder in volume_folders(scope, layout)],
                    "writable_storage": [tables, arrays],
                    "adapters_by_mimetype": {
                        "application/x-zarr": f"{_HERE}._zarr:VolumeAdapter",
                        "image/tiff": f"{_HERE}._tiff:TiffVolumeAdapter",
                        "application/x-tiled-sql-table": f"{_HERE}._readings:ReadingsAdapter",
                    },
                    "specs": [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
                },
            }
        ],
        # `BlueskyRun.documents()`, which databroker uses, asks for this format.
        "media_types": {
            "BlueskyRun": {"application/json-seq": "bluesky_tiled_plugins.exporters:json_seq_exporter"},
        },
        "authentication": {
            "providers": [{"provider": "queuescope", "authenticator": f"{_HERE}._login:NoLogin"}],
            "allow_anonymous_access": False,
        },
        "database": {"uri": sqlite(keys), "init_if_not_exists": False},
        "expose_raw_assets": False,
        "metrics": {"prometheus": False},
        "streaming_cache": {"uri": "memory"},
        "uvicorn": {
            "host": host,
            "port": port,
            "access_log": False,
            "timeout_graceful_shutdown": 2,  # a live subscription doesn't keep the server from stopping
            "log_config": log_config(),
        },
    }


async def _make_keys(path: Path, layout: Layout) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
    from tiled.authn_database import orm
    from tiled.authn_database.base import Base
    from tiled.authn_database.core import REQUIRED_REVISION

    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    engine = create_async_engine(f"sqlite+aiosqlite:///{draft}")
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await stamp(engine, REQUIRED_REVISION)
        async with AsyncSession(engine) as session:
            for name in (*ROLES, COURIER):
                scopes = COURIER_SCOPES if name == COURIER else READ_SCOPES
                role = orm.Role(name=name, description="", scopes=scopes)
                secret = bytes.fromhex(layout.key(name))
                principal = orm.Principal(type="service", roles=[role])
                session.add(principal)
                session.add(
                    orm.APIKey(
                        principal=principal,
                        first_eight=secret.hex()[:8],
                        hashed_secret=hashlib.sha256(secret).digest(),
                        scopes=scopes,
                        note=name,
                    )
                )
            await session.commit()
    finally:
        await engine.dispose()
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    draft.replace(path)
