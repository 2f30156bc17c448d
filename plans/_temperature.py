"""`temperature_burst`: frames by the clock while a temperature changes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

from bluesky import plan_stubs as bps
from pydantic import create_model, model_validator

from ..config import Scope
from ._acquisition import Acquisition, run_of
from ._doing import do_field
from ._movement import nearest
from ._parameters import Parameters, choice, count, number
from ._reading import observe
from ._rounds import RoundRecord, all_rounds, in_time
from ._space import wait_for_space
from ._state import check_target
from ._template import Estimate, PlanBody, PlanContext, Template


class Ramp:
    """One change of temperature, looked at before each round."""

    def __init__(self, parameters: Any, context: PlanContext, acquisition: Acquisition) -> None:
        self._parameters, self._context, self._acquisition = parameters, context, acquisition
        self._settings = context.scope.of_kind("temperature")[parameters.device]
        self._device = context.devices[parameters.device]
        self._since: float | None = None
        """Monotonic: since when every look found it reached."""
        self.reached = False
        self.seen: list[float] = []

    def once(self) -> PlanBody:
        """Look, then take a round; after the first one the setpoint is written."""
        yield from self._look()
        taken = yield from self._acquisition.once()
        if len(self.seen) == 1:
            yield from bps.checkpoint()
            yield from bps.abs_set(self._device, self._parameters.target_c, wait=True, reach=False)
        return taken

    def between(self, number_: int, left_s: float) -> PlanBody:
        """The round that found it reached and stable was the last."""
        yield from bps.null()
        return None if self.reached else self._parameters.interval_s

    def _look(self) -> PlanBody:
        found = yield from observe(self._device, stream="temperature")
        here = found[self._device.name]
        self.seen.append(here)
        if self._context.dry or len(self.seen) == 1:  # the first one is before
            return
        now = time.monotonic()
        if abs(here - self._parameters.target_c) > self._settings.tolerance:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        self.reached = now - self._since >= self._settings.stable_s


def temperature_burst(scope: Scope, made: Mapping[str, Template]) -> Template | None:
    """``made``: what may be done meanwhile, among others."""
    settable = [name for name, device in scope.of_kind("temperature").items() if device.setpoint is not None]
    do = do_field(made)
    if do is None or not settable:
        return None
    limits = [scope.of_kind("temperature")[name].limits for name in settable]

    class Checked(Parameters):
        @model_validator(mode="after")
        def _inside_its_limits(self) -> Self:
            check_target(scope, getattr(self, "device", ""), getattr(self, "target_c", 0.0))
            return self

    model = create_model(
        "temperature_burst",
        __base__=Checked,
        target_c=(
            number(min(low for low, _ in limits), max(high for _, high in limits), "degC", "the temperature to reach"),
            ...,
        ),
        do=(do.annotation, ...),
        interval_s=(number(0.1, 86_400, "s", "from the beginning of a round to that of the next"), ...),
        rounds=(count(2, 100_000, "most rounds, the one before the change included"), ...),
        device=(choice(settable, "which of the microscope's temperatures"), settable[0]),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Change a temperature and take frames meanwhile: one round before, then one every interval_s until it is stable.

        Moves and lights what it does (its parameters say); between rounds no light is on. The setpoint is written after the first
        round and stays, also where the temperature isn't reached. It ends with the round that finds the temperature within its
        tolerance for the scope's stable_s, as seen at the beginning of each round, or after rounds. A late round begins at once.
        The stream temperature has what was read before each round. Returns the run UID, the frames written, the temperature
        before and after, whether it was reached, and how many rounds were late.
        """
        acquisition = do.acquire(parameters.do, context, rounds=parameters.rounds)
        frames = do.estimate(parameters.do, scope).frames
        ramp, record = Ramp(parameters, context, acquisition), RoundRecord()

        def rounds() -> PlanBody:
            yield from in_time(
                ramp.once,
                record,
                rounds=parameters.rounds,
                interval_s=parameters.interval_s,
                on_late="run",
                before=lambda: wait_for_space(context, frames),
                between=ramp.between,
            )

        metadata = {"rounds": parameters.rounds, "interval_s": parameters.interval_s, "do": parameters.do.plan}
        result = yield from run_of(acquisition, rounds, **metadata)
        seen = {"before": ramp.seen[0], "target": parameters.target_c, "after": ramp.seen[-1], "reached": ramp.reached}
        return {**result, **seen, "late": record.late}

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return all_rounds(do.estimate(parameters.do, scope), parameters.rounds, parameters.interval_s)

    example = {"target_c": nearest(37.0, limits[0]), "do": do.example(), "interval_s": 0.5, "rounds": 2}
    return Template("temperature_burst", model, body, estimate, example=example)
