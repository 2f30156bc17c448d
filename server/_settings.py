"""bluesky-httpserver's configuration, written to ``DIR/services/http.yml``: roles, database, sockets, our routes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config import Scope
from ..layout import ROLES, Layout
from ._queue import control_address, info_address

_READ = (
    "read:status",
    "read:queue",
    "read:history",
    "read:resources",
    "read:config",
    "read:monitor",
    "read:console",
    "read:lock",
)
_OPERATE = (
    "write:queue:control",
    "write:plan:control",
    "write:manager:control",
    "write:execute",
    "write:lock",
)
_ADMINISTER = (
    "read:testing",
    "write:history:edit",
    "write:permissions",
    "write:scripts",
    "write:config",
    "write:manager:stop",
    "write:testing",
    "user:apikeys",
    "admin:apikeys",
    "admin:read:principals",
    "admin:metrics",
)

ROLE_SCOPES: Mapping[str, tuple[str, ...]] = {
    "observer": _READ,
    "agent": (*_READ, "write:queue:edit"),
    "operator": (*_READ, "write:queue:edit", *_OPERATE),
    "admin": (*_READ, "write:queue:edit", *_OPERATE, *_ADMINISTER),
}
"""bluesky-httpserver's scopes of each role: coarser than `_access.ACCESS`, which stands in front of them."""


def http_settings(scope: Scope, layout: Layout, database_uri: str) -> dict[str, Any]:
    """What bluesky-httpserver reads from its configuration file. It holds no key."""
    roles: dict[str, Any] = {role: {"scopes_set": list(ROLE_SCOPES[role])} for role in ROLES}
    # upstream's users of a server without keys
    roles |= {"unauthenticated_public": None, "unauthenticated_single_user": None}
    return {
        "qserver_zmq_configuration": {
            "control_address": control_address(scope, layout),
            "info_address": info_address(scope, layout),
        },
        "server_configuration": {"custom_routers": ["queuescope.server.router", "queuescope.server.events_router"]},
        "authentication": {
            "providers": [{"provider": "queuescope", "authenticator": "queuescope.server._keys:NobodyLogsIn"}],
            "allow_anonymous_access": False,
        },
        "database": {"uri": database_uri},
        "api_access": {
            "policy": "bluesky_httpserver.authorization:DictionaryAPIAccessControl",
            "args": {"roles": roles, "users": {role: {"roles": [role]} for role in ROLES}},
        },
        "resource_access": {"policy": "queuescope.server._keys:GroupOfRole"},
    }


def write_http_settings(layout: Layout, settings: Mapping[str, Any]) -> Path:
    """Write ``DIR/services/http.yml`` (0600) as a whole or not at all; return its path."""
    path = layout.services / "http.yml"
    draft = path.with_name(f".http.yml.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("# Written by `python -m queuescope.server` at every start: changes here are lost.\n")
        yaml.safe_dump(dict(settings), file, sort_keys=False)
    draft.replace(path)
    return path
