"""Every template with its documented example, from REST, the terminal and bluesky-queueserver-api, and what Tiled knows of it.

Whatever `templates` gives for the bundled microscope is tested here (issue 5, "Done when").
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.http import REManagerAPI as HttpAPI
from typer.testing import CliRunner

import queuescope
from queuescope.config import load_scope
from queuescope.plans import channel_names, templates
from queuescope.scripts.cli import complete_app

SCOPE = load_scope("demo-dispim", environ={})
TEMPLATES = templates(SCOPE)
NAMES = sorted(TEMPLATES)
SAMPLE = "templates-worm"
REFUSED = {
    **dict.fromkeys(("focus_sweep", "head_focus_descent", "calibrate_piezo_galvo"), "peak|flat|R²|sharp"),
    **dict.fromkeys(("calibrate_stage_camera", "register_views"), "alike|agree|empty|R²"),
    "center_on_pixel": "no run",
}
"""What ends these examples on a microscope whose images have no focus, before there is any run: they are right to fail.
`demo-beads` has a sample that they work on (`tests/plans/test_demo_beads.py`)."""
AT_MOST = {"edge_search", "head_focus_descent"}
"""What is checked is the most that may come."""


def until(true: Callable[[], Any], what: str, limit_s: float = 200) -> Any:
    deadline = time.monotonic() + limit_s
    while (found := true()) is None:  # a run without streams is as empty as False
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
    return found


@dataclass
class Ran:
    """An example over REST."""

    checked: dict[str, Any]
    operation: dict[str, Any]


@pytest.fixture(scope="module")
def client(stack: Any) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"ApiKey {stack.key('operator')}"}
    with httpx.Client(base_url=stack.http, headers=headers, timeout=90, trust_env=False) as found:
        yield found


@pytest.fixture(scope="module")
def ran(stack: Any, client: httpx.Client) -> Iterator[dict[str, Ran]]:
    """All of them, for a sample that is open."""
    opened = client.post("/api/samples", json={"id": SAMPLE, "strain": "N2"})
    assert opened.status_code == 200, opened.text
    found = {}
    for name in NAMES:
        body = {"plan": name, "kwargs": dict(TEMPLATES[name].example), "sample_id": SAMPLE, "session_id": "night"}
        checked = client.post("/api/ops/check", json=body)
        assert checked.status_code == 200, checked.text
        key = f"templates.{name}-1"
        reply = client.post("/api/ops", json=body, headers={"Idempotency-Key": key})
        assert reply.status_code == 201, reply.text
        operation = client.get(f"/api/ops/{key}", params={"wait": 50}).json()
        found[name] = Ran(checked.json(), operation)
    yield found
    client.post("/api/samples", json={"id": SAMPLE, "open": False})


@pytest.fixture(scope="module")
def catalog(stack: Any) -> Iterator[Any]:
    found = queuescope.catalog(stack.tiled, stack.key("observer"))
    yield found
    found.context.http_client.close()


def delivered(catalog: Any, uid: str) -> Any:
    """The run as Tiled has it, once it has the whole; None before."""
    return catalog[uid] if uid in catalog and "stop" in catalog[uid].metadata else None


@pytest.fixture(scope="module")
def api(stack: Any) -> Iterator[HttpAPI]:
    found = HttpAPI(http_server_uri=stack.http)
    found.set_authorization_key(api_key=stack.key("operator"))
    yield found
    found.close()


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_over_rest_as_its_check_said(name: str, ran: dict[str, Ran], client: httpx.Client) -> None:
    """Issue 5, item 3: it may run, and frames and bytes are exact."""
    checked, operation = ran[name].checked, ran[name].operation
    if name == "center_on_pixel":
        assert not checked["ok"]
    else:
        assert (checked["ok"], checked["problems"]) == (True, [])
    if name in REFUSED:
        assert operation["state"] == "failed"
        assert re.search(REFUSED[name], operation["error"]["detail"]), operation["error"]
        return
    assert operation["state"] == "succeeded", operation["error"]
    datasets = [one for uid in operation["run_uids"] for one in client.get(f"/api/runs/{uid}").json()["datasets"]]
    written: dict[str, int] = {}
    for one in datasets:
        written[one["name"]] = written.get(one["name"], 0) + one["frames_written"]
    if name in AT_MOST:
        assert all(0 < count <= checked["frames"][dataset] for dataset, count in written.items())
        return
    assert written == checked["frames"]
    size = sum(math.prod(one["shape"]) * np.dtype(one["dtype"]).itemsize for one in datasets)
    assert size == (checked["bytes"] or 0)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_the_terminal(name: str, stack: Any) -> None:
    words = [f"{key}={json.dumps(value)}" for key, value in TEMPLATES[name].example.items()]
    done = CliRunner().invoke(complete_app(), ["run", name, *words, "--json", "--data", str(stack.data)])
    assert done.exit_code == (1 if name in REFUSED else 0), done.output
    assert json.loads(done.stdout.splitlines()[-1])["state"] == ("failed" if name in REFUSED else "succeeded")


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_bluesky_queueserver_api(name: str, stack: Any, api: HttpAPI) -> None:
    """The stock client, over HTTP, without a key: an operator may. What fails has one: a keyless failure stops the queue."""
    item = BPlan(name, **TEMPLATES[name].example)
    if name in REFUSED:
        item.meta = {"op_key": f"templates.api.{name}-1"}
    uid = api.item_add(item)["item"]["item_uid"]
    assert stack.wait(uid)["result"]["exit_status"] == ("failed" if name in REFUSED else "completed")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_understood_from_tiled_alone(name: str, ran: dict[str, Ran], catalog: Any) -> None:
    """Sample, session, plan and parameters, channels, lights, geometry and units, without the scope file."""
    for uid in ran[name].operation["run_uids"]:
        run = until(lambda uid=uid: delivered(catalog, uid), f"run {uid} of {name} in the catalog")  # type: ignore[misc]
        start = run.metadata["start"]
        assert (start["sample_id"], start["session_id"], start["scope"]) == (SAMPLE, "night", SCOPE.name)
        plan, kwargs = start["plan_name"], start["plan_args"]
        assert (plan, kwargs) == (name, dict(TEMPLATES[name].example)) or "step" in start
        assert start["objective"]["pixel_um"] > 0
        assert start["channels"] == channel_names(TEMPLATES[plan].check(kwargs))
        assert run.metadata["stop"]["exit_status"] == ("fail" if name in REFUSED else "success")
        frames = 0
        for stream in run._stream_names:
            described = run.base[stream].metadata
            frames += _understood(described["data_keys"], described["configuration"], start)
        assert (frames > 0) == bool(run.metadata["stop"].get("frames"))


def test_each_frame_of_an_mda_says_which_it_is(ran: dict[str, Ran], catalog: Any) -> None:
    """Issue 5, item 4: from Tiled, though the hardware process took the stacks alone: index and place by frame."""
    (uid,) = ran["mda"].operation["run_uids"]
    stream = until(lambda: delivered(catalog, uid), f"run {uid} in the catalog")["primary"]
    slices = TEMPLATES["mda"].example["sequence"]["z_plan"]["range"] + 1
    frames = stream["overview"].shape[0]
    np.testing.assert_array_equal(stream["index_z"].read(), np.arange(frames) % slices)
    np.testing.assert_array_equal(stream["index_t"].read(), np.arange(frames) // slices)
    np.testing.assert_allclose(stream["z"].read(), np.arange(frames) % slices - 2, atol=0.02)
    assert not stream["programmed"].read().any()
    assert set(stream["position_name"].read()) == {"embryo"}


def _understood(keys: dict[str, Any], configuration: dict[str, Any], start: dict[str, Any]) -> int:
    """Of a stream; returns how many datasets it has."""
    axes = {axis.replace(".", "_"): one.units for axis, one in SCOPE.axes().items()}
    for key, described in keys.items():
        if key in axes:
            assert described["units"] == axes[key], key
    values = {key: value for part in configuration.values() for key, value in part["data"].items()}
    told = {key: value for part in configuration.values() for key, value in part["data_keys"].items()}
    datasets = [key for key, described in keys.items() if "external" in described]
    for name in datasets:
        assert len(keys[name]["shape"]) >= 2
        assert values[f"{name}_pixel_um"] > 0
        assert told[f"{name}_pixel_um"]["units"] == "um"
        assert values[f"{name}_exposure_ms"] > 0
        assert told[f"{name}_exposure_ms"]["units"] == "ms"
        assert len(values[f"{name}_roi"]) == 4
        channel, light = values[f"{name}_channel"], values[f"{name}_light"]
        assert (channel or None) in (*start["channels"], None)
        assert light == (SCOPE.channels[channel].light if channel else "")
        assert told[f"{name}_power_pct"]["units"] == "%"
        assert values[f"{name}_objective"] == start["objective"]["label"]
    return len(datasets)
