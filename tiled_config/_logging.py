"""Log lines without keys: the same format for the Tiled server and the courier."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

_SECRET = re.compile(r"(?<=api_key=)[^&\s\"']+|(?<=access_token=)[^&\s\"']+|\b[0-9a-fA-F]{64}\b")


class KeylessFormatter(logging.Formatter):
    """Replaces every key by ``[key]``, also in tracebacks: Tiled accepts keys in URLs, and uvicorn logs some URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRET.sub("[key]", super().format(record))


def log_config() -> dict[str, Any]:
    """Configuration of `logging` for uvicorn: everything to standard error, no line per request."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "keyless": {
                "()": f"{__name__}.KeylessFormatter",
                "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
            }
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "keyless", "stream": "ext://sys.stderr"}
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "tiled": {"level": "INFO"},
            "tiled.server.app": {"handlers": [], "propagate": True},
            "uvicorn.error": {"level": "INFO"},
            "uvicorn.access": {"level": "WARNING"},
        },
    }


def log_to_stderr(logger: logging.Logger) -> None:
    """Send this logger's lines (INFO and above) and everybody's warnings to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeylessFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(logging.INFO)
