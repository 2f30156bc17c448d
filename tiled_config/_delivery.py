"""One run on its way to Tiled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from event_model.documents import Event, EventDescriptor

from ._documents import DocumentLog

LONGEST_SILENCE_S = 1.0
"""A fast run is written to the catalog at least this often; a slow one as soon as anything happens."""
_NEVER = 1_000_000_000
_EXACT = 2**53
"""Integers up to here survive JSON in every client."""


class _Writer(_RunWriter):
    """Bluesky's writer, told when to write.

    `TiledWriter` writes by count or at the stop document: either one request a frame, or a slow time-lapse stays invisible.
    Ours collects whatever is pending in the log and writes it at once (`flush`). Touches the private names `_RunWriter`,
    `_internal_data_cache`, `_external_data_cache`, `_desc_nodes`, `_write_internal_data`, `_write_external_data`,
    `_append_with_retry` of bluesky_tiled_plugins 2.0.12; a test fails when one of them goes.
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client, batch_size=_NEVER)

    def flush(self) -> int:
        """Write what is pending: one request a stream of events, one a dataset, however many frames. Returns frames."""
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

    def descriptor(self, doc: EventDescriptor) -> None:
        self._numbers = {
            key for key, spec in doc["data_keys"].items() if spec["dtype"] == "number" and not spec["shape"]
        }
        super().descriptor(doc)

    def event(self, doc: Event) -> None:
        # The columns of Tiled's table are typed by the first rows: 5 (JSON) or null there would refuse 5.25 later.
        for key in self._numbers.intersection(doc["data"]):
            value = doc["data"][key]
            doc["data"][key] = math.nan if value is None else float(value)
        super().event(doc)

    def _append_with_retry(self, df_client: Any, table: Any, desc_name: str) -> None:
        # Upstream repeats an append whose answer was lost, which may double the rows. A failed run is replayed from its log.
        df_client.append_partition(0, table)


class Delivery:
    """Feeds one run's log to Tiled, from its beginning, keeping its place.

    After an error it can't go on: delete the run's catalog entry and start a new delivery.
    """

    def __init__(self, log: DocumentLog, catalog: Any) -> None:
        self.log = log
        self.frames = 0
        self.exit_status: str | None = None
        """From the stop document, once that is delivered."""
        self.due = 0.0
        """Monotonic time before which nothing more should be written: Tiled has better things to do than one run."""
        self._writer = _Writer(catalog)
        self._normalizer = RunNormalizer()
        self._normalizer.subscribe(self._writer)

    def drain(self, stopped: Callable[[], bool]) -> int:
        """Deliver the documents that are complete in the log; return how many. Leaves early, unflushed, once ``stopped()``."""
        before, began = self.log.lines, time.monotonic()
        for name, document in self.log:
            if name in ("start", "descriptor", "stop"):
                document = for_catalog(document)
            elif name == "stream_datum":
                self.frames += document["indices"]["stop"] - document["indices"]["start"]
            self._normalizer(name, document)
            if name == "stop":
                self.exit_status = document["exit_status"]
                break
            if stopped():
                return self.log.lines - before
        if self.exit_status is None and self.log.lines > before:
            self._writer.flush()
            now = time.monotonic()
            self.due = now + min(LONGEST_SILENCE_S, 9 * (now - began))
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
