"""``queuescope plans``, ``run``, ``show``: plans in, runs out, over REST like any other client."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..layout import Layout
from . import _operation
from ._rest import Rest, RestError
from ._terminal import Data, Json, fail, print_json, running, say, show

if TYPE_CHECKING:
    from .. import agents

_RUN_HELP = """Submit a plan, follow it, and say how it ended.

    Values are JSON, or short YAML:

    [bold]queuescope run acquire_volume slices=40 views=both 'channels=[{name: gfp, exposure_ms: 5}]'[/]

    The same --key and parameters again run nothing and give the same runs. Ctrl-C takes it out of the queue, or pauses and aborts
    it. Ends with code 0 only if the plan completed."""


def plans(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Everything about one plan.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List the plans of this microscope with their parameters and limits."""
    layout = Layout(data)
    try:
        allowed: dict[str, Any] = Rest.of(layout, running(layout)).get("/api/plans/allowed")["plans_allowed"]
    except RestError as error:
        fail(str(error))
    if name is not None and name not in allowed:
        fail(f"no plan {name!r}: there are {', '.join(sorted(allowed))}")
    if as_json:
        print_json(allowed if name is None else allowed[name])
    elif name is None:
        for plan in sorted(allowed):
            show.print(f"[bold]{plan}[/]  {escape(_first_line(allowed[plan]))}")
            words = [_signature(p) for p in allowed[plan].get("parameters", [])]
            show.print(f"    {escape(', '.join(words)) or 'no parameters'}")
    else:
        _print_plan(name, allowed[name])


def _first_line(plan: dict[str, Any]) -> str:
    text = str(plan.get("description") or "").strip()
    return text.splitlines()[0] if text else ""


def _signature(parameter: dict[str, Any]) -> str:
    return f"{parameter['name']}={parameter['default']}" if "default" in parameter else parameter["name"]


def _print_plan(name: str, plan: dict[str, Any]) -> None:
    show.print(f"[bold]{name}[/]  {escape(str(plan.get('description') or ''))}")
    parameters = plan.get("parameters", [])
    width = max((len(parameter["name"]) for parameter in parameters), default=0)
    for parameter in parameters:
        words = [_type(parameter)]
        if "min" in parameter or "max" in parameter:
            words.append(f"{parameter.get('min', '')} … {parameter.get('max', '')}")
        default = str(parameter.get("default")).replace("None", "null")
        words.append(f"default {default}" if "default" in parameter else "required")
        show.print(f"  [bold]{parameter['name']:<{width}}[/]  {escape(', '.join(words))}")
        if description := " ".join(str(parameter.get("description") or "").split()):
            show.print(f"  {'':<{width}}  [dim]{escape(description)}[/]")


_PLAIN = (
    (r"typing\.", ""),
    (r"List\[Any\]", "list"),
    (r"Dict\[str, Any\]", "object"),
    (r"Union\[(.*), None\]$", r"\1 or null"),
    (r"Union\[(.*), (.*)\]$", r"\1 or \2"),
)
"""Python's words for types, and ours."""


def _type(parameter: dict[str, Any]) -> str:
    annotation = parameter.get("annotation") or {}
    words = str(annotation.get("type", ""))
    for kind in ("enums", "devices", "plans"):
        for choice, values in annotation.get(kind, {}).items():
            words = words.replace(choice, " | ".join(map(str, values)))
    for pattern, plain in _PLAIN:
        words = re.sub(pattern, plain, words)
    return words


