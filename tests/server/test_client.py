"""The client against the real HTTP process; the test writes the ledger as manager and worker do: R2."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from queuescope.agents import (
    AsyncJob,
    AsyncScope,
    OperationCancelledError,
    OperationFailedError,
    OtherServerError,
    RefusedError,
    Scope,
    ServerLostError,
    keygen,
)
from queuescope.layout import Layout
from queuescope.ledger import Failure, Ledger, OperationError, Operations, bell, hints

PATIENCE_S = 30
IDENTITY = str(uuid.uuid4())


class Queue:
    """Stands where the queue server would: takes items as ours does, or refuses them, or is silent. Runs nothing."""

    def __init__(self, layout: Layout) -> None:
        self.operations = Operations(Ledger(layout.ledger_db), bell(layout))
        self.refusal: dict[str, Any] | None = None
        self.heard = threading.Semaphore(0)
        self.act = threading.Event()
        """While it is not set, requests are heard and nothing is done."""
        self.act.set()
        self.items: dict[str, dict[str, Any]] = {}
        self.runs_at_once = False
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(f"ipc://{layout.control_socket}")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._end.is_set():
            if self._socket.poll(20):
                *envelope, body = self._socket.recv_multipart()
                asked = json.loads(body)
                self.heard.release()
                self.act.wait(PATIENCE_S)
                answer = self._answer(asked["method"], asked.get("params") or {})
                self._socket.send_multipart([*envelope, json.dumps(answer).encode()])
        self._socket.close()

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "status":
            return {"manager_state": "idle", "queue_autostart_enabled": True, "items_in_queue": 0}
        if method != "queue_item_add":
            return {"success": True, "msg": ""}
        if self.refusal is not None:
            return {"success": False, **self.refusal}
        item = {**params["item"], "item_uid": str(uuid.uuid4()), "user": params["user"]}
        item["user_group"] = params["user_group"]
        try:
            _, new = self.operations.queued(item)
        except OperationError as error:
            return {"success": False, "msg": str(error), "code": error.code}
        if new:
            self.items[item["meta"]["op_key"]] = item
            if self.runs_at_once:
                self.run(item["meta"]["op_key"])
        return {"success": True, "msg": "", "item": item}

    def claim(self, key: str) -> str:
        self.operations.claim(self.items[key])
        uid = str(self.items[key]["item_uid"])
        self.operations.add_run(uid, f"run-{key}")
        return uid

    def run(self, key: str) -> None:
        self.operations.finish(self.claim(key), "succeeded", {"run_uid": f"run-{key}"}, exit_status="completed")

    def close(self) -> None:
        self._end.set()
        self.act.set()
        self._thread.join()


@pytest.fixture(scope="module")
def data(data_folder: Callable[[str], Path]) -> Path:
    found = data_folder("client")
    Layout(found).runtime_json.write_text(json.dumps({"server_id": IDENTITY}))
    return found


@pytest.fixture(scope="module")
def server(start_for_module: Callable[..., Any], data: Path) -> Any:
    return start_for_module(data)


@pytest.fixture
def queue(server: Any) -> Iterator[Queue]:
    with contextlib.closing(Queue(server.layout)) as found:
        yield found


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"client.{abs(hash(request.node.nodeid)):x}"


@contextlib.asynccontextmanager
async def opened(server: Any, patience_s: float = PATIENCE_S, **more: Any) -> AsyncIterator[AsyncScope]:
    key = server.layout.key("agent")
    async with await AsyncScope.connect("here", url=server.url, key=key, patience_s=patience_s, **more) as scope:
        yield scope


def in_a_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            found = await main()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"R2.8: still there: {others}"
        return found

    return asyncio.run(limited())


async def heard(queue: Queue) -> None:
    assert await asyncio.to_thread(queue.heard.acquire, timeout=PATIENCE_S)


def told(job: AsyncJob) -> Coroutine[Any, Any, list[Any]]:
    async def collected() -> list[Any]:
        return [event async for event in job.events()]

    return collected()


def states(events: list[Any]) -> list[str]:
    return [event.data["state"] for event in events]


def test_an_end_that_comes_at_once_is_not_missed(server: Any, queue: Queue, key: str) -> None:
    """R2.1, R2.3, R2.11: it ran before the submission was answered; the stream is whole, in order, and ends once."""
    queue.runs_at_once = True

    async def main() -> None:
        async with opened(server) as scope:
            job = await scope.submit("snap", key=key, camera="cam_a")
            operation = await job.result()
            assert operation.run_uids == (f"run-{key}",)
            assert operation.result == {"run_uid": f"run-{key}"}
            events = await told(job)
            assert sum(event.terminal for event in events) == 1
            assert events[-1].terminal
            assert [event.terminal for event in await told(await scope.attach(key))] == [True]

    in_a_loop(main)


def test_only_its_own_events_are_seen(server: Any, queue: Queue, key: str) -> None:
    """R2.2, R2.3, R2.11: two jobs at once, each with its own stream; another's end ends nothing; late readers see all of it."""

    async def main() -> None:
        async with opened(server) as scope:
            first = await scope.submit("snap", key=key + ".1")
            second = await scope.submit("snap", key=key + ".2")
            reading = asyncio.create_task(told(first))
            await asyncio.to_thread(queue.run, key + ".2")
            assert (await second.result()).run_uids == (f"run-{key}.2",)
            assert not first.ended
            await asyncio.to_thread(queue.run, key + ".1")
            events = await reading
            assert {event.key for event in events} == {key + ".1"}
            assert {event.server_id for event in events} == {IDENTITY}
            assert states(events) == ["accepted", "queued", "running", "running", "succeeded"]
            assert await told(first) == events

    in_a_loop(main)


