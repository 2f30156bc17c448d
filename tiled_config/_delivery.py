"""One run on its way to Tiled."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from event_model.documents import Event, EventDescriptor, StreamDatum

from ._documents import DocumentLog
from ._entry import Container, EntryDiffersError, HeldFrames, HeldRows, number_of_rows

PERIOD_S = 0.5
"""A fast run is written to the catalog this often; a slow one as soon as anything happens."""
SHORTEST_PAUSE_S = 0.1
LATEST_S = 30.0
"""An append whose sender died or gave up may still be carried out by then: rows are counted that long, and at the end."""
_NEVER = 1_000_000_000
_EXACT = 2**53
"""Integers up to here survive JSON in every client."""


class _Writer(_RunWriter):
    """Bluesky's writer, told when to write, and able to go on where another one stopped.

    `TiledWriter` writes by count or at the stop document: either one request a frame, or a slow time-lapse stays invisible.
    Ours collects whatever is pending in the log and writes it at once (`flush`). Where the run has an entry already, the
    documents that Tiled holds are counted and compared, not written. Touches the private names `_RunWriter`,
    `_internal_data_cache`, `_external_data_cache`, `_stream_resource_cache`, `_desc_nodes`, `_internal_tables`,
    `_internal_arrays`, `_write_internal_data`, `_write_external_data`, `_append_with_retry` of bluesky_tiled_plugins 2.0.12; a
    test fails when one of them goes.
    """

    def __init__(self, client: Container) -> None:
        # No array goes into a table, however short: SQLite has no lists.
        super().__init__(client, batch_size=_NEVER, max_array_size=0)
        self._numbers: set[str] = set()
        self._rows: Counter[str] = Counter()
        """Events of the log so far, by stream."""
        self._held_rows: dict[str, HeldRows] = {}
        self._held_frames: dict[tuple[str, str], HeldFrames] = {}

    def flush(self) -> int:
        """Write what is pending: one request a stream of events, one a dataset, however many frames. Returns frames."""
        for name in (*self._held_rows, *("/".join(key) for key in self._held_frames)):
            raise EntryDiffersError(f"the catalog has more of {name} than the log")
        for stream, rows in self._internal_data_cache.items():
            if rows:
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
        frames = 0
        for resource in list(self._external_data_cache):
            datum = self._external_data_cache.pop(resource)
            self._write_external_data(datum)
            frames += datum["indices"]["stop"] - datum["indices"]["start"]
        return frames

    def check_rows(self) -> None:
        """Count the rows that Tiled has.

        Raises
        ------
        EntryDiffersError
            Where they are not as many as the events: an append that counted as lost has come after all.
        """
        for table in self._internal_tables.values():
            *_, stream, name = table.path_parts
            found, expected = number_of_rows(table), self._rows[stream]
            if found != expected:
                raise EntryDiffersError(f"the catalog has {found} rows of {stream}/{name} for {expected} events")

    def descriptor(self, doc: EventDescriptor) -> None:
        self._numbers |= {
            key for key, spec in doc["data_keys"].items() if spec["dtype"] == "number" and not spec["shape"]
        }
        name = doc["name"]
        node = self._desc_nodes.get(name)
        if node is not None and doc["uid"] in (u["uid"] for u in node.metadata.get("_config_updates", [])):
            self._desc_nodes[doc["uid"]] = node  # an update that Tiled holds
            return
        super().descriptor(doc)
        if node is None:
            self._take_over(name, doc, self._desc_nodes[name])

    def _take_over(self, stream: str, doc: EventDescriptor, node: Container) -> None:
        """Find what a stream has in Tiled already."""
        if node.metadata["uid"] != doc["uid"]:
            raise EntryDiffersError(f"{stream} is of descriptor {node.metadata['uid']}, not {doc['uid']}")
        tables, arrays = [], []
        for name, child in node.children.items():
            key = f"{stream}/{name}"
            family = child.item["attributes"]["structure_family"]
            if family == "table" and name.startswith("internal"):
                self._internal_tables[f"{stream}{name.removeprefix('internal')}"] = child
                tables.append(child)
            elif family not in ("array", "ragged"):
                raise EntryDiffersError(f"{key} is a {family}")
            elif "external" not in doc["data_keys"].get(name, {}):
                self._internal_arrays[key] = child
                arrays.append(child)
            elif held := HeldFrames(child):
                self._held_frames[stream, name] = held
        if rows := HeldRows(tables, arrays):
            self._held_rows[stream] = rows

    def event(self, doc: Event) -> None:
        stream = self._desc_nodes[doc["descriptor"]].item["id"]
        self._rows[stream] += 1
        if held := self._held_rows.get(stream):
            held.take(doc)
            if not held:
                del self._held_rows[stream]
            return
        # The columns of Tiled's table are typed by the first rows: 5 (JSON) or null there would refuse 5.25 later.
        for key in self._numbers.intersection(doc["data"]):
            value = doc["data"][key]
            doc["data"][key] = math.nan if value is None else float(value)
        super().event(doc)

    def stream_datum(self, doc: StreamDatum) -> None:
        stream = self._desc_nodes[doc["descriptor"]].item["id"]
        dataset = stream, self._stream_resource_cache[doc["stream_resource"]]["data_key"]
        held = self._held_frames.get(dataset)
        if held is None:
            super().stream_datum(doc)
            return
        _, consolidator = self.get_sres_node(doc["stream_resource"], doc["descriptor"])
        if held.take(doc, consolidator):
            del self._held_frames[dataset]

    def _append_with_retry(self, df_client: Any, table: Any, desc_name: str) -> None:
        # Upstream repeats an append whose answer was lost, which may double the rows. The next delivery asks what has come.
        df_client.append_partition(0, table)


class Delivery:
    """Feeds one run's log to Tiled, from its beginning, keeping its place.

    After an error it can't go on: start a new delivery, with the run's entry in the catalog.

    Parameters
    ----------
    log
        The run's document log, unread.
    catalog
        Tiled's client of the catalog.
    entry
        Tiled's client of the run where it has an entry already: the delivery goes on from what Tiled holds, and raises
        `EntryDiffersError` where that is no beginning of the log.
    """

    def __init__(self, log: DocumentLog, catalog: Any, entry: Any = None) -> None:
        self.log = log
        self.frames = 0
        self.exit_status: str | None = None
        """From the stop document, once that is delivered."""
        self.due = 0.0
        """Monotonic time before which nothing more should be written: Tiled has better things to do than one run."""
        self._resumed = entry is not None
        self._doubtful_until = time.monotonic() + LATEST_S if self._resumed else 0.0
        self._writer = _Writer(Container(catalog, {} if entry is None else {log.path.stem: entry}))
        self._normalizer = RunNormalizer()
        self._normalizer.subscribe(self._writer)

    def drain(self, stopped: Callable[[], bool]) -> int:
        """Deliver the documents that are complete in the log; return how many. Leaves early, unflushed, once ``stopped()``.

        Raises
        ------
        EntryDiffersError
            Where the entry it went on from has to be made anew.
        """
        before, began = self.log.lines, time.monotonic()
        for name, document in self.log:
            if name in ("start", "descriptor", "stop"):
                document = for_catalog(document)
            elif name == "stream_datum":
                self.frames += document["indices"]["stop"] - document["indices"]["start"]
            if name == "stop" and self._resumed:
                self._writer.flush()
                self._writer.check_rows()
            self._normalizer(name, document)
            if name == "stop":
                self.exit_status = document["exit_status"]
                break
            if stopped():
                return self.log.lines - before
        if self.exit_status is None and self.log.lines > before:
            self._writer.flush()
            if time.monotonic() < self._doubtful_until:
                self._writer.check_rows()
            now = time.monotonic()
            took = now - began
            self.due = now + min(9 * took, max(SHORTEST_PAUSE_S, PERIOD_S - took))
        return self.log.lines - before


def for_catalog(value: Any) -> Any:
    """Metadata as every JSON client can hold it: NaN and ±infinity become null, integers beyond 2**53 become text.

    Left alone, Tiled would drop the former and cut the latter to 2**53 − 1. The log keeps what was written.
    """
    if isinstance(value, dict):
        return {key: for_catalog(item) for key, item in value.items()}
    if isinstance(value, list):
        return [for_catalog(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int | float) and abs(value) >= _EXACT:
        return repr(value)
    return value
