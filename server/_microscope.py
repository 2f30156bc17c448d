"""The microscope as people and agents see it: what the scope file says of each part, and what is read of it now."""

from __future__ import annotations

import asyncio
from typing import Any

from ..config import Scope
from ..hardware import HardwareError, HardwareState, LatchFile, ReleasedError
from ..ledger import Control, read_control
from ._context import Context
from ._models import ScopeDevice, ScopeLight, ScopeView
from ._problems import Problem
from ._queue import QueueUnreachable, ask

READ_S = 5.0
"""Time that reading everything may take beyond one adapter call (scope.yml: micromanager.call_timeout_s)."""
STATE_FUNCTION = "scope_state"
"""Function in the RE worker's namespace that returns `HardwareState` as JSON, for mode ``worker``."""


async def scope_view(context: Context) -> ScopeView:
    """Read the microscope; raises as `read_hardware` does."""
    state = await read_hardware(context)
    return _view(context.scope, context.server_id(), state, read_control(context.layout))


async def read_hardware(context: Context) -> HardwareState:
    """Everything that the hardware says now, in both modes.

    Raises
    ------
    Problem
        ``hardware_unreachable`` where nobody answered in time, ``released`` while it is with another program.
    """
    deadline_s = context.scope.micromanager.call_timeout_s + READ_S
    released = LatchFile.released(context.layout).read()
    if released is not None and context.scope.micromanager.process == "worker":
        raise Problem("released", f"released by {released.by} ({released.reason}): queuescope reclaim takes it back")
    try:
        if context.scope.micromanager.process == "own":
            return await context.hardware_state.ask(deadline_s)
        async with asyncio.timeout(deadline_s):
            return HardwareState.model_validate(await _state_from_worker(context))
    except TimeoutError:
        raise Problem("hardware_unreachable", f"the hardware gave no answer within {deadline_s:g} s") from None
    except ReleasedError as error:
        raise Problem("released", str(error)) from None
    except (HardwareError, QueueUnreachable) as error:
        raise Problem("hardware_unreachable", str(error)) from None


async def _state_from_worker(context: Context) -> dict[str, Any]:
    return await from_worker(context, STATE_FUNCTION)


async def from_worker(context: Context, function: str, **kwargs: Any) -> dict[str, Any]:
    """Mode ``worker``: MMCore is reached through the RE worker, in the background of a running plan.

    Raises
    ------
    Problem
        ``hardware_unreachable`` where it can't be asked or the function failed.
    """
    request = {
        "item": {"item_type": "function", "name": function, "kwargs": kwargs},
        "run_in_background": True,
        "user": "http",
        "user_group": "admin",
    }
    started = await ask(context.control, "function_execute", request)
    if not started.get("success"):
        raise Problem("hardware_unreachable", f"the RE worker can't be asked: {started.get('msg')}")
    while True:
        reply = await ask(context.control, "task_result", {"task_uid": started["task_uid"]})
        if reply.get("status") == "completed":
            result = reply["result"]
            if not result.get("success"):
                raise Problem("hardware_unreachable", f"{function} failed in the RE worker: {result.get('msg')}")
            return dict(result["return_value"])
        if not reply.get("success"):
            raise Problem("hardware_unreachable", f"the RE worker lost the question: {reply.get('msg')}")
        await asyncio.sleep(0.02)


def _view(scope: Scope, server_id: str | None, state: HardwareState, control: Control) -> ScopeView:
    devices = {name: _device(name, device, state) for name, device in scope.devices.items()}
    return ScopeView(
        name=scope.name,
        mode=scope.micromanager.process,
        server_id=server_id,
        time=state.time,
        devices=devices,
        lights={
            name: ScopeLight(
                wavelength_nm=light.wavelength_nm,
                laser_class=light.laser_class,
                limits_pct=light.limits_pct,
                state=state.lights.get(name),
                error=state.errors.get(name),
            )
            for name, light in scope.lights.items()
        },
        channels={name: channel.model_dump(mode="json") for name, channel in scope.channels.items()},
        objectives={name: objective.model_dump(mode="json") for name, objective in scope.objectives.items()},
        cameras=state.cameras,
        temperature={name: float(state.values[name]) for name in scope.of_kind("temperature") if name in state.values},
        errors=state.errors,
        safety=state.safety,
        control=control,
    )


def _device(name: str, device: Any, state: HardwareState) -> ScopeDevice:
    stated = device.model_dump(mode="json")
    components = {part: state.positions[axis] for part in ("x", "y") if (axis := f"{name}.{part}") in state.positions}
    return ScopeDevice(
        kind=device.kind,
        label=device.label,
        units=stated.get("units"),
        limits=stated.get("limits"),
        position=components or state.positions.get(name),
        current=state.labels.get(name),
        value=state.values.get(name),
        choices=stated.get("choices"),
        focus=state.focus.get(name),
        view=stated.get("view"),
        error=state.errors.get(name),
    )
