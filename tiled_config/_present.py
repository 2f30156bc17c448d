"""Where volumes lie now, for whoever opens them by the path at which they were acquired."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException

from ..config import Scope, load_scope
from ..layout import DEFAULT_SCOPE, SCOPE_ENV, Layout, present_path


def present(volume: Path) -> Path:
    """Where a volume lies that was acquired at this path: it may have been archived since.

    Raises
    ------
    HTTPException
        410 where that can't be told, or lies in a storage root that the scope no longer has.
    """
    try:
        scope, layout = _settings()
        return present_path(layout, scope, volume, "tiled")
    except ValueError as error:
        raise HTTPException(410, f"the volume {volume.name} can't be found: {error}") from error


@cache
def _settings() -> tuple[Scope, Layout]:
    """Of this process: `queuescope.layout.process_arguments` exports them."""
    return load_scope(os.environ.get(SCOPE_ENV, DEFAULT_SCOPE)), Layout()
