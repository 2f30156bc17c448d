"""The scope file: one settings tree that says what a microscope has and how far it may go.

``load_scope("demo-dispim")`` or ``load_scope("path/to/scope.yml")`` gives a validated `Scope`. Variables such as
``QUEUESCOPE_SERVICES__HTTP__PORT=60611`` override single entries. Every axis and every light must state its limits:
a missing one is a `ScopeError` that names it. The JSON Schema of this tree is committed as ``docs/scope.schema.json``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PrivateAttr,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from .described import Described

SCOPES = Path(__file__).parent / "scopes"
ENV_PREFIX = "QUEUESCOPE_"
RESERVED = {"burst", "channel", "lights_off", "live_view", "volume"}
"""Names of the devices that every microscope gets (`queuescope.devices`)."""


BLANK = "FILL_IN"
"""What `queuescope init` writes where only a person knows the value: a scope with such an entry is refused."""

_WANTED = {
    "limits": "[low, high]: how far it may go, so that nothing is touched or damaged",
    "x": "[low, high]: how far x may go, so that nothing is touched or damaged",
    "y": "[low, high]: how far y may go, so that nothing is touched or damaged",
    "limits_pct": "[low, high]: the lowest and highest power, in %, that any plan may ask for",
    "exposure_ms": "[shortest, longest] exposure in ms",
    "full_scale": "the property's value at 100 % power",
    "power": "{label, property, full_scale, limits_pct: [low, high]}, or fixed where software can't set it",
    "pixel_um": "the size of a pixel in µm",
    "na": "the numerical aperture on the objective's barrel",
    "laser_class": 'the class on the laser\'s label, in quotes: "1" … "3B", "4"',
    "light": "the light of this channel: a name under lights",
}


class ScopeError(ValueError):
    """A scope file that can't be used. The text names the entry, its value and what to write instead."""


class _Part(Described):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] >= limits[1]:
        raise ValueError(f"limits must be [low, high] with low < high, not {list(limits)}")
    return limits


Limits = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ascending)]
NAME = r"^[a-z][a-z0-9_]{0,31}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
RootName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")]
View = Literal["A", "B"]


class LimitsXY(_Part):
    x: Limits
    y: Limits


class MicroManager(_Part):
    """How MMCore is loaded."""

    config: str
    """An ordinary Micro-Manager ``.cfg``; relative to the scope file."""
    adapters: str | None = None
    """Folder of device adapters (``mmgr_dal_*``); null: an installed Micro-Manager, else the ``mm-test-adapters`` package."""
    process: Literal["own", "worker"] = "own"
    """``own``: MMCore in its own process (a crashing adapter costs that process only). ``worker``: inside the RE worker."""
    call_timeout_s: Annotated[FiniteFloat, Field(gt=0, le=600)] = 10
    """A call into an adapter that takes longer counts as hung (exposures and moves add their own time)."""
    restart: Literal["auto", "ask"] = "auto"
    startup_allowed: tuple[str, ...] = ()
    """Entries ``LABEL.PROPERTY`` of the preset System/Startup that touch lights or axes and are applied all the same."""
    core_per_camera: tuple[Name, ...] = ()
    """Cameras that get an MMCore of their own: one core's buffer holds frames of one size only, so cameras of different sizes
    that record together need one each. Their hub, if they have one, must be theirs alone."""
    buffer_mb: Annotated[int, Field(ge=16, le=1_000_000)] = 1000
    """Frames of a sequence wait for the disk in MMCore's buffer, which grows up to this size (MB, for each core)."""


class _Device(_Part):
    label: str
    """The device's label in the Micro-Manager configuration."""
    moves_on_init: bool = False
    """True where loading the configuration moves this device (homing): a restart then waits for a person."""


Reference = Literal["watched", "manual", "none"]
"""Does this axis stand where its last move left it? ``watched``: at the next move and after a restart it must, else it is
locked (`reference_lost`); ``manual``: a joystick moves it too, so only after a restart; ``none``: never compared, for
controllers that forget their position when the configuration is loaded (Micro-Manager's demo adapters do)."""


MoveSeconds = Annotated[FiniteFloat, Field(ge=0, le=600)]


class LimitsFor(_Part):
    """Narrower limits, by the name of the objective in place (`Scope.objectives`) and of the sample holder
    (`Safety.holder`). Where it isn't known which one is in place, the narrowest of all count."""

    objective: dict[Name, Limits] = Field(default_factory=dict)
    holder: dict[Name, Limits] = Field(default_factory=dict)


