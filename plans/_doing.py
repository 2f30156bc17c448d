"""``do``: a template that another one repeats, ``{"plan": "z_stack", "kwargs": {…}}``, checked by that template's own model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, create_model

from ..config import Scope
from ._acquisition import Acquisition
from ._parameters import Parameters
from ._template import Estimate, PlanContext, Template


@dataclass(frozen=True)
class Do:
    annotation: Any
    """Of the model's field."""
    templates: Mapping[str, Template]

    def acquire(self, do: Any, context: PlanContext, **more: Any) -> Acquisition:
        acquire = self.templates[do.plan].acquire
        assert acquire is not None
        acquisition: Acquisition = acquire(do.kwargs, context, **more)
        return acquisition

    def example(self) -> dict[str, Any]:
        """The first of them as its own example has it."""
        name, template = next(iter(self.templates.items()))
        return {"plan": name, "kwargs": dict(template.example)}

    def estimate(self, do: Any, scope: Scope) -> Estimate:
        return self.templates[do.plan].estimate(do.kwargs, scope)


def do_field(made: Mapping[str, Template]) -> Do | None:
    """Those of the templates that may be repeated; None where there is none."""
    templates = {name: template for name, template in made.items() if template.acquire is not None}
    if not templates:
        return None
    entries: list[Any] = []
    for name, template in templates.items():
        needed = any(info.is_required() for info in template.model.model_fields.values())
        kwargs = (template.model, ...) if needed else (template.model, Field(default_factory=template.model))
        entries.append(create_model(f"do_{name}", __base__=Parameters, plan=(Literal[name], ...), kwargs=kwargs))
    union = entries[0]
    for entry in entries[1:]:
        union = union | entry
    doc = f"what is done: {{plan, kwargs}}, plan one of {', '.join(templates)}"
    discriminated = Field(discriminator="plan", description=doc) if len(entries) > 1 else Field(description=doc)
    return Do(Annotated[union, discriminated], templates)
