"""Templates that look at the microscope, or change its state without taking images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Self

from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus
from pydantic import Field, create_model, model_validator

from ..config import NAME, Position, Scope
from ..hardware import DeviceError, HardwareError
from ._costs import CALL_S, RUN_S, focus_s, move_s, turn_s
from ._ending import ending
from ._movement import nearest, retract
from ._parameters import Parameters, choice, number
from ._reading import observe
from ._template import Estimate, PlanBody, PlanContext, Template

LIT_STEP_S = 1.0
"""`set_light` looks so often whether it was paused, which closes the gate."""


def read_state(scope: Scope) -> Template:
    model = create_model("read_state", __base__=Parameters)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Read every position, label, value and light of the microscope.

        Moves nothing and uses no light. Returns the readings by name; a reading that fails fails the run.
        """
        others = set(scope.of_kind("camera", "multi_camera")) | {"volume", "burst", "lights_off", "live_view"}
        devices = [device for name, device in context.devices.items() if name not in others]
        run_uid = yield from bps.open_run()
        state = yield from observe(*devices)
        yield from bps.close_run()
        return {"run_uid": run_uid, "state": state}

    def estimate(_: Any, scope: Scope) -> Estimate:
        return Estimate(seconds=RUN_S + CALL_S * (len(scope.devices) + len(scope.lights)))

    return Template("read_state", model, body, estimate)


