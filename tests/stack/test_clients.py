"""The stock clients drive the whole stack unchanged: `qserver`, bluesky-queueserver-api over 0MQ and HTTP, Tiled, databroker."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.http import REManagerAPI as HttpAPI
from bluesky_queueserver_api.zmq import REManagerAPI as ZmqAPI

from queuescope.hardware.simulated import decode
from queuescope.ledger import Ledger, Operations

REFUSALS = (HttpAPI.RequestFailedError, HttpAPI.HTTPClientError, ZmqAPI.RequestFailedError, ValueError)
QSERVER = Path(sys.executable).with_name("qserver")
VOLUME = {"slices": 4, "step_um": 0.5, "channels": [{"name": "gfp"}]}


def until(condition: Callable[[], Any], what: str, deadline_s: float = 60.0) -> Any:
    """Ask until the answer is truthy: the clients here have no call that waits."""
    give_up = time.monotonic() + deadline_s
    while not (answer := condition()):
        assert time.monotonic() < give_up, f"{what} within {deadline_s} s"
        time.sleep(0.05)
    return answer


def delivered(catalog: Any, run_uid: str) -> bool:
    """Whether Tiled has the whole run: of a catalog opened by address, which knows nothing else."""
    return run_uid in catalog and "stop" in catalog[run_uid].metadata


@pytest.fixture
def zmq_api(stack: Any) -> ZmqAPI:
    return stack.manager()  # type: ignore[no-any-return]


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Takes a Tiled client, whose connections are closed after the test."""
    clients: list[Any] = []
    yield lambda client: clients.append(client) or client
    for client in clients:
        client.context.http_client.close()


@pytest.fixture
def agent(stack: Any) -> Iterator[HttpAPI]:
    api = HttpAPI(http_server_uri=stack.runtime["http"])
    api.set_authorization_key(api_key=stack.layout.key("agent"))
    yield api
    api.close()


@pytest.fixture
def operator(stack: Any) -> Iterator[HttpAPI]:
    api = HttpAPI(http_server_uri=stack.runtime["http"])
    api.set_authorization_key(api_key=stack.layout.key("operator"))
    yield api
    api.close()


def plan(name: str, op_key: str | None = None, **kwargs: Any) -> BPlan:
    item = BPlan(name, **kwargs)
    if op_key:
        item.meta = {"op_key": op_key, "session_id": "test"}
    return item


def outcome(api: Any, item_uid: str) -> dict[str, Any]:
    """The item's entry in queueserver's history, once it is there."""

    def finished() -> Any:
        return next((item for item in api.history_get()["items"] if item["item_uid"] == item_uid), None)

    return dict(until(finished, f"item {item_uid} ended"))


def run_plan(api: Any, item: BPlan) -> dict[str, Any]:
    return outcome(api, api.item_add(item)["item"]["item_uid"])


def documents(stack: Any, run_uid: str) -> list[tuple[str, dict[str, Any]]]:
    lines = stack.layout.document_log(run_uid).read_text().splitlines()
    return [(entry["name"], entry["doc"]) for entry in map(json.loads, lines)]


def taken(stack: Any, run_uid: str, dataset: str) -> list[str]:
    """Checksums taken at the camera."""
    lines = (stack.layout.volumes / f"{run_uid}_{dataset}.frames.jsonl").read_text().splitlines()
    return [json.loads(line)["checksum"] for line in lines]


def checksums(frames: Any) -> list[str]:
    return [f"xxh3_128:{xxhash.xxh3_128_hexdigest(np.ascontiguousarray(frame).tobytes())}" for frame in frames]


def test_an_agent_acquires_and_reads_by_uid(stack: Any, agent: HttpAPI, closing: Any) -> None:
    """R3.5 the volume that an agent asked for over REST comes back from the catalog, pixel for pixel."""
    import queuescope

    item = run_plan(agent, plan("acquire_volume", "clients.volume-1", **VOLUME))
    assert item["result"]["exit_status"] == "completed"
    (run_uid,) = item["result"]["run_uids"]

    start = documents(stack, run_uid)[0][1]
    assert {
        "op_key": "clients.volume-1",
        "attempt": 1,
        "item_uid": item["item_uid"],
        "user": "agent",
        "user_group": "agent",
        "session_id": "test",
        "plan_name": "acquire_volume",
        "plan_args": VOLUME,
    }.items() <= start.items()
    operation = Operations(Ledger(stack.layout.ledger_db)).by_key("clients.volume-1")
    assert operation is not None
    assert operation.result["seconds"] > 0
    assert operation.result | {"seconds": None} == {
        "run_uid": run_uid,
        "datasets": {"cam_a": 4, "cam_b": 4},
        "seconds": None,
    }

    catalog = closing(queuescope.catalog(stack.tiled, stack.key("observer")))
    until(lambda: delivered(catalog, run_uid), "the whole run is in the catalog")
    run = catalog[run_uid]
    for camera in ("cam_a", "cam_b"):
        frames = run["primary"][camera].read()
        assert frames.shape == (4, 2048, 2048)
        assert checksums(frames) == taken(stack, run_uid, camera)
        stamps = [decode(frame) for frame in frames]  # issue 3, item 4: the controller moved, triggered and gated
        assert [(one.trigger, one.slice, one.lines) for one in stamps if one] == [
            ("external", n, {6}) for n in range(4)
        ]