def test_progress_and_output_come_in_the_same_stream(server: Any, queue: Queue, key: str) -> None:
    """R2.3, R2.2: in order with the states; another operation's progress is not seen, and none comes after the end."""
    tell = hints(server.layout)

    async def main() -> None:
        async with opened(server) as scope:
            job = await scope.submit("snap", key=key)
            uid = await asyncio.to_thread(queue.claim, key)
            seen = job.events()
            async for event in seen:
                if "run_uid" in event.data:
                    break
            tell(key + ".2", 1, "progress", {"done": 9, "total": 9})
            tell(key, 1, "progress", {"done": 1, "total": 2})
            assert (await anext(seen)).data == {"done": 1, "total": 2}
            assert job.operation.progress.done == 1  # type: ignore[union-attr]
            queue.operations.say(uid, ["half of it", "is there"])
            tell(key, 1, "progress", {"done": 2, "total": 2})
            queue.operations.finish(uid, "succeeded", exit_status="completed")
            tell(key, 1, "progress", {"done": 2, "total": 2})
            rest = [event async for event in seen]
            assert [event.type for event in rest] == ["output", "progress", "state"]
            assert rest[0].data["lines"] == ["half of it", "is there"]

    in_a_loop(main)


def test_events_of_another_server_count_for_nothing(server: Any, queue: Queue, key: str) -> None:
    """R2.2: by identity and key and attempt, whoever sends them."""
    from queuescope.agents._operation import Event

    async def main() -> None:
        async with opened(server) as scope:
            job = await scope.submit("snap", key=key)
            feed = scope._link.feed(key)
            async with feed:
                socket = feed._socket
                sent = [
                    {"key": key, "server_id": "another"},
                    {"key": "other.key", "server_id": IDENTITY},
                    {"key": key, "server_id": IDENTITY, "cursor": 0},
                    {"key": key, "server_id": IDENTITY, "cursor": 9, "data": {"state": "succeeded"}},
                ]

                async def recv() -> str:
                    return json.dumps(
                        {"type": "state", "data": {}, "attempt": 1, "time": 0.0, "cursor": 1, **sent.pop(0)}
                    )

                socket.recv = recv  # type: ignore[method-assign, union-attr, assignment]
                event = await feed.next()
                assert (event.cursor, event.server_id) == (9, IDENTITY)
            job._attempt = 2  # what is told of attempt 1 is another attempt's
            ended = Event("state", {"state": "succeeded"}, key, 1, 0.0)
            assert ended.terminal
            await asyncio.to_thread(queue.run, key)
            assert (await scope.attach(key)).state == "succeeded"
            assert not job.ended
            await job.detach()

    in_a_loop(main)


