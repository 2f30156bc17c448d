"""Plan templates: typed, bounded by the scope file, safe to offer to an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..config import Scope
from ..layout import Layout
from ._burst import burst
from ._dry_run import Circumstances, DryRun, check
from ._imaging import snap
from ._mda import mda
from ._movement import home, move_axis, move_xy, move_z
from ._parameters import ParameterError, Problem
from ._places import multi_position
from ._positions import Positions
from ._rounds import time_lapse
from ._space import wait_for_space
from ._stack import z_stack
from ._state import (
    autofocus,
    mark_position,
    read_state,
    set_light,
    set_objective,
    set_temperature,
    shutdown_safe,
)
from ._template import Estimate, PlanContext, Template
from ._tiles import overview, tile_scan
from ._volume import acquire_volume

__all__ = [
    "Circumstances",
    "DryRun",
    "Estimate",
    "ParameterError",
    "PlanContext",
    "Positions",
    "Problem",
    "Template",
    "build_plans",
    "channel_names",
    "check",
    "templates",
    "wait_for_space",
]

_TEMPLATES: tuple[Callable[[Scope], Template | None], ...] = (
    read_state,
    move_axis,
    move_xy,
    move_z,
    home,
    set_light,
    set_objective,
    set_temperature,
    autofocus,
    mark_position,
    shutdown_safe,
    snap,
    z_stack,
    burst,
    acquire_volume,
    tile_scan,
    overview,
    mda,
)
_REPEATING: tuple[Callable[[Scope, Mapping[str, Template]], Template | None], ...] = (multi_position, time_lapse)
"""What repeats others, in this order: each may be repeated by those after it."""


def templates(scope: Scope, layout: Layout | None = None) -> dict[str, Template]:
    """The templates that this microscope can carry out, with its bounds, by name. Needs no hardware.

    What it has no devices for is left out: no `acquire_volume` without light-sheet views. ``layout``: the data directory, which
    has the positions that people marked; None: that of this process.
    """
    made = {template.name: template for make in _TEMPLATES if (template := make(scope)) is not None}
    for repeat in _REPEATING:
        if (template := repeat(scope, made)) is not None:
            made[template.name] = template
    positions = Positions(scope, layout or Layout())
    return {name: replace(template, positions=positions) for name, template in made.items()}


def channel_names(parameters: Any) -> list[str]:
    """The channels that a plan with these parameters takes frames in, also through what it repeats (``do``)."""
    while (do := getattr(parameters, "do", None)) is not None:
        parameters = do.kwargs
    return [channel.name for channel in getattr(parameters, "channels", None) or []]


def build_plans(
    scope: Scope, devices: Mapping[str, Any], layout: Layout | None = None
) -> dict[str, Callable[..., Any]]:
    """The plans as queueserver's namespace wants them."""
    context = PlanContext(scope, devices, layout or Layout())
    return {name: template.plan(context) for name, template in templates(scope, layout).items()}
