"""Properties that are changed for a while: each is remembered as it was, and put back in reverse order."""

from __future__ import annotations

from ._errors import HardwareError
from ._mmcore import Core, same

NUMBER_TOLERANCE = 1e-3


class Kept:
    """What was changed since this was made."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._before: dict[tuple[str, str], tuple[str, str, float]] = {}

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
        if isinstance(value, str):
            self._core.write_exactly(thing, label, name, value)
        else:
            self._core.write_number(thing, label, name, value, tolerance)

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
        return problems


def _near(got: str, wanted: str, tolerance: float) -> bool:
    try:
        return abs(float(got) - float(wanted)) <= tolerance
    except ValueError:
        return False
