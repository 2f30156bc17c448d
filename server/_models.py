"""What our routes answer, as in ``docs/openapi.json``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from ..described import Described
from ..hardware import CameraState, FocusState, LightState, SafetyState
from ..ledger import Control, Hold


class _Answer(Described):
    model_config = ConfigDict(extra="forbid")


class ProblemBody(Described):
    """An RFC 9457 problem; ``docs/reference/rest.md`` lists the codes."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    """Names the thing, the value, the limit and what to do."""
    code: str
    """Stable: programs decide by it."""


class ServerView(_Answer):
    """Which microscope answers here."""

    server_id: str | None
    """Identity of this installation, for as long as its data directory; null where the server was started by hand."""
    scope: str
    version: str


class Component(_Answer):
    """One part of the microscope's software."""

    ok: bool | None
    """None: not known, or not part of this installation."""
    detail: str
    """What was seen."""


class QueueComponent(Component):
    autostart: bool | None = None
    items: int | None = None
    """Items waiting."""
    running: str | None = None
    """`item_uid` of the running item."""


class Components(_Answer):
    valkey: Component
    manager: Component
    environment: Component
    queue: QueueComponent
    hardware: Component
    http: Component
    catalog: Component
    """Reported, but no part of `ready`: runs are kept in the document log while it is away."""


class Readiness(_Answer):
    ready: bool
    """A plan submitted now would run."""
    reasons: list[str]
    """Why not."""
    components: Components
    holds: list[Hold]
    """What waits, and for whom; also what waits while other plans would run, such as an approval."""


class Dataset(_Answer):
    """One array of a run."""

    name: str
    uri: str
    """``data://ROOT/relative``; never changes."""
    path: str | None
    """The same file as clients see it (scope.yml: storage.roots.ROOT.clients); None for a file outside the storage roots."""
    shape: list[int | None]
    """Frames, height, width. Frames are the plan's number while the run grows (None where it named none), then those
    written."""
    dtype: str
    """NumPy name."""
    frames_written: int | None
    """Frames whose bytes are on disk; None where this machine can't see the file."""
    tiled: str | None
    """Address of the array's metadata in Tiled, for `tiled.client.from_uri`."""


class Run(_Answer):
    uid: str
    status: Literal["running", "succeeded", "failed", "aborted", "interrupted"]
    """``interrupted``: the run has no stop document and nobody is writing it."""
    plan: str | None
    session_id: str | None
    sample_id: str | None
    datasets: list[Dataset]


class ScopeDevice(_Answer):
    kind: str
    label: str
    """The Micro-Manager label."""
    units: str | None = None
    limits: Any = None
    """``[low, high]``, by component (``x``, ``y``) where the device has two."""
    position: float | dict[str, float] | None = None
    """Of stages and galvos, in `units`; None where it could not be read (then `error` says why)."""
    current: str | None = None
    """Label in place, of state devices and the objective turret."""
    value: float | str | None = None
    """Of temperatures and properties."""
    choices: list[str] | None = None
    focus: FocusState | None = None
    """Of the autofocus: its focus lock, and the stage that it moves."""
    view: str | None = None
    error: str | None = None


class ScopeLight(_Answer):
    wavelength_nm: float | None
    laser_class: str | None
    limits_pct: tuple[float, float]
    state: LightState | None
    """None where it could not be read (then `error` says why)."""
    error: str | None = None


class ScopeView(_Answer):
    """The microscope, read now."""

    name: str
    mode: Literal["own", "worker"]
    """Where MMCore lives: in a process of its own, or in the RE worker."""
    server_id: str | None
    """Identity of this installation; None where the server was started by hand."""
    time: float
    """Seconds since the epoch."""
    devices: dict[str, ScopeDevice]
    lights: dict[str, ScopeLight]
    channels: dict[str, dict[str, Any]]
    objectives: dict[str, dict[str, Any]]
    cameras: dict[str, CameraState]
    temperature: dict[str, float]
    """Of every `temperature` device, in °C."""
    errors: dict[str, str]
    """By device or light: why it could not be read."""
    safety: SafetyState | None
    """Halted, interlocks, armed."""
    control: Control
    """Who has the microscope."""