class LimitsForXY(_Part):
    """The same for an XY stage."""

    objective: dict[Name, LimitsXY] = Field(default_factory=dict)
    holder: dict[Name, LimitsXY] = Field(default_factory=dict)


class Stage(_Device):
    kind: Literal["stage"]
    units: Literal["um", "mm", "deg"] = "um"
    limits: Limits
    limits_for: LimitsFor = LimitsFor()
    reference: Reference = "watched"
    home: FiniteFloat | None = None
    view: View | None = None
    """The light-sheet view whose sheet this axis refocuses (a piezo)."""
    tolerance: Annotated[FiniteFloat, Field(gt=0)] = 0.5
    """A readback further than this from the target is an error."""
    move_s: MoveSeconds = 0.3
    """How long a move takes, as a rule: for estimates alone."""
    speed_per_s: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """How far it travels in a second, in its units; null: as long as `move_s`, however far. For estimates alone."""


class XYStage(_Device):
    kind: Literal["xy_stage"]
    units: Literal["um"] = "um"
    limits: LimitsXY
    limits_for: LimitsForXY = LimitsForXY()
    reference: Reference = "watched"
    tolerance: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    move_s: MoveSeconds = 0.3
    """How long a move takes, as a rule: for estimates alone."""
    speed_per_s: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """How far it travels in a second, in its units; null: as long as `move_s`, however far. For estimates alone."""


class Calibration(_Part):
    """How far the sheet's focus moves with the scanner: piezo_um = slope_um_per_deg × galvo_deg + offset_um."""

    slope_um_per_deg: FiniteFloat
    offset_um: FiniteFloat = 0

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if abs(self.slope_um_per_deg) < 1e-3:
            raise ValueError(f"slope_um_per_deg {self.slope_um_per_deg} is too small to place a sheet (at least 0.001)")
        return self


class Galvo(_Device):
    kind: Literal["galvo"]
    units: Literal["deg"] = "deg"
    limits: LimitsXY
    view: View | None = None
    """The light-sheet view whose sheet this scanner makes: x is the sheet's width, y places it along the detection axis."""
    calibration: Calibration | None = None
    """The stored calibration against the piezo of the same view."""
    tolerance: Annotated[FiniteFloat, Field(gt=0)] = 0.01


class ExternalTrigger(_Part):
    """How a camera is made to expose at a controller's pulses (rising edge), and how long its chip takes."""

    properties: dict[str, str] = Field(
        default_factory=lambda: {"TRIGGER SOURCE": "EXTERNAL", "SENSOR MODE": "AREA", "TRIGGER ACTIVE": "EDGE"}
    )
    """Properties of the camera, set in this order before the exposure; afterwards they are what they were."""
    readout_ms: Annotated[FiniteFloat, Field(ge=0, le=10_000)]
    """Reading a frame out: no pulse may come before it has ended."""
    reset_ms: Annotated[FiniteFloat, Field(ge=0, le=10_000)]
    """From a pulse until every row of the chip exposes (a rolling shutter needs one readout)."""


class Camera(_Device):
    kind: Literal["camera"]
    pixel_um: Annotated[FiniteFloat, Field(gt=0)]
    """Pitch of the sensor's pixels in µm (in the sample: divide by the magnification, or state `Objective.pixel_um`)."""
    exposure_ms: Limits
    """Shortest and longest exposure."""
    view: View | None = None
    readout_ms: Annotated[FiniteFloat, Field(ge=0, le=10_000)] = 20
    """What a frame takes beside its exposure, as a rule, until the computer has it: for estimates alone."""
    chip_px: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (2048, 2048)
    """Width and height of the chip: how long it takes to measure a frame, for estimates alone."""
    trigger: Literal["internal"] = "internal"
    external: ExternalTrigger | None = None
    """For `Volume.trigger` tiger_spim."""


class MultiCamera(_Device):
    """Cameras of this scope that expose together: Micro-Manager's `Multi Camera`. Each gets a dataset of its own."""

    kind: Literal["multi_camera"]
    cameras: Annotated[tuple[Name, ...], Field(min_length=2, max_length=4)]
    """Names of its physical cameras under devices, in its order (``Physical Camera 1`` …)."""


class State(_Device):
    kind: Literal["state"]
    """A device with labelled positions: filter wheel, turret, slider."""


