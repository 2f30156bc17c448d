"""One dataset on its way to another place: built beside it, compared, given its name, pointed to; then the old one goes.

Any step may be the last one (a kill, a power failure): what its uri resolves to is whole at every moment, and the next attempt
goes on from there. So nothing is deleted that isn't complete elsewhere, compared, and on the disk.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import Scope
from ..layout import Layout, Moved, Place, named_place, sync_names
from ..reading import RunDataset, VolumeError, open_volume
from ._compress import Codec, CompressionError, recode
from ._verify import wrong_frames
from ._whole import TakenError, clear_partial, files_in, forget, give_name, partial_folder, sync_tree

BLOCK = 1 << 20

Tell = Callable[[str, str, int, int], None]
"""Called with the dataset's name, what is done, how much of it is done, and how much there is: before and after each step."""


class RelocationError(Exception):
    """A dataset that could not be moved or compressed: it lies where it lay, whole. Names the file and what to do."""


@dataclass(frozen=True)
class Relocation:
    uid: str
    dataset: RunDataset
    source: str
    """``data://ROOT/relative`` of where it lies now."""
    target: str
    """Of where it shall lie; the same as ``source`` where it is compressed in place."""
    frames: int
    bytes: int
    """On disk, now."""
    codec: Codec | None
    """None: copied as it is."""


def relocate(scope: Scope, layout: Layout, one: Relocation, tell: Tell) -> None:
    """Carry it out.

    Raises
    ------
    RelocationError
        Where it can't be: nothing of it has changed then.
    """
    here, there = (named_place(layout, scope, uri, "tiled") for uri in (one.source, one.target))
    in_place = here == there
    # In place it lies beside under a hidden name until the old one is gone: two folders can't change names at once.
    first = there.with_name(f".{stem(there)}.compressed{suffix(there)}") if in_place else there
    if in_place:
        discard(first)
    try:
        if not _is_placed(one, here, first, tell):
            first.parent.mkdir(parents=True, exist_ok=True)
            with partial_folder(first) as folder:
                built = _build(one, here, folder / first.name, tell)
                compare(one, here, built, tell)
                _place(one, built, first, tell)
    except (CompressionError, TakenError) as error:
        raise RelocationError(f"{error}: nothing was removed") from None
    except (OSError, VolumeError) as error:
        raise RelocationError(f"{there} could not be made: {error}: nothing was removed") from None
    places = [Place(one.target, str(there))]
    if in_place:
        places.insert(0, Place(_sibling(one.target, first.name), str(first)))
    tell(one.dataset.name, "repointing", 0, 1)
    Moved(tuple(places), remove=one.source).write(layout, one.dataset.uri)
    tell(one.dataset.name, "repointing", 1, 1)
    finish(scope, layout, one.dataset, tell)


def finish(scope: Scope, layout: Layout, dataset: RunDataset, tell: Tell) -> bool:
    """Remove what a relocation has left, from wherever the last attempt ended; whether there was anything to do.

    Raises
    ------
    RelocationError
        Where the new place can't be seen, so that nothing is removed, or the old one can't.
    """
    moved = Moved.read(layout, dataset.uri)
    if moved is None or (moved.remove is None and len(moved.places) == 1):
        return False
    try:
        *drafts, last = [named_place(layout, scope, place.uri, "tiled") for place in moved.places]
        draft = drafts[0] if drafts else None
        if moved.remove is not None:
            _remove_old(named_place(layout, scope, moved.remove, "tiled"), draft, last, dataset.name, tell)
        if draft is not None:
            tell(dataset.name, "renaming", 0, 2)
            if draft.exists():
                draft.rename(last)
                sync_names(last.parent)
            tell(dataset.name, "renaming", 1, 2)
            list_of(draft).unlink(missing_ok=True)
            tell(dataset.name, "renaming", 2, 2)
    except OSError as error:
        raise RelocationError(f"what {dataset.name} left behind can't be removed: {error}") from None
    if moved.places[-1].uri == dataset.uri:
        Moved.forget(layout, dataset.uri)
    else:
        Moved(moved.places[-1:], at=moved.at).write(layout, dataset.uri)
    tell(dataset.name, "done", 1, 1)
    return True


def _remove_old(old: Path, draft: Path | None, last: Path, name: str, tell: Tell) -> None:
    """``draft``: the copy that takes the old one's name, in place; without it the old name is the finished copy's already."""
    if not (last if draft is None else last.parent).exists():
        raise RelocationError(f"{last} is not there: mount its storage root; {old} is kept until then")
    if not old.parent.is_dir():
        raise RelocationError(f"{old.parent} is not there: mount it, so that what {name} left in it can be removed")
    gone = old.with_name(f".{old.name}.removed")
    _delete(gone, name, tell)
    if draft is None or draft.exists():
        if old.exists():
            tell(name, "removing", 0, 1)
            old.rename(gone)  # at once: nobody finds half of it
            sync_names(old.parent)
        _delete(gone, name, tell)
    if draft is None:
        list_of(old).unlink(missing_ok=True)
        sync_names(old.parent)


def _delete(path: Path, name: str, tell: Tell) -> None:
    files = list(files_in(path)) if path.exists() else []
    for number, file in enumerate(files):
        tell(name, "removing", number, len(files))
        file.unlink()
    if path.is_dir():
        shutil.rmtree(path)
        tell(name, "removing", len(files), len(files))