READERS = """
import hashlib, json, os, sys
from databroker import Broker
from tiled.client import from_uri
url, run_uid = sys.argv[1:]
client = from_uri(url, api_key=os.environ["KEY"])
plain = client[run_uid]["primary"]["overview"].read()
header = Broker(client)[run_uid]
digest = lambda frames: [hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames]
print(json.dumps([digest(plain), digest(header.data("overview")), header.start["plan_name"]]))
"""
"""In a process of its own: databroker changes how every Tiled client of its process reads runs."""


def test_plain_tiled_and_databroker_read_the_run(stack: Any, zmq_api: ZmqAPI, closing: Any) -> None:
    import queuescope

    item = run_plan(zmq_api, plan("snap", "clients.snap-1", camera="overview", n=2))
    (run_uid,) = item["result"]["run_uids"]
    catalog = closing(queuescope.catalog(stack.tiled, stack.key("observer")))
    until(lambda: delivered(catalog, run_uid), "the whole run is in the catalog")
    environment = {**stack.environ, "KEY": stack.key("observer")}
    read = subprocess.run(
        [sys.executable, "-c", READERS, stack.tiled, run_uid],
        capture_output=True,
        text=True,
        env=environment,
        timeout=90,
    )
    assert read.returncode == 0, read.stderr
    plain, broker, plan_name = json.loads(read.stdout.splitlines()[-1])
    frames = catalog[run_uid]["primary"]["overview"].read()
    assert checksums(frames) == taken(stack, run_uid, "overview")
    assert plain == broker == [hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames]
    assert plan_name == "snap"


@pytest.mark.parametrize("over", ["zmq_api", "operator"])
def test_pause_resume_abort(stack: Any, request: pytest.FixtureRequest, over: str) -> None:
    api = request.getfixturevalue(over)
    item_uid = api.item_add(plan("z_stack", f"clients.pause-{over}", range_um=40, step_um=0.1))["item"]["item_uid"]
    until(lambda: api.status(reload=True)["re_state"] == "running", "the plan runs")
    api.re_pause("immediate")
    until(lambda: api.status(reload=True)["manager_state"] == "paused", "it is paused")
    operations = Operations(Ledger(stack.layout.ledger_db))
    paused = until(lambda: operations.by_item(item_uid), "the ledger knows it")
    assert (paused.state, paused.paused_at is not None) == ("running", True)
    api.re_resume()
    until(lambda: api.status(reload=True)["re_state"] == "running", "it runs again")
    api.re_pause("immediate")
    until(lambda: api.status(reload=True)["manager_state"] == "paused", "it is paused again")
    api.re_abort()
    item = outcome(api, item_uid)
    assert item["result"]["exit_status"] == "aborted"
    operation = operations.by_item(item_uid)
    assert operation is not None
    assert operation.state == "cancelled"
    stop = documents(stack, item["result"]["run_uids"][0])[-1][1]
    assert stop["exit_status"] == "abort"
    status = api.status(reload=True)
    assert (status["items_in_queue"], status["queue_autostart_enabled"]) == (0, True)
    assert not any(light.on for light in stack.hardware().state().lights.values())


def test_a_keyed_failure_is_not_requeued_and_the_queue_goes_on(stack: Any, zmq_api: ZmqAPI) -> None:
    """R1.5, R1.7: a failed operation stays failed; the next one runs."""
    failing = plan("move_axis", "clients.fail-1", axis="f", by=399.0)
    item_uid = zmq_api.item_add(failing)["item"]["item_uid"]
    next_uid = zmq_api.item_add(plan("read_state", "clients.after-1"))["item"]["item_uid"]
    assert outcome(zmq_api, next_uid)["result"]["exit_status"] == "completed"
    failed = outcome(zmq_api, item_uid)
    assert failed["result"]["exit_status"] == "failed"
    assert "f 399.0 um is outside [-200.0, 200.0]" in failed["result"]["msg"]
    status = zmq_api.status(reload=True)
    assert (status["items_in_queue"], status["queue_autostart_enabled"]) == (0, True)
    operation = Operations(Ledger(stack.layout.ledger_db)).by_key("clients.fail-1")
    assert operation is not None
    assert operation.state == "failed"
    assert operation.error is not None
    assert (operation.error.code, "LimitError" in operation.error.detail) == ("outside_limits", True)


