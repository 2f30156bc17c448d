"""What calibrations found and were told to store: ``calibrations.json`` in the data directory, read each time it is asked for.

``{kind: {of: {…numbers with units…, objective, r2, run_uid, at}}}``; one stored later replaces one stored before. It counts
before what scope.yml says, since it was measured since; remove its entry to go back to the scope file's.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..config import Calibration
from ..layout import Layout

Kind = Literal["piezo_galvo", "stage_camera", "views"]


class Calibrations:
    """By kind, and by what it is of: a galvo; ``CAMERA/OBJECTIVE``; ``OBJECTIVE``."""

    def __init__(self, layout: Layout) -> None:
        self._file = layout.calibrations

    def get(self, kind: Kind, of: str) -> dict[str, Any] | None:
        return self._all().get(kind, {}).get(of)

    def piezo_galvo(self, galvo: str) -> Calibration | None:
        found = self.get("piezo_galvo", galvo)
        if found is None:
            return None
        return Calibration(slope_um_per_deg=found["slope_um_per_deg"], offset_um=found["offset_um"])

    def store(self, kind: Kind, of: str, found: Mapping[str, Any], run_uid: str) -> None:
        """From now on it counts, in every process."""
        kept = self._all()
        kept.setdefault(kind, {})[of] = {**found, "run_uid": run_uid, "at": time.time()}
        keep(self._file, kept)

    def _all(self) -> dict[str, dict[str, dict[str, Any]]]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(
                f"{self._file} can't be read: {error}: mend it, or remove it and calibrate again"
            ) from None
        return dict(found)


def keep(path: Path, value: Any) -> None:
    """Write JSON so that a reader, and a power cut, find the old file or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
