"""``queuescope ops``, ``cancel``: operations over REST, as an operator."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from ..layout import Layout
from ._rest import Rest, RestError
from ._terminal import Data, Json, fail, print_json, running, show

PAGE = 500


def ops(
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="Only those in this state, such as interrupted.")
    ] = None,
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="The newest N.")] = 20,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List operations, newest last: key, state, what holds it, its runs."""
    layout = Layout(data)
    rest = Rest.of(layout, running(layout))
    found: list[dict[str, Any]] = []
    after, only = 0, "" if state is None else f"&state={state}"
    try:
        while (page := rest.get(f"/api/ops?after={after}&limit={PAGE}{only}"))["items"]:
            found, after = [*found, *page["items"]][-last:], page["next"]
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(found)
        return
    key = Column("key", no_wrap=True, min_width=max((len(one["key"] or "-") for one in found), default=0))
    table = Table("submitted", key, "plan", "state", "", "runs", box=None, header_style="bold")
    for one in found:
        submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["submitted_at"]))
        tries = "" if one["attempt"] == 1 else f" (attempt {one['attempt']})"
        words = (one["error"] or {}).get("code") or (one["hold"] or {}).get("reason") or ""
        runs = "\n".join(one["run_uids"])
        table.add_row(submitted, escape(one["key"] or "-"), escape(one["plan"]), one["state"] + tries, words, runs)
    show.print(table)


def cancel(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The operation's key.")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Cancel an operation: out of the queue, or paused and aborted. Waits until it has ended."""
    layout = Layout(data)
    rest = Rest.of(layout, running(layout), timeout_s=70)
    try:
        now = rest.post(f"/api/ops/{key}/cancel")
        if now["finished_at"] is None:
            now = rest.get(f"/api/ops/{key}?wait=50")
    except RestError as error:
        fail(str(error))
    if as_json:
        print_json(now)
    elif now["state"] == "cancelled":
        show.print(f"{escape(key)} cancelled: {escape((now['error'] or {}).get('detail', ''))}")
    if now["state"] != "cancelled":
        fail(
            f"{key} is {now['state']}" + ("" if now["finished_at"] else ": it has not ended yet, see 'queuescope ops'")
        )


def add_to(app: typer.Typer) -> None:
    app.command()(ops)
    app.command()(cancel)
