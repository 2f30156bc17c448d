"""The interface's description as OpenAPI: our routes only, bluesky-httpserver's are its own.

``python -m queuescope.server.openapi docs/openapi.json`` writes the committed file; a test compares the two.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from .. import __version__
from ._event_routes import router


def openapi() -> dict[str, Any]:
    """The description, as JSON-able objects."""
    app = FastAPI(title="queuescope", version=__version__)
    app.include_router(router)
    return app.openapi()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(openapi(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
