"""A pause in the middle of a plan, asked for as somebody else would: from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def pausing_at(run_engine: Any, position: int) -> Iterator[list[str]]:
    """Ask for a pause with the plan's message of this number (0, 1 …); gives the commands seen, those after a resume too."""
    seen: list[str] = []

    def hook(msg: Any) -> None:
        seen.append(msg.command)
        if len(seen) == position + 1:
            threading.Thread(target=run_engine.request_pause).start()

    run_engine.msg_hook = hook
    try:
        yield seen
    finally:
        run_engine.msg_hook = None
