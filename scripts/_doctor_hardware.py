"""Checks that load the configuration: in a process of its own, which is gone afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from ..config import Scope
from ..hardware._checkup import Checkup
from . import _checks, _doctor_disk
from ._doctor import Check, Finding, Patient

LOAD_S = 180.0


class CheckupError(RuntimeError):
    """The process that loaded the configuration did not say how it went."""


def ask_hardware(who: Patient, timeout_s: float = LOAD_S) -> Checkup:
    """Load the configuration in a throw-away process and read everything once.

    Raises
    ------
    CheckupError
        Where it crashed, hung, or ended without an answer.
    """
    command = [sys.executable, "-m", "queuescope.hardware._checkup", "--scope", str(who.path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise CheckupError(
            f"an adapter did not answer within {timeout_s:g} s while the configuration was loaded"
        ) from None
    if done.returncode < 0:
        raise CheckupError(f"an adapter crashed (signal {-done.returncode}) while the configuration was loaded")
    lines = done.stdout.strip().splitlines()
    if not lines:
        last = done.stderr.strip().splitlines()
        raise CheckupError(last[-1] if last else f"it ended with code {done.returncode} and said nothing")
    return Checkup.model_validate_json(lines[-1])


def hardware(who: Patient) -> Iterator[Finding]:
    if who.scope is None:
        return
    if (pid := _checks.holder(who.layout)) is not None:
        yield Finding(
            "problem",
            "hardware",
            f"the stack on {who.layout.data} (pid {pid}) has the hardware",
            remedy=f"queuescope down --data {who.layout.data}, then ask again",
        )
        return
    try:
        found = ask_hardware(who)
    except CheckupError as error:
        remedy = "is every device switched on, connected, and not in use by Micro-Manager?"
        yield Finding("problem", "hardware", str(error), remedy=remedy)
        return
    yield from hardware_findings(who.scope, found)
    if found.frame_bytes:
        yield from _doctor_disk.disk_speed(who, found.frame_bytes)


def hardware_findings(scope: Scope, found: Checkup) -> Iterator[Finding]:
    """What a check-up means for this scope file."""
    for line in found.problems:
        yield Finding("problem", "hardware", line, remedy=f"correct {scope.path} or the configuration")
    if found.problems:
        return
    for device, why in found.unread.items():
        remedy = "check its cable and that it is switched on"
        yield Finding("problem", "hardware", f"{device} could not be read: {why}", remedy=remedy)
    for light, why in found.not_off.items():
        yield Finding(
            "problem", "hardware", f"{light} could not be switched off: {why}", remedy="switch it off by hand, now"
        )
    trouble = list(_exposures(scope, found))
    yield from [*trouble, *_firmware(scope, found)]
    if not trouble and not found.unread and not found.not_off:
        told = len(found.firmware)
        limits = f"the controllers' own limits of {told} axes read" if told else "no controller tells limits of its own"
        yield Finding("ok", "hardware", f"loaded, {found.read} readings taken, lights off; {limits}")


def _firmware(scope: Scope, found: Checkup) -> Iterator[Finding]:
    axes = scope.axes()
    for name, (low, high) in found.firmware.items():
        axis = axes[name]
        if low < axis.limits[0] or high > axis.limits[1]:
            yield Finding(
                "problem",
                "hardware",
                f"{name}: the controller's own limits are wider than the scope file's",
                f"[{low:g}, {high:g}] {axis.units}",
                f"[{axis.limits[0]:g}, {axis.limits[1]:g}] {axis.units} ({axis.source})",
                "set the controller's limits to the scope file's, so that a joystick can't go further either",
            )


def _exposures(scope: Scope, found: Checkup) -> Iterator[Finding]:
    for name, (low, high) in found.exposures.items():
        asked = scope.of_kind("camera")[name].exposure_ms
        if asked[0] < low or asked[1] > high:
            yield Finding(
                "problem",
                "hardware",
                f"{name}: the scope file allows exposures that the camera can't take",
                f"[{asked[0]:g}, {asked[1]:g}] ms (devices.{name}.exposure_ms)",
                f"[{low:g}, {high:g}] ms",
                f"narrow devices.{name}.exposure_ms",
            )


CHECKS: list[Check] = [hardware]
