"""``queuescope release``, ``reclaim``, ``approvals``, ``approve``: what people in charge decide, over REST."""

from __future__ import annotations

import getpass
import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..layout import Layout
from ._rest import Rest, RestError
from ._terminal import Data, Json, fail, print_json, running, show, tell_queue_problems

LOADING_S = 150.0
"""Loading a configuration may take long; the server gives up first."""

By = Annotated[str | None, typer.Option("--by", help="Who does this; by default the user's name.")]


def _rest(layout: Layout) -> Rest:
    return Rest.of(layout, running(layout), timeout_s=LOADING_S)


def release(
    reason: Annotated[str, typer.Option("--reason", help="Why: whoever is refused meanwhile reads it.")] = (
        "Micro-Manager needs cameras and ports"
    ),
    by: By = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Free cameras and ports for the Micro-Manager GUI: lights off, every device unloaded, the queue stopped; nothing moves.

    It stays so, over 'down' and 'up' too, until 'reclaim'.
    """
    answer = _post("/api/scope/release", {"reason": reason, "by": by or getpass.getuser()}, data)
    if as_json:
        print_json(answer)
        return
    show.print("[bold]released[/]: cameras and ports are free; 'queuescope reclaim' takes them back")
    tell_queue_problems(answer)


def reclaim(
    resume_queue: Annotated[bool, typer.Option("--resume-queue", help="Let queued plans start again.")] = False,
    by: By = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Take cameras and ports back after 'release': close Micro-Manager first. Lights off first; nothing is moved.

    Axes with a reference are locked until you have looked: 'queuescope confirm AXIS'.
    """
    answer = _post("/api/scope/reclaim", {"resume_queue": resume_queue, "by": by or getpass.getuser()}, data)
    if as_json:
        print_json(answer)
    elif answer["hardware"]["stage"] == "ready":
        queue = "queued plans start" if resume_queue else "the queue is stopped"
        show.print(
            f"[bold green]reclaimed[/] at {time.strftime('%H:%M:%S')}: everything is loaded, nothing moved; {queue}"
        )
    else:
        show.print("[bold]lights are loaded and off[/]; ", end="")
        show.print(f"{answer['hardware']['waits']}: 'queuescope rearm' lets it", markup=False)
    tell_queue_problems(answer)


def approvals(data: Data = None, as_json: Json = False) -> None:
    """List the plans that wait for a person's approval (scope file: agents.approval)."""
    layout = Layout(data)
    try:
        found: list[dict[str, Any]] = _rest(layout).get("/api/scope/approvals")
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(found)
        return
    from rich.pretty import Pretty

    for one in found:
        minutes = (time.time() - (one["hold"]["since"] or time.time())) / 60
        sample = f", sample {one['sample_id']}" if one["sample_id"] else ""
        show.print(
            f"[bold]{one['item_uid']}[/]  {escape(one['plan'])} of the {one['user_group']}{escape(sample)},"
            f" since {minutes:.0f} min"
        )
        show.print(Pretty(one["kwargs"]), soft_wrap=False)
    if not found:
        show.print("nothing waits for an approval")


def approve(
    item_uid: Annotated[str, typer.Argument(metavar="ITEM_UID", help="As 'queuescope approvals' shows it.")],
    refuse: Annotated[bool, typer.Option("--refuse", help="It ends as failed instead, and nothing moves.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the operation.")] = "",
    by: By = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Let a plan start that waits for a person, or refuse it."""
    layout = Layout(data)
    try:
        rest = _rest(layout)
        shown = [one for one in rest.get("/api/scope/approvals") if one["item_uid"] == item_uid]
        body = {"approve": not refuse, "reason": reason, "by": by or getpass.getuser()}
        if shown:
            body["body"] = shown[0]["body"]
        answer = rest.post(f"/api/scope/approvals/{item_uid}", body)
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(answer)
        return
    words = "[bold red]refused[/]" if refuse else "[bold green]approved[/]"
    show.print(f"{words} by {escape(answer['by'])}: {escape(answer['reason'])}")
    tell_queue_problems(answer)


def _post(path: str, body: dict[str, Any], data: str | None) -> dict[str, Any]:
    layout = Layout(data)
    try:
        answer: dict[str, Any] = _rest(layout).post(path, body)
    except RestError as error:
        fail(str(error))
    return answer


def add_to(app: typer.Typer) -> None:
    for command in (release, reclaim, approvals, approve):
        app.command()(command)