class ConfigGroup(_Device):
    """A configuration group whose presets plans may choose from: a light path, a camera mode."""

    kind: Literal["config_group"]
    label: str
    """The group's name in the Micro-Manager configuration."""


class ObjectiveTurret(_Device):
    kind: Literal["objective"]
    move_s: MoveSeconds = 1.0
    """How long turning another objective in takes, as a rule: for estimates alone."""


class Temperature(_Device):
    kind: Literal["temperature"]
    units: Literal["degC"] = "degC"
    property: str
    """The property that holds the temperature in °C."""
    setpoint: str | None = None
    """The property that takes the target; null: read only."""
    limits: Limits
    tolerance: Annotated[FiniteFloat, Field(gt=0)] = 0.5
    """Nearer than this to its target it has been reached, in °C."""
    stable_s: Annotated[FiniteFloat, Field(ge=0)] = 0
    """It must stay there for so long before a plan goes on."""
    timeout_s: Annotated[FiniteFloat, Field(gt=0)] = 600
    """A plan doesn't wait for it longer than this."""


class Autofocus(_Device):
    """An autofocus that moves a stage by itself: once, or all the time (a focus lock). A microscope has one."""

    kind: Literal["autofocus"]
    axis: Name
    """The stage that it moves. Its limits hold: it is read back after each focusing and while the lock is engaged."""
    reach: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """How far from where it stands the stage may be moved, in its units; null: anywhere inside its limits."""
    offset: Limits | None = None
    """Lowest and highest offset that may be set, as the adapter counts it; null: the offset is left alone."""
    offset_units: str = ""
    lock_s: Annotated[FiniteFloat, Field(gt=0, le=60)] = 5
    """A lock that has not locked by then is released."""
    focus_s: MoveSeconds = 2.0
    """How long finding the focus takes, as a rule: for estimates alone."""


class Property(_Device):
    """One property of a device that plans may read, and set within the limits or choices given here."""

    kind: Literal["property"]
    property: str
    units: str = ""
    limits: Limits | None = None
    choices: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.limits is None and self.choices is None:
            raise ValueError("a property needs limits: [low, high] or choices: [...] to say what may be set")
        return self


Device = Annotated[
    Stage
    | XYStage
    | Galvo
    | Camera
    | MultiCamera
    | State
    | ConfigGroup
    | ObjectiveTurret
    | Temperature
    | Autofocus
    | Property,
    Field(discriminator="kind"),
]


class Switch(_Part):
    """An on/off control: a property and the two values that open and close it."""

    label: str
    property: str | None = "State"
    """null: the device is a shutter that is opened and closed as such (it has no property of its own for that)."""
    on: str = "1"
    off: str = "0"


class Power(_Part):
    label: str
    property: str
    full_scale: Annotated[FiniteFloat, Field(gt=0)]
    """The property's value at 100 %."""
    limits_pct: Limits
    """Lowest and highest power in % of full scale that any plan may ask for."""

    @model_validator(mode="after")
    def _percent(self) -> Self:
        if self.limits_pct[0] < 0 or self.limits_pct[1] > 100:
            raise ValueError(f"limits_pct must lie inside [0, 100], not {list(self.limits_pct)}")
        return self


class Light(_Part):
    """A gate (fast, closed between exposures), a power and, for lasers, an emission (slow, for safety)."""

    wavelength_nm: Annotated[FiniteFloat, Field(ge=200, le=2000)] | None = None
    laser_class: Literal["1", "1M", "2", "2M", "3R", "3B", "4"] | None = None
    gate: Switch
    power: Annotated[
        Annotated[Power, Tag("set")] | Annotated[Literal["fixed"], Tag("fixed")],
        Discriminator(lambda power: "fixed" if isinstance(power, str) else "set"),
    ]
    """``fixed``: said knowingly of a light whose power software can't set; it counts as 100 %."""
    emission: Switch | None = None
    gated_by: Literal["controller", "software"] = "software"
    """``controller``: in volumes that a controller paces, its pulses open this line and the gate stays closed; in single
    frames software opens the gate. ``software``: the gate is held open for a whole volume."""
    output: str | None = None
    """Value of `SpimController.outputs` that lets the controller's pulses through to this line, and to no other."""
    verify: Literal["refresh", "none"] = "refresh"
    """``refresh``: the adapter asks the controller when read, so a closed gate is `verified`; ``none``: `assumed`."""
    max_on_s: Annotated[FiniteFloat, Field(gt=0, le=3600)] = 120
    """`set_light` closes the gate again after this time at the latest."""

    @property
    def limits_pct(self) -> tuple[float, float]:
        """Lowest and highest power in %; [100, 100] where the power is fixed."""
        return (100.0, 100.0) if self.power == "fixed" else self.power.limits_pct


