"""``queuescope archive`` and ``queuescope compress``: make room without losing a run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..layout import DEFAULT_SCOPE, Layout
from ._terminal import Data, Json, ScopeName, bars, fail, print_json, show

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..config import Scope
    from ._archive import RunResult

Uid = Annotated[str | None, typer.Argument(metavar="UID", help="The run.", show_default=False)]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", metavar="AGE", help="All runs that ended longer ago: 30d, 12h, 90m, 2w."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, change nothing.")]


def archive(
    uid: Uid = None,
    age: OlderThan = None,
    to: Annotated[
        str, typer.Option("--to", metavar="ROOT", help="Storage root to move to (scope.yml: storage.roots).")
    ] = "",
    compress_with: Annotated[
        str | None,
        typer.Option("--compress", metavar="zstd", help="Compress OME-Zarr on the way, without any loss."),
    ] = None,
    dry_run: DryRun = False,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Move runs to another storage root: copy, compare, point to the copy, and only then remove the original.

    Every frame of the copy is read from the disk and held against the checksum made at the camera, every other byte against
    the original. The run stays what it was: same UID, same uris, read by the same calls; the path changes. Killed at any
    moment it leaves a run that can be read, and the same command again finishes the job. Back with --to and the root where the
    run was acquired. Needs no running stack, and may run beside one.
    """
    if not to:
        fail("name the storage root to move to: --to ROOT (scope.yml: storage.roots)")
    if compress_with not in (None, "zstd"):
        fail(f"no compression {compress_with!r}: there is zstd")
    _run(uid, age, to, compress_with is not None, dry_run, scope, data, as_json)


def compress(
    uid: Uid = None,
    age: OlderThan = None,
    dry_run: DryRun = False,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compress the OME-Zarr of runs where it lies, without losing a bit.

    The compressed copy is made beside, every frame of it is read from the disk and held against the checksum made at the camera;
    then it takes the place of the original. Tiled, zarr, napari and 'queuescope verify' read it as before. Each dataset takes
    the codec that its own frames compress best with: zstd, or blosc with zstd inside; what doesn't get smaller, is no OME-Zarr or
    was registered stays as it is. Killed at any moment it leaves a run that can be read, and the same command again finishes the
    job. It needs room for one dataset at a time, and half of a processor or two: not while frames come at full speed.
    """
    _run(uid, age, None, True, dry_run, scope, data, as_json)


def _run(
    uid: str | None,
    age: str | None,
    to: str | None,
    compressed: bool,
    dry_run: bool,
    scope: str,
    data: str | None,
    as_json: bool,
) -> None:
    from ..config import ScopeError, load_scope
    from ._archive import ArchiveError, UnknownRunError, age_s, alone, check_root, older_than
    from ._compress import missing

    if (uid is None) == (age is None):
        fail("name one run, or runs by their age: UID | --older-than 30d")
    if compressed and (gone := missing()) is not None:
        fail(gone)
    layout = Layout(data)
    try:
        microscope = load_scope(scope)
        if to is not None:
            check_root(microscope, layout, to)
        uids = [uid] if uid is not None else older_than(layout, age_s(str(age)))
        with alone(layout) if not dry_run else contextlib.nullcontext():
            results = _all(microscope, layout, uids, to, compressed, dry_run, as_json, one=uid is not None)
    except (ScopeError, ArchiveError, UnknownRunError) as error:
        fail(str(error))
    ok = all(result.ok for result in results)
    if as_json:
        print_json({"ok": ok, "dry_run": dry_run, "to": to, "runs": [result.as_json() for result in results]})
    elif uid is None:
        good = [result for result in results if result.ok]
        words = "would be done" if dry_run else "done"
        show.print(f"[bold]{len(good)} of {len(results)} runs[/] {words} ({len(uids)} older than {age})")
    raise typer.Exit(0 if ok else 1)


def _all(
    scope: Scope,
    layout: Layout,
    uids: list[str],
    to: str | None,
    compressed: bool,
    dry_run: bool,
    as_json: bool,
    one: bool,
) -> list[RunResult]:
    from ._archive import ArchiveError, NothingToDoError, RunResult, UnknownRunError, move

    results = []
    with bars(hidden=as_json) as shown:
        for number, uid in enumerate(uids, start=1):
            words = "" if one else f"run {number} of {len(uids)} "
            tasks: dict[tuple[str, str], TaskID] = {}

            def tell(name: str, doing: str, done: int, total: int, words: str = words, tasks: dict = tasks) -> None:
                if total < 2:
                    return
                if (name, doing) not in tasks:
                    tasks[name, doing] = shown.add_task(f"{words}{name}: {doing}", total=total)
                shown.update(tasks[name, doing], completed=done)

            try:
                results.append(move(scope, layout, uid, to, compressed, tell, dry_run))
            except NothingToDoError:
                if one:
                    raise
                continue
            except (ArchiveError, UnknownRunError) as error:
                if one:
                    raise
                results.append(RunResult(uid, error=str(error)))
            finally:
                for task in tasks.values():
                    shown.remove_task(task)
            if not as_json:
                _print(results[-1], dry_run)
    return results


def _print(result: RunResult, dry_run: bool) -> None:
    if result.error is not None:
        show.print(f"run {result.uid}: [bold red]left as it was[/]: {escape(result.error)}")
        return
    show.print(f"run {result.uid}:" + (" nothing changed yet (--dry-run)" if dry_run else ""))
    for one in result.datasets:
        size = f"{one.bytes_before / 1e9:.3f} GB"
        if one.codec is not None:
            size += f", {escape(one.codec)}"
            size += "" if dry_run else f": {one.bytes / 1e9:.3f} GB, {one.bytes_before / max(one.bytes, 1):.1f} to 1"
        note = f" ({escape(one.note)})" if one.note else ""
        show.print(f"  {one.name}: {one.frames} frames, {size}{note}")
        show.print(f"    {escape(one.path)}")


def add_to(app: typer.Typer) -> None:
    app.command()(archive)
    app.command()(compress)
