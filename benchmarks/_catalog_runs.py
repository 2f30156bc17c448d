"""Runs for `bench catalog`: document logs as the worker writes them, and a catalog made larger."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import event_model

from ..layout import Layout

SIZE = (2048, 2048)
CAMERAS = ("cam_a", "cam_b")
AXES = ("piezo_a", "z")
"""What a run reads, in turn: Tiled keeps runs with other columns in another table."""
RUNS_PER_SAMPLE = 10
READINGS = 20


class WrittenLog:
    """A run's log, held like the worker holds it: two cameras, and a table of readings. No frame is on disk: nobody opens one."""

    def __init__(self, layout: Layout, number: int, planned: int) -> None:
        self._run = event_model.compose_run(
            metadata={
                "op_key": uuid.uuid4().hex,
                "attempt": 1,
                "item_uid": str(uuid.uuid4()),
                "user": "agent",
                "user_group": "agent",
                "session_id": "2026-11-25",
                "sample_id": sample(number),
                "scan_id": number + 1,
                "scope": "demo-dispim",
                "plan_name": "acquire_volume",
                "plan_args": {"slices": planned, "step_um": 1.0, "channel": "gfp", "cameras": list(CAMERAS)},
                "versions": {"queuescope": "0", "bluesky": "1.15.1", "ophyd": "1.11.2", "pymmcore-plus": "0.18.1"},
            }
        )
        self.uid: str = self._run.start_doc["uid"]
        self._file = layout.document_log(self.uid).open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._write("start", self._run.start_doc)
        frame = {"dtype": "array", "shape": list(SIZE), "dtype_numpy": "<u2", "external": "STREAM:"}
        self._frames = self._run.compose_descriptor(
            name="primary", data_keys={camera: {"source": camera, **frame} for camera in CAMERAS}
        )
        self._axis = AXES[number % len(AXES)]
        position = {"source": self._axis, "dtype": "number", "shape": [], "units": "um"}
        self._readings = self._run.compose_descriptor(name="monitor", data_keys={self._axis: position})
        for descriptor in (self._frames, self._readings):
            self._write("descriptor", descriptor.descriptor_doc)
        self._resources = {}
        compose: Any = self._run.compose_stream_resource
        for camera in CAMERAS:
            volume = layout.volumes / f"{self.uid}_{camera}.ome.zarr"
            resource = compose(
                mimetype="application/x-zarr",
                uri=(volume / "0").as_uri().replace("file:///", "file://localhost/"),
                data_key=camera,
                parameters={"chunk_shape": [1, *SIZE], "uri_client": f"data://DATA/volumes/{volume.name}"},
            )
            self._resources[camera] = resource
            self._write("stream_resource", resource.stream_resource_doc)
        self.frames = 0

    def _write(self, name: str, doc: Any) -> None:
        self._file.write(json.dumps({"name": name, "doc": doc}).encode() + b"\n")
        self._file.flush()

    def expose(self, n: int = 1) -> None:
        """``n`` frames more of each camera, told of in one stream_datum."""
        start, stop = self.frames, self.frames + n
        for resource in self._resources.values():
            datum = resource.compose_stream_datum(
                {"start": start, "stop": stop}, {"start": start + 1, "stop": stop + 1}, self._frames.descriptor_doc
            )
            self._write("stream_datum", datum)
        self.frames = stop

    def read(self, um: float) -> None:
        """One event: where the axis is."""
        stamps = {self._axis: time.time()}
        self._write("event", self._readings.compose_event(data={self._axis: um}, timestamps=stamps))

    def stop(self) -> None:
        self._write("stop", self._run.compose_stop())
        self._file.close()


def sample(number: int) -> str:
    """The sample of the catalog's ``number``-th run."""
    return f"embryo-{number // RUNS_PER_SAMPLE:05d}"


def write_runs(layout: Layout, n: int) -> list[str]:
    """Logs of ``n`` runs that ended; returns their uids."""
    uids = []
    for number in range(n):
        log = WrittenLog(layout, number, 100)
        log.expose(100)
        for index in range(READINGS):
            log.read(float(index))
        log.stop()
        uids.append(log.uid)
    return uids


def multiply(small: Layout, layout: Layout, uids: list[str], n: int) -> list[str]:
    """Make a catalog of ``n`` runs out of ``small``, where the courier delivered ``uids``; returns their uids.

    Every new run is a copy, row by row, of what the courier and Tiled made of one of the first, under a uid, a sample and a
    number of its own: in Tiled's tables of nodes, data sources and assets, and in the table of readings. Tiled must not run.
    """
    made = list(uids)
    shutil.copytree(small.data, layout.data)
    with (
        closing(sqlite3.connect(layout.catalog_db)) as catalog,
        closing(sqlite3.connect(layout.data / "catalog-tables.db")) as tables,
    ):
        moved = "UPDATE assets SET data_uri = replace(data_uri, ?, ?)"
        catalog.execute(moved, (f"{small.data}/", f"{layout.data}/"))
        templates = [_Template(catalog, tables, uid) for uid in uids]
        for number in range(len(uids), n):
            made.append(templates[number % len(templates)].copy(number))
        catalog.commit()
        tables.commit()
    return made


