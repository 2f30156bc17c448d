"""Tables of readings: in the order they were taken, and found without looking at every other run's rows."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from tiled.adapters.sql import SQLAdapter

ORDER = ("seq_num", "time")


def register() -> None:
    """Have the Tiled server of this process make tables with `ReadingsAdapter`. (What reads them its configuration says.)"""
    from tiled.catalog.adapter import STORAGE_ADAPTERS_BY_MIMETYPE
    from tiled.mimetypes import TILED_SQL_TABLE_MIMETYPE

    STORAGE_ADAPTERS_BY_MIMETYPE.set(TILED_SQL_TABLE_MIMETYPE, lambda: ReadingsAdapter)


class ReadingsAdapter(SQLAdapter):
    """Tiled's adapter of SQL tables, with what it lacks in 0.2.20.

    Runs whose readings have the same columns share a table. Tiled makes the index that finds a run's rows under one name for all
    tables, so only the first table has it; and it names no order, in which case PostgreSQL gives rows as they lie on disk.
    """

    @classmethod
    def init_storage(cls, storage: Any, data_source: Any, path_parts: list[str] | None = None) -> Any:
        source = super().init_storage(storage, data_source, path_parts)
        table = source.parameters["table_name"]
        with closing(storage.connect()) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE INDEX IF NOT EXISTS "{table}_rows" ON "{table}" (_dataset_id, _partition_id)')
            connection.commit()
        return source

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, **options: Any) -> Any:
        adapter = super().from_catalog(data_source, node, **options)
        if not adapter.order_by_args and set(ORDER) <= set(adapter.structure().columns):
            adapter.order_by_args = [{"column": column, "direction": "asc"} for column in ORDER]
        return adapter