class Channel(_Part):
    light: Name
    preset: tuple[str, str] | None = None
    """A configuration group and preset of the Micro-Manager configuration."""
    emission: str | None = None
    """Label of the emission filter, on the device named by `Channel.filter`."""
    filter: Name | None = None
    """The `state` device that holds the emission filter; null: the only one there is."""
    exposure_ms: Annotated[FiniteFloat, Field(gt=0)]
    power_pct: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    """Power used when a plan names none; null: the lowest that the light's limits allow."""
    select_s: MoveSeconds = 0.1
    """How long bringing its preset and filter in place takes, as a rule: for estimates alone."""


class Objective(_Part):
    label: str
    """The position's label on the objective turret."""
    na: Annotated[FiniteFloat, Field(gt=0, lt=2)]
    pixel_um: Annotated[FiniteFloat, Field(gt=0)]
    """Size of an unbinned pixel in the sample, in µm."""
    affine: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    parfocal_um: FiniteFloat = 0


class Position(_Part):
    x_um: FiniteFloat
    y_um: FiniteFloat
    z_um: FiniteFloat | None = None


class Interlock(_Part):
    device: Name
    open: str
    kind: Literal["door", "lid", "key", "emergency_stop"]


class Joystick(_Part):
    """A property that lets a joystick, a wheel or a button move an axis: switched off while a plan runs, on again after it."""

    label: str
    property: str
    on: str
    """Switched off only where it reads this; a person's own choice stays otherwise."""
    off: str


class Arming(_Part):
    hours: Annotated[FiniteFloat, Field(gt=0, le=24)]


class Safety(_Part):
    collision: tuple[dict[str, Limits], ...] = ()
    """Forbidden boxes: axis name to [low, high]; inside all of them at once is a collision."""
    retract_first: tuple[Name, ...] = ()
    """Stages that stand at their `home` before any other stage moves, or an objective turret turns."""
    retract_over: dict[str, Annotated[FiniteFloat, Field(gt=0)]] = Field(default_factory=dict)
    """How far another axis may move without retraction, counted from where it stood when `retract_first` left home."""
    holder: Name | None = None
    """The sample holder that is mounted, which no device reports; null: unknown."""
    emission_idle_s: Annotated[FiniteFloat, Field(gt=0)] | None = 1800
    """A laser's emission goes off when its gate hasn't been open for so long; null: never (it costs warm-up)."""
    interlocks: tuple[Interlock, ...] = ()
    arm: Literal["none"] | Arming = "none"
    joysticks: tuple[Joystick, ...] = ()


class Root(_Part):
    """The same folder as three machines see it; relative paths are relative to the data directory."""

    hardware: str = "."
    tiled: str = "."
    clients: str = "."


class Storage(_Part):
    root: RootName = "DATA"
    roots: dict[RootName, Root] = Field(default_factory=lambda: {"DATA": Root()})
    format: Literal["ome-zarr", "ome-tiff"] = "ome-zarr"
    """Of the volumes: a folder with one uncompressed file a frame, or one file. A plan may name the other."""
    min_free_gb: Annotated[FiniteFloat, Field(ge=0)] = 5

    @model_validator(mode="after")
    def _root_exists(self) -> Self:
        if self.root not in self.roots:
            raise ValueError(f"root {self.root!r} is not one of roots: {sorted(self.roots)}")
        return self


class LaserOutputs(_Part):
    """What routes the controller's laser pulses to a line: a property whose value for each line is its `Light.output`."""

    label: str
    property: str = "OutputChannel"
    none: str = "none of outputs 5-8"
    """The value that lets no line through."""


class SpimController(_Part):
    """An ASI Tiger controller that runs a volume by itself; its scanners and piezos are the devices with a view."""

    hub: str
    """Label of the controller (TigerCommHub)."""
    plogic: str | None = None
    """Label of the PLogic card that passes the trigger pulses on, 0.25 ms later; null: they come from the scanner card."""
    outputs: LaserOutputs | None = None
    """Needed for lights that are `gated_by` the controller."""
    delay_before_side_ms: Annotated[FiniteFloat, Field(ge=0, le=10_000)] = 50
    """Time for piezo and scanner to settle before the first slice of each view."""