def set_light(scope: Scope) -> Template | None:
    lights = scope.lights
    if not lights:
        return None
    lowest = min(light.limits_pct[0] for light in lights.values())
    highest = max(light.limits_pct[1] for light in lights.values())

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_its_limits(self) -> Self:
            name, on = getattr(self, "light", ""), getattr(self, "on", False)
            light, power, max_s = lights[name], getattr(self, "power_pct", None), getattr(self, "max_s", 0.0)
            if power is not None and not on:
                raise ValueError("power_pct: belongs to a light that is switched on: leave it out with on: false")
            if power is not None and not light.limits_pct[0] <= power <= light.limits_pct[1]:
                raise ValueError(
                    f"power_pct: {name} {power} % is outside {list(light.limits_pct)}"
                    f" (scope.yml: lights.{name}.power.limits_pct)"
                )
            if on and max_s > light.max_on_s:
                raise ValueError(
                    f"max_s: {name} is on for at most {light.max_on_s:g} s, not {max_s:g}"
                    f" (scope.yml: lights.{name}.max_on_s)"
                )
            return self

    model = create_model(
        "set_light",
        __base__=Checked,
        light=(choice(list(lights), "the light"), ...),
        on=(Annotated[bool, Field(description="true: on for max_s, then off; false: off")], ...),
        power_pct=(
            number(lowest, highest, "%", "its power; each light has its own limits; null: the lowest allowed") | None,
            None,
        ),
        max_s=(number(0.05, max(light.max_on_s for light in lights.values()), "s", "how long it is on"), 10.0),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Switch one light on for a time and off again, or off.

        Moves nothing. The light named is on for max_s while the plan lasts: no light outlives its plan. The hardware closes its
        gate by itself too. While it is paused the light is off. Returns how long it was on and at which power.
        """
        light, name = context.devices[parameters.light], parameters.light
        run_uid = yield from bps.open_run({"lights": [name]})

        on = True if parameters.power_pct is None else parameters.power_pct

        def lit() -> PlanBody:
            yield from bps.abs_set(light, on, max_s=parameters.max_s, wait=True)
            power = (yield from observe(light))[f"{name}_power_pct"]
            rest = parameters.max_s
            while rest > 1e-3:
                step = min(rest, LIT_STEP_S)
                yield from bps.checkpoint()
                yield from bps.abs_set(light, on, max_s=rest, wait=True)  # a pause has closed it
                yield from bps.sleep(step)
                rest -= step
            return power

        def off() -> PlanBody:
            yield from bps.abs_set(light, False, wait=True)

        power = yield from ending(lit() if parameters.on else bps.null(), off)
        yield from bps.checkpoint()
        after = yield from observe(light)
        yield from bps.close_run()
        lit_s = parameters.max_s if parameters.on else 0.0
        return {"run_uid": run_uid, "light": name, "lit_s": lit_s, "power_pct": power, "on": after[name]}

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        if not parameters.on:
            return Estimate(seconds=RUN_S + 2 * CALL_S)
        lowest = scope.lights[parameters.light].limits_pct[0]
        power = lowest if parameters.power_pct is None else parameters.power_pct
        calls = 4 + parameters.max_s // LIT_STEP_S
        seconds = RUN_S + parameters.max_s + calls * CALL_S
        return Estimate(seconds, dose={parameters.light: power * parameters.max_s})

    return Template("set_light", model, body, estimate, example={"light": next(iter(lights)), "on": True, "max_s": 0.1})


def set_objective(scope: Scope) -> Template | None:
    turret = next(iter(scope.of_kind("objective")), None)
    if turret is None or not scope.objectives:
        return None
    model = create_model(
        "set_objective", __base__=Parameters, name=(choice(list(scope.objectives), "the objective, by its name"), ...)
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Turn another objective in: a focus lock is released and the stages of safety.retract_first go home first.

        Moves those stages, which stay at home, and the turret; uses no light. Returns the objective's name and label, and
        where the stages stand.
        """
        device, label = context.devices[turret], scope.objectives[parameters.name].label
        run_uid = yield from bps.open_run({"motors": [*scope.safety.retract_first, turret]})
        yield from _release_focus(context)
        yield from bps.checkpoint()
        retracted = yield from retract(context)
        yield from bps.mv(device, label)
        stages = [context.devices[name] for name in scope.safety.retract_first]
        reading = yield from observe(device, *stages)
        yield from bps.close_run()
        return {"run_uid": run_uid, "name": parameters.name, "label": reading[turret], "retracted": retracted}

    def estimate(_: Any, scope: Scope) -> Estimate:
        return Estimate(seconds=RUN_S + turn_s(scope) + move_s(scope, *scope.safety.retract_first) + CALL_S)

    return Template("set_objective", model, body, estimate, example={"name": next(iter(scope.objectives))})


def check_target(scope: Scope, name: str, target_c: float) -> None:
    """
    Raises
    ------
    ValueError
        Where a temperature is outside its device's limits.
    """
    low, high = scope.of_kind("temperature")[name].limits
    if not low <= target_c <= high:
        raise ValueError(
            f"target_c: {name} {target_c} °C is outside [{low}, {high}] (scope.yml: devices.{name}.limits)"
        )


def set_temperature(scope: Scope) -> Template | None:
    settable = {name: device for name, device in scope.of_kind("temperature").items() if device.setpoint is not None}
    if not settable:
        return None

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_its_limits(self) -> Self:
            check_target(scope, getattr(self, "device", ""), getattr(self, "target_c", 0.0))
            return self

    lowest = min(device.limits[0] for device in settable.values())
    highest = max(device.limits[1] for device in settable.values())
    model = create_model(
        "set_temperature",
        __base__=Checked,
        target_c=(number(lowest, highest, "degC", "the temperature to reach"), ...),
        wait=(Annotated[bool, Field(description="wait until it is reached and stable")], True),
        timeout_s=(number(0.1, 86_400, "s", "wait no longer; null: as scope.yml says") | None, None),
        device=(choice(list(settable), "which of the microscope's temperatures"), next(iter(settable))),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Set a temperature, and wait until it is reached and stable.

        Moves nothing and uses no light. The setpoint stays afterwards, also where it was not reached in time, which fails the
        run. Returns the temperature before and after.
        """
        device = context.devices[parameters.device]
        run_uid = yield from bps.open_run()
        before = (yield from observe(device))[device.name]
        how = {"timeout": parameters.timeout_s} if parameters.wait else {"reach": False}
        yield from bps.checkpoint()
        yield from bps.abs_set(device, parameters.target_c, wait=True, **how)
        after = (yield from observe(device))[device.name]
        yield from bps.close_run()
        return {"run_uid": run_uid, "before": before, "target": parameters.target_c, "after": after}

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        device = scope.of_kind("temperature")[parameters.device]
        longest = device.timeout_s if parameters.timeout_s is None else parameters.timeout_s
        return Estimate(RUN_S + 3 * CALL_S + (max(device.stable_s, min(60.0, longest)) if parameters.wait else 0.0))

    first = next(iter(settable.values()))
    example = {"target_c": nearest(30.0, first.limits), "wait": False}
    return Template("set_temperature", model, body, estimate, example=example)


def autofocus(scope: Scope) -> Template | None:
    name = next(iter(scope.of_kind("autofocus")), None)
    if name is None:
        return None
    axis = scope.of_kind("autofocus")[name].axis
    model = create_model(
        "autofocus",
        __base__=Parameters,
        mode=(choice(["once", "lock", "release"], "focus once, engage the focus lock, or release it"), ...),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Focus once, engage the focus lock, or release it.

        Moves the stage of the autofocus (once, lock); a lock stays engaged after the plan, and from then on moves that stage by
        itself. Uses no light of ours. Returns where the stage was and is, and whether the focus is locked.
        """
        device, stage = context.devices[name], context.devices[axis]
        run_uid = yield from bps.open_run({"motors": [axis]})
        before = yield from observe(device, stage)
        yield from bps.checkpoint()
        yield from bps.abs_set(device, {"once": "full", "lock": True, "release": False}[parameters.mode], wait=True)
        after = yield from observe(device, stage)
        yield from bps.close_run()
        return {"run_uid": run_uid, "before": before[axis], "after": after[axis], "locked": after[name]}

    return Template(
        "autofocus",
        model,
        body,
        lambda _, scope: Estimate(seconds=RUN_S + focus_s(scope) + 2 * CALL_S),
        example={"mode": "once"},
    )


def _release_focus(context: PlanContext) -> PlanBody:
    for name in context.scope.of_kind("autofocus"):
        yield from bps.abs_set(context.devices[name], False, wait=True)


def mark_position(scope: Scope) -> Template | None:
    x, y, z = scope.sample_axes()
    if x is None or y is None:
        return None
    known = list(scope.positions)

    class Checked(Parameters):
        @model_validator(mode="after")
        def _not_the_scopes(self) -> Self:
            if (name := getattr(self, "name", "")) in known:
                raise ValueError(
                    f"name: {name!r} is a position of scope.yml (positions): change it there, or take another name"
                )
            return self

    model = create_model(
        "mark_position",
        __base__=Checked,
        name=(Annotated[str, Field(pattern=NAME, description="what plans may call this place from now on")], ...),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Give the place where the sample is a name, which plans may use as position from then on. For people only.

        Moves nothing and uses no light; a name that was marked before means the new place. Returns the place, and the one that
        the name meant before.
        """
        stage = context.devices[x.partition(".")[0]]
        run_uid = yield from bps.open_run()
        reading = yield from observe(stage, *([context.devices[z]] if z else []))
        place = Position(x_um=reading[stage.x.name], y_um=reading[stage.y.name], z_um=reading[z] if z else None)
        before = None if context.dry else context.positions.mark(parameters.name, place, run_uid)
        yield from bps.close_run()
        return {
            "run_uid": run_uid,
            "name": parameters.name,
            "position": place.model_dump(),
            "before": None if before is None else before.model_dump(),
        }

    return Template(
        "mark_position",
        model,
        body,
        lambda _parameters, _scope: Estimate(seconds=RUN_S + 2 * CALL_S),
        example={"name": "embryo_1"},
        people_only=True,
    )


def shutdown_safe(scope: Scope) -> Template:
    model = create_model("shutdown_safe", __base__=Parameters)

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Leave the microscope safe: every light and emission off, motion stopped, focus lock released, stages retracted.

        Moves the stages of safety.retract_first to their homes; uses no light. Every step is tried, whatever failed before;
        a step that failed fails the run, which names it. Returns what became of each step.
        """
        steps: dict[str, str] = {}
        run_uid = yield from bps.open_run({"motors": list(scope.safety.retract_first)})
        yield from bps.checkpoint()
        for name, step in _safe_steps(scope, context):
            try:
                yield from step
                steps[name] = "done"
            except (HardwareError, FailedStatus) as error:
                steps[name] = str(error.__cause__ or error)
        for light in context.devices["lights_off"].outcome:
            steps[light.light] = f"off, {light.state.value}" if light.off else f"not off: {light.error}"
        failed = {name: told for name, told in steps.items() if told != "done" and not told.startswith("off, ")}
        if failed:
            raise DeviceError("not safe: " + "; ".join(f"{name}: {told}" for name, told in failed.items()))
        yield from bps.close_run()
        return {"run_uid": run_uid, "steps": steps}

    def estimate(_: Any, scope: Scope) -> Estimate:
        return Estimate(seconds=RUN_S + move_s(scope, *scope.safety.retract_first) + 5 * CALL_S)

    return Template("shutdown_safe", model, body, estimate)


def _safe_steps(scope: Scope, context: PlanContext) -> Iterator[tuple[str, PlanBody]]:
    """Light first, then what could touch the sample."""
    yield "lights", bps.abs_set(context.devices["lights_off"], False, wait=True)
    for name in scope.of_kind("stage", "xy_stage", "galvo"):
        yield f"{name} stopped", bps.stop(context.devices[name])
    if scope.of_kind("autofocus"):
        yield "focus lock released", _release_focus(context)
    for name in scope.safety.retract_first:
        yield f"{name} at home", bps.mv(context.devices[name], scope.axes()[name].home)
