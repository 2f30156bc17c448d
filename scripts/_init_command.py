"""``queuescope init MM.cfg``: a scope file from a Micro-Manager configuration, with blanks where only a person knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ._terminal import Json, fail, print_json, say, show

if TYPE_CHECKING:
    from ._scope_draft import Draft

ASK_S = 120.0
"""Longest time for MMCore to load the adapters, in a process of its own."""


class AskError(RuntimeError):
    """MMCore could not be asked."""


def ask_mmcore(config: Path, adapters: str | None, load: bool, timeout_s: float = ASK_S) -> dict[str, Any]:
    """What MMCore knows of a configuration (`queuescope.hardware._inventory`), asked in a throw-away process.

    Raises
    ------
    AskError
        Where that process died, hung, or MMCore isn't installed.
    """
    words = [sys.executable, "-m", "queuescope.hardware._inventory", str(config)]
    words += ["--adapters", adapters] if adapters is not None else []
    words += ["--load"] if load else []
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise AskError(f"an adapter did not answer within {timeout_s:g} s: is its device switched on?") from None
    if done.returncode < 0:
        raise AskError(f"an adapter crashed (signal {-done.returncode}) while it was loaded")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        words_ = done.stderr.strip().splitlines()
        raise AskError(words_[-1] if words_ else f"ended with code {done.returncode}") from None
    return answer


def init(
    config: Annotated[Path, typer.Argument(metavar="MM.cfg", help="Your Micro-Manager configuration.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: scope.yml beside the configuration.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the microscope. Default: the configuration's.")
    ] = None,
    adapters: Annotated[
        Path | None, typer.Option("--adapters", metavar="DIR", help="Where Micro-Manager is installed.")
    ] = None,
    load: Annotated[
        bool,
        typer.Option("--load", help="Initialise the devices, to learn property limits. Stages may home: look first."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a scope file from a Micro-Manager configuration.

    Finds every stage, galvo, camera, wheel, light, channel preset, objective and pixel size, also where adapters are
    missing here. What only a person can know, limits above all, is left as FILL_IN with a comment that says what to
    write; 'up' refuses to start before it is filled in. Touches no hardware without --load.
    """
    import yaml

    from ..config import blanks
    from ._cfg import CfgError, read_cfg
    from ._scope_draft import Asked, draft

    target = output or config.parent / "scope.yml"
    if target.exists() and not force:
        fail(f"{target} exists: choose another with -o, or overwrite it with --force")
    try:
        cfg = read_cfg(config)
    except CfgError as error:
        fail(str(error))
    answer, trouble = _asked(config, adapters, load)
    relative = os.path.relpath(config.resolve(), target.resolve().parent)
    asked = Asked(answer.get("types", {}), answer.get("limits", {}), answer.get("writable", {}))
    stem = config.stem if config.stem.lower() not in ("mm", "scope", "config") else config.resolve().parent.name
    folder = None if adapters is None else str(adapters.resolve())
    made = draft(cfg, name or stem, Path(relative).as_posix(), folder, asked)
    try:
        target.write_text(made.text, encoding="utf-8")
    except OSError as error:
        fail(f"{target}: can't be written: {error.strerror or error}")
    left = [where for where, _ in blanks(yaml.safe_load(made.text))]
    if as_json:
        print_json({"scope": str(target), "found": made.found, "blanks": left, "notes": [*trouble, *made.notes]})
        return
    _print(target, made, left, trouble)


def _asked(config: Path, adapters: Path | None, load: bool) -> tuple[dict[str, Any], list[str]]:
    """MMCore's answer, empty where it has none, and what to tell about that."""
    try:
        answer = ask_mmcore(config, None if adapters is None else str(adapters), load)
    except AskError as error:
        answer = {"error": str(error)}
    trouble = []
    if answer.get("missing"):
        names = ", ".join(answer["missing"])
        trouble.append(
            f"adapters that are not on this machine: {names}; their devices were told by name: check the kinds"
        )
    elif answer.get("error"):
        trouble.append(f"MMCore could not be asked ({answer['error']}): kinds were told by name, check them")
    return answer, trouble


_WORDS = {
    "stage": "stage",
    "xy_stage": "XY stage",
    "galvo": "galvo",
    "camera": "camera",
    "state": "wheel or switch",
    "objective": "objective turret",
    "config_group": "configuration group",
    "light": "light",
    "channel": "channel",
}


def _print(target: Path, made: Draft, left: list[str], trouble: list[str]) -> None:
    show.print(f"wrote [bold]{escape(str(target))}[/]")
    for kind, number in made.found.items():
        show.print(f"  {number:3}  {_WORDS[kind]}{'s' if number > 1 and kind != 'state' else ''}")
    for note in [*trouble, *made.notes]:
        say.print(f"[yellow]note[/]  {escape(note)}")
    if left:
        show.print(
            f"\n{len(left)} blanks ([bold]FILL_IN[/]) that only you can fill in, as the comment beside each says:"
        )
        for where in left:
            show.print(f"  {where}")
    show.print(
        f"\nthen  queuescope doctor --scope {escape(str(target))}\nand   queuescope up --scope {escape(str(target))}"
    )


def add_to(app: typer.Typer) -> None:
    app.command()(init)
