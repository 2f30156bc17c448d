"""The catalog's database: SQLite in the data directory, or a PostgreSQL by address."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ..config import Scope
from ..layout import Layout
from ._search import statements

PASSWORD = "catalog"
"""Name of the file in ``DIR/keys`` with PostgreSQL's password."""
_TURN = 5_146_110
"""Number of the lock that Tiled servers take while they look whether the tables are there."""


def catalog_uri(scope: Scope, layout: Layout) -> str:
    """Where runs, streams and datasets are entered; never with a password."""
    return sqlite(layout.catalog_db) if scope.services.catalog == "embedded" else scope.services.catalog


def storage_uris(scope: Scope, layout: Layout) -> tuple[str, str]:
    """Where Tiled keeps what event documents hold: the database of tables, and the folder of arrays.

    On PostgreSQL the folder lies in the storage root, which every Tiled server of the catalog sees.
    """
    if scope.services.catalog == "embedded":
        return sqlite(layout.data / "catalog-tables.db"), str(layout.data / "catalog-arrays")
    parts = urlsplit(scope.services.catalog)
    # With a user and no password Tiled 0.2.20 would log in with the password "None"; PGUSER names the user.
    tables = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return tables, str(layout.root(scope, scope.storage.root, "tiled") / "catalog-arrays")


def sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


def log_in(scope: Scope, layout: Layout) -> None:
    """Put PostgreSQL's user, and its password where ``DIR/keys`` has one, where both of Tiled's drivers look for them. Without,
    they look into the file that ``PGPASSFILE`` names, or ``~/.pgpass``.
    """
    user = urlsplit(scope.services.catalog).username
    if user is not None:
        os.environ["PGUSER"] = unquote(user)
    with suppress(FileNotFoundError):
        os.environ["PGPASSWORD"] = layout.key_file(PASSWORD).read_text(encoding="utf-8").strip()


async def make_catalog(uri: str) -> None:
    """Make the catalog's tables where there are none, and the indexes of `_search`.

    Raises
    ------
    RuntimeError
        Where the database can't be reached or used, or was written by another version of Tiled.
    """
    from asyncpg import InterfaceError, PostgresError
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from tiled.alembic_utils import DatabaseUpgradeNeeded, UninitializedDatabase, UnrecognizedDatabase, check_database
    from tiled.catalog.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database

    here = uri.startswith("sqlite")
    name = uri.removeprefix("sqlite:///")
    try:
        async with _engine(uri) as engine, engine.connect() as turn:
            if not here:  # other servers of this catalog may be starting too
                await turn.execute(text(f"SELECT pg_advisory_lock({_TURN})"))
            try:
                await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
            except UninitializedDatabase:
                await initialize_database(engine)
                await stamp(engine, REQUIRED_REVISION)
            if here:
                async with engine.begin() as connection:
                    for statement in statements():
                        await connection.execute(text(statement))
    except (DatabaseUpgradeNeeded, UnrecognizedDatabase) as error:
        other = "or move it away" if here else "or name another database"
        raise RuntimeError(
            f"{name} was written by another version of Tiled: upgrade it (tiled catalog upgrade-database {uri}), "
            f"{other}: the courier fills a new one from the document logs"
        ) from error
    except (OSError, DBAPIError, PostgresError, InterfaceError) as error:
        if here:
            raise
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        raise RuntimeError(
            f"the catalog's database {name} can't be used (scope.yml: services.catalog): {reason.splitlines()[0]}. It must run,"
            f" have this user and database, and take the password in DIR/keys/{PASSWORD} or ~/.pgpass"
        ) from error


async def stamp(engine: Any, revision: str) -> None:
    """Note the schema's revision where Alembic looks for it (what ``alembic stamp head`` writes)."""
    from sqlalchemy import text

    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        )
        await connection.execute(
            text("INSERT INTO alembic_version (version_num) VALUES (:revision)"), {"revision": revision}
        )


@asynccontextmanager
async def _engine(uri: str) -> AsyncIterator[Any]:
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.utils import ensure_specified_sql_driver

    engine = create_async_engine(ensure_specified_sql_driver(uri))
    try:
        yield engine
    finally:
        await engine.dispose()
