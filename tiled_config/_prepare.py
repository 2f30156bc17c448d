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
        Where the catalog was written by another version of Tiled.
    """
    for folder in (layout.data, *volume_folders(scope, layout)):
        if set("#?$") & set(str(folder)):
            raise ValueError(
                f"{folder} has one of # ? $ in its path, which Tiled can't open: choose another data directory"
            )
    layout.create()
    # The catalog's own tables and arrays hold the scalars of event documents; volumes stay where they were acquired.
    tables, arrays, keys = (
        layout.data / "catalog-tables.db",
        layout.data / "catalog-arrays",
        layout.services / "tiled-keys.db",
    )
    umask = os.umask(0o077)
    try:
        arrays.mkdir(exist_ok=True)
        asyncio.run(_make_catalog(layout.catalog_db))
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


def _configuration(scope: Scope, layout: Layout, tables: Path, arrays: Path, keys: Path) -> dict[str, Any]:
    service = scope.services.tiled
    host, port = ("127.0.0.1", 0) if service == "embedded" else (service.host, service.port)
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": _sqlite(layout.catalog_db),
                    # Tiled compares these with the path of an asset's URI as it stands there, percent-encoded.
                    "readable_storage": [quote(str(folder)) for folder in volume_folders(scope, layout)],
                    "writable_storage": [_sqlite(tables), str(arrays)],
                    "adapters_by_mimetype": {
                        "application/x-zarr": f"{_HERE}._zarr:VolumeAdapter",
                        "image/tiff": f"{_HERE}._tiff:TiffVolumeAdapter",
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
        "database": {"uri": _sqlite(keys), "init_if_not_exists": False},
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


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


async def _make_catalog(path: Path) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import DatabaseUpgradeNeeded, UninitializedDatabase, UnrecognizedDatabase, check_database
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database

    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    try:
        await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
    except UninitializedDatabase:
        await initialize_database(engine)
        await _stamp(engine, REQUIRED_REVISION)
    except (DatabaseUpgradeNeeded, UnrecognizedDatabase) as error:
        raise RuntimeError(
            f"{path} was written by another version of Tiled: upgrade it (tiled catalog upgrade-database {_sqlite(path)}), "
            "or move it away: the courier fills a new one from the document logs"
        ) from error
    finally:
        await engine.dispose()


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
        await _stamp(engine, REQUIRED_REVISION)
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


async def _stamp(engine: Any, revision: str) -> None:
    """Note the schema's revision where Alembic looks for it (what ``alembic stamp head`` writes)."""
    from sqlalchemy import text

    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        )
        await connection.execute(
            text("INSERT INTO alembic_version (version_num) VALUES (:revision)"), {"revision": revision}
        )