class Volume(_Part):
    """Who paces a volume, slice by slice."""

    trigger: Literal["software", "mm_sequence", "tiger_spim"] = "software"
    """``software``: the hardware process moves, waits and exposes. ``mm_sequence``: the camera's pulses step a stage through
    positions uploaded by MMCore. ``tiger_spim``: the firmware of a Tiger controller moves, exposes and gates light."""
    controller: SpimController | None = None
    """Needed for tiger_spim."""
    advance: Literal["exposure_start", "exposure_end"] = "exposure_start"
    """For mm_sequence, as it is wired: does the stage go to a frame's position when its exposure starts, or when the one
    before has ended?"""


class Queue(_Part):
    on_failure: Literal["continue", "wait"] = "continue"


ApprovalRule = Literal["none", "first_of_kind", "all"]


class Agents(_Part):
    require_key: bool = True
    approval: ApprovalRule | dict[Literal["agent", "operator", "admin"], ApprovalRule] = "none"
    """Whose plans wait until an operator approves them: a rule for agents, or one for each role by its name.
    ``first_of_kind``: the first of each plan, with what it repeats, and sample."""

    def approval_of(self, role: str) -> ApprovalRule:
        """The rule for this role's plans; queueserver's group ``primary``, the owner of the machine, is an operator."""
        given = {"agent": self.approval} if isinstance(self.approval, str) else self.approval
        rules: dict[str, ApprovalRule] = {str(name): rule for name, rule in given.items()}
        return rules.get("operator" if role == "primary" else role, "none")


class Http(_Part):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 60610
    """0 takes any free port; ``runtime.json`` says which."""


class TiledService(_Part):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0


class Zmq(_Part):
    """Addresses of queueserver's sockets; null: unix sockets that only this user may open."""

    control: str | None = None
    info: str | None = None


_PORT = re.compile(r"^[^:]*(:\d*)?$|@[^:]*(:\d*)?$|\](:\d*)?$")


def _database(address: str) -> str:
    parts = urlsplit(address)
    if address != "embedded" and (parts.scheme != "postgresql" or not _PORT.search(parts.netloc)):
        raise ValueError("write embedded, or postgresql://user@host:port/database")
    if parts.password is not None or "password=" in parts.query:
        raise ValueError("take the password out, and write it into the file keys/catalog of the data directory")
    if address != "embedded" and not parts.path.strip("/"):
        raise ValueError("name a database: postgresql://user@host:port/database")
    return address


class Services(_Part):
    valkey: str = "embedded"
    """``embedded``, or ``host:port`` of a server that runs elsewhere (its password in ``DIR/keys/valkey``)."""
    tiled: Literal["embedded"] | TiledService = "embedded"
    catalog: Annotated[str, AfterValidator(_database)] = "embedded"
    """Tiled's database: ``embedded`` (SQLite in the data directory), or ``postgresql://user@host:port/database`` (its password
    in ``DIR/keys/catalog`` or ``~/.pgpass``)."""
    hardware: str | None = None
    """Address of the hardware process; null: a unix socket; ``tcp://host:port`` by choice."""
    zmq: Zmq = Zmq()
    http: Http = Http()


