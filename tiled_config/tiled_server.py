"""The Tiled server: ``python -m queuescope.tiled_config.tiled_server --scope NAME|PATH --data DIR``.

Prepares its files in ``DIR/services``, then serves what ``tiled serve config DIR/services/tiled.yml`` serves, in this process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ..layout import process_arguments
from ..lean import no_collection
from ._lean import lean
from ._prepare import prepare


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    scope, layout = process_arguments("The Tiled server: the catalog of runs.")
    # Tiled lets its environment variables override the configuration file: a forgotten TILED_ALLOW_ANONYMOUS_ACCESS must
    # not open the catalog.
    for name in [name for name in os.environ if name.startswith("TILED_")]:
        del os.environ[name]
    os.umask(0o077)
    with no_collection():
        with lean():
            try:
                path = prepare(scope, layout)
            except (OSError, ValueError, RuntimeError) as error:
                sys.exit(f"Tiled can't start: {error}")
            app, options = _application(path)
        _remember_keys()
    import uvicorn

    uvicorn.run(app, **options)


def _application(path: Path) -> tuple[Any, dict[str, Any]]:
    """What ``tiled serve config`` serves, and uvicorn's options."""
    from tiled.config import Authentication, parse_configs
    from tiled.server.app import build_app_from_config

    from . import _graph, _readings, _search

    config = parse_configs(path)
    # Where a login provider is listed, Tiled's Python client asks for a second, short-lived key before it subscribes to
    # live data, and our readers can't make keys. Without one there are no login and key routes at all, and it uses its own.
    config.authentication = Authentication(allow_anonymous_access=False)
    _graph.register()
    app = build_app_from_config(config)
    app.state.authenticated = True  # look keys up in the database
    _readings.register()
    _search.register()
    return app, config.uvicorn


def _remember_keys() -> None:
    """Look each key up once: keys don't change while the server runs.

    Tiled asks its database three times a request, four statements each, and notes the time: 36 of 52 ms.
    """
    from tiled.server import authentication

    look_up = authentication.lookup_valid_api_key
    known: dict[bytes, Any] = {}

    async def lookup_valid_api_key(db: Any, secret: bytes) -> Any:
        found = known.get(secret) or await look_up(db, secret)
        if found is not None:
            known[secret] = found
        return found

    authentication.lookup_valid_api_key = lookup_valid_api_key


if __name__ == "__main__":
    main()