def test_a_refusal_reaches_the_client_at_once_in_the_servers_words(server: Any, queue: Queue, key: str) -> None:
    """R2.9, R2.10: with field, value and limit; the job has failed and the key is free."""
    queue.refusal = {
        "msg": "Failed to add an item: there is no plan 'levitate'",
        "code": "unknown_plan",
        "errors": [{"loc": ["plan"], "msg": "unknown", "value": "levitate", "limit": None}],
    }

    async def main() -> None:
        async with opened(server) as scope:
            job = scope.job("levitate", key=key)
            with pytest.raises(RefusedError, match="there is no plan 'levitate'") as refused:
                await job.submit()
            assert (refused.value.status, refused.value.code) == (422, "unknown_plan")
            assert refused.value.fields["errors"][0]["value"] == "levitate"
            assert (await job.wait()).error.code == "unknown_plan"  # type: ignore[union-attr]
            with pytest.raises(ValueError, match="JSON compliant"):
                await scope.submit("snap", key=key, n=float("nan"))  # the script's own mistake comes out as it is
            queue.refusal = None
            assert (await scope.submit("snap", key=key)).state == "queued"

    in_a_loop(main)


def test_a_failure_replays_as_that_failure(server: Any, queue: Queue, key: str) -> None:
    """R1.7, R2.10; a retry is explicit, and another attempt."""

    async def main() -> None:
        async with opened(server) as scope:
            job = await scope.submit("snap", key=key)
            uid = await asyncio.to_thread(queue.claim, key)
            failure = Failure("outside_limits", "z 312 µm is outside [-50, 250]")
            await asyncio.to_thread(queue.operations.finish, uid, "failed", None, failure)
            with pytest.raises(OperationFailedError, match="z 312 µm is outside") as failed:
                await job.result()
            assert failed.value.operation.run_uids == (f"run-{key}",)
            with pytest.raises(OperationFailedError, match="z 312 µm is outside") as failed:
                await scope.run("snap", key=key)
            assert failed.value.operation.replayed
            again = await job.retry()
            await asyncio.to_thread(queue.run, key)
            assert (await again.result()).attempt == 2
            assert job.operation.attempt == 1  # type: ignore[union-attr]

    in_a_loop(main)


def test_cancelled_while_it_is_being_submitted(server: Any, queue: Queue, key: str) -> None:
    """R2.5: nobody could be told before it was registered; it is told then."""
    queue.act.clear()

    async def main() -> None:
        async with opened(server) as scope:
            while queue.heard.acquire(blocking=False):
                pass
            job = scope.job("snap", key=key)
            submitting = asyncio.create_task(job.submit())
            await heard(queue)
            await job.cancel()
            queue.act.set()
            await submitting
            operation = await job.wait()
            assert (operation.state, operation.error.code) == ("cancelled", "cancelled")  # type: ignore[union-attr]
            assert queue.operations.by_key(key).state == "cancelled"  # type: ignore[union-attr]

    in_a_loop(main)


def test_cancelled_before_it_was_submitted_nothing_is_sent(server: Any, queue: Queue, key: str) -> None:
    """R2.5."""

    async def main() -> None:
        async with opened(server) as scope:
            job = scope.job("snap", key=key)
            await job.cancel()
            await job.submit()
            with pytest.raises(OperationCancelledError):
                await job.result()
            assert queue.operations.by_key(key) is None

    in_a_loop(main)


def test_cancel_wins_over_completed_and_failed(server: Any, queue: Queue, key: str) -> None:
    """R2.4: run UIDs and what the plan itself came to are kept."""

    async def main() -> None:
        async with opened(server) as scope:
            for n, end in enumerate(("succeeded", "failed")):
                job = await scope.submit("snap", key=f"{key}.{n}")
                uid = await asyncio.to_thread(queue.claim, f"{key}.{n}")
                await job.cancel()
                failure = Failure("plan_failed", "out of film") if end == "failed" else None
                exit_status = {"succeeded": "completed"}.get(end, end)
                await asyncio.to_thread(queue.operations.finish, uid, end, None, failure, exit_status)
                with pytest.raises(OperationCancelledError, match=f"the plan itself: {exit_status}") as cancelled:
                    await job.result()
                assert cancelled.value.operation.run_uids == (f"run-{key}.{n}",)

    in_a_loop(main)


