"""Searches that don't look at every run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tiled.catalog import orm
from tiled.catalog.adapter import CatalogNodeAdapter, from_uri
from tiled.queries import Eq, Like

from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.tiled_config import _search, prepare

RUNS = {
    "abcd1111": {"sample_id": "e1", "scan_id": 7, "plan_name": "z_stack", "cold": True},
    "abcd2222": {"sample_id": "e2", "scan_id": 8, "plan_name": "z_stack", "cold": False},
    "ffff0000": {"sample_id": "7", "scan_id": 9, "plan_name": "it's"},
}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Path]:
    """A catalog as the server makes it, with these runs; its searches are ours for as long as the test."""
    layout = Layout(tmp_path)
    prepare(load_scope("demo-dispim", {}), layout)
    registered = dict(CatalogNodeAdapter.query_registry._lookup)
    _search.register()

    with closing(sqlite3.connect(layout.catalog_db)) as database:
        for uid, facts in RUNS.items():
            database.execute(
                "INSERT INTO nodes (parent, key, structure_family, metadata, specs) VALUES (0, ?, 'container', ?, '[]')",
                (uid, json.dumps({"start": {"uid": uid, **facts}})),
            )
        database.commit()
    yield layout.catalog_db
    CatalogNodeAdapter.query_registry._lookup.update(registered)


def search(catalog: Path, query: Any) -> tuple[list[str], str]:
    """What is found, and how SQLite says it looks for it."""

    tree = from_uri(str(catalog)).search(query)
    statement = tree._scoped(select(orm.Node.key)).order_by(*tree.order_by_clauses)
    text = str(statement.compile(tree.context.engine, compile_kwargs={"literal_binds": True}))
    with closing(sqlite3.connect(catalog)) as database:
        plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}"))
        return [key for (key,) in database.execute(text)], plan


@pytest.mark.parametrize(
    ("query", "index", "found"),
    [
        (Eq("start.sample_id", "e1"), "queuescope_sample_id", ["abcd1111"]),
        (Eq("start.sample_id", "7"), "queuescope_sample_id", ["ffff0000"]),
        (Eq("start.plan_name", "z_stack"), "queuescope_plan_name", ["abcd1111", "abcd2222"]),
        (Eq("start.plan_name", "it's"), "queuescope_plan_name", ["ffff0000"]),
        (Eq("start.scan_id", 8), "queuescope_scan_id", ["abcd2222"]),
        (Eq("start.session_id", "none"), "queuescope_session_id", []),
        (Like("start.uid", "abcd%"), "queuescope_key", ["abcd1111", "abcd2222"]),
        (Like("start.uid", "abcd2%"), "queuescope_key", ["abcd2222"]),
    ],
    ids=str,
)
def test_what_runs_are_looked_for_by_has_an_index(catalog: Path, query: Any, index: str, found: list[str]) -> None:
    """Issue 4, bench catalog: as quick among 10 000 runs as among 100."""
    keys, plan = search(catalog, query)
    assert keys == found
    assert f"USING INDEX {index} " in plan


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Eq("start.cold", True), ["abcd1111"]),
        (Eq("start.sample_id", 7), []),
        (Like("start.uid", "%2%"), ["abcd2222"]),
        (Like("start.uid", "ABCD1%"), ["abcd1111"]),
        (Like("start.sample_id", "e%"), ["abcd1111", "abcd2222"]),
    ],
    ids=str,
)
def test_every_other_search_is_tiled_s_own(catalog: Path, query: Any, found: list[str]) -> None:
    assert search(catalog, query)[0] == found


def test_each_table_of_readings_has_its_index(stand: Any, acquire: Any) -> None:
    """Runs with other columns are in another table; Tiled's own index is only on the first."""
    for axis in ("piezo_a", "z"):
        run = acquire(stand.layout, axis=axis)
        run.expose(2)
        run.stop()
        stand.courier.wait_for(f"run {run.uid} delivered")
    with closing(sqlite3.connect(stand.layout.data / "catalog-tables.db")) as database:
        tables = [
            name
            for (name,) in database.execute(
                "SELECT name FROM sqlite_master WHERE name LIKE 'table\\_%' ESCAPE '\\' AND type = 'table'"
            )
        ]
        assert len(tables) >= 2
        for table in tables:
            plan = database.execute(f'EXPLAIN QUERY PLAN SELECT * FROM "{table}" WHERE _dataset_id = 1').fetchone()[3]
            assert "USING INDEX" in plan, table
