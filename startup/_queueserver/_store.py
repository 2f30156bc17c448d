"""Where the queue is kept: Valkey."""

from __future__ import annotations

import os
import time
from typing import Any

import redis.asyncio

from ...config import Scope, load_scope
from ...layout import SCOPE_ENV, Layout


def valkey_address(scope: Scope, layout: Layout) -> dict[str, Any]:
    """Arguments for a redis client of the queue store: the embedded one's unix socket, or the scope's ``host:port``."""
    secret = {"password": layout.key("valkey")}
    if scope.services.valkey == "embedded":
        return {"unix_socket_path": str(layout.valkey_socket), **secret}
    host, _, port = scope.services.valkey.partition(":")
    return {"host": host, "port": int(port or 6379), **secret}


def settings() -> tuple[Scope, Layout]:
    return load_scope(os.environ[SCOPE_ENV]), Layout()


def wait_for_valkey(deadline_s: float = 10.0) -> None:
    """Wait until the queue store answers: a manager that starts without it dies for good.

    Raises
    ------
    TimeoutError
        Naming the address.
    """
    scope, layout = settings()
    give_up = time.monotonic() + deadline_s
    while True:
        try:
            with redis.Redis(**valkey_address(scope, layout)) as client:
                client.ping()
            return
        except redis.RedisError as error:
            if time.monotonic() > give_up:
                where = layout.valkey_socket if scope.services.valkey == "embedded" else scope.services.valkey
                raise TimeoutError(
                    f"the queue store at {where} didn't answer within {deadline_s} s: {error}"
                ) from error
            time.sleep(0.02)
