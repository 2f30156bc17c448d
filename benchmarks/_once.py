"""Operations submitted over REST by clients that fail, and what must hold of them afterwards: never twice, never lost (R1)."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..ledger import Ledger, Operation, Operations
from ..scripts._probes import NoAnswer, http_request
from ._fault_checks import readable_frames
from ._fault_stack import FaultStack

SNAP = {"plan": "snap", "kwargs": {"camera": "overview", "n": 1}}
"""One frame: the camera is told to expose once."""


class Client:
    """An agent's client, which sends a request again until it has an answer; ``lost`` requests are sent and not waited for."""

    def __init__(self, stack: FaultStack) -> None:
        self._stack = stack
        self._key = stack.layout.key("agent")
        self._http = httpx.Client(trust_env=False, timeout=10, headers={"Authorization": f"ApiKey {self._key}"})

    @property
    def url(self) -> str:
        return str(self._stack.runtime.get("http", "http://127.0.0.1:9"))

    def submit(self, key: str, body: dict[str, Any], patience_s: float = 60.0) -> dict[str, Any]:
        """The operation.

        Raises
        ------
        RuntimeError
            Where no answer came within ``patience_s``, or a refusal.
        """
        give_up, why = time.monotonic() + patience_s, "no answer"
        while time.monotonic() < give_up:
            try:
                reply = self._http.post(f"{self.url}/api/ops", json=body, headers={"Idempotency-Key": key})
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
                time.sleep(0.1)
                continue
            if reply.status_code == 201:
                return dict(reply.json())
            why = reply.text
            if reply.status_code not in (409, 429, 503):
                break
            time.sleep(float(reply.headers.get("Retry-After", 0.2)))
        raise RuntimeError(f"{key} was not accepted: {why}")

    def lose(self, key: str, body: dict[str, Any]) -> None:
        """Send the request and be gone before its reply."""
        place, content = urlsplit(self.url), json.dumps(body).encode()
        head = (
            f"POST /api/ops HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: ApiKey {self._key}\r\nIdempotency-Key: {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        with (
            contextlib.suppress(OSError),
            socket.create_connection((place.hostname, place.port or 80), 5) as connection,
        ):
            connection.sendall(head.encode() + content)

    def close(self) -> None:
        self._http.close()


class Record:
    """What is on disk of operations: the ledger, and the start and stop documents, whoever says what of them."""

    def __init__(self, stack: FaultStack) -> None:
        self._stack = stack
        self.operations = Operations(Ledger(stack.layout.ledger_db))
        self._ended: dict[str, dict[str, Any]] = {}
        """Stop documents, by run: their logs change no more."""
        self._attempts: dict[str, tuple[Any, int]] = {}
        """Key and attempt of each run."""

    def wait(self, keys: Collection[str], limit_s: float) -> dict[str, Operation | None]:
        """Until all have ended, at the latest then as they are; None for one that nobody has recorded."""
        deadline, found = time.monotonic() + limit_s, {key: self.operations.by_key(key) for key in keys}
        while not all(one is not None and one.ended for one in found.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
            found = {
                key: one if one is not None and one.ended else self.operations.by_key(key) for key, one in found.items()
            }
        return found

    def problems(self, operations: dict[str, Operation | None]) -> Iterator[str]:
        """What must not be: two acquisitions of one attempt, a loss, a success without its frames."""
        self._read()
        started = Counter(self._attempts.values())
        for key, operation in operations.items():
            if operation is None:
                yield f"{key} was acknowledged, and the ledger doesn't know it"
                continue
            if not operation.ended:
                yield f"{key} is {operation.state} and did not end"
            for attempt in range(1, operation.attempt + 1):
                if started[key, attempt] > 1:
                    yield f"attempt {attempt} of {key} was started {started[key, attempt]} times"
            if operation.state == "succeeded":
                for uid in operation.run_uids or ("no run",):
                    yield from (f"{key} succeeded, and {text}" for text in self._run_problems(uid))

    def _read(self) -> None:
        """The logs that had no stop document at the last look."""
        for log in self._stack.layout.documents.glob("*.jsonl"):
            if log.stem in self._ended:
                continue
            lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            if not lines:
                continue
            start, last = json.loads(lines[0])["doc"], json.loads(lines[-1])
            self._attempts[log.stem] = (start.get("op_key"), start.get("attempt", 1))
            if last["name"] == "stop":
                self._ended[log.stem] = last["doc"]

    def _run_problems(self, uid: str) -> Iterator[str]:
        """Of a run that ended well: it says so, and as many frames as it tells of read back with their checksums."""
        end = self._ended.get(uid, {})
        frames = end.get("frames") or {}
        if end.get("exit_status") != "success" or not sum(frames.values()):
            yield f"its run {uid} ended with {end or 'nothing'}"
        for dataset, told in frames.items():
            good, problem = readable_frames(self._stack.layout.volumes / f"{uid}_{dataset}.ome.zarr")
            if problem is not None or good != told:
                yield f"{dataset} of its run {uid} has {good} readable frames of {told}: {problem or 'the others are lost'}"

    def catalog(self, stall_s: float, stop_at: float) -> tuple[list[str], int]:
        """What is wrong with the catalog, which must get every run once; and how many were on their way when the time was over.

        Parameters
        ----------
        stall_s
            A catalog that gets nothing for so long gets no more.
        stop_at
            Time is over then (`time.monotonic`).
        """
        most, grew = -1, time.monotonic()
        while True:
            self._read()
            try:
                counts, why = self._delivered(), ""
            except (NoAnswer, KeyError, TypeError) as error:
                counts, why = {}, f": {error!r}"
            now = time.monotonic()
            if len(counts) > most:
                most, grew = len(counts), now
            missing = [uid for uid in self._attempts if uid not in counts]
            found = [f"the catalog has run {uid} {count} times" for uid, count in counts.items() if count > 1]
            if missing and now - grew > stall_s:
                found.append(
                    f"the catalog lacks {len(missing)} runs ({missing[0]}, …), and got none for {stall_s:g} s{why}"
                )
            if found or not missing or now > stop_at:
                return found, 0 if found else len(missing)
            time.sleep(2.0)

    def _delivered(self) -> dict[str, int]:
        """How many complete entries the catalog has of each run."""
        url = f"{self._stack.runtime['tiled']}/distinct/?metadata=stop.run_start&counts=true"
        _, found = http_request(url, self._stack.layout.key("observer"), timeout_s=30)
        return {item["value"]: item["count"] for item in found["metadata"]["stop.run_start"]}
