"""A file that is there already becomes a run: its document log is written, the file is neither moved nor changed."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from .. import __version__
from ..config import Scope
from ..described import Described
from ..formats import MIMETYPES, array_uri, format_of
from ..layout import Layout, named_place, resolve_uri, shared_folders
from ..reading import RUN_UID, RunLog, RunLogError, UnknownRunError, Volume, VolumeError, open_volume
from ._problems import Problem

NAMESPACE = uuid.UUID("6b6c9f6e-3c0a-5b43-9d55-0f4a2f6f3a51")
"""A file's run UID is made of this and its uri: registering it again finds the same run."""

_OWN = re.compile(r"([A-Za-z0-9-]{8,64})_[a-z][a-z0-9_]{0,63}\.ome\.(zarr|tiff)")

RunUid = Annotated[str, Field(pattern=RUN_UID.pattern)]
Text = Annotated[str, Field(min_length=1, max_length=500)]


class Lineage(Described):
    """Where the file comes from."""

    model_config = ConfigDict(extra="forbid")

    parents: list[RunUid] = Field(default_factory=list, max_length=1000)
    """Runs that it was made from; each must be known here."""
    origin: Text | None = None
    """The instrument, program or place that made it."""
    note: Text | None = None


class Register(Described):
    model_config = ConfigDict(extra="forbid")

    uri: Annotated[str, Field(max_length=1000)]
    """``data://ROOT/relative`` of an OME-Zarr 0.5 or a TIFF inside a storage root. It never changes."""
    dataset: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = "image"
    lineage: Lineage = Field(default_factory=Lineage)
    sample_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None
    session_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] | None = None


def register(scope: Scope, layout: Layout, asked: Register, by: str) -> tuple[str, bool]:
    """Make a run of a file; returns its UID, and whether it is new. The same request again finds the same run.

    Raises
    ------
    Problem
        ``outside_roots``, ``unsupported_file``, ``unknown_run`` for a parent, ``already_registered`` where the file is a run
        with other facts, or belongs to one.
    """
    path = _inside(scope, layout, asked.uri)
    _not_a_runs_own(scope, layout, asked.uri, path)
    volume = _volume(
        resolve_uri(layout, scope, asked.uri, "tiled"), asked.uri
    )  # registered and archived since, perhaps
    for parent in asked.lineage.parents:
        try:
            RunLog.read(layout, parent)
        except UnknownRunError:
            raise Problem("unknown_run", f"lineage.parents: no run {parent} is known here") from None
        except RunLogError as error:
            raise Problem("unreadable_run", str(error)) from None
    uid = str(uuid.uuid5(NAMESPACE, asked.uri))
    facts = asked.model_dump(mode="json")
    if _known(layout, uid, facts):
        return uid, False
    new = _write(layout, uid, _documents(scope, uid, path, volume, facts, by))
    if not new:  # another request was first
        _known(layout, uid, facts)
    return uid, new


def _inside(scope: Scope, layout: Layout, uri: str) -> Path:
    try:
        path = named_place(layout, scope, uri, "tiled")
    except ValueError as error:
        raise Problem("outside_roots", str(error)) from None
    root = uri.partition("://")[2].partition("/")[0]
    plain = f"data://{root}/{path.relative_to(layout.root(scope, root, 'tiled')).as_posix()}"
    if plain != uri:  # one file, one uri
        raise Problem("outside_roots", f"uri {uri!r} goes through links, '..' or empty parts: register {plain!r}")
    folders = shared_folders(scope, layout, root, "tiled")
    if not any(path.is_relative_to(folder) and path != folder for folder in folders):
        names = " or ".join(str(folder) for folder in folders)
        raise Problem("outside_roots", f"{path} is not in {names}: the catalog serves files from there only")
    if set("#?$") & set(str(path)):
        raise Problem("outside_roots", f"{path} has one of # ? $ in it, which the catalog can't open")
    return path


def _not_a_runs_own(scope: Scope, layout: Layout, uri: str, path: Path) -> None:
    """What a run of this microscope has written is that run's."""
    match = _OWN.fullmatch(path.name)
    if match is None:
        return
    try:
        log = RunLog.read(layout, match[1])
    except (UnknownRunError, RunLogError):
        return
    datasets = (*log.datasets.values(), *log.untold(scope, layout).values())
    if any(d.uri == uri or d.path(layout, scope, "tiled") == path for d in datasets):
        raise Problem("already_registered", f"{path.name} belongs to run {match[1]}", run_uid=match[1])


