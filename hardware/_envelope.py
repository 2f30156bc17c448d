"""The envelope: where the axes may go, alone and together. Pure functions of the scope file, without MMCore.

The hardware process asks it before every call that moves; plans may ask it for a dry check. Its rules:

* a target is finite and inside the axis's limits, narrowed by the objective in place and the sample holder;
* a move is the box spanned by start and target of every axis, since axes that start together arrive in any order: it must
  not touch a box of ``safety.collision`` (an axis that stays counts with where it is);
* who stands inside a collision box may only leave it by moving axes of ``safety.retract_first``, alone, towards their home;
* while an axis of ``safety.retract_first`` is not at its home, no objective turret turns, and every other stage stays within
  its tolerance (or its entry in ``safety.retract_over``) of its anchor: where it stood when the retracted axes left home, or
  at the first move that found them away from it. Galvos move light, not glass, and are free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..config import Axis, Limits, Scope
from ._errors import CollisionError, LimitError, UnknownNameError

Positions = Mapping[str, float]


class Envelope:
    """What a scope file allows its axes."""

    def __init__(self, scope: Scope) -> None:
        self._axes = scope.axes()
        self._safety = scope.safety
        self._galvos = {name for name, axis in self._axes.items() if axis.device in scope.of_kind("galvo")}
        self._objectives = {objective.label: name for name, objective in scope.objectives.items()}
        self.retracted = self._safety.retract_first

    def axis(self, name: str) -> Axis:
        """The axis of this name.

        Raises
        ------
        UnknownNameError
            Where there is none.
        """
        if name not in self._axes:
            known = sorted(self._axes)
            raise UnknownNameError(f"{name!r} is none of the axes {known}", thing="axis", value=name, known=known)
        return self._axes[name]

    def objective_of(self, label: str | None) -> str | None:
        """Name of the objective with this label on the turret; None where the scope doesn't know it."""
        return self._objectives.get(label or "")

    def asks_objective(self, names: Iterable[str]) -> bool:
        """Whether the limits of any of these axes depend on the objective in place."""
        return any(self.axis(name).limits_by_objective for name in names)

    def asks_positions(self, names: Iterable[str], anchored: bool = False) -> set[str]:
        """Axes whose positions must be known before these move; fewer where the anchor of `check_move` is known."""
        moving = set(names)
        asked: set[str] = set()
        for box in self._safety.collision:
            if moving & set(box):
                asked |= set(box)
        retracted = set(self._safety.retract_first)
        if retracted and moving - self._galvos:
            asked |= retracted if anchored and not moving & retracted else set(self._axes) - self._galvos
        return asked

    def share_a_box(self, name: str, others: Iterable[str]) -> bool:
        """Whether this axis and one of the others could meet: a box of ``safety.collision`` names both."""
        others = set(others)
        return any(name in box and others & set(box) for box in self._safety.collision)

    def limits(self, name: str, objective: str | None) -> Limits:
        """Limits of an axis with this objective in place (None: unknown); low > high where nothing is allowed."""
        axis = self.axis(name)
        narrowed = [axis.limits]
        for by_name, chosen in ((axis.limits_by_objective, objective), (axis.limits_by_holder, self._safety.holder)):
            if chosen is None:
                narrowed += by_name.values()
            elif chosen in by_name:
                narrowed.append(by_name[chosen])
        return max(low for low, _ in narrowed), min(high for _, high in narrowed)

    def check_target(self, name: str, target: float, objective: str | None = None) -> float:
        """The target, if this axis may go there.

        Raises
        ------
        LimitError
            Where it is not finite or outside the axis's limits.
        """
        axis = self.axis(name)
        low, high = self.limits(name, objective)
        if not math.isfinite(target) or not low <= target <= high:
            is_where = "outside" if math.isfinite(target) else "not a finite number, let alone inside"
            source = axis.source
            if (low, high) != axis.limits:
                holder = self._safety.holder or "an unknown holder"
                source = f"{source}, narrowed by limits_for for {objective or 'an unknown objective'} and {holder}"
            raise LimitError(
                f"{name} {target} {axis.units} is {is_where} [{low:g}, {high:g}] (scope file: {source})",
                thing=name,
                value=target if math.isfinite(target) else repr(target),
                limit=[low, high],
            )
        return float(target)

    def check_move(
        self, here: Positions, targets: Positions, objective: str | None = None, anchor: Positions | None = None
    ) -> None:
        """Refuse a move that this scope doesn't allow.

        Parameters
        ----------
        here
            Positions before the move; at least those that `asks_positions` names.
        targets
            Where each axis is sent, all of them starting together.
        objective
            Name of the objective in place; None: unknown.
        anchor
            Positions when the axes of ``safety.retract_first`` last left their homes; None: they are home, or ``here`` counts.

        Raises
        ------
        LimitError
            A target is not finite or outside its limits.
        CollisionError
            The way touches a forbidden box, or an axis must be retracted first. Fields ``thing, value, limit``.
        """
        for name, target in targets.items():
            self.check_target(name, target, objective)
        self._check_retracted(here, targets, self.anchor_after(here, targets, anchor))
        for index, box in enumerate(self._safety.collision):
            if set(box) & set(targets):
                self._check_box(f"safety.collision[{index}]", box, here, targets)

    def check_sequence(
        self,
        here: Positions,
        steps: Iterable[Positions],
        objective: str | None = None,
        anchor: Positions | None = None,
    ) -> None:
        """`check_move` for moves that follow each other, each from where the last one ended."""
        at = dict(here)
        for targets in steps:
            self.check_move(at, targets, objective, anchor)
            anchor = self.anchor_after(at, targets, anchor)
            at.update(targets)

    def check_turn(self, here: Positions, label: str) -> None:
        """Refuse to turn the objective turret to ``label`` with the axes at ``here`` (all of them).

        Raises
        ------
        CollisionError
            An axis must be retracted first, or stands outside the limits that the new objective has.
        """
        out = [name for name in self._safety.retract_first if not self._is_home(name, here)]
        if out:
            raise self._not_retracted(out[0], here, "the objective turret turns")
        objective = self.objective_of(label)
        for name, axis in self._axes.items():
            low, high = self.limits(name, objective)
            if axis.limits_by_objective and not low <= here[name] <= high:
                raise CollisionError(
                    f"{name} stands at {here[name]:g} {axis.units}, outside [{low:g}, {high:g}] that objective"
                    f" {objective or label!r} allows (devices.{axis.device}.limits_for): move it there first",
                    thing=name,
                    value=here[name],
                    limit=[low, high],
                )

    def anchor_after(self, here: Positions, targets: Positions, anchor: Positions | None) -> Positions | None:
        """Where the other axes stood when the retracted ones left home, for and after this move; None while all are home."""
        retracted = self._safety.retract_first
        if not retracted or any(name not in here for name in retracted):
            return anchor
        if all(self._is_home(name, here) for name in retracted):
            leaving = any(n in retracted and not self._is_home(n, targets) for n in targets)
            return dict(here) if leaving else None
        return dict(here) if anchor is None else anchor

    def _is_home(self, name: str, positions: Positions) -> bool:
        axis = self.axis(name)
        return axis.home is not None and abs(positions[name] - axis.home) <= axis.tolerance

    def _check_retracted(self, here: Positions, targets: Positions, anchor: Positions | None) -> None:
        retracted = self._safety.retract_first
        if not set(targets) - self._galvos:
            return
        out = [n for n in retracted if not (self._is_home(n, here) and self._is_home(n, {**here, **targets}))]
        if not out or anchor is None:
            return
        for name in sorted(set(targets) - set(retracted) - self._galvos):
            axis = self.axis(name)
            free = max(self._safety.retract_over.get(name, 0.0), axis.tolerance)
            if abs(targets[name] - anchor[name]) > free:
                raise self._not_retracted(out[0], here, f"{name} moves to {targets[name]:g} {axis.units}", free)

    def _not_retracted(self, name: str, here: Positions, why: str, free: float | None = None) -> CollisionError:
        axis = self.axis(name)
        more = "" if free is None else f" (free without it: {free:g} around where it came down, safety.retract_over)"
        return CollisionError(
            f"{name} stands at {here[name]:g} {axis.units} and must be at its home {axis.home:g} before {why}{more}:"
            f" move {name} home by itself first (scope file: safety.retract_first)",
            thing=name,
            value=here[name],
            limit=axis.home,
        )

    def _check_box(self, where: str, box: Mapping[str, Limits], here: Positions, targets: Positions) -> None:
        spans = {n: sorted((here[n], targets.get(n, here[n]))) for n in box}
        if not all(low <= box[n][1] and high >= box[n][0] for n, (low, high) in spans.items()):
            return
        inside = all(box[n][0] <= here[n] <= box[n][1] for n in box)
        retracted = self._safety.retract_first
        if inside and set(targets) <= set(retracted) and all(self._approaches_home(n, here, targets) for n in targets):
            return
        told = ", ".join(f"{n} {here[n]:g} → {targets.get(n, here[n]):g}" for n in box)
        bounds = ", ".join(f"{n} [{low:g}, {high:g}]" for n, (low, high) in box.items())
        remedy = (
            f"it stands inside: only {list(retracted) or 'a person'} may lead out, towards home"
            if inside
            else "go around it, one axis after the other"
        )
        raise CollisionError(
            f"the move {told} touches the forbidden box {bounds} (scope file: {where}): {remedy}",
            thing=where,
            value={n: targets.get(n, here[n]) for n in box},
            limit={n: list(limits) for n, limits in box.items()},
        )

    def _approaches_home(self, name: str, here: Positions, targets: Positions) -> bool:
        home = self.axis(name).home
        if home is None:
            return False
        straight = (targets[name] - home) * (here[name] - home) >= 0
        return straight and abs(targets[name] - home) < abs(here[name] - home)
