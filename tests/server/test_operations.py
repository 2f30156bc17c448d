"""Operations over REST in front of a queue server that answers, is silent, or loses its replies: R1, R2."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import zmq

from queuescope.hardware import Latch, LatchFile
from queuescope.layout import Layout
from queuescope.ledger import Control, Events, Failure, Ledger, OperationError, Operations, bell, write_control
from queuescope.server._problems import Problem
from queuescope.server._rate import Rate

SNAP = {"plan": "snap", "kwargs": {"camera": "cam_a", "n": 2}, "sample_id": "worm"}
PATIENCE_S = 30


class Queue:
    """Stands where the queue server would, and does with an item what ours does: the ledger is told before it is queued.

    For faults that the real one can't be brought to: silence, a reply that is lost, a refusal in given words.
    """

    def __init__(self, layout: Layout) -> None:
        self.operations = Operations(Ledger(layout.ledger_db), bell(layout))
        self.added: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.autostart = True
        self.reply = threading.Event()
        """While it is not set, requests are carried out and their replies wait."""
        self.reply.set()
        self.act = threading.Event()
        """While it is not set, requests are heard and nothing is done."""
        self.act.set()
        self.refusal: dict[str, Any] | None = None
        self.heard = threading.Semaphore(0)
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(f"ipc://{layout.control_socket}")
        self._end = threading.Event()
        self._late: list[list[bytes]] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._end.is_set():
            if self._socket.poll(20):
                *envelope, body = self._socket.recv_multipart()
                asked = zmq.utils.jsonapi.loads(body)
                self.heard.release()
                self.act.wait(PATIENCE_S)
                answer = zmq.utils.jsonapi.dumps(self._answer(asked["method"], asked.get("params") or {}))
                self._late.append([*envelope, answer])
            while self.reply.is_set() and self._late:
                self._socket.send_multipart(self._late.pop(0))
        self._socket.close()

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(method)
        if method == "status":
            return {"manager_state": "idle", "queue_autostart_enabled": self.autostart, "items_in_queue": 0}
        if method != "queue_item_add":
            return {"success": True, "msg": ""}
        if self.refusal is not None:
            return {"success": False, **self.refusal}
        uid = str(uuid.uuid4())
        item = {**params["item"], "item_uid": uid, "user": params["user"], "user_group": params["user_group"]}
        try:
            _, new = self.operations.queued(item)
        except OperationError as error:
            return {"success": False, "msg": str(error), "code": error.code}
        if new:
            self.added.append(item)
        return {"success": True, "msg": "", "item": item}

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def server(start_for_module: Callable[..., Any], data_folder: Callable[[str], Any]) -> Any:
    return start_for_module(data_folder("ops"))


@pytest.fixture
def queue(server: Any) -> Iterator[Queue]:
    with contextlib.closing(Queue(server.layout)) as found:
        yield found


@pytest.fixture
def operations(server: Any) -> Operations:
    """As the worker and the manager write them."""
    return Operations(Ledger(server.layout.ledger_db), bell(server.layout))


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    return f"ops.{abs(hash(request.node.nodeid)):x}"


def post(client: httpx.Client, key: str | None, body: Any = SNAP) -> httpx.Response:
    return client.post("/api/ops", json=body, headers={} if key is None else {"Idempotency-Key": key})


def until(true: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < give_up, "did not happen"
        time.sleep(0.02)
    return found


def refused(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    return dict(reply.json())


def test_submitted_once_and_replayed(server: Any, queue: Queue, key: str) -> None:
    """R1.2: the same key and body is the same operation, marked as replayed; the queue gains one item."""
    first = post(server["agent"], key)
    assert first.status_code == 201, first.text
    assert "idempotency-replayed" not in first.headers
    operation = first.json()
    assert set(operation) == {
        *(
            "key",
            "attempt",
            "state",
            "hold",
            "plan",
            "kwargs",
            "sample_id",
            "session_id",
            "user",
            "item_uid",
            "run_uids",
        ),
        *("result", "error", "progress", "submitted_at", "started_at", "finished_at"),
    }
    assert (operation["key"], operation["attempt"], operation["state"], operation["user"]) == (
        key,
        1,
        "queued",
        "agent",
    )
    assert operation["item_uid"] == queue.added[0]["item_uid"]
    assert queue.added[0]["meta"] == {"op_key": key, "attempt": 1, "sample_id": "worm"}
    again = post(server["agent"], key, {**SNAP, "kwargs": {"n": 2, "camera": "cam_a"}})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json() == operation == server["observer"].get(f"/api/ops/{key}").json()
    assert len(queue.added) == 1


@pytest.mark.parametrize(
    "other", [{"plan": "z_stack"}, {"kwargs": {}}, {"sample_id": None}, {"session_id": "s"}, {"note": "look"}]
)
def test_the_same_key_with_another_body_is_refused(server: Any, queue: Queue, key: str, other: dict[str, Any]) -> None:
    """R1.3: nothing is queued."""
    assert post(server["agent"], key).status_code == 201
    refused(post(server["agent"], key, {**SNAP, **other}), 422, "key_reused")
    assert len(queue.added) == 1


def test_what_is_no_request_is_refused(server: Any, queue: Queue, key: str) -> None:
    refused(post(server["agent"], None), 400, "key_missing")
    refused(post(server["agent"], "short"), 400, "key_invalid")
    refused(post(server["agent"], "with space and more"), 400, "key_invalid")
    refused(post(server["agent"], key, {"kwargs": {}}), 400, "invalid_body")
    refused(post(server["agent"], key, {**SNAP, "restore": 7}), 400, "invalid_body")
    refused(post(server["agent"], key, {**SNAP, "kwargs": {"x": "x" * 300_000}}), 413, "too_large")
    nan = b'{"plan": "snap", "kwargs": {"n": NaN}}'
    refused(server["agent"].post("/api/ops", content=nan, headers={"Idempotency-Key": key}), 422, "not_finite")
    refused(server["agent"].get(f"/api/ops/{key}"), 404, "unknown_operation")
    refused(server["agent"].post(f"/api/ops/{key}/cancel"), 404, "unknown_operation")
    refused(server["agent"].post(f"/api/ops/{key}/retry"), 404, "unknown_operation")
    refused(server["agent"].get(f"/api/ops/{key}?wait=51"), 400, "invalid_query")
    refused(server["agent"].get("/api/ops?state=lost"), 400, "invalid_query")
    assert not queue.added


def test_many_at_once_with_one_key_make_one_item(server: Any, queue: Queue, key: str) -> None:
    """R1.6: sixteen at once; one makes the operation, the others attach to it."""
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: post(server["agent"], key), range(16)))
    assert [reply.status_code for reply in replies] == [201] * 16
    assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
    assert {reply.json()["item_uid"] for reply in replies} == {queue.added[0]["item_uid"]}
    assert len(queue.added) == 1


def test_a_second_request_does_not_wait_for_a_queue_server_that_is_silent(server: Any, queue: Queue, key: str) -> None:
    """R1.6: it is told that the first is being processed, and to come again; then it attaches."""
    queue.act.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server["agent"], key)
        assert queue.heard.acquire(timeout=PATIENCE_S)
        told = post(server["operator"], key)
        refused(told, 409, "in_progress")
        assert told.headers["retry-after"] == "1"
        queue.act.set()
        assert first.result().status_code == 201
    assert post(server["agent"], key).headers["idempotency-replayed"] == "true"
    assert len(queue.added) == 1


def test_a_lost_reply_makes_no_second_item(server: Any, queue: Queue, key: str) -> None:
    """R1.4: the queue server acted, its reply never came; whoever asks again finds the item that there is."""
    queue.reply.clear()
    first = post(server["agent"], key)  # 2 s, then without an answer
    queue.reply.set()
    assert (first.status_code, first.json()["state"]) == (201, "queued")
    assert post(server["agent"], key).json()["item_uid"] == queue.added[0]["item_uid"]
    assert len(queue.added) == 1


def test_what_was_accepted_is_queued_when_the_queue_server_returns(server: Any, key: str) -> None:
    """R1.4: nobody has to ask again."""
    reply = post(server["agent"], key)
    assert (reply.status_code, reply.json()["state"], reply.json()["item_uid"]) == (201, "accepted", None)
    with contextlib.closing(Queue(server.layout)) as queue:
        until(lambda: server["agent"].get(f"/api/ops/{key}").json()["state"] == "queued")
        assert [item["meta"]["op_key"] for item in queue.added] == [key]


def test_killed_before_dispatch_it_is_queued_once_by_the_next(
    start_and_stop: Callable[..., Any], data_folder: Callable[[str], Any], key: str
) -> None:
    """R1.4: kill -9 of the router between intent and dispatch, and between dispatch and reply: one item in the end."""
    server = start_and_stop(data_folder("killed"))
    assert post(server["agent"], f"{key}.1").json()["state"] == "accepted"
    server.process.stop(signal.SIGKILL)
    with contextlib.closing(Queue(server.layout)) as queue:
        queue.reply.clear()
        second = start_and_stop(server.layout.data)
        until(lambda: len(queue.added) == 1)  # taken up without any request, and its reply is lost with this router
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(post, second["agent"], f"{key}.2")
            until(lambda: len(queue.added) == 2)
            second.process.stop(signal.SIGKILL)
            assert isinstance(lost.exception(), httpx.TransportError)
        queue.reply.set()
        third = start_and_stop(server.layout.data)
        for n in (1, 2):
            again = post(third["agent"], f"{key}.{n}")
            assert (again.json()["state"], again.headers["idempotency-replayed"]) == ("queued", "true")
        assert [item["meta"]["op_key"] for item in queue.added] == [f"{key}.1", f"{key}.2"]


def test_parameters_that_the_manager_refuses_come_back_field_by_field(server: Any, queue: Queue, key: str) -> None:
    """R2.10: 422 with its words; nothing is queued, and the key serves the mended request."""
    errors = [{"loc": ["kwargs", "n"], "msg": "too many", "value": 2, "limit": 1}]
    queue.refusal = {
        "msg": "Failed to add an item: plan 'snap' refused: n",
        "code": "parameters_refused",
        "errors": errors,
    }
    problem = refused(post(server["agent"], key), 422, "parameters_refused")
    assert (problem["detail"], problem["errors"]) == ("plan 'snap' refused: n", errors)
    refused(post(server["agent"], key), 422, "parameters_refused")
    queue.refusal = {"msg": "Failed to add an item: the queue is locked"}
    refused(post(server["agent"], key), 409, "queue_refused")
    refused(server["agent"].get(f"/api/ops/{key}"), 404, "unknown_operation")
    queue.refusal = None
    assert post(server["agent"], key, {**SNAP, "kwargs": {"n": 1}}).status_code == 201
    assert len(queue.added) == 1


def test_waiting_ends_when_it_ends(server: Any, queue: Queue, operations: Operations, key: str) -> None:
    """R2.7, R2.1: no polling, and an end that comes at once is not missed."""
    item = _queued(server, queue, key)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server["agent"].get, f"/api/ops/{key}?wait=30")
        operations.claim(item)
        operations.add_run(item["item_uid"], "run-1")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        asked = len(queue.asked)
        operations.finish(item["item_uid"], "succeeded", {"frames": 2}, exit_status="completed")
        began = time.monotonic()
        ended = waiting.result(timeout=PATIENCE_S).json()
    assert time.monotonic() - began < 2.5, "it was woken, and did not look by the clock"
    assert len(queue.asked) == asked, "what has ended asks nobody"
    assert (ended["state"], ended["run_uids"], ended["result"], ended["hold"]) == (
        "succeeded",
        ["run-1"],
        {"frames": 2},
        None,
    )
    assert server["agent"].get(f"/api/ops/{key}?wait=30").json() == ended
    assert post(server["agent"], key).json() == ended, "R1.10: a script that is run again gets its result"


def test_waiting_ends_when_it_is_time(server: Any, queue: Queue, key: str) -> None:
    _queued(server, queue, key)
    assert server["agent"].get(f"/api/ops/{key}?wait=0.2").json()["state"] == "queued"


def test_failures_replay_as_failures_until_somebody_retries(
    server: Any, queue: Queue, operations: Operations, key: str
) -> None:
    """R1.7, R1.5: and a retry is one more attempt, made once however often it is asked for."""
    item = _queued(server, queue, key)
    operations.claim(item)
    refused(server["agent"].post(f"/api/ops/{key}/retry"), 409, "not_retryable")
    operations.finish(
        item["item_uid"], "failed", failure=Failure("outside_limits", "LimitError: z"), exit_status="failed"
    )
    replayed = post(server["agent"], key)
    assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (201, "true")
    assert replayed.json()["error"] == {"code": "outside_limits", "detail": "LimitError: z"}
    assert len(queue.added) == 1
    for _ in range(2):
        retried = server["agent"].post(f"/api/ops/{key}/retry", json={"attempt": 2})
        assert (retried.status_code, retried.json()["attempt"], retried.json()["state"]) == (200, 2, "queued"), (
            retried.text
        )
    assert [one["meta"]["attempt"] for one in queue.added] == [1, 2]
    assert retried.json()["error"] is None


def test_cancelled_in_the_queue_it_has_ended_with_the_answer(server: Any, queue: Queue, key: str) -> None:
    """R2.5: and its item is removed."""
    item = _queued(server, queue, key)
    cancelled = server["agent"].post(f"/api/ops/{key}/cancel").json()
    assert (cancelled["state"], cancelled["error"]["code"]) == ("cancelled", "cancelled")
    assert "queue_item_remove" in queue.asked
    with pytest.raises(OperationError):
        queue.operations.claim(item)
    assert server["agent"].post(f"/api/ops/{key}/cancel").json()["state"] == "cancelled"


def test_agents_change_their_own_operations_only(server: Any, queue: Queue, key: str) -> None:
    """DESIGN, Roles: everybody reads."""
    assert post(server["operator"], key).status_code == 201
    assert server["agent"].get(f"/api/ops/{key}").status_code == 200
    for call in ("cancel", "retry"):
        refused(server["agent"].post(f"/api/ops/{key}/{call}"), 403, "forbidden")
    assert server["operator"].get(f"/api/ops/{key}").json()["state"] == "queued"


def test_while_a_person_has_it_agents_may_not_ask_to_move(server: Any, queue: Queue, key: str) -> None:
    """R5.2: 423, nothing recorded; what was queued before is replayed, and waits with a reason."""
    _queued(server, queue, key)
    write_control(server.layout, Control(mode="person", by="Ada (operator)", reason="focusing", since=5.0), {})
    try:
        refused(post(server["agent"], f"{key}.2"), 423, "person_in_control")
        refused(server["agent"].get(f"/api/ops/{key}.2"), 404, "unknown_operation")
        assert post(server["agent"], f"{key}.3", {"plan": "read_state"}).status_code == 201
        held = post(server["agent"], key).json()["hold"]
        assert (held["reason"], held["since"], held["needs"]) == ("person", 5.0, "queuescope control agents --reason …")
    finally:
        write_control(server.layout, Control(mode="agents", by="Ada", reason="done", since=6.0), {})


def test_an_operation_says_why_it_waits(server: Any, queue: Queue, operations: Operations, key: str) -> None:
    """DESIGN, `hold`: halted, released, queue stopped, paused; nothing where nothing holds it."""

    def hold() -> Any:
        return server["observer"].get(f"/api/ops/{key}").json()["hold"]

    item = _queued(server, queue, key)
    assert hold() is None
    queue.autostart = False
    assert hold()["reason"] == "queue_stopped"
    for latch, reason in ((LatchFile.released, "released"), (LatchFile.halt, "halted")):
        latch(server.layout).write(Latch(by="Ada", reason="a look", at=7.0))
        assert (hold()["reason"], hold()["since"]) == (reason, 7.0)
    LatchFile.halt(server.layout).clear()
    LatchFile.released(server.layout).clear()
    operations.claim(item)
    assert hold() is None
    operations.paused(item["item_uid"], True)
    assert (hold()["reason"], hold()["since"] is not None) == ("paused", True)


def test_the_log_is_read_page_by_page(server: Any, queue: Queue, key: str) -> None:
    """R1.9: oldest first; `next` is where the reader goes on, also later."""
    start = 0
    while page := (found := server["observer"].get(f"/api/ops?after={start}").json())["items"]:
        start = found["next"]
    assert page == []
    keys = [f"{key}.{n}" for n in range(3)]
    for one in keys:
        assert post(server["agent"], one).status_code == 201
    first = server["observer"].get(f"/api/ops?after={start}&limit=2").json()
    second = server["observer"].get(f"/api/ops?after={first['next']}&limit=2&state=queued").json()
    assert [one["key"] for one in (*first["items"], *second["items"])] == keys
    assert first["items"][0] == server["observer"].get(f"/api/ops/{keys[0]}").json()


def test_a_result_that_is_not_kept_any_more_is_gone(
    server: Any, queue: Queue, operations: Operations, key: str
) -> None:
    """R1.9: 410 for its key; the log still has it."""
    item = _queued(server, queue, key)
    operations.claim(item)
    operations.finish(item["item_uid"], "succeeded", {"frames": 2})
    operations.prune(time.time() + 60)
    refused(server["agent"].get(f"/api/ops/{key}"), 410, "pruned")
    refused(post(server["agent"], key), 410, "pruned")
    told = Events(Ledger(server.layout.ledger_db)).after(key=key)
    assert told[-1].data["state"] == "succeeded"


def test_a_role_has_so_many_a_second() -> None:
    """Each role its own; it fills again."""
    now = [0.0]
    rate = Rate(per_second=10, burst=3, now=lambda: now[0])
    for _ in range(3):
        rate.take("agent")
    with pytest.raises(Problem) as told:
        rate.take("agent")
    assert (told.value.code, told.value.headers) == ("rate_limited", {"Retry-After": "1"})
    rate.take("operator")
    now[0] = 0.1
    rate.take("agent")


def _queued(server: Any, queue: Queue, key: str) -> dict[str, Any]:
    assert post(server["agent"], key).json()["state"] == "queued"
    return queue.added[-1]