class _Template:
    """What there is of one run in the two databases."""

    def __init__(self, catalog: sqlite3.Connection, tables: sqlite3.Connection, uid: str) -> None:
        self._catalog, self._tables, self._uid = catalog, tables, uid
        self._nodes = _rows(
            catalog,
            "SELECT nodes.* FROM nodes JOIN nodes_closure ON descendant = nodes.id WHERE ancestor ="
            " (SELECT id FROM nodes WHERE key = ? AND parent = 0) ORDER BY depth, nodes.id",
            uid,
        )
        self._tags = {
            n["id"]: _rows(catalog, _OF_NODE.format("node_access_tags_association"), n["id"]) for n in self._nodes
        }
        self._sources = [s for n in self._nodes for s in _rows(catalog, _OF_NODE.format("data_sources"), n["id"])]
        self._assets = {
            s["id"]: _rows(
                catalog,
                "SELECT assets.*, parameter, num FROM assets JOIN data_source_asset_association ON asset_id = assets.id"
                " WHERE data_source_id = ?",
                s["id"],
            )
            for s in self._sources
        }

    def copy(self, number: int) -> str:
        """Another run like it; returns its uid."""
        uid = str(uuid.uuid4())
        ids: dict[int, int] = {}
        for node in self._nodes:
            metadata = re.sub(r'"embryo-\d+"', f'"{sample(number)}"', node["metadata"].replace(self._uid, uid))
            metadata = re.sub(r'"scan_id":\s*\d+', f'"scan_id":{number + 1}', metadata)
            parent = ids.get(node["parent"], node["parent"])
            changed = {"key": node["key"].replace(self._uid, uid), "metadata": metadata, "parent": parent}
            ids[node["id"]] = _insert(self._catalog, "nodes", node | changed)
            for tag in self._tags[node["id"]]:
                _insert(self._catalog, "node_access_tags_association", tag | {"node_id": ids[node["id"]]})
        for source in self._sources:
            changed = {"node_id": ids[source["node_id"]], "parameters": self._parameters(source)}
            made = _insert(self._catalog, "data_sources", source | changed)
            for asset in self._assets[source["id"]]:
                link = {"data_source_id": made, "parameter": asset["parameter"], "num": asset["num"]}
                facts = {key: value for key, value in asset.items() if key not in ("parameter", "num")}
                if self._uid in asset["data_uri"]:
                    facts["data_uri"] = asset["data_uri"].replace(self._uid, uid)
                    link["asset_id"] = _insert(self._catalog, "assets", facts)
                else:  # the database of tables
                    link["asset_id"] = asset["id"]
                _insert(self._catalog, "data_source_asset_association", link)
        return uid

    def _parameters(self, source: dict[str, Any]) -> str:
        """Of a table: its rows are copied, under a number of their own."""
        parameters = json.loads(source["parameters"])
        if "dataset_id" not in parameters:
            return str(source["parameters"])
        table = parameters["table_name"]
        (number,) = self._tables.execute("UPDATE _dataset_id_counter SET value = value + 1 RETURNING value").fetchone()
        columns = [row[1] for row in self._tables.execute(f'PRAGMA table_info("{table}")')]
        names = ", ".join(f'"{name}"' for name in columns)
        values = ", ".join("?" if name == "_dataset_id" else f'"{name}"' for name in columns)
        self._tables.execute(
            f'INSERT INTO "{table}" ({names}) SELECT {values} FROM "{table}" WHERE _dataset_id = ?',
            (number, parameters["dataset_id"]),
        )
        return json.dumps(parameters | {"dataset_id": number})


_OF_NODE = "SELECT * FROM {} WHERE node_id = ?"


def _rows(database: sqlite3.Connection, query: str, *values: Any) -> list[dict[str, Any]]:
    cursor = database.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _insert(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    """Without its id: the database gives a new one, which is returned."""
    row = {name: value for name, value in row.items() if name != "id"}
    names = ", ".join(f'"{name}"' for name in row)
    cursor = database.execute(
        f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
    )
    return int(cursor.lastrowid or 0)


def pairs(uids: list[str], n: int) -> Iterator[tuple[int, str]]:
    """``n`` runs from all over the catalog: number and uid."""
    for index in range(n):
        number = (2 * index + 1) * len(uids) // (2 * n)
        yield number, uids[number]
