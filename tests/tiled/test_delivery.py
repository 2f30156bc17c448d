"""Documents arrive in Tiled, and `catalog[uid]` gives the pixels that were acquired."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky_tiled_plugins.writing import tiled_writer
from tiled.queries import Key

from queuescope.formats import Format
from queuescope.tiled_config import _courier
from queuescope.tiled_config._delivery import Delivery, for_catalog
from queuescope.tiled_config._documents import DocumentLog

SUBSCRIBING = "ignore:connect.. must be used as a context manager:DeprecationWarning"
"""Tiled's client opens its WebSocket the old way."""


def wait_delivered(stand: Any, run: Any) -> str:
    return str(stand.courier.wait_for(f"run {run.uid} delivered"))


def assert_pixels(client: Any, run: Any) -> None:
    for dataset in run.frames:
        node = client[run.uid]["primary"][dataset]
        assert node.shape == (len(run.frames[dataset]), *run.size)
        np.testing.assert_array_equal(node.read(), run.acquired(dataset))


def test_two_cameras_read_back_by_uid_equal_what_was_acquired(stand: Any, acquire: Any, volume_format: Format) -> None:
    """R3.5 one call by UID; also partial UID, the newest run, search, scalars and the whole stream; in each format."""
    sample = f"embryo of {volume_format}"
    run = acquire(stand.layout, ("cam_a", "cam_b"), planned=5, metadata={"sample_id": sample}, form=volume_format)
    run.expose(5)
    run.stop()
    line = wait_delivered(stand, run)
    assert "20 documents, 10 frames, success" in line
    client = stand.client()
    assert_pixels(client, run)
    assert client[run.uid[:8]].metadata["start"]["uid"] == run.uid
    assert client[-1].metadata["start"]["uid"] == run.uid
    assert list(client.search(Key("start.sample_id") == sample)) == [run.uid]
    assert client[run.uid].metadata["stop"]["exit_status"] == "success"
    np.testing.assert_array_equal(client[run.uid]["primary"]["piezo_a"].read(), np.arange(5.0))
    assert client[run.uid]["primary"].read()["cam_b"].shape == (5, *run.size)


@pytest.mark.filterwarnings(SUBSCRIBING)
def test_a_growing_run_is_readable_and_subscribers_are_told(stand: Any, acquire: Any, volume_format: Format) -> None:
    """R3.4 readable while it grows, and clients are notified instead of polling, with a key that can only read."""
    client = stand.client()
    run = acquire(stand.layout, planned=10, form=volume_format)
    run.expose(2)
    stand.wait_announced(run, 2)
    assert_pixels(client, run)
    assert "stop" not in client[run.uid].metadata
    run.expose(3)
    stand.wait_announced(run, 5)
    assert_pixels(client, run)
    run.stop()
    wait_delivered(stand, run)
    assert_pixels(client, run)


def test_a_short_run_keeps_the_frames_it_has(stand: Any, acquire: Any) -> None:
    """R3.12 fewer frames than planned: those that exist stay readable and are counted."""
    run = acquire(stand.layout, ("cam_a", "cam_b"), planned=100)
    run.expose(3)
    run.stop("fail", "the camera stopped after 3 of 100 frames")
    assert "6 frames, fail" in wait_delivered(stand, run)
    client = stand.client("observer")
    assert_pixels(client, run)
    assert client[run.uid].metadata["stop"]["reason"] == "the camera stopped after 3 of 100 frames"


def test_frames_without_scalars(stand: Any, acquire: Any) -> None:
    run = acquire(stand.layout, scalars=False)
    run.expose(3)
    run.stop()
    wait_delivered(stand, run)
    assert_pixels(stand.client(), run)


def test_reading_a_volume_that_is_gone_fails_and_writes_nothing(stand: Any, acquire: Any) -> None:
    """R3.10 a failed read raises: no zeros, and no empty Zarr group where the volume was."""
    run = acquire(stand.layout)
    run.expose(2)
    run.stop()
    wait_delivered(stand, run)
    volume = run.volume("cam_a")
    volume.rename(volume.with_suffix(".moved"))
    node = stand.client()[run.uid]["primary"]["cam_a"]
    response = node.context.http_client.get(node.uri.replace("/metadata/", "/array/full/"))
    assert response.status_code == 410, response.text
    assert not volume.exists()


@pytest.mark.filterwarnings(SUBSCRIBING)
def test_frames_of_a_tiff_come_one_by_one_and_in_parts(stand: Any, acquire: Any) -> None:
    """Issue 4, item 2: what is announced and no more, though the file has room for all."""
    run = acquire(stand.layout, planned=6, form="ome-tiff")
    run.expose(3)
    stand.wait_announced(run, 3)
    node = stand.client()[run.uid]["primary"]["cam_a"]
    assert node.shape == (3, *run.size)
    np.testing.assert_array_equal(node[1], run.acquired("cam_a")[1])
    np.testing.assert_array_equal(node[:, 2:5, ::2], run.acquired("cam_a")[:, 2:5, ::2])
    np.testing.assert_array_equal(node.read_block((2, 0, 0)), run.acquired("cam_a")[2:3])
    assert node.data_sources()[0].mimetype == "image/tiff"
    run.stop()
    wait_delivered(stand, run)
    volume = run.volume("cam_a")
    volume.rename(volume.with_suffix(".moved"))
    response = node.context.http_client.get(node.uri.replace("/metadata/", "/array/full/"))
    assert response.status_code == 410, response.text


