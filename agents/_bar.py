"""A progress bar, in a terminal and in a notebook."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from ._operation import Event


class Bar:
    """Shows how far an operation is, as long as its context lasts.

    Parameters
    ----------
    shown
        None: where a person watches, a terminal or a notebook.
    console
        rich's; None: standard error.
    """

    def __init__(self, plan: str, shown: bool | None = None, console: Any = None) -> None:
        self._plan = plan
        self._bars: Any = None
        if not (_watched() if shown is None else shown):
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        except ImportError:  # rich comes with the command; a script does without
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console or Console(stderr=True))
        self._task = self._bars.add_task(f"{plan}: submitting", total=None)

    def take(self, event: Event) -> None:
        """Show what this event says."""
        match event.type:
            case "progress":
                self.say("frames on disk", completed=event.data["done"], total=event.data["total"] or None)
            case "output" if self._bars is not None:
                for line in event.data["lines"]:
                    self._bars.console.print(line, markup=False, highlight=False)
            case "decision":
                self.say(f"asks for decision {event.data.get('round')}")
            case "state":
                paused = event.data.get("paused")
                state = event.data.get("state")
                self.say("paused" if paused else _WORDS.get(str(state), str(state)))

    def say(self, words: str, **more: Any) -> None:
        if self._bars is not None:
            self._bars.update(self._task, description=f"{self._plan}: {words}", **more)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()


_WORDS = {"accepted": "submitted", "queued": "waiting in the queue"}


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
