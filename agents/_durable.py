"""Steps of a script that may be run again: which key each of them has."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from ._errors import StepError
from ._keys import step_key


class Namespace:
    """The steps of one part of a script, opened by ``with scope.durable(name)``.

    A step has the name that the script gives it, or the number of its kind in this namespace. Numbers are given out in the order
    of the calls, not of their ends, and only where the namespace was opened: two tasks that count together would count
    differently next time.
    """

    def __init__(self, name: str, seed: bytes) -> None:
        self.name = name
        self._seed = seed
        self.owner = _here()
        self._counts: Counter[str] = Counter()
        self._used: dict[str, str | None] = {}
        """Name of each step, with its key."""
        self.last: str | None = None
        """Key of the step that the server got last."""
        self.turn = asyncio.Lock()
        """Steps are submitted one after the other, in the order of the calls: each says which one it comes after."""

    def key(self, step: str | None) -> str:
        """The key of a step that is about to be submitted.

        Raises
        ------
        StepError
            For a name that was used before, or a number that would depend on who is first.
        """
        name = self.step("step", step)
        key = self._used[name] = step_key(self._seed, self.name, name)
        return key

    def step(self, kind: str, name: str | None) -> str:
        """Name of a step of this kind: ``step`` for operations, ``random``, ``now``, ``read`` …"""
        if name is None:
            if _here() != self.owner:
                raise StepError(
                    f"a {kind} without a name in {self.name!r}, which another task or thread opened: give it a name, or open a"
                    " namespace here (`with scope.durable(…)`), so that it has the same key when the script runs again"
                )
            self._counts[kind] += 1
            name = f"#{self._counts[kind]}"
        elif name.startswith("#"):
            raise StepError(f"{name!r} is no name for a step: # stands for those that are counted")
        full = name if kind == "step" else f"{kind} {name}"
        if full in self._used:
            raise StepError(
                f"step {name!r} of {self.name!r} was used before in this script: its operation would be replayed, not run;"
                " give each step a name of its own, in a loop with its number"
            )
        self._used[full] = None
        return full

    def release(self, key: str) -> None:
        """It wasn't submitted, or was lost sight of: the script may name that step again."""
        self._used = {name: used for name, used in self._used.items() if used != key}


def _here() -> object:
    """The task that runs, or the thread where none does."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return task if task is not None else threading.get_ident()
