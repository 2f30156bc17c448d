"""The Tiled server: ``python -m queuescope.tiled_config.tiled_server --scope NAME|PATH --data DIR``.

Prepares its files in ``DIR/services``, then serves what ``tiled serve config DIR/services/tiled.yml`` serves, in this process.
"""

from __future__ import annotations

import os

from ..layout import process_arguments
from ._lean import leave_out_sparse
from ._prepare import prepare


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    scope, layout = process_arguments("The Tiled server: the catalog of runs.")
    # Tiled lets its environment variables override the configuration file: a forgotten TILED_ALLOW_ANONYMOUS_ACCESS must
    # not open the catalog.
    for name in [name for name in os.environ if name.startswith("TILED_")]:
        del os.environ[name]
    os.umask(0o077)
    leave_out_sparse()
    path = prepare(scope, layout)

    import uvicorn
    from tiled.config import Authentication, parse_configs
    from tiled.server.app import build_app_from_config

    config = parse_configs(path)
    # Where a login provider is listed, Tiled's Python client asks for a second, short-lived key before it subscribes to
    # live data, and our readers can't make keys. Without one there are no login and key routes at all, and it uses its own.
    config.authentication = Authentication(allow_anonymous_access=False)
    app = build_app_from_config(config)
    app.state.authenticated = True  # look keys up in the database
    uvicorn.run(app, **config.uvicorn)


if __name__ == "__main__":
    main()
