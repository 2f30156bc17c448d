"""Does the configuration have what a controller-timed volume writes? Labels and properties are looked up at start."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import Scope
from ._mmcore import Core, same
from ._spim_program import PIEZO_NEEDS, SCANNER_NEEDS

Problem = tuple[str, str]


def trigger_problems(core: Core, scope: Scope) -> Iterator[Problem]:
    """The entry and what is wrong with it, for `Volume.trigger` tiger_spim."""
    controller = scope.volume.controller
    if scope.volume.trigger != "tiger_spim" or controller is None:
        return
    loaded = core.loaded
    for where, label in (("hub", controller.hub), ("plogic", controller.plogic)):
        if label is not None and label not in loaded:
            yield f"volume.controller.{where}", f"the configuration has no device {label!r}; it has {loaded}"
    if controller.plogic in loaded:
        yield from _needs(core, "volume.controller.plogic", str(controller.plogic), ("SetCardPreset",))
    if controller.outputs is not None:
        outputs = controller.outputs
        if outputs.label not in loaded:
            yield (
                "volume.controller.outputs.label",
                f"the configuration has no device {outputs.label!r}; it has {loaded}",
            )
        else:
            yield from _values(core, "volume.controller.outputs", outputs.label, {outputs.property: outputs.none})
            for name, light in scope.lights.items():
                if light.output is not None:
                    yield from _values(core, f"lights.{name}.output", outputs.label, {outputs.property: light.output})
    for name, device in scope.of_kind("galvo", "stage", "camera").items():
        if device.view is None or device.label not in loaded:
            continue
        where = f"devices.{name}.label"
        if device.kind == "galvo":
            yield from _needs(core, where, device.label, SCANNER_NEEDS)
        elif device.kind == "stage":
            yield from _needs(core, where, device.label, PIEZO_NEEDS)
        elif device.external is not None:
            yield from _values(core, f"devices.{name}.external.properties", device.label, device.external.properties)


def _needs(core: Core, where: str, label: str, names: tuple[str, ...]) -> Iterator[Problem]:
    mm = core.of(label).mm
    missing = [name for name in names if not mm.hasProperty(label, name)]
    if missing:
        yield (
            where,
            f"{label!r} lacks {missing}, which volume.trigger: tiger_spim writes: is its firmware built with SPIM? Or say"
            " volume.trigger: software",
        )


def _values(core: Core, where: str, label: str, properties: dict[str, str]) -> Iterator[Problem]:
    yield from _needs(core, where, label, tuple(properties))
    mm = core.of(label).mm
    for name, value in properties.items():
        if mm.hasProperty(label, name):
            allowed = list(mm.getAllowedPropertyValues(label, name))
            if allowed and not any(same(one, value) for one in allowed):
                yield where, f"{label}.{name} can't be {value!r}; it can be {allowed}"
