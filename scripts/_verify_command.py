"""``queuescope verify``: is every frame on disk the one that was taken?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..layout import DEFAULT_SCOPE, Layout
from ._terminal import Data, Json, ScopeName, bars, fail, print_json, show

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..config import Scope
    from ._verify import RunCheck


def verify(
    uid: Annotated[str | None, typer.Argument(metavar="UID", help="The run.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs of the data directory.")] = False,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Read every frame of a run from the disk and compare it with the checksum that was made at the camera.

    Names each frame that is missing or different, and ends with code 0 only where there is none. Needs no running stack, and
    changes nothing; of a run that still grows the frames that count are checked.
    """
    from ..config import ScopeError, load_scope
    from ._verify import UnknownRunError, run_uids

    if (uid is None) != every:
        fail("name one run, or --all: queuescope verify UID|--all")
    layout = Layout(data)
    try:
        microscope = load_scope(scope)
    except ScopeError as error:
        fail(str(error))
    uids = run_uids(layout) if uid is None else [uid]
    checks = []
    with bars(hidden=as_json) as shown:
        for number, one in enumerate(uids, start=1):
            words = f"run {number} of {len(uids)}" if every else one
            try:
                checks.append(_checked(microscope, layout, one, shown, words))
            except UnknownRunError as error:
                if not every:
                    fail(str(error))  # with --all: begun and not yet written
            else:
                if not as_json:
                    _print(checks[-1])
    ok = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": ok, "runs": [check.as_json() for check in checks]})
    elif every:
        good = sum(check.ok for check in checks)
        show.print(f"[bold]{good} of {len(checks)} runs[/] are as they were taken")
    raise typer.Exit(0 if ok else 1)


def _checked(scope: Scope, layout: Layout, uid: str, shown: Progress, words: str) -> RunCheck:
    from ._verify import verify as verify_run

    tasks: dict[str, TaskID] = {}

    def tell(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = shown.add_task(f"{words} {name}", total=total)
        shown.update(tasks[name], completed=done)

    try:
        return verify_run(scope, layout, uid, tell)
    finally:
        for task in tasks.values():
            shown.remove_task(task)


def _print(check: RunCheck) -> None:
    verdict = "[bold green]as taken[/]" if check.ok else "[bold red]NOT as taken[/]"
    show.print(f"run {check.uid}: {verdict}" + (" (still growing)" if check.growing else ""))
    for problem in check.problems:
        show.print(f"  {escape(problem)}")
    for dataset in check.datasets:
        good = dataset.frames - len(dataset.bad)
        words = "good" if dataset.compared else "readable (registered: no checksums to compare with)"
        show.print(f"  {dataset.name}: {good} of {dataset.frames} frames {words}, {dataset.bytes / 1e9:.3f} GB")
        for problem in dataset.problems:
            show.print(f"    [red]{escape(problem)}[/]")


def add_to(app: typer.Typer) -> None:
    app.command()(verify)
