"""Which plans and devices the last environment had, for the manager that starts next: one file, as JSON.

Upstream writes YAML, which PyYAML reads for a quarter of a second. JSON is YAML too.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger("queuescope.startup")


def existing_plans_and_devices(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plans and devices of the environment before; nothing where no file tells of them."""
    try:
        found = json.loads(Path(path).read_bytes())
        return found["existing_plans"], found["existing_devices"]
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s can't be read, and is written anew when an environment opens: %s", path, error)
        return {}, {}


def keep_existing_plans_and_devices(path: str, plans: dict[str, Any], devices: dict[str, Any]) -> None:
    """For the manager that starts next: JSON, which is YAML too. No reason to fail where that can't be."""
    tree = {"existing_plans": plans, "existing_devices": devices}
    try:
        text = json.dumps(tree, indent=1)
        file, draft = Path(path), Path(f"{path}.new")
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s can't be written: %s", path, error)
