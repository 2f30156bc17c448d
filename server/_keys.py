"""One static key a role, without a login flow: what bluesky-httpserver needs for it, and the lookup of a key's role.

bluesky-httpserver keeps SHA-256 digests of keys in an SQL database, written here before it starts. An admin may make further
keys over REST; those stay until they are revoked.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from bluesky_httpserver.authentication import Mode
from bluesky_httpserver.database import orm
from bluesky_httpserver.database.core import (
    DatabaseUpgradeNeeded,
    UninitializedDatabase,
    UnrecognizedDatabase,
    check_database,
    create_user,
    initialize_database,
    lookup_valid_api_key,
)
from bluesky_httpserver.settings import DatabaseSettings, get_sessionmaker
from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from ..layout import ROLES, Layout
from ._data_version import DataVersion
from ._guard import Caller

PROVIDER = "queuescope"
"""Name of the identity provider in bluesky-httpserver's records."""

NOTE = "role key"
"""Marks the rows that are written here; any other key was made by an admin."""


class NobodyLogsIn:
    """An identity provider that knows its users by their keys alone: every password is wrong."""

    mode = Mode.password

    async def authenticate(self, username: str, password: str) -> None:
        return None


class GroupOfRole:
    """bluesky-httpserver's resource policy: a user is named as the role, and so is the queueserver group."""

    def get_resource_group(self, username: str) -> str:
        """The queueserver group of a user.

        Raises
        ------
        ValueError
            For a user that is no role.
        """
        if username not in ROLES:
            raise ValueError(f"user {username!r} is none of the roles {', '.join(ROLES)}")
        return username


def database_path(layout: Layout) -> Path:
    return layout.services / "http-auth.db"


def database_uri(layout: Layout) -> str:
    """Address of the key database, for SQLAlchemy.

    As a percent-encoded SQLite URI: bluesky-httpserver expands ``$NAME`` in its configuration, and a ``?`` or ``#`` in the
    data directory's path would end the address.
    """
    return f"sqlite:///file:{quote(str(database_path(layout)))}?uri=true"


def write_role_keys(layout: Layout) -> None:
    """Make the key database agree with the files under ``DIR/keys``: one key a role, an old one removed.

    Raises
    ------
    OSError
        Where the database can't be written or isn't one.
    """
    path = database_path(layout)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = create_engine(database_uri(layout))
    try:
        try:
            check_database(engine)
        except UninitializedDatabase:
            initialize_database(engine)
        with Session(engine) as db:
            for role in ROLES:
                _write_role_key(db, role, bytes.fromhex(layout.key(role)))
            db.commit()
    except (DatabaseError, UnrecognizedDatabase, DatabaseUpgradeNeeded) as error:
        reason = getattr(error, "orig", error)
        raise OSError(
            f"the key database {path} can't be used ({reason}): remove it, it is made again from the keys in {layout.keys}"
            " (keys that an admin made over REST are lost)"
        ) from None
    finally:
        engine.dispose()


def _write_role_key(db: Session, role: str, secret: bytes) -> None:
    identity = db.query(orm.Identity).filter_by(id=role, provider=PROVIDER).one_or_none()
    principal = create_user(db, PROVIDER, role) if identity is None else identity.principal
    digest = hashlib.sha256(secret).digest()
    present = False
    for row in db.query(orm.APIKey).filter_by(principal_id=principal.id, note=NOTE):
        if row.hashed_secret == digest:
            present = True
        else:
            db.delete(row)
    if not present:
        db.add(
            orm.APIKey(
                principal_id=principal.id,
                first_eight=secret.hex()[:8],
                hashed_secret=digest,
                note=NOTE,
                scopes=["inherit"],
            )
        )


class RoleKeys:
    """Looks keys up in the database that bluesky-httpserver uses, through its own pool of connections.

    A key that doesn't expire is looked up once for each state of the database: any commit to it, a revoked key's among them,
    changes SQLite's ``data_version``.
    """

    def __init__(self, settings: DatabaseSettings, path: Path) -> None:
        self._settings = settings
        self._version = DataVersion(path)
        self._seen: tuple[int | None, dict[bytes, Caller]] = (None, {})

    def known(self, key: str) -> Caller | None:
        """`caller_of` where that needs no look-up: waits for nothing."""
        version, callers = self._seen
        return callers.get(_digest(key)) if version is not None and version == self._version.now() else None

    def caller_of(self, key: str) -> Caller | None:
        """Whose key this is (in hexadecimal); None for one that is unknown, expired or revoked."""
        version = self._version.now()
        with get_sessionmaker(self._settings)() as db:
            row = lookup_valid_api_key(db, bytes.fromhex(key))
            identities = row.principal.identities if row is not None else []
            role = next((identity.id for identity in identities if identity.provider == PROVIDER), None)
            if row is None or role not in ROLES:
                return None
            caller = Caller(role, narrowed="inherit" not in row.scopes)
            if row.expiration_time is None:
                callers = self._seen[1] if self._seen[0] == version else {}
                self._seen = (version, {**callers, _digest(key): caller})
        return caller


def _digest(key: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(key)).digest()
