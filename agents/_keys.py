"""Keys of operations: the same for the same seed and step, in every process on every machine (decision 0076)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from pathlib import Path

from ..layout import sync_names
from ._errors import KeyFileError

LONGEST_NAME = 40
"""Of a namespace or a step, where it stands readable in a key."""


def keygen(path: str | os.PathLike[str]) -> Path:
    """Write a new seed: 64 hex characters, mode 0600, there as a whole or not at all. Returns the file.

    Raises
    ------
    KeyFileError
        Where the file is there already: another seed would run every step of its scripts anew.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails where it is there, whoever made it
    except FileExistsError:
        raise KeyFileError(
            f"{path} is there already, and is not overwritten: its scripts would run every step anew"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path} can't be written: {error.strerror or error}") from None
    finally:
        draft.unlink(missing_ok=True)
    sync_names(path.parent)
    return path


def read_seed(path: str | os.PathLike[str]) -> bytes:
    """The seed of a key file.

    Raises
    ------
    KeyFileError
        Where there is none, or it isn't one.
    """
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise KeyFileError(f"there is no key file {path}: `queuescope keygen {path}` makes one, once") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} can't be read: {error}") from None
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise KeyFileError(f"{path} is no key file: it holds something else than 64 hex characters")
    return bytes.fromhex(text)


def step_key(seed: bytes, namespace: str, step: str) -> str:
    """The key of a step: its names, shortened, and 128 bits of BLAKE2b over both names in JSON, keyed with the seed."""
    told = json.dumps([namespace, step], ensure_ascii=True).encode()
    digest = hashlib.blake2b(told, key=seed, digest_size=16, person=b"queuescope-step1").hexdigest()
    return ":".join([*filter(None, map(_readable, (namespace, step))), digest])


def one_off_key(what: str) -> str:
    """A key for what is submitted once, by hand."""
    return f"{_readable(what) or 'once'}:{secrets.token_hex(8)}"


def _readable(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST_NAME].strip("-")
