"""``queuescope sample``, ``dose``, ``confirm``: what only a person decides.

Over REST where the stack runs, as an operator; where only the hardware process does, straight to it: whoever may open its
socket (this user) may.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..layout import DEFAULT_SCOPE, Layout
from ._rest import Rest, RestError
from ._terminal import Data, Json, ScopeName, fail, print_json, show

if TYPE_CHECKING:
    from ..hardware import ConnectedHardware

FACTS = ("strain", "stain", "mount", "medium", "refractive_index")


def _stack(layout: Layout) -> Rest | None:
    """The running stack's REST server, or None."""
    from ._checks import holder

    runtime = layout.runtime() if holder(layout) is not None else None
    return None if runtime is None else Rest.of(layout, runtime)


@contextmanager
def _hardware(scope: str, layout: Layout) -> Iterator[ConnectedHardware]:
    from ..config import ScopeError, load_scope
    from ..hardware import HardwareError, connect

    try:
        settings = load_scope(scope)
        if settings.micromanager.process == "worker":
            fail("with process: worker MMCore lives in the RE worker: start the stack ('queuescope up')")
        connected = connect(settings, layout, timeout_s=5)
        try:
            yield connected
        finally:
            connected.close()
    except (ScopeError, HardwareError) as error:
        fail(str(error))


def sample(
    sample_id: Annotated[str | None, typer.Argument(help="The sample's name.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option("--budget", help="LIGHT=DOSE in % × s, as often as needed.")
    ] = None,
    strain: Annotated[str | None, typer.Option("--strain")] = None,
    stain: Annotated[str | None, typer.Option("--stain")] = None,
    mount: Annotated[str | None, typer.Option("--mount", help="How it is mounted.")] = None,
    medium: Annotated[str | None, typer.Option("--medium", help="What it lies in.")] = None,
    refractive_index: Annotated[
        float | None, typer.Option("--refractive-index", metavar="N", help="Of the medium, 1 to 2.5.")
    ] = None,
    close: Annotated[bool, typer.Option("--close", help="No sample is open from now on.")] = False,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Open a sample: all light counts for it, and none is given beyond its budget. What it has had stays."""
    if close == (sample_id is not None):
        fail("name a sample, or --close")
    limits: dict[str, float] = {}
    for entry in budget or []:
        light, _, dose_text = entry.partition("=")
        try:
            limits[light] = float(dose_text)
        except ValueError:
            fail(f"--budget {entry!r} is not LIGHT=DOSE, as in l488=20")
    given = dict(zip(FACTS, (strain, stain, mount, medium, refractive_index), strict=True))
    facts = {name: value for name, value in given.items() if value is not None}
    layout = Layout(data)
    rest = _stack(layout)
    if rest is None:
        if facts:
            fail("what is said of a sample is kept by the running stack: start it ('queuescope up')")
        with _hardware(scope, layout) as hardware:
            _tell(hardware.set_sample(sample_id, limits).model_dump(mode="json"), as_json)
        return
    try:
        if sample_id is None:
            sample_id = _open_sample(rest)
            answer = rest.post("/api/samples", {"id": sample_id, "open": False})
        else:
            answer = rest.post("/api/samples", {"id": sample_id, "dose_budget": limits, **facts})
    except RestError as error:
        fail(str(error))
    _tell(_as_dose(answer), as_json)


def dose(
    sample_id: Annotated[str | None, typer.Argument(help="A sample; none: the open one.")] = None,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What a sample has had of each light, in % × s, and its budget."""
    layout = Layout(data)
    rest = _stack(layout)
    if rest is None:
        with _hardware(scope, layout) as hardware:
            _tell(hardware.dose(sample_id).model_dump(mode="json"), as_json)
        return
    try:
        path = f"/api/samples/{sample_id}" if sample_id is not None else "/api/samples"
        answer = rest.get(path)
    except RestError as error:
        fail(str(error))
    _tell(_as_dose(answer) if sample_id is not None else answer, as_json)


def confirm(
    axis: Annotated[str, typer.Argument(help="The axis that is locked, as in xy.x.")],
    by: Annotated[str | None, typer.Option("--by", help="Who has checked it; by default the user's name.")] = None,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Unlock an axis that lost its reference: you have looked, and it reads right."""
    layout, who = Layout(data), getpass.getuser() if by is None else by
    rest = _stack(layout)
    if rest is None:
        with _hardware(scope, layout) as hardware:
            here = hardware.confirm_reference(axis, who)
    else:
        try:
            here = rest.post("/api/scope/confirm_reference", {"axis": axis, "by": who})["position"]
        except RestError as error:
            fail(str(error))
    if as_json:
        print_json({"axis": axis, "position": here})
    else:
        show.print(f"{axis} is unlocked at {here:g}", markup=False)


def _open_sample(rest: Rest) -> str:
    now = rest.get("/api/samples")
    if not now["open"]:
        raise RestError("no sample is open")
    return str(now["sample_id"])


def _as_dose(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of the REST server in the hardware's form, with the facts."""
    from ..hardware import DoseState

    state = DoseState(
        sample_id=answer["id"],
        open=answer["open"],
        used=answer["dose"],
        by_position=answer["dose_by_position"],
        assumed=answer["dose_assumed"],
        budget=answer["dose_budget"],
    ).model_dump(mode="json")
    return {**state, **{name: answer[name] for name in FACTS if answer[name] is not None}}


def _tell(state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    show.print(f"{state['sample_id'] or 'no sample'}{' (open)' if state['open'] else ''}", markup=False)
    for name in FACTS:
        if name in state:
            show.print(f"  {name.replace('_', ' ')}: {state[name]}", markup=False)
    for light in sorted({*state["used"], *state["budget"]}):
        of = f" of {state['budget'][light]:g}" if light in state["budget"] else ""
        assumed = f" ({state['assumed'][light]:.4g} assumed)" if light in state["assumed"] else ""
        show.print(f"  {light}: {state['used'].get(light, 0.0):.4g}{of} % × s{assumed}", markup=False)


def add_to(app: typer.Typer) -> None:
    for command in (sample, dose, confirm):
        app.command()(command)
