"""How people and agents open a run: `queuescope.catalog`, a plain Tiled client, databroker, and the how-to page as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import queuescope
from queuescope.agents import CatalogNotFoundError, catalog
from queuescope.formats import Format

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "read-a-run.md"


@pytest.fixture
def run(stand: Any, acquire: Any) -> Any:
    return acquired(stand, acquire)


@pytest.fixture
def either(stand: Any, acquire: Any, volume_format: Format) -> Any:
    """The same in each format."""
    return acquired(stand, acquire, form=volume_format)


def acquired(stand: Any, acquire: Any, **options: Any) -> Any:
    metadata = {"plan_name": "acquire_volume"}
    run = acquire(stand.layout, ("cam_a", "cam_b"), planned=4, size=(16, 24), metadata=metadata, **options)
    run.expose(4)
    run.stop()
    stand.courier.wait_for(f"run {run.uid} delivered")
    return run


def test_one_call_opens_the_catalog(stand: Any, run: Any) -> None:
    """R3.5 clients load by UID with one call."""
    runs = queuescope.catalog(stand.layout.data)
    np.testing.assert_array_equal(runs[run.uid]["primary"]["cam_b"].read(), run.acquired("cam_b"))
    by_address = catalog(stand.url, stand.layout.key("observer"))
    assert by_address[run.uid].metadata["start"]["uid"] == run.uid
    for client in (runs, by_address):
        client.context.http_client.close()


def test_a_missing_address_or_key_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CatalogNotFoundError, match=r"nothing runs on .*: start it with `queuescope up"):
        catalog(tmp_path)
    with pytest.raises(CatalogNotFoundError, match="opens with a key only"):
        catalog("http://127.0.0.1:1")
    (tmp_path / "runtime.json").write_text('{"tiled": null}')
    with pytest.raises(CatalogNotFoundError, match=r"names no Tiled server"):
        catalog(tmp_path)
    (tmp_path / "runtime.json").write_text('{"tiled": "http://127.0.0.1:1"}')
    with pytest.raises(CatalogNotFoundError, match="looked for agent and observer"):
        catalog(tmp_path)


def test_databroker_reads_by_profile(stand: Any, either: Any, tmp_path: Path) -> None:
    run = either
    (tmp_path / "microscope.yml").write_text(f"microscope: {{uri: '{stand.url}'}}\n")
    script = (
        "import databroker\n"
        f"run = databroker.catalog['microscope']['{run.uid}']\n"
        f"header = databroker.Broker.named('microscope')['{run.uid}']\n"
        "print(run['primary']['cam_a'].shape, header.start['plan_name'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TILED_PROFILES": str(tmp_path), "TILED_API_KEY": stand.layout.key("agent")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "(4, 16, 24) acquire_volume", done.stderr


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_the_how_to_page_runs_as_written(stand: Any, run: Any) -> None:
    names: dict[str, Any] = {"data_dir": str(stand.layout.data), "run_uid": run.uid}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    np.testing.assert_array_equal(names["volume"], run.acquired())
    np.testing.assert_array_equal(names["first"], run.frames["cam_a"][0])
    np.testing.assert_array_equal(names["frames"], run.acquired())
    np.testing.assert_array_equal(names["thumbnail"], run.frames["cam_a"][0][::8, ::8])
    assert names["names"][0] == "start"
    assert names["names"][-1] == "stop"
    again = names["catalog"][run.uid]["primary"]["cam_b"].read()  # databroker has left this catalog alone
    np.testing.assert_array_equal(again, run.acquired("cam_b"))
    for client in (names["catalog"], names["plain"], names["db"].v2):
        client.context.http_client.close()
