"""One plan from the terminal: what is asked for, followed over REST to its end."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

import yaml

from ..layout import Layout
from ..lean import without
from ._rest import Rest

if TYPE_CHECKING:
    from ..agents import Job, Operation, Scope


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


def connect(layout: Layout) -> Scope:
    """The microscope of this data directory, as an operator."""
    with without("httpx._main"):  # its own command: rich's highlighting and click
        from ..agents import Scope

    return Scope.connect(data=layout.data, role="operator")


def execute(rest: Rest, plan: str, kwargs: dict[str, Any], key: str, lock_key: str) -> None:
    """For the person who has the microscope, while the queue is locked and stopped: the plan runs at once, and nothing else
    does. `RestError` where the server refuses it.
    """
    item = {"item_type": "plan", "name": plan, "args": [], "kwargs": kwargs, "meta": {"op_key": key}}
    rest.post("/api/queue/item/execute", {"item": item, "lock_key": lock_key})


def follow(job: Job, plan: str, console: Any) -> Operation:
    """Submit a job and show a progress bar until it has ended, however it ends. Ctrl-C cancels it; a second one leaves it."""
    from ..agents import Bar

    with Bar(plan, shown=True, console=console) as bar:
        try:
            job.submit()
            for event in job.events():
                bar.take(event)
        except KeyboardInterrupt:
            bar.say("cancelling")
            job.cancel()
        return job.wait()