def test_closing_the_client_ends_its_jobs_and_leaves_the_operation(server: Any, queue: Queue, key: str) -> None:
    """R2.8: as cancelled, and whoever waits hears it; `in_a_loop` says that nothing listens any more."""

    async def main() -> None:
        async with opened(server) as scope:
            job = await scope.submit("snap", key=key)
            running = asyncio.create_task(scope.run("snap", key=key + ".2"))
            stopped = asyncio.create_task(scope.run("snap", key=key + ".3"))
            while {key + ".2", key + ".3"} - set(queue.items):
                await heard(queue)
            while not all(one.state for one in scope._link.jobs):
                await asyncio.sleep(0)
            stopped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopped
        with pytest.raises(OperationCancelledError, match="the operation itself goes on"):
            await running
        assert (await job.wait()).error.code == "client_closed"  # type: ignore[union-attr]
        assert sum(event.terminal for event in await told(job)) == 1
        assert {queue.operations.by_key(key + more).state for more in ("", ".2", ".3")} == {"queued"}  # type: ignore[union-attr]

    in_a_loop(main)


def test_closed_while_it_is_submitted(server: Any, queue: Queue, key: str) -> None:
    """R2.8: ends as cancelled and raises that, whoever waited."""
    queue.act.clear()

    async def main() -> None:
        async with opened(server) as scope:
            job = scope.job("snap", key=key)
            submitting = asyncio.create_task(job.submit())
            await heard(queue)
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert job.state == "cancelled"

    in_a_loop(main)


