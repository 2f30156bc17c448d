"""Searches that take as long in a large catalog as in a small one.

Tiled's own look into every run's start document: on SQLite it passes the path into the document as a parameter, which no index
can serve. Ours can, for what runs are looked for by.
"""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

FACTS = ("sample_id", "session_id", "plan_name", "op_key", "scan_id")
"""Entries of start documents with an index of their own."""


def statements() -> list[str]:
    """SQL that makes the indexes in an SQLite catalog. (PostgreSQL has one over all metadata.)"""
    columns = {"key": "parent, key"} | {fact: f"parent, json_extract(metadata, '{_path(fact)}'), id" for fact in FACTS}
    return [f"CREATE INDEX IF NOT EXISTS queuescope_{name} ON nodes ({of})" for name, of in columns.items()]


def register() -> None:
    """Have the Tiled server of this process search in our way where it can, in its own everywhere else."""
    from sqlalchemy import Integer, String, func, literal_column
    from tiled.catalog import orm
    from tiled.catalog.adapter import CatalogNodeAdapter, binary_op, like
    from tiled.queries import Eq, Like

    own_eq = partial(binary_op, operation=operator.eq)

    def equal(query: Any, tree: Any) -> Any:
        first, _, fact = query.key.partition(".")
        kind = {str: String, int: Integer}.get(type(query.value))
        if first != "start" or fact not in FACTS or kind is None or not _is_sqlite(tree):
            return own_eq(query, tree)
        path: Any = literal_column(f"'{_path(fact)}'")
        condition = func.json_extract(orm.Node.metadata_, path, type_=kind) == query.value
        return tree.new_variation(conditions=[*tree.conditions, condition])

    def alike(query: Any, tree: Any) -> Any:
        found = like(query, tree)
        beginning = query.pattern.removesuffix("%")
        other = beginning == query.pattern or set("%_") & set(beginning) or beginning != beginning.lower()
        if query.key != "start.uid" or other or tree.node.id != 0:
            return found
        # A run's key is its uid, and keys have an index.
        key = orm.Node.key
        narrow = [key >= beginning, key < beginning + "\U0010ffff"] if _is_sqlite(tree) else [key.like(query.pattern)]
        return found.new_variation(conditions=[*found.conditions, *narrow])

    CatalogNodeAdapter.register_query(Eq, equal)
    CatalogNodeAdapter.register_query(Like, alike)


def _path(fact: str) -> str:
    return f"$.start.{fact}"


def _is_sqlite(tree: Any) -> bool:
    return bool(tree.context.engine.url.get_dialect().name == "sqlite")