class Scope(_Part):
    """A microscope."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    micromanager: MicroManager
    devices: dict[Name, Device]
    lights: dict[Name, Light] = Field(default_factory=dict)
    channels: dict[Name, Channel] = Field(default_factory=dict)
    objectives: dict[Name, Objective] = Field(default_factory=dict)
    positions: dict[Name, Position] = Field(default_factory=dict)
    safety: Safety = Safety()
    volume: Volume = Volume()
    storage: Storage = Storage()
    queue: Queue = Queue()
    agents: Agents = Agents()
    services: Services = Services()

    _path: Path = PrivateAttr(default=Path("scope.yml"))

    @property
    def path(self) -> Path:
        """The file this scope was read from."""
        return self._path

    @property
    def config_path(self) -> Path:
        """The Micro-Manager configuration, absolute."""
        return (self._path.parent / self.micromanager.config).resolve()

    def of_kind(self, *kinds: str) -> dict[str, Any]:
        """The devices of these kinds, by name."""
        return {name: device for name, device in self.devices.items() if device.kind in kinds}

    def axes(self) -> dict[str, Axis]:
        """Every scalar axis by its name: ``piezo_a``, ``xy.x``, ``galvo_a.y``."""
        return {axis.name: axis for axis in _axes(self.devices)}

    def sample_axes(self) -> tuple[str | None, str | None, str | None]:
        """Names of the axes that ``x_um, y_um, z_um`` of a position mean: the first XY stage and the stage called ``z``."""
        xy = next(iter(self.of_kind("xy_stage")), None)
        x, y = (f"{xy}.x", f"{xy}.y") if xy else (None, None)
        return x, y, "z" if "z" in self.of_kind("stage") else None

    def filter_of(self, channel: Channel) -> str | None:
        """Name of the state device that holds this channel's emission filter."""
        if channel.emission is None:
            return None
        return channel.filter or next(iter(self.of_kind("state")))

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        reserved = (set(self.devices) | set(self.lights)) & RESERVED
        if reserved:
            raise ValueError(f"{sorted(reserved)[0]!r} is the name of a device of ours: rename it")
        taken = set(self.devices) & set(self.lights)
        if taken:
            raise ValueError(f"{sorted(taken)[0]!r} names both a device and a light: rename one")
        for name, channel in self.channels.items():
            if channel.light not in self.lights:
                raise ValueError(f"channels.{name}.light: {channel.light!r} is none of lights: {sorted(self.lights)}")
            states = sorted(self.of_kind("state"))
            if channel.emission is not None and channel.filter is None and len(states) != 1:
                raise ValueError(f"channels.{name}.filter is missing: say which of {states} holds {channel.emission!r}")
            if channel.filter is not None and channel.filter not in states:
                raise ValueError(f"channels.{name}.filter: {channel.filter!r} is none of the state devices {states}")
            limits = self.lights[channel.light].limits_pct
            if channel.power_pct is not None and not limits[0] <= channel.power_pct <= limits[1]:
                raise ValueError(
                    f"channels.{name}.power_pct {channel.power_pct} is outside {list(limits)}"
                    f" (lights.{channel.light}.power.limits_pct)"
                )
        axes = {axis.name for axis in _axes(self.devices)}
        for box in self.safety.collision:
            for axis in box:
                if axis not in axes:
                    raise ValueError(f"safety.collision: {axis!r} is none of the axes {sorted(axes)}")
            if not box:
                raise ValueError("safety.collision: a box without axes forbids everything: name its axes")
        stages = self.of_kind("stage")
        for axis in self.safety.retract_first:
            if axis not in stages:
                raise ValueError(f"safety.retract_first: {axis!r} is none of the stages {sorted(stages)}")
            if stages[axis].home is None:
                raise ValueError(f"safety.retract_first: devices.{axis}.home is missing: say where it is retracted")
        for axis in self.safety.retract_over:
            if axis not in axes:
                raise ValueError(f"safety.retract_over: {axis!r} is none of the axes {sorted(axes)}")
        self._narrower_limits_agree()
        self._trigger_agrees()
        for name, multi in self.of_kind("multi_camera").items():
            cameras = sorted(self.of_kind("camera"))
            for camera in multi.cameras:
                if camera not in cameras or multi.cameras.count(camera) > 1:
                    raise ValueError(f"devices.{name}.cameras: {camera!r} must be one of {cameras}, once")
        focusing = self.of_kind("autofocus")
        if len(focusing) > 1:
            raise ValueError(f"devices: {sorted(focusing)} are autofocuses; Micro-Manager works with one: keep one")
        for name, autofocus in focusing.items():
            if autofocus.axis not in stages:
                raise ValueError(f"devices.{name}.axis: {autofocus.axis!r} is none of the stages {sorted(stages)}")
        for interlock in self.safety.interlocks:
            if interlock.device not in self.devices:
                raise ValueError(f"safety.interlocks: {interlock.device!r} is none of devices: {sorted(self.devices)}")
        for camera in self.micromanager.core_per_camera:
            if camera not in self.of_kind("camera"):
                raise ValueError(f"micromanager.core_per_camera: {camera!r} is none of the cameras")
        return self

    def _trigger_agrees(self) -> None:
        if self.volume.trigger != "tiger_spim":
            return
        if self.volume.controller is None:
            raise ValueError("volume.controller is missing: trigger tiger_spim needs {hub: label of the controller}")
        for name, light in self.lights.items():
            if light.gated_by != "controller":
                continue
            if self.volume.controller.outputs is None or light.output is None:
                raise ValueError(
                    f"lights.{name}.gated_by: controller needs volume.controller.outputs and lights.{name}.output: which value"
                    " lets the controller's pulses through to this line"
                )
        for name, camera in self.of_kind("camera").items():
            if camera.view is None:
                continue
            if camera.external is None:
                raise ValueError(
                    f"devices.{name}.external is missing: trigger tiger_spim exposes it by pulses and needs {{readout_ms,"
                    " reset_ms}"
                )
            for kind in ("galvo", "stage"):
                if not any(device.view == camera.view for device in self.of_kind(kind).values()):
                    raise ValueError(f"volume.trigger tiger_spim: view {camera.view} of {name} has no {kind}")

    def _narrower_limits_agree(self) -> None:
        holders = set()
        for axis in _axes(self.devices):
            low, high = axis.limits
            if axis.home is not None and not low <= axis.home <= high:
                raise ValueError(f"devices.{axis.device}.home {axis.home:g} is outside its limits [{low:g}, {high:g}]")
            for kind, by_name in (("objective", axis.limits_by_objective), ("holder", axis.limits_by_holder)):
                for name, inner in by_name.items():
                    where = f"devices.{axis.device}.limits_for.{kind}.{name}"
                    if kind == "objective" and name not in self.objectives:
                        raise ValueError(f"{where}: {name!r} is none of the objectives {sorted(self.objectives)}")
                    if not (low <= inner[0] and inner[1] <= high):
                        raise ValueError(f"{where} {list(inner)} reaches beyond the axis's limits {[low, high]}")
            holders |= set(axis.limits_by_holder)
        if self.safety.holder is not None and holders and self.safety.holder not in holders:
            raise ValueError(
                f"safety.holder: {self.safety.holder!r} is none of the holders with limits {sorted(holders)}"
            )


