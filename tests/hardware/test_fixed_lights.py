"""Lights that are only a shutter: MMCore's own open and close, and a power that software can't set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from queuescope.config import Scope
from queuescope.hardware import ConfigurationError, connect
from queuescope.layout import Layout

GATE = 'gate:     {label: "LED:X:31"}'
POWER = "power:    {label: LED DA, property: Voltage, full_scale: 5, limits_pct: [0, 50]}"
CHANNEL = "power_pct: 10, "


def test_a_gate_without_a_property_must_be_a_shutter(make_scope: Callable[..., Scope], tmp_path: Path) -> None:
    scope = make_scope(tmp_path, scope=[(GATE, "gate: {label: LaserLine, property: null}")])
    with pytest.raises(ConfigurationError, match=r"lights\.led\.gate\.label: 'LaserLine' is a StateDevice"):
        connect(scope, Layout(tmp_path / "data"))


def test_a_shutter_gate_with_fixed_power_opens_and_closes(make_scope: Callable[..., Scope], tmp_path: Path) -> None:
    """R3.9 opened, read back, closed with everything else."""
    edits = [(GATE, 'gate: {label: "LED:X:31", property: null}'), (POWER, "power: fixed")]
    scope = make_scope(tmp_path, scope=[*edits, (CHANNEL, "")])
    hardware = connect(scope, Layout(tmp_path / "data"))
    try:
        assert hardware.set_light("led", True).on
        assert hardware.light("led").power_pct == 100
        assert all(light.off for light in hardware.lights_off())
        assert not hardware.light("led").on
    finally:
        hardware.close()
