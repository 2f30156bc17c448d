"""`adaptive_time_lapse`: rounds by the clock, and between them decisions of whoever started it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from bluesky import plan_stubs as bps
from pydantic import Field, TypeAdapter, create_model, model_validator

from ..config import Scope
from ..ledger import Question
from ._acquisition import run_of
from ._channels import channels_of, frame_settings, with_power
from ._decision import DecisionRecord, decide, tell
from ._doing import Do, do_field
from ._ending import ending
from ._live_places import Live, LivePlaces
from ._parameters import Parameters, choice, count, number, place_field
from ._places import (
    LONGEST_NAME,
    MOST_PLACES,
    check_places,
    example_place,
    of_places,
    place_name,
    places_field,
    safe_z_fields,
    visit_s,
)
from ._rounds import RoundRecord, in_time
from ._space import wait_for_space
from ._template import Estimate, PlanBody, PlanContext, Template

KEEP_S = 0.3
"""So long before the next round is due a decision ends."""
SHORTEST_S = 0.2
"""With less time nobody is asked."""
_BURST = "_burst"


class Lapse:
    """One adaptive time-lapse that runs: what it asks, and what an answer makes of it."""

    def __init__(self, parameters: Any, context: PlanContext, do: Do, burst: Template | None) -> None:
        self.places = LivePlaces(parameters, context, do, burst, parameters.rounds)
        self.unasked = 0
        """Times when the next round was due before anybody could answer."""
        self._parameters, self._context, self._do = parameters, context, do
        self._record = DecisionRecord()
        self._interval_s = parameters.interval_s
        self._place: TypeAdapter[Any] = TypeAdapter(place_field(context.scope, ""))
        for name, left in (parameters.end_after or {}).items():
            next(place for place in self.places.all if place.name == name).left = left
        self.run_uid = ""

    def frames(self) -> dict[str, int]:
        """Of the next round, by dataset."""
        one = self._do.estimate(self.places.doing, self._context.scope).frames
        found = {f"{name}_{place.name}": frames for place in self.places.live for name, frames in one.items()}
        return found | self.places.burst_frames()

    def between(self, number_: int, left_s: float) -> PlanBody:
        """Ask before this round; returns the interval from now on, or None where nothing is left to do."""
        self.places.number = number_
        self.places.end_spent()
        if not self.places.live:
            return None
        parameters = self._parameters
        if number_ % parameters.decide_every:
            return self._interval_s
        wait_s = min(left_s - KEEP_S, parameters.decision_s or left_s)
        if wait_s < SHORTEST_S:
            self.unasked += 1
            return self._interval_s
        question = Question("which places go on, and how?", self.answers(), {}, self._facts(number_))
        decided = yield from decide(self._context, question, wait_s)
        outcome = yield from self._apply(decided.answer, parameters.rounds - number_)
        self._record.tell(decided, json.dumps(decided.answer), outcome)
        yield from tell(self._record)
        return self._interval_s if self.places.live and not decided.answer.get("end") else None

    def _apply(self, answer: Mapping[str, Any], rounds: int) -> PlanBody:
        """Returns what was done, in words."""
        yield from bps.null()
        places, done = self.places, []
        for name in answer.get("stop", ()):
            places.stop(name, "stopped")
            done.append(f"{name} stopped")
        for name, left in answer.get("end_after", {}).items():
            for place in places.live:
                if place.name == name:
                    place.left = left
                    done.append(f"{name} ends after {left} rounds")
        if powers := answer.get("power_pct"):
            places.set_power({name: float(power) for name, power in powers.items()})
            done += [f"{name} at {power:g} %" for name, power in powers.items()]
        for where in answer.get("add", ()):
            place = self._place.validate_python(where, context={"positions": self._context.positions})
            name = yield from places.add(place, rounds)
            done.append(f"{name} added")
        bursting = [name for name in answer.get("burst", ()) if name in {place.name for place in places.live}]
        if bursting:
            yield from places.burst_at(bursting)
            done += [f"burst at {name}" for name in bursting]
        if "interval_s" in answer:
            self._interval_s = float(answer["interval_s"])
            done.append(f"every {self._interval_s:g} s")
        if answer.get("end"):
            done.append("no more rounds")
        return "; ".join(done) or "goes on as before"

    def answers(self) -> dict[str, Any]:
        """JSON Schema of what may be decided now."""
        parameters = self._parameters
        live = [place.name for place in self.places.live]
        properties: dict[str, Any] = {
            "stop": _several(live, "places that have ended"),
            "end_after": {
                "type": "object",
                "propertyNames": {"enum": live},
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": parameters.rounds},
                "description": "places that end after so many further rounds",
            },
            "power_pct": {
                "type": "object",
                "properties": self._powers(),
                "additionalProperties": False,
                "description": "by channel, from the next round on",
            },
            "end": {"type": "boolean", "description": "true: no more rounds"},
        }
        if (room := (parameters.max_positions or 0) - len(self.places.all)) > 0:
            properties["add"] = {
                "type": "array",
                "items": self._addable(),
                "uniqueItems": True,
                "maxItems": room,
                "description": f"places from the next round on; max_positions {parameters.max_positions}",
            }
        low, high = interval_limits(parameters)
        if low < high:
            properties["interval_s"] = {"type": "number", "minimum": low, "maximum": high, "description": "in s"}
        if self.places.bursts_left > 0:
            most = min(self.places.bursts_left, len(live))
            properties["burst"] = {**_several(live, "a burst follows the next round's frames here"), "maxItems": most}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _addable(self) -> dict[str, Any]:
        """A place that may be added: a name that isn't there yet, or coordinates."""
        taken = {place.name for place in self.places.all}
        longest = LONGEST_NAME - len(_BURST) - 1 - max(map(len, self._datasets()))
        names = [
            name
            for name in self._context.positions.names()
            if name not in taken and len(name) <= longest and not re.fullmatch(r"p\d+", name)
        ]
        coordinates = self._place.json_schema()["anyOf"][1]
        return {"anyOf": [coordinates, {"enum": names}] if names else [coordinates]}

    def _datasets(self) -> list[str]:
        return list(self._do.estimate(self.places.doing, self._context.scope).frames)

    def _powers(self) -> dict[str, Any]:
        """Each channel's power, as far as its light, `max_power_pct` and what is left of the dose budget allow."""
        parameters, scope, found = self._parameters, self._context.scope, {}
        budget = parameters.dose_budget or {}
        for name, (light, low, high) in power_limits(parameters, scope).items():
            source = "max_power_pct, or what the channel began with"
            if light in budget and (seconds := self._lit_s(light)):
                left = min(budget[light] - place.dose.get(light, 0.0) for place in self.places.live)
                if left / seconds < high:
                    high, source = (
                        max(low, round(left / seconds, 6)),
                        f"dose_budget of {light}: {left:g} % × s are left",
                    )
            found[name] = {"type": "number", "minimum": low, "maximum": high, "description": f"{light}; {source}"}
        return found

    def _lit_s(self, light: str) -> float:
        """Seconds that a light is on in one visit, all channels together."""
        return self._do.estimate(
            _at_power(self.places.doing, self._context.scope, 1.0, light), self._context.scope
        ).dose.get(light, 0.0)

    def _facts(self, number_: int) -> dict[str, Any]:
        return {
            "run_uid": self.run_uid,
            "next_round": number_,
            "rounds": self._parameters.rounds,
            "interval_s": self._interval_s,
            "places": {place.name: _fact(place) for place in self.places.all},
            "bursts_left": self.places.bursts_left,
        }


