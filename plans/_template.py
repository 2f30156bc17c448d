"""A plan template: one model, from which queueserver's annotations, the checks and the documentation follow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bluesky_queueserver import parameter_annotation_decorator
from pydantic.json_schema import models_json_schema

from ..config import Scope
from ..layout import Layout
from ._parameters import Parameters, check_parameters
from ._positions import Positions

PlanBody = Generator[Any, Any, Any]


@dataclass(frozen=True)
class PlanContext:
    """What a template's body works with."""

    scope: Scope
    devices: Mapping[str, Any]
    layout: Layout = field(default_factory=Layout)
    dry: bool = False
    """The plan is only gone through: nothing may be written."""

    @property
    def positions(self) -> Positions:
        return Positions(self.scope, self.layout)


@dataclass(frozen=True)
class Estimate:
    """What a plan will take, from its parameters alone."""

    seconds: float = 0.0
    frames: dict[str, int] = field(default_factory=dict)
    """By dataset."""
    dose: dict[str, float] = field(default_factory=dict)
    """By light: power × time on, in % × s."""
    once_s: float = 0.0
    """So much of the seconds the run costs once, in however many rounds it does the same."""

    @property
    def round_s(self) -> float:
        """What each round takes."""
        return self.seconds - self.once_s

    def __add__(self, other: Estimate) -> Estimate:
        """Of one after the other."""
        frames, dose = dict(self.frames), dict(self.dose)
        for name, count in other.frames.items():
            frames[name] = frames.get(name, 0) + count
        for light, more in other.dose.items():
            dose[light] = dose.get(light, 0.0) + more
        return Estimate(self.seconds + other.seconds, frames, dose, self.once_s + other.once_s)


@dataclass(frozen=True)
class Template:
    name: str
    model: type[Parameters]
    body: Callable[[Any, PlanContext], PlanBody]
    estimate: Callable[[Any, Scope], Estimate]
    acquire: Callable[..., Any] | None = None
    """For templates that take images: the `Acquisition` of parameters and context, which other templates repeat."""
    positions: Positions | None = None
    """Whose names a parameter `position` may have; None: those of the scope file alone."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that do something small and harmless on any microscope that has the template."""
    people_only: bool = False
    """Refused to agents, and no step of a `protocol`."""

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.body) or ""

    def check(self, kwargs: Mapping[str, Any]) -> Parameters:
        """The validated parameters; `ParameterError` names field, value and limit of what is wrong."""
        return check_parameters(self.name, self.model, kwargs, self.positions)

    def plan(self, context: PlanContext, described: Mapping[str, Any] | None = None) -> Callable[..., PlanBody]:
        """The plan as queueserver loads it: a generator function whose signature and bounds come from the model.

        ``described``: its `annotations_of`, where those of many templates were made at once.
        """
        if described is None:
            described = annotations_of([self.model])[self.model]

        def plan(**kwargs: Any) -> PlanBody:
            result = yield from self.body(self.check(kwargs), context)
            return result

        plan.__name__ = plan.__qualname__ = self.name
        plan.__doc__ = self.doc
        plan.__module__ = __name__
        plan.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty
                    if info.is_required()
                    else info.get_default(call_default_factory=True),
                )
                for name, info in self.model.model_fields.items()
            ]
        )
        return parameter_annotation_decorator(
            {"description": self.doc.partition("\n\n")[0].replace("\n", " "), "parameters": dict(described)}
        )(plan)


def annotations_of(models: Collection[type[Parameters]]) -> dict[type[Parameters], dict[str, Any]]:
    """Queueserver's annotations of each model's parameters.

    All at once: templates repeat each other, and pydantic would describe the same models again for each.
    """
    schemas, tree = models_json_schema([(model, "validation") for model in models])
    definitions = tree.get("$defs", {})
    found: dict[type[Parameters], dict[str, Any]] = {}
    for model in models:
        entries = found[model] = {}
        schema = _resolved(schemas[model, "validation"], definitions)
        for name, described in schema.get("properties", {}).items():
            entry = entries[name] = {}
            entry["annotation"] = _annotation(described, definitions, f"Choice_{name}", entry)
            entry["description"] = _description(described)
    return found


def _resolved(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    return definitions[described["$ref"].rpartition("/")[2]] if "$ref" in described else described


def _description(described: Mapping[str, Any]) -> str:
    text = described.get("description", "")
    return text or next((d["description"] for d in described.get("anyOf", []) if "description" in d), "")


def _annotation(
    described: Mapping[str, Any], definitions: Mapping[str, Any], choices: str, entry: dict[str, Any]
) -> str:
    """Queueserver's type string for a JSON Schema; bounds and choices of the parameter itself go into ``entry``."""
    described = _resolved(described, definitions)
    options = described.get("anyOf") or described.get("oneOf")
    if options:
        kinds = [_annotation(option, definitions, choices, entry) for option in options]
        return f"typing.Union[{', '.join(dict.fromkeys(kinds))}]"
    if "enum" in described or "const" in described:
        entry["enums"] = {choices: tuple(described.get("enum") or [described["const"]])}
        return choices
    match described.get("type"):
        case "number" | "integer" as kind:
            for ours, theirs in (("minimum", "min"), ("maximum", "max"), ("exclusiveMinimum", "min")):
                if ours in described:
                    entry[theirs] = described[ours]
            return "float" if kind == "number" else "int"
        case "string":
            return "str"
        case "boolean":
            return "bool"
        case "null":
            return "None"
        case "array":
            return "typing.List[typing.Any]"
        case "object":
            return "typing.Dict[str, typing.Any]"
    raise TypeError(f"no annotation of queueserver's for {described}")
