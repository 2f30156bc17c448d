"""``queuescope bench NAME``: measurements of this machine, one module each in ``benchmarks/``."""

from __future__ import annotations

import os
import platform
import re
from typing import Annotated, Any

import typer
from rich.table import Table

from ..benchmarks import names, result_of
from ._terminal import Json, fail, print_json, say, show


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"What to measure: {', '.join(names())}.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
    faults: Annotated[int | None, typer.Option("--faults", min=1, help="bench faults, bench kills: how many.")] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="bench faults, bench kills, bench refusals: draw those of this seed again."),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="FIRST-LAST", help="bench kills: these of them, from 1.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="bench kills: none after that.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="bench latency: leave out `stock` or `blueapi`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure this machine. Rows are medians with the lowest and highest of n repetitions."""
    if name not in names():
        fail(f"no benchmark {name!r}: there are {', '.join(names())}")
    given: tuple[tuple[str, tuple[str, ...], Any], ...] = (
        ("faults", ("faults", "kills"), faults),
        ("seed", ("faults", "kills", "refusals"), seed),
        ("only", ("kills",), None if only is None else span(only)),
        ("minutes", ("kills",), minutes),
        ("without", ("latency",), without),
    )
    for option, whose, value in given:
        if value is not None and name not in whose:
            fail(f"--{option} belongs to 'bench {whose[0]}', not to {name!r}")
    options = {option: value for option, _, value in given if value is not None}
    result = result_of(name, quick, lambda line: say.print(line, markup=False, soft_wrap=True), **options)
    table = Table("case", "metric", "median", "min", "max", "n", box=None, pad_edge=False)
    for row in result.rows:
        table.add_row(row.case, row.metric, *(f"{x:.3g}" for x in (row.median, row.min, row.max)), str(row.n))
    if as_json:
        print_json(result.as_json())
    else:
        show.print(table, soft_wrap=False)
        show.print(
            f"on {platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores", soft_wrap=True
        )
        for ratio, value in result.ratios.items():
            show.print(f"{ratio}: {value:.2f}")
    if result.problems:
        fail(f"{len(result.problems)} things that must not be were found:\n" + "\n".join(result.problems))


def span(text: str) -> tuple[int, int]:
    """First and last of ``FIRST-LAST``."""
    match = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", text)
    if match is None or int(match[1]) > int(match[2]):
        fail(f"--only is FIRST-LAST, two numbers from 1, not {text!r}")
    return int(match[1]), int(match[2])


def add_to(app: typer.Typer) -> None:
    app.command()(bench)