def _fact(place: Live) -> dict[str, Any]:
    return {"rounds": place.visits, "left": place.left, "ended": place.ended, "dose": place.dose}


def _several(names: list[str], doc: str) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": names}, "uniqueItems": True, "description": doc}


def _at_power(do: Any, scope: Scope, power_pct: float, light: str) -> Any:
    """``do`` with every channel of this light at one power."""
    powers = {
        channel.name: power_pct
        for channel in channels_of(do.kwargs)
        if channel is not None and scope.channels[channel.name].light == light
    }
    return do.model_copy(update={"kwargs": with_power(do.kwargs, powers)})


def interval_limits(parameters: Any) -> tuple[float, float]:
    """Shortest and longest interval that a decision may ask for, in s."""
    low, high = parameters.min_interval_s, parameters.max_interval_s
    return (
        parameters.interval_s if low is None else low,
        parameters.interval_s if high is None else high,
    )


def power_limits(parameters: Any, scope: Scope) -> dict[str, tuple[str, float, float]]:
    """By channel: its light, and the lowest and highest power that a decision may ask for, in %."""
    found = {}
    for channel in channels_of(parameters.do.kwargs):
        if channel is None:
            continue
        settings = frame_settings(channel, scope)
        light = scope.channels[channel.name].light
        low, high = scope.lights[light].limits_pct
        most = settings.power_pct if parameters.max_power_pct is None else parameters.max_power_pct
        if scope.lights[light].power == "fixed":
            continue
        found[channel.name] = (light, low, min(high, most or 0.0))
    return found


