"""Until when light is permitted, as others on this computer may read it. What permits light is the process that owns it."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

from ..layout import Layout


class ArmedFile:
    """``safety/armed``: the end of the arming, in seconds since the epoch. No file: not armed."""

    def __init__(self, layout: Layout) -> None:
        self.path: Path = layout.data / "safety" / "armed"

    def until(self) -> float | None:
        """None while not armed, and where the file can't be read."""
        try:
            until = float(self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return until if until > time.time() else None

    def write(self, until: float | None) -> None:
        """Never fails and never waits: a halt comes this way."""
        with contextlib.suppress(OSError):
            if until is None:
                self.path.unlink(missing_ok=True)
                return
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self.path.with_name(f".armed.{secrets.token_hex(4)}")
            draft.write_text(repr(until), encoding="ascii")
            os.replace(draft, self.path)
