"""What may stand in a request that changes the queue: finite numbers, and for agents only plans with a key of their own.

Plain functions over parsed JSON; `_guard` calls them before bluesky-httpserver sees the request.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..ledger import meta_of
from ._problems import Problem

KEY = re.compile(r"[A-Za-z0-9._:-]{8,128}")
"""Form of a plan's key, the same as for the ``Idempotency-Key`` header."""

MAX_DEPTH = 64
"""Nesting that a body may have: beyond it Python's JSON reader gives up deeper in the stack, with a 500."""


def parse_object(body: bytes) -> dict[str, Any]:
    """A request's body as a JSON object; an empty body is an empty object.

    Raises
    ------
    Problem
        ``invalid_body`` where it is anything else, ``not_finite`` where a number is NaN or infinite (Python's JSON reader
        lets both through, and so would the queue server: its ``min`` and ``max`` don't stop a NaN).
    """
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem("invalid_body", f"the body is not JSON ({error}): send one JSON object") from None
    if not isinstance(value, dict):
        raise Problem("invalid_body", f"the body is a JSON {_kind(value)}: send one JSON object, {{…}}")
    refuse_what_cannot_travel(value)
    return value


def refuse_what_cannot_travel(value: Any) -> None:
    """Refuse numbers that are not finite, text that is no Unicode, and nesting without end.

    Raises
    ------
    Problem
        ``not_finite`` with every place in ``errors``, or ``invalid_body``.
    """
    errors: list[dict[str, Any]] = []
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while pending:
        loc, node = pending.pop()
        if len(loc) > MAX_DEPTH:
            raise Problem("invalid_body", f"the body is nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, dict):
            for key, child in node.items():
                _refuse_surrogates(key)
                pending.append(((*loc, key), child))
        elif isinstance(node, list | tuple):
            pending += [((*loc, index), child) for index, child in enumerate(node)]
        elif isinstance(node, str):
            _refuse_surrogates(node)
        elif isinstance(node, float) and not math.isfinite(node):
            errors.append({"loc": list(loc), "msg": "not a finite number", "value": str(node), "limit": None})
    if errors:
        errors.sort(key=lambda error: str(error["loc"]))
        where = ".".join(str(part) for part in errors[0]["loc"])
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Problem("not_finite", f"{where} is {errors[0]['value']}{more}: send a finite number", errors=errors[:20])


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Problem("invalid_body", f"{text!r} holds half a surrogate pair and is no Unicode text") from None


def _kind(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


# What an agent may ask of the queue ---------------------------------------------------------------------------------


def check_added(payload: Mapping[str, Any], require_key: bool) -> None:
    """``queue/item/add`` of an agent: one plan, at the back of the queue."""
    _refuse_position(payload)
    _check_plan(payload.get("item"), "item", require_key)


def check_added_batch(payload: Mapping[str, Any], require_key: bool) -> None:
    """``queue/item/add/batch`` of an agent: plans, at the back of the queue."""
    _refuse_position(payload)
    items = payload.get("items")
    if not isinstance(items, list):
        raise Problem("invalid_body", "items is missing: send a list of plans")
    for index, item in enumerate(items):
        _check_plan(item, f"items.{index}", require_key)


def check_updated(payload: Mapping[str, Any], require_key: bool) -> None:
    """``queue/item/update`` of an agent: the item stays a plan with a key. Ownership: `refuse_others`."""
    _check_plan(payload.get("item"), "item", require_key)


def touched_by_update(payload: Mapping[str, Any]) -> list[str]:
    """The `item_uid` that an update names."""
    item = payload.get("item")
    return _uids([item.get("item_uid")] if isinstance(item, dict) else None, "item.item_uid")


def touched_by_remove(payload: Mapping[str, Any]) -> list[str]:
    """The `item_uid` that a removal names. By position is refused: the queue may move in between."""
    if payload.get("pos") is not None:
        raise Problem("forbidden", "an agent removes an item by its uid, not by its position: send uid alone")
    return _uids([payload.get("uid")], "uid")


def touched_by_remove_batch(payload: Mapping[str, Any]) -> list[str]:
    """The `item_uid`s that a batch removal names."""
    return _uids(payload.get("uids"), "uids")


def refuse_others(uids: Sequence[str], queue: Sequence[Mapping[str, Any]], role: str) -> None:
    """Refuse a change as a whole where one of the items named belongs to somebody else.

    Parameters
    ----------
    uids
        The items to be changed. One that is nowhere in the queue passes: the queue server says that itself.
    queue
        The queue and the running item, as the queue server gives them.
    role
        Who asks. An item's owner is its ``user`` and ``user_group``.
    """
    for item in queue:
        if item.get("item_uid") in uids and (item.get("user"), item.get("user_group")) != (role, role):
            raise Problem(
                "forbidden",
                f"item {item.get('item_uid')} belongs to {item.get('user')!r} (group {item.get('user_group')!r}):"
                f" an {role} changes only its own items",
            )


AGENT_CHECKS: Mapping[str, Callable[[Mapping[str, Any], bool], None]] = {
    "/api/queue/item/add": check_added,
    "/api/queue/item/add/batch": check_added_batch,
    "/api/queue/item/update": check_updated,
}
"""By route: what is refused by looking at the request alone."""

AGENT_TOUCHES: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "/api/queue/item/update": touched_by_update,
    "/api/queue/item/remove": touched_by_remove,
    "/api/queue/item/remove/batch": touched_by_remove_batch,
}
"""By route: the items that must be the agent's own."""


def _check_plan(item: Any, where: str, require_key: bool) -> None:
    if not isinstance(item, dict):
        raise Problem("invalid_body", f'{where} is missing: send {{"item_type": "plan", "name": …, "kwargs": …}}')
    if item.get("item_type") != "plan":
        raise Problem(
            "forbidden",
            f"{where}.item_type is {item.get('item_type')!r}: an agent queues plans only"
            " (an instruction such as queue_stop controls the queue)",
        )
    key = meta_of(item).get("op_key")
    if key is None:
        if require_key:
            raise Problem(
                "key_missing",
                f"{where}.meta.op_key is missing: give every plan a key of its own, 8 to 128 characters of"
                " A-Z a-z 0-9 . _ : - (scope.yml: agents.require_key)",
            )
    elif not isinstance(key, str) or not KEY.fullmatch(key):
        raise Problem("key_invalid", f"{where}.meta.op_key {key!r} is not 8 to 128 characters of A-Z a-z 0-9 . _ : -")


def _refuse_position(payload: Mapping[str, Any]) -> None:
    named = [name for name in ("before_uid", "after_uid") if payload.get(name) is not None]
    if payload.get("pos") not in (None, "back"):
        named.append("pos")
    if named:
        raise Problem("forbidden", f"{named[0]} {payload[named[0]]!r}: an agent adds at the back of the queue only")


def _uids(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(uid, str) for uid in value):
        raise Problem("invalid_body", f"{where} is missing: name items by their item_uid")
    return value
