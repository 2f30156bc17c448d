"""The command ``queuescope``: what people type. Each command says in its help what it does and what it prints."""

from __future__ import annotations

import functools
import os
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..layout import DEFAULT_SCOPE, Layout
from ..lean import NO_PLUGINS
from ._terminal import Data, Json, ScopeName, fail, print_json, running, say, show

if TYPE_CHECKING:
    from ..config import Scope

app = typer.Typer(
    name="queuescope",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Micro-Manager microscopes as a Bluesky queueserver: plans in, frames on disk, runs by UID.

    Start with [bold]queuescope demo[/].

    On your own microscope: [bold]queuescope up --scope my/scope.yml[/], then [bold]plans[/], [bold]run[/] and [bold]show[/];
    [bold]down[/] at the end of the day.""",
)


def settings(scope: str, data: str | None, http_port: int | None = None) -> tuple[Scope, Layout]:
    """The scope and the data directory; fails with a sentence where the scope file can't be used."""
    from ..config import ScopeError, load_scope  # most commands ask the running stack instead

    if http_port is not None:
        os.environ["QUEUESCOPE_SERVICES__HTTP__PORT"] = str(http_port)
    try:
        return load_scope(scope), Layout(data)
    except ScopeError as error:
        fail(str(error))


def tell(event: str, facts: dict[str, Any]) -> None:
    """One line for each event of a start or a stop."""
    part = facts.get("part", "")
    if event == "part" and part != "ready":
        say.print(f"  {part:<12} [green]ready[/]  {facts['seconds']:5.1f} s")
    elif event == "ready":
        say.print(f"[bold green]ready[/] after {facts['seconds']:.1f} s: a plan would run now")
    elif event == "stopping":
        say.print(f"  {part:<12} stopping" + (f" ({escape(facts['message'])})" if "message" in facts else ""))
    elif event in ("died", "failed"):
        say.print(f"  {part:<12} [red]{event}[/]: ", end="")
        say.print(facts["message"], markup=False)
    elif event == "restarted":
        say.print(f"  {part:<12} [yellow]running again[/] (restart {facts['restarts']})")


@app.command()
def up(
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    http_port: Annotated[
        int | None,
        typer.Option("--http-port", metavar="N", min=0, max=65535, help="Port of the REST server; 0: any free one."),
    ] = None,
    no_wait_catalog: Annotated[
        bool,
        typer.Option("--no-wait-catalog", help="Return when plans would run; the catalog starts in the background."),
    ] = False,
    no_catalog: Annotated[
        bool,
        typer.Option(
            "--no-catalog", help="Start neither Tiled nor the courier: runs wait in their logs for the next start."
        ),
    ] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay here and stop on Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Start the microscope: hardware, queue, REST server, catalog.

    Returns when a submitted plan would run and the catalog answers. Ends with a code other than 0, everything stopped
    again, where something does not start, and says what.
    """
    from ._children import StartError

    microscope, layout = settings(scope, data, http_port)
    say.print(f"starting {microscope.name} on {escape(str(layout.data))}")
    if foreground:
        from ._supervise import supervise

        errors: list[str] = []
        ready_after: list[float] = []

        def listener(event: str, facts: dict[str, Any]) -> None:
            tell(event, facts)
            if event == "error":
                errors.append(str(facts["message"]))
            if event == "ready":
                ready_after.append(facts["seconds"])
            if event == ("ready" if no_wait_catalog else "catalog"):
                _print_up(layout, ready_after[0], as_json)

        code = supervise(microscope, layout, listener, wait_catalog=not no_wait_catalog, catalog=not no_catalog)
        if errors:
            fail("\n".join(errors), code or 1)
        raise typer.Exit(code)
    from ._up import start

    try:
        seconds = start(microscope, layout, tell, wait_catalog=not no_wait_catalog, catalog=not no_catalog)
    except StartError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted: everything that had started is stopped again", 130)
    _print_up(layout, seconds, as_json)


def _print_up(layout: Layout, seconds: float, as_json: bool) -> None:
    runtime = layout.runtime() or {}
    if as_json:
        print_json({**runtime, "data": str(layout.data), "seconds_to_ready": seconds})
        return
    show.print(f"REST server  {runtime['http']}")
    catalog = runtime["tiled"]
    show.print(f"catalog      {catalog.removesuffix('/api/v1') + '/ui' if catalog else 'none (--no-catalog)'}")
    show.print(f"keys         {escape(str(layout.keys))} (one file a role)")


@app.command()
def down(data: Data = None) -> None:
    """Stop the microscope in good order.

    A running plan is paused and aborted, lights go off, the environment closes; then every process ends.
    """
    from ._children import StartError
    from ._up import stop

    layout = Layout(data)
    began = time.monotonic()
    say.print(f"stopping the stack on {escape(str(layout.data))}")
    try:
        stopped = stop(layout)
    except StartError as error:
        fail(str(error))
    if stopped:
        say.print(f"[bold green]stopped[/] after {time.monotonic() - began:.1f} s: nothing is left running")
    else:
        say.print("nothing was running")


@app.command()
def status(data: Data = None, as_json: Json = False) -> None:
    """Show every process with its memory, whether a plan would run, the queue, and the catalog.

    Ends with code 1 where nothing runs.
    """
    from . import _status

    facts = _status.status(Layout(data))
    if as_json:
        print_json(facts)
    elif "processes" not in facts:
        words = "is going up or down" if facts["running"] else "has no running stack"
        show.print(f"{escape(facts['data'])} {words}")
    else:
        _print_status(facts)
    raise typer.Exit(0 if "processes" in facts else 1)


def _print_status(facts: dict[str, Any]) -> None:
    show.print(
        f"[bold]{facts['scope']}[/] on {escape(facts['data'])}, {facts['phase']} for {_duration(facts['uptime_s'])}"
    )
    table = Table("process", "pid", "state", "restarts", "resident MB", "own share MB", box=None, pad_edge=False)
    for column in table.columns[1:2] + table.columns[3:]:
        column.justify = "right"
    for name, p in facts["processes"].items():
        if p["pid"] is None and p["state"] is None:
            table.add_row(name, "-", "none", "", "", "")
            continue
        words = p["state"] or "none"
        words += escape(f": {p['detail']}") if p["detail"] else ""
        sizes = [f"{p[kind] / 1e6:.0f}" if p["pid"] else "-" for kind in ("rss", "pss")]
        table.add_row(name, str(p["pid"] or "-"), words, str(p["restarts"] or ""), *sizes)
    total = facts["total"]
    table.add_row("total", "", "", "", f"{total['rss'] / 1e6:.0f}", f"{total['pss'] / 1e6:.0f}", style="bold")
    show.print(table, soft_wrap=False)
    if facts["ready"]:
        show.print("[bold green]ready[/]: a submitted plan would run")
    else:
        show.print("[bold red]not ready[/]: " + escape("; ".join(facts["reasons"])))
    for hold in facts["holds"]:
        show.print(f"[bold]waits[/]    {hold['reason']}: {escape(hold['detail'])}" + _needs(hold))
    queue = facts["queue"]
    if queue is None:
        show.print("queue    no answer from queueserver")
    else:
        running_ = f"running {queue['running_item_uid']}" if queue["running_item_uid"] else "nothing running"
        autostart = "on" if queue["queue_autostart_enabled"] else "off"
        show.print(
            f"queue    {queue['items_in_queue']} waiting, {running_}, autostart {autostart} ({queue['manager_state']})"
        )
    show.print(f"REST     {facts['http']}")
    show.print(
        f"catalog  {facts['tiled']} "
        + ("answers" if facts["catalog"] else "[red]no answer, from it or from the courier[/]")
    )


def _needs(hold: dict[str, Any]) -> str:
    return f" ({escape(hold['needs'])})" if hold["needs"] else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if hours < 2
        else f"{hours:.0f} h"
        if days < 2
        else f"{days:.0f} d"
    )


@app.command()
def ready(data: Data = None, as_json: Json = False) -> None:
    """Say whether a submitted plan would run now, and if not, why. Ends with code 0 only if it would."""
    from . import _probes

    layout = Layout(data)
    runtime = running(layout)
    is_ready, reasons = _probes.ready(runtime["http"], layout.key("operator"))
    holds = _probes.holds(runtime["http"], layout.key("operator"))
    if as_json:
        print_json({"ready": is_ready, "reasons": reasons, "holds": holds})
    else:
        show.print("[bold green]ready[/]" if is_ready else "[bold red]not ready[/]: " + escape("; ".join(reasons)))
        for hold in holds:
            show.print(f"waits: {hold['reason']}: {escape(hold['detail'])}" + _needs(hold))
    raise typer.Exit(0 if is_ready else 1)


HERE = ("up", "down", "status", "ready")
"""The commands of this module."""
ELSEWHERE = {
    "_plan_commands": ("plans", "run", "show"),
    "_op_commands": ("ops", "cancel"),
    "_client_commands": ("keygen", "pair"),
    "_safety_commands": ("halt", "rearm", "control"),
    "_people_commands": ("release", "reclaim", "approvals", "approve"),
    "_sample_commands": ("sample", "dose", "confirm"),
    "_demo_command": ("demo",),
    "_init_command": ("init",),
    "_doctor_command": ("doctor",),
    "_bench_commands": ("bench",),
    "_verify_command": ("verify",),
    "_export_command": ("export",),
    "_archive_command": ("archive", "compress"),
}
"""Those of each other module, in the order of the help."""


@functools.cache
def complete_app() -> typer.Typer:
    """The command with all its parts."""
    for module in ELSEWHERE:
        _add(module)
    return app


def _add(module: str) -> None:
    import_module(f".{module}", __package__).add_to(app)


def app_for(words: list[str]) -> typer.Typer:
    """The command with the part that ``words`` ask for; complete where they ask for help, or for nothing that there is."""
    name = words[0] if words else ""
    if name in HERE:
        return app
    for module, names in ELSEWHERE.items():
        if name in names:
            _add(module)
            return app
    return complete_app()


def main() -> None:
    """The command as installed."""
    os.environ.setdefault(*NO_PLUGINS)
    app_for(sys.argv[1:])()
