"""The latch on disk: a restarted process stays halted, and a halt reaches a process whose socket is silent."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from pathlib import Path

from pydantic import ValidationError

from ..layout import Layout
from ._safety_state import Latch


class LatchFile:
    """One latch. The file's existence is the latch, its contents say who, why and when."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def halt(cls, layout: Layout) -> LatchFile:
        return cls(layout.data / "safety" / "halt.json")

    @classmethod
    def interlock(cls, layout: Layout) -> LatchFile:
        return cls(layout.data / "safety" / "interlock.json")

    @classmethod
    def released(cls, layout: Layout) -> LatchFile:
        """Cameras and ports are with another program."""
        return cls(layout.data / "safety" / "released.json")

    def exists(self) -> bool:
        return self.path.exists()

    def read(self) -> Latch | None:
        """The latch, or None. A file that can't be read is a latch."""
        try:
            return Latch.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            return Latch(by="unknown", reason=f"{self.path} can't be read: {error}", at=time.time())

    def write(self, latch: Latch) -> None:
        """Put it on disk, unless another one is there: the first one stays.

        Raises
        ------
        OSError
            Where that is not possible.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        draft.write_text(latch.model_dump_json(), encoding="utf-8")
        try:
            if not self.exists():
                draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)

    def make_durable(self) -> None:
        """Wait until the file has reached the disk."""
        with contextlib.suppress(OSError):  # no such file, or a system without it: the rename stands in any case
            descriptor = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


def report_file(layout: Layout) -> Path:
    """What the last halt did: how a process that was halted by the file answers."""
    return layout.data / "safety" / "report.json"


def log_safety(layout: Layout, event: str, **facts: object) -> None:
    """One line in ``logs/safety.jsonl``: who did what to the microscope's safety, and when."""
    line = json.dumps({"time": time.time(), "event": event, **facts}, default=str)
    with contextlib.suppress(OSError), open(layout.logs / "safety.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")
