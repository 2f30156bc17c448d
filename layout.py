"""Where things lie: the data directory, the sockets' folder, keys, and the three views of a storage root."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .formats import FORMATS, SUFFIXES, Format, frame_list

if TYPE_CHECKING:  # commands that need no scope file don't wait for it
    from .config import Scope

ROLES = ("observer", "agent", "operator", "admin")
DATA_ENV = "QUEUESCOPE_DATA"
SCOPE_ENV = "QUEUESCOPE_SCOPE"
DEFAULT_DATA = "queuescope-data"
DEFAULT_SCOPE = "demo-dispim"


class Layout:
    """Paths of one data directory (DESIGN section 3, Files). Nothing is created until `create` is called."""

    def __init__(self, data: str | os.PathLike[str] | None = None) -> None:
        self.data = Path(data or os.environ.get(DATA_ENV) or DEFAULT_DATA).expanduser().resolve()

    volumes = property(lambda self: self.data / "volumes")
    documents = property(lambda self: self.data / "documents")
    keys = property(lambda self: self.data / "keys")
    logs = property(lambda self: self.data / "logs")
    valkey = property(lambda self: self.data / "valkey")
    services = property(
        lambda self: self.data / "services", doc="Generated configuration files of the services (0600)."
    )
    ledger_db = property(lambda self: self.data / "ledger.db")
    catalog_db = property(lambda self: self.data / "catalog.db")
    dose = property(lambda self: self.data / "dose.jsonl", doc="Every sample's dose, written by the hardware.")
    positions = property(lambda self: self.data / "positions.json", doc="Places that people marked (`mark_position`).")
    calibrations = property(
        lambda self: self.data / "calibrations.json", doc="What calibrations found and were told to store."
    )
    moved = property(
        lambda self: self.data / "moved",
        doc="One file for each dataset that lies elsewhere than its uri says: `Moved`.",
    )
    runtime_json = property(lambda self: self.data / "runtime.json")
    lock = property(lambda self: self.data / "queuescope.lock")

    @property
    def sockets(self) -> Path:
        """Folder of the unix sockets: outside the data directory, because a socket's path has at most 107 characters."""
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        user = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(base) / f"queuescope-{user}-{digest}"

    hardware_socket = property(lambda self: self.sockets / "hardware.sock")
    control_socket = property(lambda self: self.sockets / "control.sock")
    info_socket = property(lambda self: self.sockets / "info.sock")
    live_socket = property(lambda self: self.sockets / "live.sock")
    valkey_socket = property(lambda self: self.sockets / "valkey.sock")
    check_socket = property(lambda self: self.sockets / "check.sock")
    courier_socket = property(lambda self: self.sockets / "courier.sock")

    def create(self) -> None:
        """Make the folders, private ones with mode 0700.

        Raises
        ------
        OSError
            Where the data directory can't be written, or the sockets' folder belongs to somebody else.
        """
        for folder in (self.data, self.volumes, self.documents, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.keys, self.valkey, self.services, self.sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user: remove it or set XDG_RUNTIME_DIR")
            folder.chmod(0o700)

    def key_file(self, name: str) -> Path:
        """File of a role's key, or of another secret (``valkey``, ``courier``, ``hardware`` …)."""
        return self.keys / name

    def key(self, name: str) -> str:
        """The secret of this name (64 hex characters), made once, in a file that only this user may read."""
        path = self.key_file(name)
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            pass
        draft = path.with_name(f".{name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails if another process was first: then its key counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text(encoding="ascii").strip()

    def runtime(self) -> dict[str, Any] | None:
        """What ``runtime.json`` says, or None where nothing runs."""
        try:
            return json.loads(self.runtime_json.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def root(self, scope: Scope, root: str, view: str) -> Path:
        """A storage root as ``hardware``, ``tiled`` or ``clients`` see it."""
        return (self.data / getattr(scope.storage.roots[root], view)).resolve()

    def document_log(self, run_uid: str) -> Path:
        return self.documents / f"{run_uid}.jsonl"


def dataset_uri(scope: Scope, run_uid: str, dataset: str, form: Format | None = None) -> str:
    """``data://ROOT/volumes/{run_uid}_{dataset}.ome.zarr`` or ``….ome.tiff`` (None: by ``storage.format``): never changes once
    returned.
    """
    return f"data://{scope.storage.root}/volumes/{run_uid}_{dataset}{SUFFIXES[form or scope.storage.format]}"


def found_uri(layout: Layout, scope: Scope, run_uid: str, dataset: str, view: str = "tiled") -> str:
    """The uri of a dataset of which no document tells: in the format in which it lies there, else in the scope's."""
    for form in FORMATS:
        uri = dataset_uri(scope, run_uid, dataset, form)
        if resolve_uri(layout, scope, uri, view).exists():
            return uri
    return dataset_uri(scope, run_uid, dataset)


def frames_on_disk(volume: Path) -> int | None:
    """Complete lines of a volume's frame list, each a frame whose bytes are durable; None where its folder can't be seen."""
    log = frame_list(volume)
    try:
        with log.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except FileNotFoundError:
        return 0 if log.parent.is_dir() else None


def resolve_uri(layout: Layout, scope: Scope, uri: str, view: str) -> Path:
    """The file of a ``data://ROOT/relative`` uri as ``hardware``, ``tiled`` or ``clients`` see it, wherever it lies now.

    Raises
    ------
    ValueError
        For another scheme, an unknown root, or a path that leaves its root.
    """
    place = named_place(layout, scope, uri, view)
    moved = Moved.read(layout, uri)
    if moved is None:
        return place
    *drafts, last = moved.places
    # What is there is asked of this machine's view: the others may be paths of other computers.
    now = next((one for one in drafts if named_place(layout, scope, one.uri, "tiled").exists()), last)
    return named_place(layout, scope, now.uri, view)


def named_place(layout: Layout, scope: Scope, uri: str, view: str) -> Path:
    """Where a ``data://ROOT/relative`` uri says that the file is: `resolve_uri` but for what has been moved since.

    Raises
    ------
    ValueError
        As for `resolve_uri`.
    """
    scheme, _, rest = uri.partition("://")
    root, _, relative = rest.partition("/")
    if scheme != "data" or root not in scope.storage.roots:
        raise ValueError(f"uri {uri!r} is not data://ROOT/path with ROOT one of {sorted(scope.storage.roots)}")
    folder = layout.root(scope, root, view)
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"uri {uri!r} leaves the storage root {root}")
    return path


def present_path(layout: Layout, scope: Scope, path: Path, view: str) -> Path:
    """Where a file lies now, for whoever knows only the path at which it was acquired."""
    for root in scope.storage.roots:
        folder = layout.root(scope, root, view)
        if path.is_relative_to(folder):
            uri = f"data://{root}/{path.relative_to(folder).as_posix()}"
            if Moved.read(layout, uri) is not None:
                return resolve_uri(layout, scope, uri, view)
    return path


@dataclass(frozen=True)
class Place:
    uri: str
    """``data://ROOT/relative``."""
    path: str
    """The same as the machine of the data directory saw it when it was written, for clients that have no scope file."""


@dataclass(frozen=True)
class Moved:
    """Where a dataset lies whose uri says something else: a small file, replaced at once, so that every reader agrees.

    ``DIR/moved/ROOT/relative`` for ``data://ROOT/relative``; without one the dataset lies where its uri says.
    """

    places: tuple[Place, ...]
    """The last is where it belongs. One before it is a finished copy that is about to get that name: while it is there, it
    counts."""
    remove: str | None = None
    """Uri of the place that it left, until nothing of it is there."""
    at: float = 0.0
    """Seconds since the epoch."""

    @staticmethod
    def file(layout: Layout, uri: str) -> Path:
        return Path(layout.moved, *uri.partition("://")[2].split("/"))

    @classmethod
    def read(cls, layout: Layout, uri: str) -> Moved | None:
        """
        Raises
        ------
        ValueError
            Where the file is damaged.
        """
        path = cls.file(layout, uri)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(Place(**place) for place in found["places"]), found["remove"], found["at"])
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} doesn't say where {uri} lies: {error}") from None

    def write(self, layout: Layout, uri: str) -> None:
        """From now on this is where it lies: on disk when this returns."""
        path = self.file(layout, uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({**asdict(self), "at": self.at or time.time()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        for folder in (path.parent, *path.parent.parents):
            sync_names(folder)
            if folder == layout.data:
                break

    @classmethod
    def forget(cls, layout: Layout, uri: str) -> None:
        """It lies where its uri says again."""
        path = cls.file(layout, uri)
        path.unlink(missing_ok=True)
        sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """Make the names in a folder durable, where the system has that."""
    if os.name == "posix" and folder.is_dir():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def shared_folders(scope: Scope, layout: Layout, root: str, view: str) -> list[Path]:
    """The folders of a storage root whose files may be runs: all of it, or ``volumes`` and ``results`` where the root holds the
    data directory, with keys and databases in it.
    """
    folder = layout.root(scope, root, view)
    if layout.data.is_relative_to(folder):
        return [folder / "volumes", folder / "results"]
    return [folder]


def process_arguments(description: str) -> tuple[Scope, Layout]:
    """Scope and data directory of a service started by hand: ``--scope NAME|PATH --data DIR``, else the environment.

    Both are exported to the environment, so that child processes see the same ones.
    """
    import argparse

    from .config import load_scope

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scope", default=os.environ.get(SCOPE_ENV, DEFAULT_SCOPE), help="bundled name or path")
    parser.add_argument("--data", default=None, help=f"data directory (default: ${DATA_ENV} or ./{DEFAULT_DATA})")
    arguments = parser.parse_args()
    scope, layout = load_scope(arguments.scope), Layout(arguments.data)
    os.environ[SCOPE_ENV], os.environ[DATA_ENV] = str(scope.path), str(layout.data)
    return scope, layout
