"""Positions at equal distances."""

from __future__ import annotations


def centred_steps(centre: float, slices: int, step: float) -> list[float]:
    """``slices`` positions ``step`` apart around ``centre``, in ascending order for a positive step."""
    return [centre + (index - (slices - 1) / 2) * step for index in range(slices)]


def stack_slices(range_um: float, step_um: float) -> int:
    """Slices that cover a range: one more than there are whole steps in it."""
    return int(range_um / step_um + 1e-9) + 1