class Axis(_Part):
    """One scalar axis of a stage, an XY stage or a galvo."""

    name: str
    """``piezo_a``, ``xy.x``."""
    device: str
    """Name of the device in the scope file."""
    component: Literal["x", "y"] | None
    label: str
    units: str
    limits: Limits
    tolerance: float
    home: float | None = None
    reference: Reference = "none"
    limits_by_objective: dict[str, Limits] = Field(default_factory=dict)
    limits_by_holder: dict[str, Limits] = Field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the limits are written, for messages."""
        return f"devices.{self.device}.limits" + (f".{self.component}" if self.component else "")


def _axes(devices: Mapping[str, Any]) -> Iterator[Axis]:
    for name, device in devices.items():
        if isinstance(device, Stage):
            yield Axis(
                name=name,
                device=name,
                component=None,
                label=device.label,
                units=device.units,
                limits=device.limits,
                tolerance=device.tolerance,
                home=device.home,
                reference=device.reference,
                limits_by_objective=device.limits_for.objective,
                limits_by_holder=device.limits_for.holder,
            )
        elif isinstance(device, XYStage | Galvo):
            for component in ("x", "y"):
                yield Axis(
                    name=f"{name}.{component}",
                    device=name,
                    component=component,
                    label=device.label,
                    units=device.units,
                    limits=getattr(device.limits, component),
                    tolerance=device.tolerance,
                    **_of_component(device, component),
                )


def _of_component(device: XYStage | Galvo, component: str) -> dict[str, Any]:
    if isinstance(device, Galvo):
        return {}
    return {
        "reference": device.reference,
        "limits_by_objective": {n: getattr(xy, component) for n, xy in device.limits_for.objective.items()},
        "limits_by_holder": {n: getattr(xy, component) for n, xy in device.limits_for.holder.items()},
    }


def bundled_scopes() -> list[str]:
    """Names of the microscopes that come with the package."""
    return sorted(path.parent.name for path in SCOPES.glob("*/scope.yml"))


def scope_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The scope file that a bundled name or a path means.

    Raises
    ------
    ScopeError
        Where it is neither.
    """
    text = os.fspath(name_or_path)
    bundled = SCOPES / text / "scope.yml"
    if text in bundled_scopes():
        return bundled
    path = Path(text).expanduser()
    if path.is_dir():
        path = path / "scope.yml"
    if not path.is_file():
        raise ScopeError(
            f"scope {text!r} is neither a file nor one of the bundled scopes: {', '.join(bundled_scopes())}"
        )
    return path.resolve()


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a tenth of the time, where PyYAML has it