def run(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="Name of a plan: see 'queuescope plans'.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its parameters.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="K", help="Operation key; made up where not given.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only go through it: say what it would do and what would stop it.")
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    layout = Layout(data)
    try:
        kwargs = _operation.parse_arguments(arguments or [])
    except ValueError as error:
        fail(str(error))
    rest = Rest.of(layout, running(layout))
    if check:
        _check(rest, plan, kwargs, as_json)
        return
    from ..ledger import read_control

    began = time.monotonic()
    lock_key = layout.key("control") if read_control(layout).mode != "agents" else None
    operation = submit_and_follow(layout, plan, kwargs, key or _operation.new_key(), lock_key)
    seconds = round(time.monotonic() - began, 2)
    try:
        runs = [rest.get(f"/api/runs/{uid}") for uid in operation.run_uids]
    except RestError as error:
        fail(f"{plan} {operation.state} (runs {', '.join(operation.run_uids)}), but: {error}")
    if as_json:
        print_json({**asdict(operation), "runs": runs, "seconds": seconds})
    else:
        for found in runs:
            print_run(found)
        if operation.result is not None:
            _print_result(operation.result)
    if operation.state != "succeeded":
        words = operation.error.detail if operation.error else ""
        fail(f"{plan} {operation.state}: {words}".rstrip(": "), 130 if operation.state == "cancelled" else 1)
    if operation.replayed:
        say.print(f"[bold green]done before[/]: key {escape(operation.key)} has run, nothing moved")
    else:
        say.print(f"[bold green]completed[/] in {seconds:.1f} s")


def _check(rest: Rest, plan: str, kwargs: dict[str, Any], as_json: bool) -> None:
    try:
        found = rest.post("/api/ops/check", {"plan": plan, "kwargs": kwargs})
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(found)
    else:
        frames = ", ".join(f"{count} of {name}" for name, count in found["frames"].items()) or "none"
        size = "" if found["bytes"] is None else f", {found['bytes'] / 1e6:.1f} MB"
        show.print(f"takes   about {found['seconds']:.1f} s")
        show.print(f"frames  {frames}{size}")
        show.print(f"light   {', '.join(f'{name} {dose:g} % × s' for name, dose in found['dose'].items()) or 'none'}")
        show.print(f"moves   {found['moves']}, all checked")
    if not found["ok"]:
        fail(f"{plan} would be refused: " + "; ".join(problem["msg"] for problem in found["problems"]))
    if not as_json:
        say.print("[bold green]it may run[/]; nothing was queued")


def submit_and_follow(
    layout: Layout, plan: str, kwargs: dict[str, Any], key: str, lock_key: str | None = None
) -> agents.Operation:
    """Submit a plan and show a progress bar until it ended, however it did; Ctrl-C cancels it. Fails where it is refused.

    Parameters
    ----------
    lock_key
        Of the queue, where a person has the microscope.
    """
    from .. import agents

    try:
        with _operation.connect(layout) as scope:
            if lock_key is not None:
                _operation.execute(Rest.of(layout, running(layout)), plan, kwargs, key, lock_key)
            job = scope.job(plan, key=key, kwargs=kwargs) if lock_key is None else scope.attach(key)
            return _operation.follow(job, plan, say)
    except (RestError, ValueError) as error:  # NaN has no JSON
        fail(str(error))
    except agents.RefusedError as error:
        fail(error.detail)
    except agents.ScopeError as error:
        fail(f"lost sight of {plan}: {error}; it may still run, see 'queuescope show {key}'")
    except KeyboardInterrupt:
        fail(f"{plan} is left alone: see 'queuescope show {key}'", 130)


def show_run(
    uid_or_key: Annotated[str, typer.Argument(metavar="UID|KEY", help="A run's UID or an operation's key.")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show a run: how it ended, its files, their shapes and the frames written."""
    layout = Layout(data)
    rest = Rest.of(layout, running(layout))
    from ..ledger import Ledger, Operations

    try:
        known = Operations(Ledger(layout.ledger_db)).by_key(uid_or_key) is not None
        operation = rest.get(f"/api/ops/{uid_or_key}") if known else None
        uids = [uid_or_key] if operation is None else operation["run_uids"]
        runs = [rest.get(f"/api/runs/{uid}") for uid in uids]
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(runs[0] if operation is None else {**operation, "runs": runs})
        return
    if operation is not None:
        show.print(f"operation   [bold]{escape(uid_or_key)}[/]  {operation['plan']} {operation['state']}")
        if operation["hold"] is not None:
            show.print(f"waits       {escape(operation['hold']['detail'])}")
        if operation["error"] is not None:
            show.print(f"error       {escape(operation['error']['detail'])}")
    for found in runs:
        print_run(found)
    if operation is not None and operation["result"] is not None:
        _print_result(operation["result"])


def _print_result(result: Any) -> None:
    """A line for each value; what `print_run` has shown is left out. All of it: ``--json``."""
    lines = [
        (name, text) for name, text in result_lines(result) if name not in _SHOWN and not name.startswith("datasets.")
    ]
    width = max((len(name) for name, _ in lines), default=0)
    if lines:
        show.print("[bold]result[/]")
    for name, text in lines:
        show.print(f"  {escape(name):<{width}}  {escape(text)}".rstrip())


_SHOWN = ("run_uid",)
_MOST_SHOWN = 12
"""Values of a list."""


def result_lines(value: Any, name: str = "") -> list[tuple[str, str]]:
    """What a plan returned, as name (``peak.um``) and text of each value."""
    if isinstance(value, dict) and value:
        return [line for key, one in value.items() for line in result_lines(one, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        return [line for index, one in enumerate(value) for line in result_lines(one, f"{name}[{index}]")]
    if isinstance(value, list):
        some = ", ".join(map(_told, value[:_MOST_SHOWN]))
        return [(name, some if len(value) <= _MOST_SHOWN else f"{some}, … ({len(value)} values)")]
    return [(name, _told(value))]


def _told(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def print_run(found: dict[str, Any]) -> None:
    """A run as ``GET /api/runs/{uid}`` gives it."""
    show.print(f"run         [bold]{found['uid']}[/]  ({found['status']})")
    for dataset in found["datasets"]:
        shape = " × ".join(str(n) for n in dataset["shape"])
        show.print(f"  [bold]{dataset['name']}[/]: {dataset['frames_written']} frames, {shape} {dataset['dtype']}")
        show.print(f"    file     {escape(dataset['path'])}")
        show.print(f"    catalog  {escape(str(dataset['tiled']))}")


def page(tiled: str, run_uid: str) -> str:
    """Address of a run's page in Tiled's web interface."""
    return f"{tiled.removesuffix('/api/v1')}/ui/browse/{run_uid}"


def add_to(app: typer.Typer) -> None:
    app.command()(plans)
    app.command(help=_RUN_HELP)(run)
    app.command("show")(show_run)
