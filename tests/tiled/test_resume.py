"""A delivery that ends anywhere: the next one goes on inside the entry, nothing comes twice, nothing is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow
import pytest

from queuescope.tiled_config import _delivery
from queuescope.tiled_config._delivery import Delivery
from queuescope.tiled_config._documents import DocumentLog
from queuescope.tiled_config._entry import EntryDiffersError

WRITES = ("POST", "PUT", "PATCH")


class Line:
    """The courier's client, and a line to Tiled that can be cut."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._left, self._answered, self._part = -1, False, ""
        http = client.context.http_client
        http.event_hooks = {
            "request": [*http.event_hooks["request"], self._asks],
            "response": [*http.event_hooks["response"], self._answers],
        }

    def cut(self, after: int, answered: bool = False, part: str = "") -> None:
        """The next write after ``after`` more (of those whose path has ``part`` in it) gets lost: before Tiled has it, or
        ``answered``: with Tiled's answer.
        """
        self._left, self._answered, self._part = after + 1, answered, part

    def _asks(self, request: httpx.Request) -> None:
        if request.method in WRITES and self._part in request.url.path:
            self._left -= 1
            if self._left == 0 and not self._answered:
                raise httpx.ConnectError("cut", request=request)

    def _answers(self, response: httpx.Response) -> None:
        request = response.request
        if request.method in WRITES and self._part in request.url.path and self._left == 0 and self._answered:
            raise httpx.ReadTimeout("cut", request=request)

    def entry(self, run: Any) -> Any:
        try:
            return self.client[run.uid]
        except KeyError:
            return None

    def delivery(self, run: Any) -> Delivery:
        """As a courier that knows nothing of the one before."""
        return Delivery(DocumentLog(run.log), self.client, self.entry(run))


@pytest.fixture
def line(stand: Any) -> Line:
    return Line(stand.client("courier"))


def never() -> bool:
    return False


def pieces(run: Any) -> Iterator[None]:
    """A run that ends as it should, after each piece of it."""
    run.expose(2)
    yield
    run.expose(1)
    run.configure()
    run.expose(1)
    yield
    run.expose(2)
    run.stop()
    yield


def assert_whole(client: Any, run: Any) -> None:
    stream = client[run.uid]["primary"]
    n = len(run.acquired())
    for dataset in run.frames:
        np.testing.assert_array_equal(stream[dataset].read(), run.acquired(dataset))
    np.testing.assert_array_equal(stream["piezo_a"].read(), np.arange(float(n)))
    np.testing.assert_array_equal(client[run.uid]["primary/internal"].read()["seq_num"], np.arange(n) + 1)
    if run.spectrum:
        np.testing.assert_array_equal(stream["spectrum"].read()[:, 0], np.arange(float(n)))
    assert client[run.uid].metadata["stop"]["exit_status"] == "success"
    assert len(stream.metadata["_config_updates"]) == 1


@pytest.mark.parametrize("answered", [False, True], ids=["asked in vain", "answer lost"])
def test_wherever_a_delivery_is_cut_the_next_one_goes_on(
    stand: Any, line: Line, acquire: Any, tmp_path: Path, answered: bool
) -> None:
    """Issue 4, courier: at least once, and nothing twice to be seen. Each delivery is good for one write: the next is lost, or
    its answer is.
    """
    run = acquire(stand.layout, ("cam_a", "cam_b"), documents=tmp_path)
    cuts = 0

    def deliver(delivery: Delivery) -> Delivery:
        nonlocal cuts
        while True:
            line.cut(0 if answered else 1, answered)
            try:
                delivery.drain(never)
                return delivery
            except httpx.TransportError:
                cuts += 1
                entry = line.entry(run)
                if entry is not None and "stop" in entry.metadata:
                    return delivery
                delivery = line.delivery(run)

    delivery = line.delivery(run)
    for _ in pieces(run):
        delivery = deliver(delivery)
    assert cuts >= 12
    assert_whole(stand.client(), run)


@pytest.mark.parametrize(
    ("part", "answered", "goes_on"),
    [("table/partition", False, False), ("table/partition", True, True), ("data_source", False, True)],
)
def test_arrays_of_events_are_gone_on_with_where_their_rows_are(
    stand: Any, line: Line, acquire: Any, tmp_path: Path, part: str, answered: bool, goes_on: bool
) -> None:
    """Tiled takes them apart: where one came and its row did not, nothing tells which row it is of."""
    run = acquire(stand.layout, documents=tmp_path, spectrum=32)
    delivery, differ = line.delivery(run), []
    for number, _ in enumerate(pieces(run)):
        if number == 1:
            line.cut(0, answered, part)
        while True:
            try:
                delivery.drain(never)
                break
            except httpx.TransportError:
                delivery = line.delivery(run)
            except EntryDiffersError as error:
                differ.append(str(error))
                line.client.delete_contents([run.uid], recursive=True, external_only=False)
                delivery = line.delivery(run)
    name = f"{run.uid}/primary/spectrum"
    assert differ == ([] if goes_on else [f"{name} has 4 rows where its neighbour has 2"])
    assert_whole(stand.client(), run)


@pytest.mark.parametrize("late_s", [30.0, 0.0], ids=["while it is doubtful", "at the end"])
def test_an_append_that_comes_after_all_is_found(
    stand: Any, line: Line, acquire: Any, tmp_path: Path, late_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender was killed or gave up, Tiled carries it out later: the rows would be there twice."""
    monkeypatch.setattr(_delivery, "LATEST_S", late_s)
    run = acquire(stand.layout, documents=tmp_path)
    run.expose(2)
    line.delivery(run).drain(never)
    delivery = line.delivery(run)
    delivery.drain(never)
    table = line.client[run.uid]["primary/internal"]
    table.append_partition(0, pyarrow.Table.from_pandas(table.read().tail(1), preserve_index=False))
    run.expose(1)
    if late_s == 0:
        delivery.drain(never)
        run.stop()
    with pytest.raises(EntryDiffersError, match="has 4 rows of primary/internal for 3 events"):
        delivery.drain(never)


def test_an_entry_that_is_no_beginning_of_the_log_is_refused(
    stand: Any, line: Line, acquire: Any, tmp_path: Path
) -> None:
    """The log is the truth: other rows, more frames, another descriptor are never gone on from."""
    run = acquire(stand.layout, documents=tmp_path)
    run.expose(2)
    line.delivery(run).drain(never)
    lines = run.log.read_text().splitlines(keepends=True)
    run.log.write_text("".join(lines[:-2]))  # without the second frame
    with pytest.raises(EntryDiffersError, match="the catalog has more of primary than the log"):
        line.delivery(run).drain(never)
    other = lines[4].replace('"seq_num": 1', '"seq_num": 9')
    assert other != lines[4]
    run.log.write_text("".join([*lines[:4], other, *lines[5:]]))
    with pytest.raises(EntryDiffersError, match="has 2 rows that are not the log's next ones"):
        line.delivery(run).drain(never)
    run.log.write_text("".join(lines).replace('"stop": 1}', '"stop": 3}'))
    with pytest.raises(
        EntryDiffersError, match=r"primary/cam_a is \(2, 8, 12\), and the log's documents come to \(3, 8, 12\)"
    ):
        line.delivery(run).drain(never)
    uid = run.descriptor.descriptor_doc["uid"]
    run.log.write_text("".join(lines).replace(uid, "another"))
    with pytest.raises(EntryDiffersError, match=f"primary is of descriptor {uid}, not another"):
        line.delivery(run).drain(never)
