"""Which shutters, outputs and properties of a configuration make one light, and its lines in a scope file. Every guess is
marked as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..config import BLANK
from ._cfg import Cfg
from ._kinds import quoted

_LASER = re.compile(r"laser|obis|omicron|cobolt|toptica|vortran|coherent|luxx|oxxius", re.I)
_PART = re.compile(r"\b(ttl|gate|shutter|da|dac|power|emission|analog(ue)?|digital)\b", re.I)
_POWER = re.compile(r"power|intensity|level|volt", re.I)
_NOT_POWER = re.compile(r"limit|max|min|readback|unit|rated|mode|enable|on/off", re.I)


@dataclass(frozen=True)
class LightGuess:
    """A light of a configuration: labels of its parts."""

    text: str
    """What to make its name of."""
    gate: str
    gate_property: bool
    """Whether the gate's device has a property ``State``; else it is opened and closed as a shutter."""
    emission: str | None
    power: tuple[str, str] | None
    """Device and property that seem to set the power."""
    full_scale: float | None
    """Upper limit of that property where MMCore told it."""
    wavelength_nm: int | None
    laser: bool

    @property
    def labels(self) -> set[str]:
        return {self.gate, *([self.emission] if self.emission else []), *([self.power[0]] if self.power else [])}


def guess_lights(
    cfg: Cfg,
    kinds: Mapping[str, str],
    limits: Mapping[str, Mapping[str, tuple[float, float]]],
    writable: Mapping[str, Iterable[str]],
) -> list[LightGuess]:
    """One light for each gate; shutters and outputs of one stem (``Laser488 TTL``, ``Laser488 DA``) belong together.

    ``limits`` and ``writable``: properties by label, where MMCore was asked; else empty.
    """
    shutters: dict[str, list[str]] = {}
    for label, kind in kinds.items():
        if kind == "shutter":
            shutters.setdefault(_stem(label), []).append(label)
    outputs = {_stem(label): label for label, kind in kinds.items() if kind == "analogue output"}
    found = []
    for stem, members in shutters.items():
        gates = [label for label in members if re.search(r"ttl|gate|shutter", label, re.I)] or members[:1]
        rest = [label for label in members if label not in gates]
        for gate in gates:
            power = _power(cfg, gate, outputs.get(stem), limits, writable)
            known = None if power is None else limits.get(power[0], {}).get(power[1])
            told = [match for label in members if (match := re.search(r"(?<!\d)([3-9]\d\d|1[0-3]\d\d)(?!\d)", label))]
            found.append(
                LightGuess(
                    text=gate if len(gates) > 1 else _short(stem),
                    gate=gate,
                    gate_property=_has_state(cfg, gate, writable),
                    emission=rest[0] if rest else None,
                    power=power,
                    full_scale=known[1] if known else None,
                    wavelength_nm=int(told[0][1]) if told else None,
                    laser=any(_LASER.search(f"{label} {cfg.devices[label].adapter}") for label in members),
                )
            )
    return found


def _stem(label: str) -> str:
    """``Laser488 TTL`` → ``laser488``; ``LED:X:31`` → ``led``."""
    return re.sub(r"[\s_-]+", " ", _PART.sub(" ", label.partition(":")[0])).strip().lower() or label.lower()


def _short(stem: str) -> str:
    laser = re.fullmatch(r"laser ?(\d{3,4})", stem)
    return f"l{laser[1]}" if laser else stem


def _has_state(cfg: Cfg, label: str, writable: Mapping[str, Iterable[str]]) -> bool:
    if label in writable:
        return "State" in writable[label]
    return cfg.devices[label].adapter == "DemoCamera"


def _power(
    cfg: Cfg,
    gate: str,
    output: str | None,
    limits: Mapping[str, Mapping[str, tuple[float, float]]],
    writable: Mapping[str, Iterable[str]],
) -> tuple[str, str] | None:
    entries = [*cfg.properties, *(e for presets in cfg.groups.values() for p in presets.values() for e in p)]
    for label in (gate, output):
        if label is None:
            continue
        names = [name for name in writable.get(label, ()) if name in limits.get(label, {})]
        names += [name for owner, name, _ in entries if owner == label]
        likely = [name for name in names if _POWER.search(name) and not _NOT_POWER.search(name)]
        if likely:
            return label, likely[0]
        if label == output:
            return label, "Volts" if label not in writable and cfg.devices[label].adapter != "DemoCamera" else "Voltage"
    return None


def light_lines(lights: list[tuple[str, LightGuess]]) -> Iterator[str]:
    """Entries of ``lights`` in a scope file, by name."""
    for name, light in lights:
        yield f"  {name}:"
        if light.wavelength_nm is not None:
            yield f"    wavelength_nm: {light.wavelength_nm}   # guessed from the label"
        if light.laser:
            yield f'    laser_class: {BLANK}   # the class on its label, in quotes: "1" … "3B", "4"'
        bare = "" if light.gate_property else ", property: null"
        yield f"    gate: {{label: {quoted(light.gate)}{bare}}}"
        yield from _power_lines(light)
        if light.emission is not None:
            yield f"    emission: {{label: {quoted(light.emission)}}}   # guessed from the label"


def _power_lines(light: LightGuess) -> Iterator[str]:
    if light.power is None:
        yield (
            f"    power: {BLANK}   # {{label, property, full_scale, limits_pct: [low, high]}};"
            " or: fixed, where software can't set it"
        )
        return
    label, name = light.power
    known = "" if light.full_scale is None else f"; it ends at {light.full_scale:g}"
    yield "    power:   # guessed: check that this is what sets the light's power"
    yield f"      label: {quoted(label)}"
    yield f"      property: {quoted(name)}"
    yield f"      full_scale: {BLANK}   # the property's value at 100 %{known}"
    yield f"      limits_pct: {BLANK}   # [lowest, highest] power in % that any plan may ask for"