def test_a_bug_in_following_comes_out(server: Any, queue: Queue, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """R2.9: only what a network does is translated."""
    monkeypatch.setattr(AsyncJob, "_changed", lambda self, event: 1 / 0)

    async def main() -> None:
        async with opened(server) as scope:
            job = await scope.submit("snap", key=key)
            await asyncio.to_thread(queue.claim, key)
            with pytest.raises(ZeroDivisionError):
                await job.wait()
            with pytest.raises(ZeroDivisionError):
                await told(job)

    in_a_loop(main)


def test_another_server_at_the_same_address_gets_nothing(server: Any, queue: Queue, key: str) -> None:
    """R2.12: refused before anything is queued, at the handshake of the events already."""
    runtime = server.layout.runtime_json

    async def main() -> None:
        async with opened(server) as scope:
            assert scope.server_id == IDENTITY
            runtime.write_text(json.dumps({"server_id": "changed"}))
            job = scope.job("snap", key=key)
            with pytest.raises(OtherServerError, match="pair here"):
                await job.submit()
            with pytest.raises(OtherServerError):
                await scope._link.ask("POST", "/api/ops", {"plan": "snap"}, {"Idempotency-Key": key})
            assert queue.operations.by_key(key) is None

    try:
        in_a_loop(main)
    finally:
        runtime.write_text(json.dumps({"server_id": IDENTITY}))


def test_a_lost_server_is_found_again_by_key(
    server: Any, queue: Queue, start_and_stop: Callable[..., Any], data_folder: Callable[[str], Path]
) -> None:
    """R2.6, R2.4: killed and restarted at another address, nothing is missed; one that stays away ends jobs soon, as failed, or
    as cancelled where that was asked for. An unrelated link's loss ends nothing.
    """
    folder = data_folder("lost")
    runtime = Layout(folder).runtime_json

    def started() -> Any:
        found = start_and_stop(folder)
        runtime.write_text(json.dumps({"server_id": IDENTITY, "http": found.url}))
        return found

    first = started()
    lost_queue = Queue(first.layout)

    async def main() -> None:
        Layout(folder).key("agent")
        async with (
            await AsyncScope.connect(data=folder, patience_s=PATIENCE_S) as scope,
            opened(server) as elsewhere,
        ):
            other = await elsewhere.submit("snap", key="other.job-1")
            job = await scope.submit("snap", key="lost.found-1")
            reading = asyncio.create_task(told(job))
            await asyncio.to_thread(lost_queue.claim, "lost.found-1")
            await asyncio.to_thread(first.process.stop, signal.SIGKILL)
            uid = str(lost_queue.items["lost.found-1"]["item_uid"])
            await asyncio.to_thread(lost_queue.operations.finish, uid, "succeeded")
            second = await asyncio.to_thread(started)
            assert states(await reading) == ["accepted", "queued", "running", "running", "succeeded"]
            lost = await scope.submit("snap", key="lost.for-good-1")
            stopped = await scope.submit("snap", key="lost.stopped-1")
            await asyncio.to_thread(lost_queue.claim, "lost.for-good-1")
            async for event in lost.events():
                if "run_uid" in event.data:
                    break
            await stopped.cancel()
            assert (await stopped.wait()).state == "cancelled"
            scope._link.patience_s = 0.3
            await asyncio.to_thread(second.process.stop, signal.SIGKILL)
            began = time.monotonic()
            with pytest.raises(OperationFailedError, match="session_lost") as failed:
                await lost.result()
            assert time.monotonic() - began < 5
            assert failed.value.operation.run_uids == ("run-lost.for-good-1",)
            await lost.cancel()
            with pytest.raises(ServerLostError):
                await scope.submit("snap", key="lost.never-1")
            assert not other.ended
            await asyncio.to_thread(queue.run, "other.job-1")
            await other.result()

    try:
        in_a_loop(main)
    finally:
        lost_queue.close()


def test_without_an_event_loop(server: Any, queue: Queue, key: str, tmp_path: Path) -> None:
    """The same client for scripts and notebooks; durable steps have the key that another process would give them."""
    queue.runs_at_once = True
    keyfile = keygen(tmp_path / "exec.key")
    role_key = server.layout.key("agent")
    with Scope.connect("here", keyfile=keyfile, url=server.url, key=role_key) as scope:
        job = scope.submit("snap", key=key)
        assert [event.terminal for event in job.events()][-1]
        assert job.wait().state == "succeeded"
        with scope.durable("night"):
            first = scope.run("snap", step="a")
            counted = scope.run("snap")
            drawn = (scope.random(), scope.now(), scope.read("/api/server"), scope.recorded("choice", lambda: ["b"]))
            with scope.durable("inner"):
                inner = scope.run("snap", step="a")
        assert scope.random() != drawn[0], "outside it is not recorded"
        keys = (first.key, counted.key, inner.key)
        assert len(set(keys)) == 3
        assert not any(one.replayed for one in (first, counted, inner))
    with Scope.connect("here", keyfile=keyfile, url=server.url, key=role_key) as scope, scope.durable("night"):
        assert scope.key("a") == keys[0]
        assert (scope.run("snap").key, scope.random(), scope.now()) == (keys[1], drawn[0], drawn[1])
        assert scope.read("/api/nowhere") == drawn[2], "R1.13: nobody was asked"
        assert scope.recorded("choice", lambda: 1 / 0) == drawn[3]
        with scope.durable("inner"):
            assert scope.run("snap", step="a").replayed


def test_threads_of_a_durable_block_are_in_it(server: Any, queue: Queue, key: str, tmp_path: Path) -> None:
    """R1.8: a step that is run in a thread has the key that it would have outside one."""
    from concurrent.futures import ThreadPoolExecutor

    queue.runs_at_once = True
    keyfile = keygen(tmp_path / "exec.key")
    with (
        Scope.connect("here", keyfile=keyfile, url=server.url, key=server.layout.key("agent")) as scope,
        ThreadPoolExecutor(4) as pool,
    ):
        with scope.durable("night"):
            found = list(pool.map(lambda n: scope.run("snap", step=f"place-{n}").key, range(4)))
        with scope.durable("night"):
            assert [scope.key(f"place-{n}") for n in range(4)] == found


def test_concurrent_awaits_have_the_keys_of_their_calls(server: Any, queue: Queue, key: str, tmp_path: Path) -> None:
    """R1.8: however they end."""
    queue.runs_at_once = True
    keyfile = keygen(tmp_path / "exec.key")

    async def main() -> None:
        async with opened(server, keyfile=keyfile) as scope:
            with scope.durable("night"):
                first = [one.key for one in await asyncio.gather(*(scope.run("snap") for _ in range(4)))]
            with scope.durable("night"):
                waiting = [scope.run("snap") for _ in range(4)]
                assert [(await one).key for one in reversed(waiting)] == first[::-1]

    in_a_loop(main)
