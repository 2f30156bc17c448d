"""``queuescope doctor``: what is wrong on this computer, and how to mend it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..layout import DEFAULT_SCOPE, Layout
from ._terminal import Data, Json, ScopeName, print_json, say, show

if TYPE_CHECKING:
    from ._doctor import Finding

MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[bold red]✗[/]"}
WIDTH = 15


def doctor(
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    hardware: Annotated[
        bool,
        typer.Option(
            "--hardware", help="Load the configuration too and read every device once. Stages may home: look first."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for what is wrong on this computer, and say how to mend it.

    Python and packages, scope file, adapters, ports, disk, clock, sleep, private files. Changes nothing; writes 100 MB to a
    temporary file to time the disk. Ends with code 0 only where there is no problem (warnings are allowed).
    """
    from ._doctor import examine, patient

    found: list[Finding] = []
    who = patient(scope, Layout(data))
    if not as_json:
        shown = who.scope.name if who.scope is not None else scope
        show.print(f"[bold]{escape(shown)}[/] on {escape(str(who.layout.data))}\n")
        if hardware:
            say.print("loading the configuration in a process of its own …")
    for finding in examine(who, hardware):
        found.append(finding)
        if not as_json:
            _print(finding)
    problems = [finding for finding in found if finding.level == "problem"]
    warnings = [finding for finding in found if finding.level == "warning"]
    if as_json:
        print_json({"ok": not problems, "scope": str(who.path or scope), "findings": [f.as_json() for f in found]})
    else:
        _print_end(len(problems), len(warnings), hardware)
    raise typer.Exit(1 if problems else 0)


def _print(finding: Finding) -> None:
    text = finding.what
    if finding.level != "ok" and finding.value is not None and finding.value not in text:
        text += f": {finding.value}"
    if finding.level != "ok" and finding.limit is not None and finding.limit not in text:
        text += f" (should be: {finding.limit})" if finding.level == "problem" else f" ({finding.limit})"
    show.print(f"{MARKS[finding.level]} {finding.check:<{WIDTH}} {escape(_home(text))}")
    if finding.remedy is not None:
        show.print(f"  {'':<{WIDTH}} [dim]→ {escape(_home(finding.remedy))}[/]")


def _home(text: str) -> str:
    home = os.path.expanduser("~")
    return text if len(home) < 2 else text.replace(home + os.sep, "~" + os.sep)


def _print_end(problems: int, warnings: int, hardware: bool) -> None:
    def count(number: int, word: str) -> str:
        return f"{number} {word}{'' if number == 1 else 's'}"

    if problems:
        show.print(f"\n[bold red]{count(problems, 'problem')}[/], {count(warnings, 'warning')}")
    else:
        words = f", {count(warnings, 'warning')}" if warnings else ""
        more = (
            "" if hardware else "; 'queuescope doctor --hardware' also loads the configuration and reads every device"
        )
        show.print(f"\n[bold green]no problems[/]{words}{more}")


def add_to(app: typer.Typer) -> None:
    app.command()(doctor)
