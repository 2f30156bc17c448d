"""What every command shares: where it prints, how it fails, which data directory it means.

This and the modules of commands import what says which commands there are; what a command works with is imported when it runs.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from ..layout import DATA_ENV, DEFAULT_DATA, SCOPE_ENV, Layout

if TYPE_CHECKING:
    from rich.progress import Progress

say = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Progress and errors, for people: standard error, so that standard output holds facts only."""
show = Console(highlight=False, soft_wrap=True, emoji=False)
"""Facts."""

Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        envvar=DATA_ENV,
        show_envvar=True,
        help=f"Data directory of the stack. Default: {DEFAULT_DATA}/ in the working directory.",
    ),
]
ScopeName = Annotated[
    str,
    typer.Option(
        "--scope",
        metavar="NAME|PATH",
        envvar=SCOPE_ENV,
        show_envvar=True,
        help="The microscope: a bundled one (demo-dispim, demo-widefield, demo-beads) or the path of your scope.yml.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print facts as one line of JSON, for programs.")]


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what went wrong and end with a code other than 0."""
    say.print("[bold red]error:[/]", end=" ")
    say.print(message, markup=False)
    raise typer.Exit(code)


def tell_queue_problems(answer: dict[str, Any]) -> None:
    """What a call of the microscope's people could not do with the queue."""
    for problem in answer["problems"]:
        say.print(f"the queue: {problem}", markup=False)


def bars(hidden: bool) -> Progress:
    """Progress bars with a description, so many of so many and the time; they are gone when it is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=say, disable=hidden, transient=True)


def print_json(tree: Any) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(tree) + "\n")
    sys.stdout.flush()


def running(layout: Layout) -> dict[str, Any]:
    """``runtime.json`` of the stack on this data directory; fails where none runs."""
    from ._checks import holder

    runtime = layout.runtime() if holder(layout) is not None else None
    if runtime is None:
        fail(f"no stack runs on {layout.data}: start it with 'queuescope up', or name its data directory with --data")
    return runtime
