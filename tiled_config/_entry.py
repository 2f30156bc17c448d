"""A run's half-written entry in the catalog: what Tiled holds, compared with the log, so that a delivery goes on from there."""

from __future__ import annotations

from collections import Counter
from typing import Any

from event_model.documents import Event, StreamDatum


class EntryDiffersError(RuntimeError):
    """What Tiled holds is no beginning of the log: the entry has to be made anew. The text says what differs."""


class Container:
    """A container of Tiled's in which what is there counts as made, so that bluesky's writer finds its place again.

    Parameters
    ----------
    node
        Tiled's client of the container.
    children
        Those that are there, by name.
    """

    def __init__(self, node: Any, children: dict[str, Any] | None = None) -> None:
        self._node = node
        self.children = children or {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    @property
    def base(self) -> Container:
        return self

    def create_container(self, key: str, **options: Any) -> Container:
        child = self.children.get(key)
        if child is not None:
            return Container(child.base, dict(child.base.items()))
        made = self._node.create_container(key=key, **options)
        return Container(made.base)

    def new(self, structure_family: str, data_sources: list[Any], *, key: str, **options: Any) -> Any:
        child = self.children.get(key)
        if child is not None:  # one without frames is false
            return child
        return self._node.new(structure_family, data_sources, key=key, **options)


class HeldRows:
    """The rows of a stream's table that Tiled holds, to be found at the beginning of the stream's events."""

    def __init__(self, tables: list[Any], arrays: list[Any]) -> None:
        found: Counter[tuple[int, float]] = Counter()
        for table in tables:
            if {"seq_num", "time"} <= set(table.columns):
                rows = table.read(["seq_num", "time"])
                found.update(zip(rows["seq_num"].tolist(), rows["time"].tolist(), strict=True))
        self._left = found
        for other in tables:
            self._same(other, number_of_rows(other))
        for array in arrays:
            self._same(array, array.shape[0])

    def _same(self, node: Any, rows: int) -> None:
        if rows != self._left.total():
            raise EntryDiffersError(
                f"{'/'.join(node.path_parts)} has {rows} rows where its neighbour has {self._left.total()}"
            )

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, event: Event) -> None:
        """Tick off an event of the log.

        Raises
        ------
        EntryDiffersError
            Where Tiled holds other rows.
        """
        row = (event["seq_num"], float(event["time"]))
        if row not in self._left:
            raise EntryDiffersError(f"the catalog has {self._left.total()} rows that are not the log's next ones")
        self._left[row] -= 1
        if not self._left[row]:
            del self._left[row]


class HeldFrames:
    """The frames of a dataset that Tiled announces, to be found at the beginning of the dataset's stream_datum."""

    def __init__(self, array: Any) -> None:
        self._name = "/".join(array.path_parts)
        self._shape = tuple(array.shape)

    def __bool__(self) -> bool:
        return self._shape[0] > 0

    def take(self, datum: StreamDatum, consolidator: Any) -> bool:
        """Let the consolidator count what is announced already; True with the last of it.

        Raises
        ------
        EntryDiffersError
            Where the log's documents don't add up to what Tiled announces.
        """
        consolidator.consume_stream_datum(datum)
        if consolidator.shape[0] > self._shape[0] or consolidator.shape[1:] != self._shape[1:]:
            raise EntryDiffersError(
                f"{self._name} is {self._shape}, and the log's documents come to {consolidator.shape}"
            )
        return bool(consolidator.shape[0] == self._shape[0])


def number_of_rows(table: Any) -> int:
    """Rows that Tiled holds of a table."""
    return len(table.read(table.columns[:1]))
