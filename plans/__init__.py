"""Plan templates: typed, bounded by the scope file, safe to offer to an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..config import RESERVED, Scope
from ..devices import PLANS, added_devices, additions
from ..layout import Layout
from ._adaptive import adaptive_time_lapse
from ._burst import burst
from ._calibration import calibrate_piezo_galvo, calibrate_stage_camera
from ._centering import center_on_pixel
from ._channels import channel_names
from ._decision import Asked, Decided, decide
from ._dry_run import Circumstances, DryRun, check, go_through
from ._edge import edge_search
from ._embryos import multi_embryo_round
from ._focus_fit import FitError
from ._focus_sweep import focus_sweep, head_focus_descent
from ._imaging import snap
from ._live import live
from ._mda import mda
from ._movement import home, move_axis, move_xy, move_z
from ._parameters import ParameterError, Parameters, Problem, choice, count, number
from ._places import multi_position
from ._positions import Positions
from ._protocol import protocol
from ._reading import observe
from ._registering import register_views
from ._restoring import restoring
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
from ._temperature import temperature_burst
from ._template import Estimate, PlanContext, Template, annotations_of
from ._tiles import overview, tile_scan
from ._volume import acquire_volume

__all__ = [
    "Asked",
    "Circumstances",
    "Decided",
    "DryRun",
    "Estimate",
    "FitError",
    "ParameterError",
    "Parameters",
    "PlanContext",
    "Positions",
    "Problem",
    "Template",
    "build_plans",
    "channel_names",
    "check",
    "choice",
    "count",
    "decide",
    "go_through",
    "number",
    "observe",
    "restoring",
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
    edge_search,
    live,
    focus_sweep,
    head_focus_descent,
    calibrate_piezo_galvo,
    calibrate_stage_camera,
    register_views,
    center_on_pixel,
)
_REPEATING: tuple[Callable[[Scope, Mapping[str, Template]], Template | None], ...] = (
    multi_position,
    multi_embryo_round,
    time_lapse,
    adaptive_time_lapse,
    temperature_burst,
)
"""What repeats others, in this order: each may be repeated by those after it."""


def templates(scope: Scope, layout: Layout | None = None) -> dict[str, Template]:
    """The templates that this microscope can carry out, with its bounds, by name. Needs no hardware.

    What it has no devices for is left out: no `acquire_volume` without light-sheet views. ``layout``: the data directory, which
    has the positions that people marked; None: that of this process.

    Raises
    ------
    AdditionError
        Where a package's entry point can't be used.
    """
    positions = Positions(scope, layout or Layout())
    return {name: replace(template, positions=positions) for name, template in _made(scope).items()}


_last: tuple[Scope, Mapping[str, Template]] | None = None
"""What was made last, and of which scope: the manager and the worker are forks of a process that has made them."""


def _made(scope: Scope) -> Mapping[str, Template]:
    global _last
    if _last is None or _last[0] != scope:
        _last = scope, _make(scope)
    return _last[1]


def _make(scope: Scope) -> dict[str, Template]:
    made = {template.name: template for make in _TEMPLATES if (template := make(scope)) is not None}
    for repeat in _REPEATING:
        if (template := repeat(scope, made)) is not None:
            made[template.name] = template
    made |= _added(scope, made)
    if (several := protocol(scope, made)) is not None:  # of everything above
        made[several.name] = several
    return made


def _added(scope: Scope, made: Mapping[str, Template]) -> dict[str, Template]:
    """Of the entry points ``queuescope.plans``; `AdditionError` for one that can't be used."""
    ours = {"protocol", "RE", "scope_state", "scope_arm", "scope_rearm", "scope_call"}
    taken = {*made, *ours, *scope.devices, *scope.lights, *RESERVED, *added_devices(scope)}
    found: dict[str, Template] = {}
    for addition in additions(PLANS, taken):
        template = addition.make(scope)
        if template is None:
            continue
        if not isinstance(template, Template):
            raise addition.wrong(f"it gave {template!r}, not a queuescope.plans.Template")
        try:
            template.check(template.example)
            template.plan(PlanContext(scope, {}))
        except Exception as error:
            raise addition.wrong(f"{type(error).__name__}: {error}") from error
        found[addition.name] = template
    return found


def build_plans(
    scope: Scope, devices: Mapping[str, Any], layout: Layout | None = None
) -> dict[str, Callable[..., Any]]:
    """The plans as queueserver's namespace wants them."""
    context = PlanContext(scope, devices, layout or Layout())
    known = templates(scope, layout)
    described = annotations_of([template.model for template in known.values()])
    return {name: template.plan(context, described[template.model]) for name, template in known.items()}
