"""``queuescope sample``, ``dose``, ``confirm``: what only a person decides, straight to the hardware process.

Whoever may open the hardware's socket (this user) may; agents have a key of the REST server only, which offers none of these.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ..config import ScopeError, load_scope
from ..hardware import ConnectedHardware, DoseState, HardwareError, connect
from ..layout import DEFAULT_SCOPE, Layout
from ._terminal import Data, Json, ScopeName, fail, print_json, show


@contextmanager
def _hardware(scope: str, data: str | None) -> Iterator[ConnectedHardware]:
    try:
        settings = load_scope(scope)
        if settings.micromanager.process == "worker":
            fail("with process: worker MMCore lives in the RE worker, where only its own console reaches it")
        connected = connect(settings, Layout(data), timeout_s=5)
        try:
            yield connected
        finally:
            connected.close()
    except (ScopeError, HardwareError) as error:
        fail(str(error))


def sample(
    sample_id: Annotated[str | None, typer.Argument(help="The sample's name; leave it out with --close.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option("--budget", help="LIGHT=DOSE in % × s, as often as needed.")
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
    with _hardware(scope, data) as hardware:
        _tell(hardware.set_sample(sample_id, limits), as_json)


def dose(
    sample_id: Annotated[str | None, typer.Argument(help="A sample; none: the open one.")] = None,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What a sample has had of each light, in % × s, and its budget."""
    with _hardware(scope, data) as hardware:
        _tell(hardware.dose(sample_id), as_json)


def confirm(
    axis: Annotated[str, typer.Argument(help="The axis that is locked, as in xy.x.")],
    by: Annotated[str | None, typer.Option("--by", help="Who has checked it; by default the user's name.")] = None,
    scope: ScopeName = DEFAULT_SCOPE,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Unlock an axis that lost its reference: you have looked, and it reads right."""
    with _hardware(scope, data) as hardware:
        here = hardware.confirm_reference(axis, getpass.getuser() if by is None else by)
    if as_json:
        print_json({"axis": axis, "position": here})
    else:
        show.print(f"{axis} is unlocked at {here:g}", markup=False)


def _tell(state: DoseState, as_json: bool) -> None:
    if as_json:
        print_json(state.model_dump(mode="json"))
        return
    show.print(f"{state.sample_id or 'no sample'}{' (open)' if state.open else ''}", markup=False)
    for light in sorted({*state.used, *state.budget}):
        of = f" of {state.budget[light]:g}" if light in state.budget else ""
        assumed = f" ({state.assumed[light]:.4g} assumed)" if light in state.assumed else ""
        show.print(f"  {light}: {state.used.get(light, 0.0):.4g}{of} % × s{assumed}", markup=False)


def add_to(app: typer.Typer) -> None:
    for command in (sample, dose, confirm):
        app.command()(command)
