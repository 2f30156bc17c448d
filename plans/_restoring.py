"""Bringing the microscope back to where a step left it, before the plan that follows that step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluesky import Msg
from bluesky import plan_stubs as bps

from ._movement import device_of, retract
from ._reading import answer
from ._template import PlanBody, PlanContext


def restoring(context: PlanContext, axes: Mapping[str, float], labels: Mapping[str, str]) -> PlanBody:
    """Labels, then axes, as the templates move them: each checked against limits and collision rules, waited for, read back.

    What is in place already isn't moved. Where anything else than the stages of `safety.retract_first` has to move, those go home
    first, and to where they were last.

    Parameters
    ----------
    axes
        Positions by axis, in µm or deg.
    labels
        By device: objective, state devices, groups.
    """
    known, first = context.scope.axes(), set(context.scope.safety.retract_first)
    away, turned = {}, {}
    for name, to in axes.items():
        if abs((yield from _reading(device_of(context, name))) - to) > known[name].tolerance:
            away[name] = to
    for name, label in labels.items():
        if (yield from _reading(context.devices[name])) != label:
            turned[name] = label
    if turned or set(away) - first:
        yield from retract(context)
        away |= {name: axes[name] for name in first & set(axes)}
    for name, label in turned.items():
        yield from bps.checkpoint()
        yield from bps.mv(context.devices[name], label)
    for name in sorted(away, key=lambda axis: axis in first):
        yield from bps.checkpoint()
        yield from bps.mv(device_of(context, name), away[name])


def _reading(device: Any) -> PlanBody:
    """The value that bears the device's name."""
    reading = yield from answer(Msg("read", device))
    return reading[device.name]["value"]
