"""Lines of a Micro-Manager configuration, those of Python devices included.

What begins with `#py ` is a comment to Micro-Manager's own software and a command to UniMMCore.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PYTHON = "#py "


def fields_of(line: str) -> list[str]:
    """The fields of a line, without the prefix of a Python device's; one empty field for a comment or an empty line."""
    text = line.strip()
    text = text[len(PYTHON) :].lstrip() if text.startswith(PYTHON) else text
    return [""] if text.startswith("#") else [field.strip() for field in text.split(",")]


def python_devices(lines: Iterable[str]) -> Iterator[tuple[int, str, str, str]]:
    """Line number, label, module and class of each Python device."""
    for number, line in enumerate(lines, start=1):
        fields = fields_of(line)
        if fields[0] == "pyDevice" and len(fields) >= 4:
            yield number, fields[1], fields[2], fields[3]


def has_module(module: str, folder: Path) -> bool:
    """Whether a Python device's module is installed, or a lab's own file in the folder of its configuration, which is found
    from now on.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: a lab's file hides no installed package
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package that it should lie in is missing
        return False
