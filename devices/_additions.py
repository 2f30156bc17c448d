"""What a lab's own package adds: plans and devices, found by entry points of these groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..config import NAME

DEVICES = "queuescope.devices"
"""Called with (scope, hardware): an ophyd device of the entry point's name, or None where this microscope has no use for it."""
PLANS = "queuescope.plans"
"""Called with (scope): a `Template` of the entry point's name, or None."""


class AdditionError(RuntimeError):
    """A package's entry point can't be used. The text names it, what is wrong, and that nothing starts until it is mended."""


@dataclass(frozen=True)
class Addition:
    name: str
    source: str
    """For people: group, name, what it points at, and whose it is."""
    _point: EntryPoint

    def load(self) -> Callable[..., Any]:
        """What the entry point names; `AdditionError` where it can't be imported or called."""
        try:
            make = self._point.load()
        except Exception as error:
            raise self.wrong(f"{type(error).__name__}: {error}") from error
        if not callable(make):
            raise self.wrong(f"it names {make!r}, which can't be called")
        found: Callable[..., Any] = make
        return found

    def make(self, *arguments: Any) -> Any:
        """What it makes of these arguments.

        Raises
        ------
        AdditionError
            Whatever goes wrong, naming the entry point.
        """
        make = self.load()
        try:
            made = make(*arguments)
        except Exception as error:
            raise self.wrong(f"{type(error).__name__}: {error}") from error
        if made is not None and getattr(made, "name", None) != self.name:
            raise self.wrong(f"it gave {made!r}, which is not called {self.name!r}")
        return made

    def wrong(self, why: str) -> AdditionError:
        return AdditionError(f"{self.source}: {why} (mend the package, or uninstall it)")


def additions(group: str, taken: Collection[str]) -> list[Addition]:
    """Everything that packages add, in order of name.

    Raises
    ------
    AdditionError
        For a name that is taken, by us, by the scope file or by another package, or that is none (lower case, digits, _).
    """
    found: dict[str, Addition] = {}
    for point in _points(group):
        dist = "an unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        addition = Addition(point.name, f"entry point {group}: {point.name} = {point.value} of {dist}", point)
        if not re.fullmatch(NAME, point.name):
            raise addition.wrong(f"its name is not of the form {NAME}")
        if point.name in taken:
            raise addition.wrong(f"there is a plan, device or light {point.name!r} already: give it another name")
        if point.name in found:
            raise addition.wrong(f"{found[point.name].source} has this name too: one of them needs another")
        found[point.name] = addition
    return list(found.values())


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda point: (point.name, point.value)))