def _volume(path: Path, uri: str) -> Volume:
    try:
        volume = open_volume(path)
        shape = volume.shape
        volume.frame(0)
    except VolumeError as error:
        raise Problem(
            "unsupported_file",
            f"{uri}: {error}; what can be registered is an OME-Zarr 0.5 or a TIFF of at least three axes",
        ) from None
    if math.prod(shape) == 0 or volume.dtype.kind not in "uif":
        raise Problem("unsupported_file", f"{uri}: {shape} of {volume.dtype.name}: it holds no images")
    if (link := _link_within(path)) is not None:
        raise Problem(
            "unsupported_file", f"{uri}: {link} is a symbolic link: what it shows may change, or lie elsewhere"
        )
    return volume


def _link_within(folder: Path) -> str | None:
    """A symbolic link in a folder, which could show a file outside the storage root. A TIFF is one file, and no link: its path
    has been resolved.
    """
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    return str(Path(entry.path).relative_to(folder))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
    return None


def _known(layout: Layout, uid: str, facts: dict[str, Any]) -> bool:
    """Whether the file is a run already, with the same facts."""
    try:
        start = RunLog.read(layout, uid).start or {}
    except UnknownRunError:
        return False
    except RunLogError as error:
        raise Problem("unreadable_run", str(error)) from None
    if start.get("registered", {}).get("facts") != facts:
        raise Problem(
            "already_registered",
            f"{facts['uri']} is run {uid} already, with other facts; they can't be changed",
            run_uid=uid,
        )
    return True


def _documents(
    scope: Scope, uid: str, path: Path, volume: Volume, facts: dict[str, Any], by: str
) -> list[tuple[str, dict[str, Any]]]:
    """A whole run: one row of the array's first axis is one reading."""
    now = time.time()
    rows, *datum = volume.shape
    name, chunk = facts["dataset"], [1] * (len(volume.shape) - 2) + list(volume.frame_shape)
    start = {
        "uid": uid,
        "time": now,
        "plan_name": "register",
        "plan_args": {"uri": facts["uri"]},
        "user": by,
        "user_group": by,
        "scope": scope.name,
        "sample_id": facts["sample_id"],
        "session_id": facts["session_id"],
        "lineage": facts["lineage"],
        "registered": {"uri": facts["uri"], "facts": facts},
        "versions": {"queuescope": __version__},
    }
    key = {
        "source": facts["uri"],
        "dtype": "array",
        "dtype_numpy": volume.dtype.str,
        "shape": datum,
        "external": "STREAM:",
    }
    descriptor = {
        "uid": str(uuid.uuid4()),
        "run_start": uid,
        "time": now,
        "name": "primary",
        "data_keys": {name: key},
        "object_keys": {name: [name]},
        "configuration": {},
        "hints": {},
    }
    resource = {
        "uid": str(uuid.uuid4()),
        "run_start": uid,
        "data_key": name,
        "mimetype": MIMETYPES[format_of(path)],
        "uri": array_uri(path),
        "parameters": {"chunk_shape": chunk, "uri_client": facts["uri"], "frames_planned": rows},
    }
    datum_doc = {
        "uid": f"{resource['uid']}/0",
        "descriptor": descriptor["uid"],
        "stream_resource": resource["uid"],
        "indices": {"start": 0, "stop": rows},
        "seq_nums": {"start": 1, "stop": rows + 1},
    }
    stop = {
        "uid": str(uuid.uuid4()),
        "run_start": uid,
        "time": now,
        "exit_status": "success",
        "reason": "",
        "num_events": {"primary": rows},
        "frames": {name: volume.frames},
    }
    return [
        ("start", start),
        ("descriptor", descriptor),
        ("stream_resource", resource),
        ("stream_datum", datum_doc),
        ("stop", stop),
    ]


def _write(layout: Layout, uid: str, documents: list[tuple[str, dict[str, Any]]]) -> bool:
    """The log as a whole or not at all; False where one of this name is there."""
    log = layout.document_log(uid)
    draft = log.with_name(f".{uid}.{secrets.token_hex(4)}")
    with draft.open("xb") as file:
        for name, document in documents:
            file.write(json.dumps({"name": name, "doc": document}, separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, log)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    folder = os.open(log.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True
