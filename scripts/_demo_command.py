"""``queuescope demo``: the whole line once, from a start to pixels read back by UID."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..layout import DEFAULT_SCOPE, Layout
from . import _operation, _plan_commands, cli
from ._rest import Rest, RestError
from ._terminal import Data, Json, fail, print_json, running, say, show

PLAN = "acquire_volume"
KWARGS: dict[str, Any] = {
    "views": "both",
    "slices": 20,
    "step_um": 2.0,
    "centre_piezo_um": 0.0,
    "channels": [{"name": "gfp"}],
}
CATALOG_S = 120.0
"""Longest time for the run to reach the catalog, which may have started a moment ago."""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the microscope running afterwards.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Acquire a two-camera volume on the bundled demo diSPIM and read it back by run UID.

    Starts everything (or uses what runs on this data directory), submits the plan over REST, checks every frame against the
    checksum taken at the camera, saves a projection as PNG, and stops everything again.
    """
    from . import _checks
    from ._children import StartError
    from ._up import start, stop

    began = time.monotonic()
    layout = Layout(data)
    ours = _checks.holder(layout) is None
    if ours:
        # The demo is a visitor: it takes any free port unless one is asked for.
        os.environ.setdefault("QUEUESCOPE_SERVICES__HTTP__PORT", "0")
        scope, _ = cli.settings(DEFAULT_SCOPE, data)
        say.print(f"starting {scope.name} on {escape(str(layout.data))}")
        try:
            start(scope, layout, cli.tell, wait_catalog=True)
        except StartError as error:
            fail(str(error))
    try:
        facts = _acquire_and_read_back(layout)
    finally:
        if ours and not keep:
            say.print("stopping")
            stop(layout)
    facts["seconds"] = round(time.monotonic() - began, 1)
    if as_json:
        print_json(facts)
    elif keep:
        show.print(f"still running: stop it with 'queuescope down --data {escape(str(layout.data))}'")


def _acquire_and_read_back(layout: Layout) -> dict[str, Any]:
    from ._read_back import ReadBackError, read_back, save_projection

    runtime = running(layout)
    if runtime["scope"] != DEFAULT_SCOPE:
        fail(f"{runtime['scope']} runs on {layout.data}: the demo is for {DEFAULT_SCOPE}, give it another --data")
    if runtime["tiled"] is None:
        fail(
            f"the stack on {layout.data} runs without a catalog, which the demo reads from: queuescope down, then demo"
        )
    rest = Rest.of(layout, runtime)
    operation = _plan_commands.submit_and_follow(layout, PLAN, KWARGS, _operation.new_key())
    if operation.state != "succeeded" or not operation.run_uids:
        fail(f"{PLAN} {operation.state}: {operation.error.detail if operation.error else 'no run'}")
    run_uid = operation.run_uids[-1]
    try:
        run = rest.get(f"/api/runs/{run_uid}")
    except RestError as error:
        fail(str(error))
    _plan_commands.print_run(run)
    show.print(f"page        {_plan_commands.page(runtime['tiled'], run_uid)}")
    try:
        volumes = read_back(runtime["tiled"], layout.key("agent"), run, CATALOG_S)
    except ReadBackError as error:
        fail(str(error))
    frames = sum(len(volume) for volume in volumes.values())
    show.print(f"read back   {frames} frames from the catalog by UID: all equal those taken at the cameras")
    png: Path = save_projection(volumes, layout.data / f"{run_uid}.png")
    show.print(f"projection  {escape(str(png))}")
    return {"run_uid": run_uid, "datasets": run["datasets"], "png": str(png), "seconds": 0.0}


def add_to(app: typer.Typer) -> None:
    app.command()(demo)
