"""Places that come and go while a plan runs: each ends by itself, or when it is told to, and others are added."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bluesky import plan_stubs as bps
from bluesky.utils import FailedStatus

from ..hardware import LimitError
from ._acquisition import Acquisition
from ._channels import with_power
from ._doing import Do
from ._ending import ending
from ._places import Visits, place_name
from ._template import PlanBody, PlanContext, Template


@dataclass
class Live:
    """A place, and what became of it."""

    name: str
    where: Any
    acquisition: Acquisition
    added: bool
    """While the plan ran."""
    visits: int = 0
    left: int | None = None
    """How many visits are left; None: as long as there are rounds."""
    ended: str | None = None
    """Why it isn't visited any more."""
    burst: Acquisition | None = None
    """Made when the first one is asked for."""

    @property
    def dose(self) -> dict[str, float]:
        found = dict(self.acquisition.dose)
        for light, dose in ({} if self.burst is None else self.burst.dose).items():
            found[light] = found.get(light, 0.0) + dose
        return found


class VisitRecord:
    """What became of one visit: a device to be read into the stream ``visits``."""

    name = "visits"
    parent = None
    hints: ClassVar[dict[str, Any]] = {"fields": []}
    _KINDS: ClassVar[dict[str, str]] = {"visit_round": "integer", "place": "string", "outcome": "string"}

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._at = 0.0

    def tell(self, number: int, place: str, outcome: str) -> None:
        """``outcome``: ``taken``, ``no frames``, ``burst``, ``no burst: dose``, or why the place has ended."""
        self._at, self._values = time.time(), {"visit_round": number, "place": place, "outcome": outcome}

    def read(self) -> dict[str, dict[str, Any]]:
        return {key: {"value": value, "timestamp": self._at} for key, value in self._values.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        return {key: {"source": "plan:visits", "dtype": kind, "shape": []} for key, kind in self._KINDS.items()}

    def read_configuration(self) -> dict[str, dict[str, Any]]:
        return {}

    def describe_configuration(self) -> dict[str, dict[str, Any]]:
        return {}


class LivePlaces(Visits):
    """One round at each place that is still live. Its parameters have ``positions``, ``do``, ``burst``, ``max_bursts`` and
    ``dose_budget`` (by light, in % × s, for each place).
    """

    def __init__(self, parameters: Any, context: PlanContext, do: Do, burst: Template | None, rounds: int) -> None:
        super().__init__(parameters, context, do, rounds=rounds)
        self._do, self._burst, self._record = do, burst, VisitRecord()
        self.all = [Live(name, where, acquisition, added=False) for name, where, acquisition in self._places]
        self.doing = parameters.do
        """What is done at each place now: with the powers of now."""
        self.number = 0
        """Of the round."""
        self.bursts_left = parameters.max_bursts if parameters.burst is not None else 0
        self._bursting: list[str] = []
        self._staged: list[Any] = []

    @property
    def live(self) -> list[Live]:
        return [place for place in self.all if place.ended is None]

    @property
    def frames(self) -> dict[str, int]:
        taken = [one for place in self.all for one in (place.acquisition, place.burst) if one is not None]
        return {name: count for one in taken for name, count in one.frames.items()}

    def result(self) -> dict[str, Any]:
        places = {place.name: {"rounds": place.visits, "ended": place.ended} for place in self.all}
        return {**self.result_of({place.name: place.acquisition for place in self.all}), "places": places}

    def once(self) -> PlanBody:
        taken = False
        for place in self.live:
            yield from bps.checkpoint()
            taken = (yield from self._visit(place)) or taken
        self._bursting = []
        return taken

    def end(self) -> PlanBody:
        ends: PlanBody = super().end()
        for place in self.all:
            for one in (place.acquisition if place.added else None, place.burst):
                if one is not None:
                    ends = ending(ends, one.end)
        yield from ends

    def end_spent(self) -> None:
        """Places whose budget allows no further visit have ended."""
        dose = self._do.estimate(self.doing, self.context.scope).dose
        for place in self.live:
            if not self._allows(place, dose):
                place.ended = "dose"

    def _allows(self, place: Live, dose: Mapping[str, float]) -> bool:
        """Whether its budget has room for this, by light."""
        budget, had = self.parameters.dose_budget or {}, place.dose
        return all(had.get(light, 0.0) + dose.get(light, 0.0) <= budget[light] for light in budget)

    def stop(self, name: str, why: str) -> None:
        next(place for place in self.live if place.name == name).ended = why

    def set_power(self, power_pct: Mapping[str, float]) -> None:
        for place in self.all:
            place.acquisition.set_power(power_pct)
        self.doing = self.doing.model_copy(update={"kwargs": with_power(self.doing.kwargs, power_pct)})

    def burst_at(self, names: list[str]) -> PlanBody:
        """In the next round a burst follows the frames at these places."""
        for place in self.live:
            if place.name in names and place.burst is None:
                assert self._burst is not None
                assert self._burst.acquire is not None
                place.burst = self._burst.acquire(
                    self.parameters.burst,
                    self.context,
                    rounds=self.parameters.max_bursts,
                    place=f"{place.name}_burst",
                    position=place.name,
                )
                yield from self._stage(place.burst)
        self._bursting = names
        self.bursts_left -= len(names)

    def burst_frames(self) -> dict[str, int]:
        """Of the bursts of the next round, by dataset."""
        if not self._bursting or self._burst is None:
            return {}
        one = self._burst.estimate(self.parameters.burst, self.context.scope).frames
        return {f"{name}_{place}_burst": frames for place in self._bursting for name, frames in one.items()}

    def add(self, where: Any, rounds: int) -> PlanBody:
        """One more place, from the next round on; returns its name."""
        names, index = {place.name for place in self.all}, len(self.all)
        while (name := place_name(where, index)) in names:
            index += 1
        acquisition = self._do.acquire(self.doing, self.context, rounds=rounds, place=name, position=name)
        yield from self._stage(acquisition)
        self.all.append(Live(name, where, acquisition, added=True))
        return name

    def _stage(self, acquisition: Acquisition) -> PlanBody:
        for device in acquisition.devices:
            yield from bps.stage(device, wait=True)
            self._staged.append(device)
        yield from bps.checkpoint()

    def unstage(self) -> PlanBody:
        """Of what was staged while it ran; after the run."""
        for device in self._staged:
            yield from bps.unstage(device, wait=True)
        yield from bps.null()

    def _visit(self, place: Live) -> PlanBody:
        try:
            yield from self._go(place.where)
        except (FailedStatus, LimitError) as error:
            cause = error.__cause__ if isinstance(error, FailedStatus) else error
            if not place.added or place.visits or not isinstance(cause, LimitError):
                raise
            place.ended = f"refused: {cause}"  # nothing has moved; the night's other places go on
            yield from self._tell(place, place.ended)
            return False
        taken = yield from place.acquisition.once()
        place.visits += 1
        yield from self._tell(place, "taken" if taken else "no frames")
        if place.name in self._bursting and place.burst is not None:
            assert self._burst is not None
            allowed = self._allows(place, self._burst.estimate(self.parameters.burst, self.context.scope).dose)
            if allowed:
                yield from place.burst.once()
            yield from self._tell(place, "burst" if allowed else "no burst: dose")
        if place.left is not None:
            place.left -= 1
            if place.left == 0:
                place.ended = "rounds"
        return taken

    def _tell(self, place: Live, outcome: str) -> PlanBody:
        self._record.tell(self.number, place.name, outcome)
        yield from bps.checkpoint()
        yield from bps.create("visits")
        yield from bps.read(self._record)
        yield from bps.save()