def test_columns_take_whole_numbers_missing_values_and_fractions(stand: Any, acquire: Any, tmp_path: Path) -> None:
    """R3.10 no value is invented: a missing one reads as NaN; the first rows don't decide what later ones may be."""
    run = acquire(stand.layout, planned=4, documents=tmp_path)
    delivery = Delivery(DocumentLog(run.log), stand.client("courier"))
    for _ in range(4):
        run.expose(1, [5, None, 5.25, math.nan])
        delivery.drain(lambda: False)
    run.stop()
    delivery.drain(lambda: False)
    read = stand.client()[run.uid]["primary"]["piezo_a"].read()
    np.testing.assert_array_equal(read, [5.0, math.nan, 5.25, math.nan])


@pytest.mark.parametrize("length", [3, 32])
def test_short_and_long_arrays_among_readings_are_delivered(stand: Any, acquire: Any, length: int) -> None:
    run = acquire(stand.layout, planned=3, spectrum=length)
    run.expose(3)
    run.stop()
    wait_delivered(stand, run)
    read = stand.client()[run.uid]["primary"]["spectrum"].read()
    np.testing.assert_array_equal(read, np.repeat(np.arange(3.0)[:, None], length, axis=1))


def test_ten_megabytes_of_metadata_arrive_whole(stand: Any, acquire: Any) -> None:
    """Issue 4, courier: and nobody waits for it."""
    notes = {f"note {n}": "µ" * 1000 for n in range(5000)}
    run = acquire(stand.layout, metadata={"plan_args": {"notes": notes}})
    assert run.log.stat().st_size > 10_000_000
    run.expose(1)
    run.stop()
    wait_delivered(stand, run)
    client = stand.client()
    assert client[run.uid].metadata["start"]["plan_args"]["notes"] == notes
    assert_pixels(client, run)


def test_metadata_that_json_cannot_hold_is_null_or_text(stand: Any, acquire: Any) -> None:
    """R3.10: nothing is rounded or cut on the way to the catalog; the log keeps what was written."""
    run = acquire(
        stand.layout, metadata={"plan_args": {"a": math.nan, "b": math.inf, "c": 2**60, "d": 1e300, "e": [1, 2.5]}}
    )
    run.stop()
    wait_delivered(stand, run)
    start = stand.client()[run.uid].metadata["start"]
    assert start["plan_args"] == {"a": None, "b": None, "c": "1152921504606846976", "d": "1e+300", "e": [1, 2.5]}
    assert '"a": NaN' in run.log.read_text()


def test_a_run_is_flushed_in_few_requests(stand: Any, acquire: Any, tmp_path: Path) -> None:
    run = acquire(stand.layout, ("cam_a", "cam_b"), planned=200, documents=tmp_path)
    run.expose(200)
    run.stop()
    client = stand.client("courier")
    requests: list[str] = []
    client.context.http_client.event_hooks["request"].append(lambda request: requests.append(request.url.path))
    delivery = Delivery(DocumentLog(run.log), client)
    delivery.drain(lambda: False)
    assert delivery.frames == 400
    assert len(requests) < 25
    assert_pixels(stand.client(), run)


def test_the_private_names_of_the_writer_are_still_there() -> None:
    """The courier flushes when it wants to, which the plugins' writer doesn't offer: see `_delivery._Writer`."""
    writer = tiled_writer._RunWriter
    for name in ("_write_internal_data", "_write_external_data", "_append_with_retry", "descriptor", "event"):
        assert callable(getattr(writer, name))
    instance = writer(client=None, batch_size=5)
    assert instance._internal_data_cache == {}
    assert instance._external_data_cache == {}
    assert instance._desc_nodes == {}


def test_for_catalog_leaves_ordinary_values_alone() -> None:
    document = {"a": [1, 2.5, "x", None, True], "b": {"c": -3}, "d": 2**53 - 1}
    assert for_catalog(document) == document


def test_deliveries_that_come_to_nothing_are_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2.6: a courier whose loop is kept is told from one that has nothing to do."""
    monkeypatch.setattr(_courier, "STUCK_S", 0.3)
    monkeypatch.setattr(_courier, "RESCAN_S", 0.05)
    kept, asked = threading.Event(), threading.Event()

    def connect() -> None:
        asked.set()
        kept.wait()
        raise _courier.TiledNotThere("nobody said where")

    courier = _courier.Courier(tmp_path, connect, tmp_path)
    thread = threading.Thread(target=courier.run)
    thread.start()
    try:
        assert asked.wait(60)
        deadline = time.monotonic() + 60
        while not courier.stuck():
            assert time.monotonic() < deadline
        kept.set()
        while courier.stuck():
            assert time.monotonic() < deadline
    finally:
        kept.set()
        courier.stop()
        thread.join()