def test_an_unkeyed_failure_behaves_as_in_stock_queueserver(zmq_api: ZmqAPI) -> None:
    item = run_plan(zmq_api, plan("move_axis", axis="f", by=399.0))
    assert item["result"]["exit_status"] == "failed"
    status = until(lambda: (s := zmq_api.status(reload=True))["manager_state"] == "idle" and s, "the manager is idle")
    try:
        assert (status["items_in_queue"], status["queue_autostart_enabled"]) == (1, False)
    finally:
        zmq_api.queue_clear()
        zmq_api.queue_autostart(True)


def test_a_keyed_plan_is_not_looped(stack: Any, zmq_api: ZmqAPI) -> None:
    zmq_api.queue_mode_set(mode={"loop": True})
    try:
        item = run_plan(zmq_api, plan("read_state", "clients.loop-1"))
        assert item["result"]["exit_status"] == "completed"
        assert zmq_api.status(reload=True)["items_in_queue"] == 0
    finally:
        zmq_api.queue_mode_set(mode="default")


@pytest.mark.parametrize(
    ("name", "kwargs", "words"),
    [
        ("levitate", {}, "there is no plan 'levitate'"),
        ("move_axis", {"axis": "piezo_a", "to": 201.0}, "[-200.0, 200.0]"),
        ("move_axis", {"axis": "piezo_a", "to": float("nan")}, "finite"),
        ("acquire_volume", {"slices": True}, "integer"),
        ("snap", {"camera": "cam_a", "wobble": 1}, "wobble"),
    ],
)
@pytest.mark.parametrize("over", ["zmq_api", "operator"])
def test_bad_parameters_are_refused_and_nothing_is_queued(
    request: pytest.FixtureRequest, over: str, name: str, kwargs: dict[str, Any], words: str
) -> None:
    """R2.10 the server's words reach the client."""
    api = request.getfixturevalue(over)
    before = api.status(reload=True)["plan_queue_uid"]
    with pytest.raises(REFUSALS) as refused:
        api.item_add(plan(name, "clients.bad-1", **kwargs))
    if not (over == "operator" and words == "finite"):  # the HTTP client's own JSON encoder refuses NaN
        assert words in str(refused.value)
    status = api.status(reload=True)
    assert status["plan_queue_uid"] == before
    assert status["items_in_queue"] == 0


def test_an_agent_needs_a_key_for_each_operation(agent: HttpAPI) -> None:
    with pytest.raises(REFUSALS, match="op_key is missing"):
        agent.item_add(plan("read_state"))
    assert agent.status(reload=True)["items_in_queue"] == 0


def test_qserver_drives_it(stack: Any, zmq_api: ZmqAPI) -> None:
    """The stock command line: status, queue add, pause, resume, stop, history."""
    zmq = stack.runtime["zmq"]
    environment = {
        **stack.environ,
        "QSERVER_ZMQ_CONTROL_ADDRESS": zmq["control"],
        "QSERVER_ZMQ_INFO_ADDRESS": zmq["info"],
    }

    def qserver(*arguments: str) -> str:
        done = subprocess.run([QSERVER, *arguments], capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "'worker_environment_exists': True" in qserver("status")
    # far longer than qserver takes to start, also on a busy machine: it is stopped
    kwargs = {"range_um": 100, "step_um": 0.1, "channels": [{"name": "gfp", "exposure_ms": 50}]}
    item = {"name": "z_stack", "kwargs": kwargs, "meta": {"op_key": "clients.qserver-1"}}
    qserver("queue", "add", "plan", json.dumps(item))
    until(lambda: zmq_api.status(reload=True)["re_state"] == "running", "the plan runs")
    qserver("re", "pause")
    until(lambda: zmq_api.status(reload=True)["manager_state"] == "paused", "it is paused")
    qserver("re", "resume")
    until(lambda: zmq_api.status(reload=True)["re_state"] == "running", "it runs again")
    qserver("re", "pause")
    until(lambda: zmq_api.status(reload=True)["manager_state"] == "paused", "it is paused again")
    qserver("re", "stop")
    until(lambda: zmq_api.status(reload=True)["manager_state"] == "idle", "it ended")
    assert "'exit_status': " in qserver("history", "get")
    operation = Operations(Ledger(stack.layout.ledger_db)).by_key("clients.qserver-1")
    assert operation is not None
    assert operation.state == "succeeded"
