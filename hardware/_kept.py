"""Properties that are changed for a while: each is remembered as it was, and put back in reverse order.

They are remembered on disk, too: what a process that was killed has changed, the next one puts back when it starts.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ._errors import HardwareError
from ._mmcore import Core, same

log = logging.getLogger("queuescope.hardware")

NUMBER_TOLERANCE = 1e-3


class Kept:
    """What was changed since this was made, and what a killed process has left changed."""

    def __init__(self, core: Core, file: Path) -> None:
        self._core, self._file = core, file
        self._before: dict[tuple[str, str], tuple[str, str, float]] = {}
        try:
            for thing, label, name, value, tolerance in json.loads(file.read_text(encoding="utf-8")):
                self._before[str(label), str(name)] = (str(thing), str(value), float(tolerance))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.error("%s can't be read (%s): what the last process changed stays changed", file, error)

    def write(self, thing: str, label: str, name: str, value: str | float, tolerance: float = 0.0) -> None:
        """Set a property and read it back (a number within ``tolerance``), remembering what it was. What reads right
        already is written all the same: the controller may have forgotten it.

        Raises
        ------
        HardwareError
            Where it reads something else. It counts as changed.
        """
        if (label, name) not in self._before:
            self._before[label, name] = (thing, self._core.read(thing, label, name), tolerance)
            self._keep()
        if isinstance(value, str):
            self._core.write_exactly(thing, label, name, value)
        else:
            self._core.write_number(thing, label, name, value, tolerance)

    def _keep(self) -> None:
        """Unsynced: it must survive this process."""
        entries = [(thing, *key, value, tolerance) for key, (thing, value, tolerance) in self._before.items()]
        draft = self._file.with_name(f".{self._file.name}.draft")
        draft.write_text(json.dumps(entries), encoding="utf-8")
        draft.replace(self._file)

    def restore(self) -> list[str]:
        """Put everything back, each property in its own step; returns what failed. Twice changes nothing more."""
        problems = []
        while self._before:
            (label, name), (thing, value, tolerance) = self._before.popitem()
            try:
                got = self._core.write(thing, label, name, value)
                if not (same(got, value) or _near(got, value, max(tolerance, NUMBER_TOLERANCE))):
                    problems.append(f"{thing}: {label}.{name} was to be {value} again and reads {got}")
            except HardwareError as error:
                problems.append(str(error))
        self._file.unlink(missing_ok=True)
        return problems


def _near(got: str, wanted: str, tolerance: float) -> bool:
    try:
        return abs(float(got) - float(wanted)) <= tolerance
    except ValueError:
        return False
