"""What a table was measured on."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """Operating system, processor, and the file system of the temporary folder."""
    return f"{platform.system()} {platform.release()}, {_processor()}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
