"""One plan from the terminal: submit it, follow it, cancel it, say how it ended."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from ._rest import Rest, RestError

_INTERVAL_S = 0.15
_CANCEL_S = 60.0
_REMOVED_S = 3.0
"""An item that is nowhere for so long was removed: on its way from the queue to the history it is nowhere for a moment, and the
server answers about the history from what it knew half a second ago."""


@dataclass
class Outcome:
    """How a plan ended."""

    key: str
    item_uid: str
    exit_status: str
    """queueserver's word: ``completed failed stopped aborted halted unknown``, or ``removed`` from the queue."""
    run_uids: list[str] = field(default_factory=list)
    message: str = ""

    @property
    def succeeded(self) -> bool:
        return self.exit_status == "completed"


@dataclass
class Progress:
    """Where a plan is: for a progress bar."""

    waiting: bool
    run_uid: str | None = None
    done: int = 0
    """Frames on disk, all datasets together."""
    total: int = 0


def parse_value(text: str) -> Any:
    """A value from the command line: JSON, or YAML's short forms (``[1, 2]``, ``{name: gfp}``), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if text[:1] in "[{+-.0123456789" and text:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            pass
    return text


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` words as keyword arguments.

    Raises
    ------
    ValueError
        For a word without ``=``, or a name given twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"{pair!r} is not NAME=VALUE, such as slices=40")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = parse_value(text)
    return found


def new_key() -> str:
    """A key for an operation that is submitted once, by hand."""
    return f"cli-{secrets.token_hex(8)}"


def submit(rest: Rest, plan: str, kwargs: dict[str, Any], key: str, lock_key: str | None = None) -> str:
    """Put a plan at the end of the queue; return its item UID. `RestError` where the server refuses it.

    With ``lock_key`` for the person who has the microscope, while the queue is locked and stopped: the plan runs at once, and
    nothing else does.
    """
    item = {"item_type": "plan", "name": plan, "args": [], "kwargs": kwargs, "meta": {"op_key": key}}
    if lock_key is not None:
        return str(rest.post("/api/queue/item/execute", {"item": item, "lock_key": lock_key})["item"]["item_uid"])
    return str(rest.post("/api/queue/item/add", {"item": item})["item"]["item_uid"])


def follow(rest: Rest, item_uid: str, key: str, progress: Callable[[Progress], None]) -> Outcome:
    """Wait until the item is in the history. Calls ``progress`` a few times a second."""
    history_uid: str | None = None
    missing_since: float | None = None
    now = Progress(waiting=True)
    while True:
        status = rest.get("/api/status")
        if status["plan_history_uid"] != history_uid:
            history_uid = status["plan_history_uid"]
            if (outcome := _outcome(rest, item_uid, key)) is not None:
                if outcome.run_uids:
                    _count(rest, now, outcome.run_uids[-1])
                    progress(now)
                return outcome
        if status["running_item_uid"] == item_uid:
            now.waiting = False
            runs = rest.get("/api/re/runs/active")["run_list"]
            if runs:
                _count(rest, now, runs[-1]["uid"])
        elif now.waiting and not _in_queue(rest, item_uid):
            # it ended between the two questions, or never ran
            if (outcome := _outcome(rest, item_uid, key)) is not None:
                return outcome
            missing_since = missing_since or time.monotonic()
            if time.monotonic() - missing_since > _REMOVED_S:
                return Outcome(key, item_uid, "removed", message="somebody removed it from the queue")
        else:
            missing_since = None
        progress(now)
        time.sleep(_INTERVAL_S)


def _count(rest: Rest, now: Progress, run_uid: str) -> None:
    try:
        datasets = rest.get(f"/api/runs/{run_uid}")["datasets"]
    except RestError:  # its start document is not on disk yet
        return
    now.run_uid = run_uid
    now.total = sum(dataset["shape"][0] or 0 for dataset in datasets)
    now.done = sum(dataset["frames_written"] or 0 for dataset in datasets)


def _in_queue(rest: Rest, item_uid: str) -> bool:
    queue = rest.get("/api/queue/get")
    items = [*queue["items"], queue.get("running_item") or {}]
    return any(item.get("item_uid") == item_uid for item in items)


def _outcome(rest: Rest, item_uid: str, key: str) -> Outcome | None:
    """How the item ended, where it is in the history."""
    for item in reversed(rest.get("/api/history/get")["items"]):
        if item["item_uid"] == item_uid:
            result = item.get("result") or {}
            return Outcome(
                key=key,
                item_uid=item_uid,
                exit_status=result.get("exit_status", "unknown"),
                run_uids=list(result.get("run_uids") or []),
                message=result.get("msg") or "",
            )
    return None


def cancel(rest: Rest, item_uid: str) -> str:
    """Take a waiting item out of the queue, or pause and abort it where it runs. Returns what was done, in words.

    Raises
    ------
    RestError
        Where neither worked: says what the plan does now.
    """
    if rest.get("/api/status")["running_item_uid"] != item_uid:
        try:
            rest.post("/api/queue/item/remove", {"uid": item_uid})
        except RestError:  # it began meanwhile
            pass
        else:
            return "removed from the queue, nothing moved"
    deadline = time.monotonic() + _CANCEL_S
    asked: set[str] = set()
    while time.monotonic() < deadline:
        status = rest.get("/api/status")
        if status["running_item_uid"] != item_uid:
            return "paused and aborted" if "abort" in asked else "it had ended by itself"
        if status["manager_state"] == "executing_queue" and "pause" not in asked:
            _try(rest, "/api/re/pause", {"option": "immediate"}, asked, "pause")
        elif status["manager_state"] == "paused" and "abort" not in asked:
            _try(rest, "/api/re/abort", {}, asked, "abort")
        time.sleep(_INTERVAL_S)
    raise RestError(f"the plan did not end within {_CANCEL_S:g} s of the abort: it still runs (queuescope status)")


def _try(rest: Rest, path: str, body: dict[str, Any], asked: set[str], what: str) -> None:
    """Refusals pass: the state changed under us, the next look at it decides."""
    try:
        rest.post(path, body)
    except RestError:
        return
    asked.add(what)
