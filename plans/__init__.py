"""Plan templates: typed, bounded by the scope file, safe to offer to an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..config import Scope
from ._burst import burst
from ._imaging import snap
from ._movement import move_axis, read_state
from ._parameters import ParameterError, Problem
from ._space import wait_for_space
from ._stack import z_stack
from ._template import Estimate, PlanContext, Template
from ._volume import acquire_volume

__all__ = [
    "Estimate",
    "ParameterError",
    "PlanContext",
    "Problem",
    "Template",
    "build_plans",
    "templates",
    "wait_for_space",
]

_TEMPLATES: tuple[Callable[[Scope], Template | None], ...] = (
    read_state,
    move_axis,
    snap,
    z_stack,
    burst,
    acquire_volume,
)


def templates(scope: Scope) -> dict[str, Template]:
    """The templates that this microscope can carry out, with its bounds, by name. Needs no hardware.

    What it has no devices for is left out: no `acquire_volume` without light-sheet views.
    """
    made = (make(scope) for make in _TEMPLATES)
    return {template.name: template for template in made if template is not None}


def build_plans(scope: Scope, devices: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The plans as queueserver's namespace wants them."""
    context = PlanContext(scope, devices)
    return {name: template.plan(context) for name, template in templates(scope).items()}
