"""``queuescope export``: a run in the format that another program wants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..layout import DEFAULT_SCOPE, Layout
from ._terminal import Data, Json, ScopeName, bars, fail, print_json, show

if TYPE_CHECKING:
    from rich.progress import TaskID

NAMES = ("ome-tiff", "tiff-stack", "tiff-series", "ome-zarr")
"""Of `_export_formats.FORMATS`, which the help doesn't import."""


def export(
    uid: Annotated[str, typer.Argument(metavar="UID", help="The run.")],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help=" | ".join(NAMES))],
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="Where to; default: exports/ in the data directory.")
    ] = None,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write a run's datasets in another format, and compare every pixel with what was taken.

    ome-tiff: one file a dataset with complete OME metadata. tiff-stack: a plain TIFF, a page a frame. tiff-series: a folder of
    TIFFs, one a frame. ome-zarr: a copy that is whole by itself. Nothing is overwritten; a file has its name only when it is
    complete. Needs no running stack.
    """
    if form not in NAMES:
        fail(f"no format {form!r}: there are {', '.join(NAMES)}")
    from ..config import ScopeError, load_scope
    from ._export import ExportError, UnknownRunError, timed
    from ._export import export as export_run
    from ._export_formats import FORMATS, missing

    if (gone := missing(form)) is not None:
        fail(gone)
    layout = Layout(data)
    folder = Path(to).expanduser().resolve() if to else layout.data / "exports"
    with bars(hidden=as_json) as shown:
        tasks: dict[tuple[str, str], TaskID] = {}

        def tell(name: str, doing: str, done: int, total: int) -> None:
            if (name, doing) not in tasks:
                tasks[name, doing] = shown.add_task(f"{name}: {doing}", total=total)
            shown.update(tasks[name, doing], completed=done)

        try:
            microscope = load_scope(scope)
            made, seconds = timed(lambda: export_run(microscope, layout, uid, FORMATS[form](), folder, tell))
        except (ScopeError, UnknownRunError, ExportError) as error:
            fail(str(error))
    if as_json:
        print_json({"run_uid": uid, "format": form, "files": [one.as_json() for one in made], "seconds": seconds})
        return
    for one in made:
        show.print(
            f"[bold]{one.dataset}[/]: {one.frames} frames {one.dtype}, {one.bytes / 1e6:.1f} MB, every pixel compared"
        )
        show.print(f"  {escape(one.path)}")


def add_to(app: typer.Typer) -> None:
    app.command()(export)
