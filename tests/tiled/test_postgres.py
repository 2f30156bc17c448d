"""Tiled's catalog in a real PostgreSQL, by address: everything as in SQLite, for more than one Tiled server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiled.queries import Key

from queuescope.config import load_scope
from queuescope.layout import Layout
from queuescope.tiled_config import prepare

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def on_postgres(postgres: Any, make_stand: Make) -> Make:
    """`make_stand` with its catalog in PostgreSQL."""

    def make(data: Path, **environment: str) -> Any:
        stand = make_stand(data, QUEUESCOPE_SERVICES__CATALOG=postgres.address("catalog"), **environment)
        stand.layout.key_file("catalog").write_text(postgres.password + "\n")
        return stand

    return make


@pytest.fixture(scope="module")
def stand(on_postgres: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    stand = on_postgres(tmp_path_factory.mktemp("first"))
    try:
        stand.start_tiled()
        stand.start_courier().wait_for("connected to Tiled")
        yield stand
    finally:
        stand.close()


def assert_reads(client: Any, run: Any) -> None:
    found = client[run.uid]
    for dataset in run.frames:
        np.testing.assert_array_equal(found["primary"][dataset].read(), run.acquired(dataset))
    n = len(run.acquired())
    np.testing.assert_array_equal(found["primary"]["piezo_a"].read(), np.arange(float(n)))
    np.testing.assert_array_equal(found["primary"]["spectrum"].read()[:, 0], np.arange(float(n)))
    np.testing.assert_array_equal(client[run.uid]["primary/internal"].read()["seq_num"], np.arange(n) + 1)
    assert client[run.uid[:8]].metadata["start"]["uid"] == run.uid
    assert client[-1].metadata["start"]["uid"] == run.uid
    assert list(client.search(Key("start.sample_id") == "embryo 7")) == [run.uid]
    assert [name for name, _ in found.documents()][-1] == "stop"


def test_two_tiled_servers_read_the_same_run(on_postgres: Make, stand: Any, acquire: Any, tmp_path: Path) -> None:
    """DESIGN section 5: several Tiled servers over shared storage and PostgreSQL, each an address in the scope. The second has
    a data directory and keys of its own, and the first's storage root.
    """
    run = acquire(stand.layout, ("cam_a", "cam_b"), spectrum=32, metadata={"sample_id": "embryo 7"})
    run.expose(5)
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered: .* 10 frames, success")
    second = on_postgres(tmp_path, QUEUESCOPE_STORAGE__ROOTS__DATA__TILED=str(stand.layout.data))
    try:
        second.start_tiled()
        assert_reads(stand.client(), run)
        assert_reads(second.client(), run)
    finally:
        second.close()
    for layout in (stand.layout, second.layout):
        assert not layout.catalog_db.exists()
        assert "between us" not in (layout.services / "tiled.yml").read_text()
    written = "".join(line for process in (stand.tiled, stand.courier, second.tiled) for line in process.lines)
    assert "between us" not in written


def test_a_run_goes_on_when_postgresql_was_away(postgres: Any, stand: Any, acquire: Any) -> None:
    """Tiled answers with errors meanwhile; documents wait in their logs, and the entry is gone on with."""
    run = acquire(stand.layout, ("cam_a", "cam_b"), planned=10)
    run.expose(3)
    stand.wait_announced(run, 3)
    entry = stand.client()[run.uid]["primary"]["cam_a"].data_sources()[0].id
    postgres.stop()
    run.expose(4)
    stand.courier.wait_for("Tiled can't be reached .*500 Internal Server Error")
    postgres.start()
    stand.wait_announced(run, 7)
    run.expose(1)
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered: .* success")
    client = stand.client()
    assert client[run.uid]["primary"]["cam_a"].data_sources()[0].id == entry, "the entry was made anew"
    np.testing.assert_array_equal(client[run.uid]["primary"]["cam_b"].read(), run.acquired("cam_b"))
    np.testing.assert_array_equal(client[run.uid]["primary/internal"].read()["seq_num"], np.arange(8) + 1)


def test_readings_come_in_order_wherever_the_database_put_them(postgres: Any, stand: Any, acquire: Any) -> None:
    """PostgreSQL gives rows as they lie on disk; runs with the same columns share a table."""
    run = acquire(stand.layout)
    run.expose(6)
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered")
    table = stand.client()[run.uid]["primary/internal"].include_data_sources()
    source = table.data_sources()[0].parameters
    # a row that is written again moves to the end
    moved = f'UPDATE "{source["table_name"]}" SET seq_num = seq_num WHERE _dataset_id = {source["dataset_id"]} AND seq_num < 4'
    postgres.execute(moved, database="catalog")
    np.testing.assert_array_equal(table.read()["seq_num"], np.arange(6) + 1)
    np.testing.assert_array_equal(stand.client()[run.uid]["primary"]["piezo_a"].read(), np.arange(6.0))


def test_an_address_that_does_not_do_says_why(postgres: Any, tmp_path: Path) -> None:
    layout = Layout(tmp_path)

    def attempt(address: str) -> None:
        prepare(load_scope("demo-dispim", {"QUEUESCOPE_SERVICES__CATALOG": address}), layout)

    nobody = "postgresql://tiled@127.0.0.1:1/catalog"
    with pytest.raises(RuntimeError, match=rf"{nobody} can't be used \(scope.yml: services.catalog\): .*Connect"):
        attempt(nobody)
    layout.key_file("catalog").write_text("wrong")
    with pytest.raises(RuntimeError, match=r"password authentication failed.*DIR/keys/catalog"):
        attempt(postgres.address("catalog"))
    layout.key_file("catalog").write_text(postgres.password)
    with pytest.raises(RuntimeError, match='database "nothing" does not exist'):
        attempt(postgres.address("nothing"))
    postgres.execute("CREATE DATABASE older OWNER tiled")
    attempt(postgres.address("older"))
    attempt(postgres.address("older"))
    postgres.execute("UPDATE alembic_version SET version_num = '6825c778aa3c'", database="older")
    with pytest.raises(RuntimeError, match=r"older was written by another version of Tiled.*or name another database"):
        attempt(postgres.address("older"))
