"""Files that come whole or not at all: made in a hidden folder beside their place, synced, then given their name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..layout import sync_names


class TakenError(Exception):
    """Somebody else makes it, or has made it. Names the file."""


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside the target, gone afterwards; one that a killed process left is cleared away.

    Raises
    ------
    TakenError
        Where another process works in it.
    """
    folder = _partial(target)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        if not locked(lock):
            raise TakenError(f"{target} is being written by another process")
        inside = folder / "files"
        shutil.rmtree(inside, ignore_errors=True)
        inside.mkdir()
        try:
            yield inside
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_partial(target: Path) -> None:
    """Remove what a killed process has left of a target that is whole."""
    shutil.rmtree(_partial(target), ignore_errors=True)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def locked(file: Any) -> bool:
    """Whether an open file is this process's alone from now on, until it is closed."""
    try:
        import fcntl
    except ImportError:  # Windows: files that are open can't be removed there, which keeps two processes apart as well
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def files_in(path: Path) -> Iterator[Path]:
    """A file, or all files of a folder."""
    if path.is_file():
        yield path
    else:
        for folder, _, names in os.walk(path):
            yield from (Path(folder) / name for name in sorted(names))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in files_in(path))


def sync_tree(path: Path) -> None:
    """Make it durable, and let the system forget it, so that whoever reads it next reads the disk."""
    for file in files_in(path):
        with file.open("rb" if os.name == "posix" else "rb+") as handle:  # it may be read-only
            os.fsync(handle.fileno())
        forget(file)
    if path.is_dir():
        for folder, _, _ in os.walk(path, topdown=False):
            sync_names(Path(folder))


def forget(file: Path) -> None:
    """Let the system drop what it has of a file in memory."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def give_name(made: Path, target: Path) -> None:
    """Its name, if nobody has taken it meanwhile; on disk when this returns.

    Raises
    ------
    TakenError
        Where somebody has.
    """
    if target.exists():
        raise TakenError(f"{target} has come into being meanwhile: nothing is overwritten")
    if made.is_dir():
        os.rename(made, target)  # fails where the target is a folder that holds anything
    else:
        try:
            os.link(made, target)  # fails where it exists, which renaming would not
        except FileExistsError:
            raise TakenError(f"{target} has come into being meanwhile: nothing is overwritten") from None
        except OSError:  # a file system without links
            os.rename(made, target)
    sync_names(target.parent)