def discard(volume: Path) -> None:
    """Remove a hidden copy that nobody reads, and its frame list."""
    if volume.is_dir():
        shutil.rmtree(volume, ignore_errors=True)
    else:
        volume.unlink(missing_ok=True)
    list_of(volume).unlink(missing_ok=True)


def _is_placed(one: Relocation, here: Path, there: Path, tell: Tell) -> bool:
    """Whether the copy is there already, from an attempt that ended before it was pointed to.

    Raises
    ------
    RelocationError
        Where something else has its name.
    """
    lines, taken = list_of(here), list_of(there)
    same_list = lines.exists() and taken.exists() and lines.read_bytes() == taken.read_bytes()
    if not there.exists() and (same_list or not taken.exists()):
        return False
    remedy = "nothing is overwritten: move it away, or name another root with --to"
    if not there.exists() or (lines.exists() and not same_list):
        raise RelocationError(f"{there if there.exists() else taken} exists already and isn't this dataset's: {remedy}")
    try:
        compare(one, here, there, tell)
    except (RelocationError, VolumeError, OSError) as error:
        raise RelocationError(f"{there} exists already and isn't this dataset ({error}): {remedy}") from None
    sync_tree(there)
    clear_partial(there)
    return True


def _build(one: Relocation, here: Path, built: Path, tell: Tell) -> Path:
    """The copy, and its frame list beside it, on the disk."""
    name = one.dataset.name
    if list_of(here).exists():
        shutil.copy2(list_of(here), list_of(built))
    if one.codec is not None:
        volume = open_volume(here)
        lines = volume.lines()
        tell(name, "compressing", 0, len(lines))
        recode(volume, lines, built, one.codec, lambda done: tell(name, "compressing", done, len(lines)))
    else:
        files = list(files_in(here))
        for number, file in enumerate(files):
            tell(name, "copying", number, len(files))
            if file.is_symlink():
                raise RelocationError(f"{file} is a symbolic link: put what it shows in its place")
            copy = built if file == here else built / file.relative_to(here)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        tell(name, "copying", len(files), len(files))
    sync_tree(built.parent)
    tell(name, "on disk", 1, 1)
    return built


def compare(one: Relocation, here: Path, copy: Path, tell: Tell) -> None:
    """Every frame of the copy against its checksum, everything else byte by byte, read from the disk.

    Raises
    ------
    RelocationError
        Naming what differs.
    """
    name, checked = one.dataset.name, list_of(here).exists() and here.is_dir()
    if list_of(here).exists():
        if list_of(here).read_bytes() != list_of(copy).read_bytes():
            raise RelocationError(f"{list_of(copy)} differs from {list_of(here).name}")
        volume = open_volume(copy)
        lines = volume.lines()
        tell(name, "comparing", 0, len(lines))
        wrong = wrong_frames(volume, lines, True, lambda done: tell(name, "comparing", done, len(lines)))
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise RelocationError(f"{min(wrong)[1]}{more}: nothing was removed (queuescope verify {one.uid})")
    ours, theirs = ({file.relative_to(root) for file in files_in(root)} for root in (here, copy))
    if ours != theirs:
        odd = sorted(str(file) for file in ours ^ theirs)
        raise RelocationError(f"{copy.name} and what it was made from have different files: {', '.join(odd[:3])}")
    for number, file in enumerate(sorted(ours)):
        if checked and file.parts[:2] == ("0", "c"):
            continue  # a frame: held against its checksum
        tell(name, "comparing files", number, len(ours))
        if one.codec is not None and file.parts == ("0", "zarr.json"):
            same = _without_codecs(here / file) == _without_codecs(copy / file)
        else:
            same = _same_bytes(here / file, copy / file)
        if not same:
            raise RelocationError(f"{copy / file} differs from {here / file}: nothing was removed")


def _without_codecs(file: Path) -> dict[str, object]:
    return {**json.loads(file.read_text(encoding="utf-8")), "codecs": None}


def _same_bytes(a: Path, b: Path) -> bool:
    for file in (a, b):
        forget(file)
    with a.open("rb") as one, b.open("rb") as other:
        while block := one.read(BLOCK):
            if block != other.read(BLOCK):
                return False
        return not other.read(1)


def _place(one: Relocation, built: Path, there: Path, tell: Tell) -> None:
    """Their names, the frame list first: a volume of this name has one."""
    tell(one.dataset.name, "placing", 0, 2)
    if list_of(built).exists() and not list_of(there).exists():
        give_name(list_of(built), list_of(there))
    tell(one.dataset.name, "placing", 1, 2)
    give_name(built, there)
    tell(one.dataset.name, "placing", 2, 2)


_SUFFIX = re.compile(r"\.ome\.(zarr|tiff?)$")


def stem(volume: Path) -> str:
    """``{run_uid}_{dataset}`` of one of ours."""
    return _SUFFIX.sub("", volume.name)


def suffix(volume: Path) -> str:
    return volume.name.removeprefix(stem(volume))


def list_of(volume: Path) -> Path:
    """The frame list beside a volume, whether or not it has one."""
    return volume.with_name(f"{stem(volume)}.frames.jsonl")


def _sibling(uri: str, name: str) -> str:
    return f"{uri.rpartition('/')[0]}/{name}"
