"""``queuescope halt``, ``rearm``, ``control``: people in charge, from the terminal."""

from __future__ import annotations

import getpass
import time
from typing import Annotated, Any

import typer

from ..layout import DEFAULT_SCOPE, Layout
from ._rest import Rest, RestError
from ._terminal import Data, Json, ScopeName, fail, print_json, running, say, show, tell_queue_problems


def halt(
    reason: Annotated[str, typer.Option("--reason", help="Why: it stands in every refusal until somebody rearms.")] = (
        "no reason given"
    ),
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Stop every motion, close every gate, switch emissions off, now; nothing moves or shines again before 'rearm'.

    Works also where the REST server is gone, straight to the hardware (then --scope counts). Ends with code 0 only where the
    hardware confirmed that everything is off.
    """
    layout = Layout(data)
    try:
        outcome = _over_rest(layout, reason)
    except RestError as error:
        say.print(f"the REST server does not help ({error}): going to the hardware directly", markup=False)
        outcome = _directly(layout, scope, reason)
    done = outcome["confirmed"] and not outcome["killed"] and all(step["done"] for step in outcome["steps"])
    if as_json:
        print_json(outcome)
    else:
        halted = outcome["halted"]
        show.print(f"[bold red]halted[/] by {halted['by']} after {1000 * outcome['seconds']:.0f} ms: ", end="")
        show.print(outcome["detail"], markup=False)
    raise typer.Exit(0 if done else 1)


def _over_rest(layout: Layout, reason: str) -> dict[str, Any]:
    runtime = layout.runtime()
    if runtime is None:
        raise RestError("it does not run")
    try:
        key = layout.key("operator")
    except OSError as error:
        raise RestError(str(error)) from None
    outcome: dict[str, Any] = Rest(runtime["http"], key, timeout_s=8).post("/api/scope/halt", {"reason": reason})
    return outcome


def _directly(layout: Layout, scope: str, reason: str) -> dict[str, Any]:
    from ..config import ScopeError, load_scope
    from ..hardware import halt_hardware

    try:
        return halt_hardware(load_scope(scope), layout, reason, "terminal").model_dump(mode="json")
    except (ScopeError, OSError) as error:
        fail(f"NOT HALTED: {error}")


def rearm(
    resume_queue: Annotated[bool, typer.Option("--resume-queue", help="Let queued plans start again.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Clear a halt, or an interlock that opened: the microscope may move again. The queue stays stopped unless asked."""
    layout = Layout(data)
    try:
        state = Rest.of(layout, running(layout)).post("/api/scope/rearm", {"resume_queue": resume_queue})
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(state)
        return
    queue = "queued plans start" if resume_queue else "the queue is stopped"
    show.print(f"[bold green]rearmed[/] at {time.strftime('%H:%M:%S')}: the microscope may move; {queue}")


def control(
    mode: Annotated[str, typer.Argument(metavar="agents|person|maintenance", help="Who has the microscope now.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; agents are told.")],
    by: Annotated[str | None, typer.Option("--by", help="Who takes it; by default the user's name.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Take the microscope over, or hand it to the agents. A running plan pauses at its next checkpoint meanwhile.

    While you have it, 'queuescope run' runs your plan at once, and agents' plans wait.
    """
    layout = Layout(data)
    try:
        body = {"mode": mode, "reason": reason, "by": by or getpass.getuser()}
        answer = Rest.of(layout, running(layout)).post("/api/scope/control", body)
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(answer)
    else:
        show.print(f"[bold]{answer['control']['mode']}[/] in control, by {answer['control']['by']}", soft_wrap=True)
        tell_queue_problems(answer)
    raise typer.Exit(1 if answer["problems"] else 0)


def add_to(app: typer.Typer) -> None:
    for command in (halt, rearm, control):
        app.command()(command)