def adaptive_time_lapse(scope: Scope, made: Mapping[str, Template]) -> Template | None:
    """``made``: what may be done at each place, among others."""
    x, y, _ = scope.sample_axes()
    do = do_field({name: template for name, template in made.items() if "do" not in template.model.model_fields})
    if do is None or x is None or y is None:
        return None
    estimate_of, burst = do.estimate, made.get("burst")

    class Checked(Parameters):
        @model_validator(mode="after")
        def _fits_together(self) -> Self:
            return check_lapse(self, scope, estimate_of)

    powers = [light.limits_pct for light in scope.lights.values()]
    budget: Any = dict[choice(list(scope.lights), "light"), number(0, None, "% s", "dose")]  # type: ignore[misc]
    bursts: dict[str, Any] = {"burst": (None, None)}
    if burst is not None:
        doc = "what a burst is that a decision may ask for: parameters of burst; null: none"
        bursts["burst"] = (Annotated[burst.model | None, Field(description=doc)], None)
    model = create_model(
        "adaptive_time_lapse",
        __base__=Checked,
        positions=(places_field(scope), ...),
        do=(do.annotation, ...),
        interval_s=(
            number(0.1, 86_400, "s", "from the beginning of a round to that of the next, until decided otherwise"),
            ...,
        ),
        rounds=(count(1, 100_000, "how many rounds at most"), ...),
        decide_every=(count(1, 100_000, "a decision is asked for after every so many rounds"), 1),
        decision_s=(
            number(0.1, 86_400, "s", "a decision is waited for at most so long; null: until the next round is due")
            | None,
            None,
        ),
        max_positions=(
            count(
                1,
                MOST_PLACES,
                "most places, those included that ended and those that decisions add; null: none is added",
            )
            | None,
            None,
        ),
        min_interval_s=(
            number(0.1, 86_400, "s", "shortest that a decision may ask for; null: interval_s") | None,
            None,
        ),
        max_interval_s=(number(0.1, 86_400, "s", "longest that a decision may ask for; null: interval_s") | None, None),
        max_power_pct=(
            number(
                min((low for low, _ in powers), default=0.0),
                max((high for _, high in powers), default=0.0),
                "%",
                "highest power that a decision may ask for, within each light's limits; null: what each channel begins with",
            )
            | None,
            None,
        ),
        dose_budget=(
            Annotated[
                budget | None, Field(description="what each place may get, by light [% s]; null: no limit of its own")
            ],
            None,
        ),
        end_after=(
            Annotated[
                dict[str, count(1, 100_000, "rounds")] | None,  # type: ignore[misc]
                Field(description="places that end after so many rounds, by name; null: none"),
            ],
            None,
        ),
        **bursts,
        max_bursts=(count(1, 1_000, "most bursts, of all places together"), 10),
        on_late=(choice(["skip", "run"], "a round whose time has passed is left out, or begins at once"), "skip"),
        **safe_z_fields(scope),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Do the same at each place in every round, and ask between rounds which places go on, and how.

        Moves the sample to each place (over safe_z_um where it is given), and what it does; stays at the last one. Lights what it
        does; while it asks no light is on. The n-th round begins n × interval_s after the first. A decision may end places, add
        some, change interval and powers, and ask for a burst, within the limits given here; where nobody answers before the next
        round is due, it goes on as before. A place ends when it was told to, after end_after rounds, or when its dose_budget
        allows no further visit; without places it ends. Each place has datasets and a stream of its own; the streams rounds,
        visits and decisions say what was done when, and who decided it. Returns the run UID, the frames written, what became of
        each place, how many rounds were late and left out, and how often there was no time to ask.
        """
        lapse, record = Lapse(parameters, context, do, burst), RoundRecord()

        def rounds() -> PlanBody:
            yield from in_time(
                lapse.places.once,
                record,
                rounds=parameters.rounds,
                interval_s=parameters.interval_s,
                on_late=parameters.on_late,
                before=lambda: wait_for_space(context, lapse.frames()),
                between=lapse.between,
            )

        def opened(run_uid: str) -> None:
            lapse.run_uid = run_uid

        metadata = {"rounds": parameters.rounds, "interval_s": parameters.interval_s, "do": parameters.do.plan}
        whole = run_of(lapse.places, rounds, opened=opened, **metadata)
        result = yield from ending(whole, lapse.places.unstage)
        return {**result, "late": record.late, "skipped": record.skipped, "unasked": lapse.unasked}

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        return _estimate(parameters, scope, do, burst)

    example = {"positions": [example_place(scope)], "do": do.example(), "interval_s": 1.0, "rounds": 2}
    return Template("adaptive_time_lapse", model, body, estimate, example=example)


def check_lapse(parameters: Any, scope: Scope, estimate_of: Any) -> Any:
    """
    Raises
    ------
    ValueError
        Beginning with the parameter's name.
    """
    what, positions = parameters.do, parameters.positions
    check_places(what, positions, estimate_of(what, scope).frames, "adaptive_time_lapse", _BURST)
    names = [place_name(place, index) for index, place in enumerate(positions)]
    if unknown := sorted(set(parameters.end_after or {}) - set(names)):
        raise ValueError(f"end_after: there is no place {unknown[0]!r}, there are {names}")
    if parameters.max_positions is not None and parameters.max_positions < len(positions):
        raise ValueError(
            f"max_positions: {parameters.max_positions} is less than the {len(positions)} places that it begins with"
        )
    low, high = interval_limits(parameters)
    if not low <= parameters.interval_s <= high:
        raise ValueError(
            f"interval_s: {parameters.interval_s:g} s is outside [{low:g}, {high:g}] (min_interval_s, max_interval_s)"
        )
    if parameters.burst is not None:
        for name in ("position", "roi", "binning"):
            if getattr(parameters.burst, name) is not None:
                raise ValueError(f"burst: leave out {name}: a burst is taken where and as the frames before it were")
    if parameters.max_power_pct is not None:
        for name, (light, _, highest) in power_limits(parameters, scope).items():
            begins = next(frame_settings(c, scope) for c in channels_of(what.kwargs) if c and c.name == name).power_pct
            if begins is not None and begins > highest:
                raise ValueError(
                    f"max_power_pct: {name} begins with {begins:g} % of {light}, more than {parameters.max_power_pct:g} %"
                )
    return parameters


def _estimate(parameters: Any, scope: Scope, do: Do, burst: Template | None) -> Estimate:
    """The most that decisions may make of it."""
    most = parameters.max_positions or len(parameters.positions)
    names = [place_name(place, index) for index, place in enumerate(parameters.positions)]
    names += [f"p{index + 1}" for index in range(len(names), most)]
    highest = {name: high for name, (_, _, high) in power_limits(parameters, scope).items()}
    brightest = parameters.do.model_copy(update={"kwargs": with_power(parameters.do.kwargs, highest)})
    one, rounds = do.estimate(brightest, scope), parameters.rounds
    visits_s, once_s = most * (one.round_s + visit_s(scope, parameters)), of_places(one.once_s, most)
    frames = {f"{dataset}_{name}": count * rounds for name in names for dataset, count in one.frames.items()}
    dose = {light: value * most * rounds for light, value in one.dose.items()}
    seconds = once_s + (rounds - 1) * max(interval_limits(parameters)[1], visits_s) + visits_s
    if parameters.burst is not None and burst is not None:
        flash, times = burst.estimate(parameters.burst, scope), parameters.max_bursts
        seconds += times * flash.seconds
        frames |= {f"{dataset}{_BURST}": count * times for dataset, count in flash.frames.items()}
        for light, value in flash.dose.items():
            dose[light] = dose.get(light, 0.0) + value * times
    for light, each in (parameters.dose_budget or {}).items():
        dose[light] = min(dose.get(light, 0.0), each * most)
    return Estimate(seconds=seconds, frames=frames, dose=dose, once_s=once_s)
