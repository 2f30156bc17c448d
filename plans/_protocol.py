"""`protocol`: several templates as one operation, one run each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from bluesky import Msg
from bluesky import preprocessors as bpp
from bluesky.utils import FailedStatus
from pydantic import Field, create_model

from ..config import Scope
from ._channels import channel_names
from ._costs import CHECK_S
from ._parameters import Parameters
from ._reading import answer
from ._template import Estimate, PlanBody, PlanContext, Template

MOST_STEPS = 50


def protocol(scope: Scope, made: Mapping[str, Template]) -> Template | None:
    """``made``: what a step may be, but for what is people's alone."""
    steps = {name: template for name, template in made.items() if not template.people_only}
    if not steps:
        return None
    entries: list[Any] = []
    for name, template in steps.items():
        needed = any(info.is_required() for info in template.model.model_fields.values())
        kwargs = (template.model, ...) if needed else (template.model, Field(default_factory=template.model))
        entries.append(create_model(f"step_{name}", __base__=Parameters, plan=(Literal[name], ...), kwargs=kwargs))
    union = entries[0]
    for entry in entries[1:]:
        union = union | entry
    step: Any = Annotated[union, Field(discriminator="plan")] if len(entries) > 1 else union
    doc = f"what is done, in order: [{{plan, kwargs}}], each plan one of {', '.join(steps)}"
    model = create_model(
        "protocol",
        __base__=Parameters,
        steps=(Annotated[list[step], Field(min_length=1, max_length=MOST_STEPS, description=doc)], ...),
    )

    def body(parameters: Any, context: PlanContext) -> PlanBody:
        """Do several plans one after the other, as one operation: each step has a run of its own.

        Moves and lights what its steps do. Before the first one all of them are gone through, each from where the one before
        ends: every move, the dose of all, the room for all frames; what would not be allowed refuses the whole. It ends at the
        first step that fails. Each run's start document has its plan's name and parameters, and step (from 0) of steps. Returns
        what each step returned, in order.
        """
        asked = parameters.steps
        if not context.dry:
            yield from answer(Msg("check_first", None, "protocol", parameters))
        results = []
        for number, one in enumerate(asked):
            template = steps[one.plan]
            told = {
                "plan_name": one.plan,
                "plan_args": one.kwargs.model_dump(
                    mode="json", exclude_unset=True, warnings=False
                ),  # a place may be a name
                "channels": channel_names(one.kwargs),
                "estimated_dose": template.estimate(one.kwargs, scope).dose,
            }
            try:
                results.append((yield from _step(template.body(one.kwargs, context), number, len(asked), told)))
                yield Msg("require_good_run")
            except Exception as error:
                cause = (error.__cause__ or error) if isinstance(error, FailedStatus) else error
                cause.add_note(f"in step {number} of protocol ({one.plan}); {len(asked) - number - 1} not begun")
                raise
        return results

    def estimate(parameters: Any, scope: Scope) -> Estimate:
        found = (steps[one.plan].estimate(one.kwargs, scope) for one in parameters.steps)
        return sum(found, Estimate(seconds=CHECK_S))

    example = {"steps": [{"plan": name, "kwargs": dict(steps[name].example)} for name in _SHOWN if name in steps]}
    return Template("protocol", model, body, estimate, example=example or {"steps": [{"plan": next(iter(steps))}]})


_SHOWN = ("read_state", "snap", "move_z")


def _step(plan: PlanBody, number: int, steps: int, told: dict[str, Any]) -> PlanBody:
    """The plan of one step, whose run says what it is."""

    def opened(msg: Msg) -> Msg:
        if msg.command != "open_run":
            return msg
        more = {"step": number, "steps": steps, "of_step": told}  # `ScopeRunEngine` takes of_step for the run's own
        return msg._replace(kwargs={**msg.kwargs, **more})

    return (yield from bpp.msg_mutator(plan, opened))
