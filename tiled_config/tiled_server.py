"""The Tiled server: ``python -m queuescope.tiled_config.tiled_server --scope NAME|PATH --data DIR``.

Prepares its files in ``DIR/services``, then runs what ``tiled serve config DIR/services/tiled.yml`` runs, in this process.
"""

from __future__ import annotations

import os

from ..layout import process_arguments
from ._lean import leave_out_sparse
from ._prepare import prepare


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    scope, layout = process_arguments(__doc__.splitlines()[0])
    # Tiled lets its environment variables override the configuration file: a forgotten TILED_ALLOW_ANONYMOUS_ACCESS must
    # not open the catalog.
    for name in [name for name in os.environ if name.startswith("TILED_")]:
        del os.environ[name]
    os.umask(0o077)
    leave_out_sparse()
    path = prepare(scope, layout)
    from tiled.commandline._serve import serve_config

    serve_config(
        path, public=False, api_key=None, host=None, port=None, scalable=False, log_config=None, log_timestamps=False
    )


if __name__ == "__main__":
    main()