class _Loader(_Safe):
    """YAML with 1.2's booleans: ``on`` and ``off`` are words, not true and false (a light's switch has them as keys)."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in _Safe.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_scope(name_or_path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Scope:
    """Read and check a scope file.

    Parameters
    ----------
    name_or_path
        The name of a bundled scope (``demo-dispim``) or the path of a scope file.
    environ
        Where overrides are looked up; `os.environ` by default.

    Raises
    ------
    ScopeError
        One line for each thing that is wrong: the entry, its value, the limit and the remedy.
    """
    path = scope_path(name_or_path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScopeError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ScopeError(f"{path}: expected a mapping with name, micromanager, devices, lights …")
    scope = _validated(tree, path)
    overrides = {k: v for k, v in (os.environ if environ is None else environ).items() if _is_override(k)}
    if overrides:
        tree = scope.model_dump(mode="json")
        for variable, value in sorted(overrides.items()):
            _override(tree, variable, value)
        scope = _validated(tree, path)
    scope._path = path
    return scope


def _is_override(variable: str) -> bool:
    first, separator, _ = variable.removeprefix(ENV_PREFIX).partition("__")
    return variable.startswith(ENV_PREFIX) and bool(separator) and first.lower() in Scope.model_fields


def _override(tree: dict[str, Any], variable: str, value: str) -> None:
    """Set one entry of the tree; names are matched without regard to case, since variables are upper-case."""
    *parents, last = variable.removeprefix(ENV_PREFIX).split("__")
    node: Any = tree
    for part in [*parents, last]:
        key = next((k for k in node if k.lower() == part.lower()), None) if isinstance(node, dict) else None
        if key is None:
            raise ScopeError(f"the environment variable {variable} names nothing in the scope file (at {part!r})")
        parent, node = node, node[key]
    parent[key] = yaml.safe_load(value)


def blanks(tree: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every entry of a scope file that is still `BLANK`, and what is wanted there."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from blanks(value, f"{where}.{key}" if where else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from blanks(value, f"{where}.{index}")
    elif tree == BLANK:
        yield where, _WANTED.get(where.rpartition(".")[2], "what the comment beside it says")


def _validated(tree: dict[str, Any], path: Path) -> Scope:
    left = [f"{path}: {where} is left blank: write {wanted}" for where, wanted in blanks(tree)]
    if left:
        raise ScopeError("\n".join(left))
    try:
        return Scope.model_validate(tree)
    except ValidationError as error:
        raise ScopeError("\n".join(f"{path}: {line}" for line in _explain(error))) from None


_TAGS = {"stage", "xy_stage", "galvo", "camera", "state", "config_group", "objective", "temperature", "property"} | {
    "autofocus",
    "multi_camera",
}


_PASSWORD = re.compile(r"(?<=://).*(@|password=).*(?=['\"])")
"""In an address, where it must not be, or near it: messages don't repeat it."""


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        loc = [str(part) for part in problem["loc"]]
        if len(loc) > 2 and loc[0] == "devices" and loc[2] in _TAGS:
            del loc[2]  # pydantic names the kind of the union between the device and its field
        if len(loc) > 3 and loc[0] == "lights" and loc[2] == "power" and loc[3] in ("set", "fixed"):
            del loc[3]
        where = ".".join(loc)
        if problem["type"] == "missing" and ("limits" in loc or "limits_pct" in loc):
            what = "light" if loc[0] == "lights" else "axis"
            yield f"{where} is missing: every {what} must state its limits, as [low, high]"
        elif problem["type"] == "missing" and loc[0] == "lights" and loc[-1] == "power":
            yield f"{where} is missing: every light must state its limits (power: {{label, property, full_scale, limits_pct}})"
        elif problem["type"] == "missing":
            yield f"{where} is missing"
        elif problem["type"] == "extra_forbidden":
            yield f"{where} is not a known entry (value {problem['input']!r}): check its spelling or take it out"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = _PASSWORD.sub("…", repr(problem["input"]))
            yield f"{where}: {message} (value {value})" if where else message


def scope_schema() -> dict[str, Any]:
    """JSON Schema of the scope file, as committed in ``docs/scope.schema.json``."""
    return Scope.model_json_schema()


if __name__ == "__main__":  # python -m queuescope.config > docs/scope.schema.json
    print(json.dumps(scope_schema(), indent=1, ensure_ascii=False))
