"""What every step of a plan says to the RunEngine, as plain messages.

bluesky's own stubs write down the whole call stack each time one is called (`bluesky.utils.Plan`, for a warning), which costs
more than their message: 0.1 to 0.3 ms, seven times a step. Where a plan does something once, they are as good.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from bluesky import Msg

from ._template import PlanBody

_groups = count()


def checkpoint() -> PlanBody:
    """`bps.checkpoint`"""
    yield Msg("checkpoint")


def move(targets: Mapping[Any, Any]) -> PlanBody:
    """`bps.mv`: all of them at once, by positioner."""
    group = f"move-{next(_groups)}"
    for positioner, target in targets.items():
        yield Msg("set", positioner, target, group=group)
    if targets:
        yield Msg("wait", None, group=group)


def _waited(command: str, device: Any, *args: Any) -> PlanBody:
    group = f"{command}-{next(_groups)}"
    yield Msg(command, device, *args, group=group)
    yield Msg("wait", None, group=group)


def trigger(device: Any) -> PlanBody:
    """`bps.trigger` with ``wait=True``."""
    yield from _waited("trigger", device)


def prepare(device: Any, value: Any) -> PlanBody:
    """`bps.prepare` with ``wait=True``."""
    yield from _waited("prepare", device, value)


def kickoff(flyer: Any) -> PlanBody:
    """`bps.kickoff` with ``wait=True``."""
    yield from _waited("kickoff", flyer)


def declare(flyer: Any, stream: str) -> PlanBody:
    """`bps.declare_stream` of what will be collected."""
    yield Msg("declare_stream", None, flyer, name=stream, collect=True)


def collect(flyer: Any, stream: str) -> PlanBody:
    """`bps.collect` of what is new, which it doesn't return."""
    yield Msg("collect", flyer, name=stream, return_payload=False)


def follow(flyer: Any, stream: str, waits: bool) -> PlanBody:
    """A program that was kicked off, told as its frames come, until it has ended. ``waits``: a pause can hold it before each
    exposure.
    """
    while True:
        if waits:
            yield from checkpoint()
        yield from trigger(flyer)
        yield from collect(flyer, stream)
        if flyer.ended:
            return


def read_together(*devices: Any, stream: str) -> PlanBody:
    """One event of these devices' readings, which it returns; None where a pause came between."""
    yield Msg("create", None, name=stream)
    readings = []
    try:
        for device in devices:
            readings.append((yield Msg("read", device)))
    except Exception:
        yield Msg("drop")
        raise
    yield Msg("save")
    return readings
