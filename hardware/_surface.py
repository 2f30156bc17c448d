"""What may be asked of the hardware: the allow-list, as one typed interface.

`Hardware` is implemented by the object that owns MMCore and by the proxy to the process where it lives; a contract suite
holds the two together. Every public method of the protocol may be called across the boundary, nothing else may.
Devices go by their names in the scope file, never by Micro-Manager labels; raw MMCore can't be reached.
Importing this module imports neither MMCore nor an RPC library nor NumPy.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, FiniteFloat

from ..described import Described
from ..formats import Format
from ._dose_state import DoseState
from ._event_types import EventBatch
from ._safety_state import HaltReport, SafetyState

if TYPE_CHECKING:
    import numpy as np

    Image = np.ndarray
else:

    class Image:
        """A result that is an array: whoever asks for other calls loads no NumPy (decision 0015)."""


class _Value(Described):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Verification(StrEnum):
    """How a light's state is known: asked of the controller, or taken from what was sent last."""

    VERIFIED = "verified"
    ASSUMED = "assumed"


class HardwareInfo(_Value):
    """Identity of the hardware: a restarted process has another `instance`."""

    scope: str
    instance: str
    """UUID made at start."""
    pid: int
    mode: Literal["own", "worker"]
    started_at: float
    versions: dict[str, str]
    """MMCore, its device interface, pymmcore-plus, queuescope."""
    config: str
    adapters: str
    stage: Literal["waiting", "loading", "ready", "released"] = "ready"
    """After a process that died only lights are loaded first: ``waiting`` for a person (`rearm`), or ``loading`` the rest.
    ``released``: nothing is loaded, another program has the devices (`release`)."""
    waits: str | None = None
    """Why it waits for a person, or who released it."""


class CameraState(_Value):
    width: int
    height: int
    dtype: str
    """NumPy name: ``uint8`` or ``uint16``."""
    bit_depth: int
    exposure_ms: float
    binning: int
    roi: tuple[int, int, int, int]
    """x, y, width, height in unbinned pixels."""
    pixel_um: float
    """Size of a (binned) pixel in the sample for the objective in place, else the sensor's pitch, in µm."""
    gain: float | None = None
    """The property ``Gain``, where the adapter has one that is a number."""


class LightState(_Value):
    on: bool
    """The gate is open."""
    power_pct: float
    emission: bool | None
    """None for a light without a separate emission switch."""
    state: Verification


class LightOff(_Value):
    """Outcome of switching one light off; one failure never keeps the next light from being tried."""

    light: str
    off: bool
    state: Verification
    error: str | None = None


class FocusState(_Value):
    """An autofocus, as its adapter says now."""

    enabled: bool
    """Its focus lock is engaged: it moves its stage by itself."""
    locked: bool
    """It has found its focus and holds it."""
    offset: float | None
    """None where the scope states no limits for it."""
    axis: str
    """The stage that it moves."""
    ended: str | None = None
    """Why the last lock ended, where nobody had asked for that."""


class HardwareState(_Value):
    """Everything a person or an agent sees of the microscope, read now. A reading that fails is an entry in `errors`."""

    time: float
    positions: dict[str, float]
    """By axis: ``piezo_a``, ``xy.x``; µm or deg as in the scope file."""
    labels: dict[str, str]
    """Current label of every state device and the objective turret."""
    values: dict[str, float | str]
    """Temperatures in °C and properties."""
    cameras: dict[str, CameraState]
    lights: dict[str, LightState]
    errors: dict[str, str]
    """By device: why it could not be read. It then appears nowhere above."""
    focus: dict[str, FocusState] = Field(default_factory=dict)
    """By autofocus."""
    reference_lost: dict[str, str] = Field(default_factory=dict)
    """By axis: why it is locked until a person confirms it (`Hardware.confirm_reference`)."""
    safety: SafetyState | None = None
    """Halt, interlocks, arming."""


class FrameSettings(_Value):
    """How a frame is taken."""

    exposure_ms: FiniteFloat | None = None
    """None keeps the camera's exposure."""
    light: str | None = None
    """This light's gate is open during the exposure and closed after it, whatever happened. None: no light."""
    power_pct: FiniteFloat | None = None
    """None: the lowest power that the light's limits allow."""


class DatasetPlan(_Value):
    """One array to be written: the frames of one camera."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    camera: str
    frames: int | None = Field(default=None, ge=1)
    """Frames that will come; None where only the end tells."""
    axis: Literal["t", "z"] = "t"
    """What counts the frames."""
    step_um: FiniteFloat | None = None
    """Distance of two frames along z, in µm."""
    channel: str | None = None
    """Recorded in the OME metadata, with what the scope file says of the channel of this name: its light and emission filter."""
    format: Format | None = None
    """None: the scope file's (`storage.format`)."""
    exposure_ms: FiniteFloat | None = Field(default=None, gt=0)
    """Of every frame, recorded in the OME metadata; None where the frames differ or nobody says."""
    light: str | None = None
    """Recorded in the OME metadata; None: the channel's."""
    power_pct: FiniteFloat | None = Field(default=None, ge=0, le=100)
    """Of that light, recorded in the OME metadata."""


SAMPLE_ID = r"^[A-Za-z0-9._:-]{1,128}$"


class RecordingPlan(_Value):
    run_uid: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    sample_id: str | None = Field(default=None, pattern=SAMPLE_ID)
    """Whom its light counts for; None: the sample that is open, if one is."""
    position: str | None = Field(default=None, max_length=64)
    """Name of the place in the sample, by which its dose is told."""
    session_id: str | None = Field(default=None, max_length=128)
    """Recorded in the OME metadata."""
    datasets: tuple[DatasetPlan, ...] = Field(min_length=1)


class DatasetState(_Value):
    """One dataset, now. Only frames whose bytes are on disk count."""

    name: str
    camera: str
    uri: str
    """``data://ROOT/volumes/{run_uid}_{name}.ome.zarr``, or ``….ome.tiff``."""
    path: str
    """The same file as the hardware process sees it."""
    shape: tuple[int, int, int]
    """Frames planned (frames written where the plan named none, or at the end), height, width."""
    dtype: str
    chunk_shape: tuple[int, int, int]
    frames_written: int
    format: Format = "ome-zarr"


class RecordingState(_Value):
    recording: str
    run_uid: str
    phase: Literal["open", "running", "done", "failed", "closed"]
    """``running``: a volume or a burst is being acquired; ``done`` and ``failed``: it ended; ``closed``: nothing more comes."""
    datasets: dict[str, DatasetState]
    error: str | None = None
    """Why it failed, with the number of good frames."""
    held: bool = False
    """Its volume or burst waits before its next exposure, in the dark (`Hardware.hold_recording`)."""
    dose: dict[str, float] = Field(default_factory=dict)
    """By light: what its frames got, in % × s, measured from the gate's opening to its closing."""
    seconds: float = 0.0
    """From the start of the last volume or burst until its newest frame was on disk."""
    version: int
    """Grows with every change; `Hardware.recording` waits for it."""


FocusMetric = Literal["tenengrad", "laplacian", "variance", "dct_entropy"]
"""How sharpness is measured: squared gradient, variance of the Laplacian, variance over mean, entropy of the cosine transform."""


class FrameAt(_Value):
    """A frame that is on disk."""

    recording: str
    dataset: str
    index: Annotated[int, Field(ge=0)]


class FrameLine(_Value):
    """When and where a frame was taken, as ``….frames.jsonl`` has it."""

    time: float
    """When its exposure began; of one that something else timed, when it reached MMCore. Seconds since the epoch."""
    position: dict[str, float]
    """By axis (µm or deg); one that could not be read isn't there."""
    programmed: bool = False
    """The positions of the axes that its program moved were commanded, not read back."""

    @classmethod
    def of(cls, line: dict[str, Any]) -> Self:
        """From a line of the frame list, which has more."""
        return cls(**{key: line[key] for key in cls.model_fields if key in line})


class FrameMeasure(_Value):
    sharpness: float
    """By the metric asked for, no unit."""
    structure: float
    """0: noise or nothing; towards 1: structure wider than a pixel. Says whether there is anything to be sharp."""
    mean: float
    """Counts."""


class FrameShift(_Value):
    x_px: float
    """How far right of the reference, in (binned) pixels."""
    y_px: float
    """How far below it."""
    correlation: float
    """0 to 1: how well the two agree then."""


class VolumeView(_Value):
    """One side of a volume: its camera, the piezo that moves with the sheet, the galvo that makes the sheet."""

    dataset: str
    camera: str
    """In software time a multi-camera too: then each of its cameras has a dataset, and ``dataset`` is its own name."""
    settings: FrameSettings
    piezo: str
    """Any stage."""
    piezo_um: tuple[FiniteFloat, ...]
    """Target of the piezo for each slice."""
    galvo: str | None = None
    """Scalar axis, ``galvo_a.y``."""
    galvo_deg: tuple[FiniteFloat, ...] | None = None
    sheet_width_deg: FiniteFloat | None = None
    """How far the galvo's other axis sweeps the sheet, end to end; None: as the controller has it. Needs tiger_spim."""
    sheet_offset_deg: FiniteFloat | None = None
    """Middle of that sweep; None: where the axis is. Needs tiger_spim."""


class VolumeProgram(_Value):
    """A volume, slice by slice. Everything is checked against the limits before the first move."""

    views: tuple[VolumeView, ...] = Field(min_length=1, max_length=4)
    order: Literal["slice", "volume"] = "slice"
    """``slice``: all views at a slice, then the next slice; ``volume``: one view after the other."""
    trigger: Literal["software"] | None = None
    """None: as the scope file says (`volume.trigger`); ``software``: in software time all the same."""
    stays: bool = False
    """The axes stay where the last frame was taken; else they go back to where they were."""


class BurstView(_Value):
    """One camera of a burst."""

    dataset: str
    camera: str
    settings: FrameSettings
    frames: int = Field(ge=1)


class BurstProgram(_Value):
    """Frames of one or several cameras, which nothing else times. Nothing moves. All views have the same light."""

    views: tuple[BurstView, ...] = Field(min_length=1, max_length=4)
    rate_hz: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """None: as fast as each camera gives them, in one sequence, its light on throughout. Else frame n is taken n / rate_hz
    seconds after the first, one camera after the other, with light during exposures only."""


class Hardware(Protocol):
    """The microscope. Methods block until the thing is done; errors are those of `queuescope.hardware`."""

    def info(self) -> HardwareInfo:
        """Who answers; also the liveness check (touches no adapter)."""
        ...

    def state(self) -> HardwareState:
        """Read everything."""
        ...

    def positions(self, axes: tuple[str, ...]) -> dict[str, float]:
        """Read these axes (µm or deg). A failed read raises."""
        ...

    def move(self, targets: dict[str, float]) -> dict[str, float]:
        """Move axes and wait for them; return the readbacks.

        All targets are checked first (finite, inside the limits): nothing moves unless all pass. A readback outside the
        axis's tolerance raises `ReadbackError`.
        """
        ...

    def stop(self, axes: tuple[str, ...] | None = None) -> None:
        """Stop these axes, or all."""
        ...

    def select(self, device: str, label: str) -> str:
        """Move a state device or the objective turret to a labelled position, wait, return the label read back."""
        ...

    def confirm_reference(self, axis: str, by: str) -> float:
        """A person (``by``) has checked that this axis reads right: it is unlocked; returns its position. For people only:
        no device, plan or agent's call leads here.
        """
        ...

    def labels(self, device: str) -> tuple[str, ...]:
        """The labels of a state device, in order."""
        ...

    def label(self, device: str) -> str:
        """The current label of a state device or the objective turret, read now."""
        ...

    def light(self, light: str) -> LightState:
        """One light's state, read now."""
        ...

    def value(self, device: str) -> float | str:
        """Read a `temperature` (°C) or `property` device."""
        ...

    def set_value(self, device: str, value: float | str) -> float | str:
        """Write a temperature's setpoint or a property within its limits or choices; return what is read back."""
        ...

    def focus(self, autofocus: str, how: Literal["full", "incremental"] = "full") -> dict[str, float]:
        """Focus once, as the adapter does it; return where its stage stands then, by axis.

        Refused unless the stage's position is known, its reference good, and all that it could reach allowed. `FocusError`
        where it was taken outside: it is moved back where that is allowed, else its reference is lost. `FocusLockError` while
        the lock is engaged.
        """
        ...

    def lock_focus(self, autofocus: str, on: bool, offset: float | None = None) -> FocusState:
        """Engage the focus lock (at an ``offset`` inside the scope's limits; None: as it is) and wait until it has locked, or
        release it. `FocusError` where it doesn't lock; it is released then.

        While it is engaged its stage is watched, and moved by nobody else (`FocusLockError`). `stop` of that stage, a halt, an
        interlock, the end of the client or of the process release it.
        """
        ...

    def focus_state(self, autofocus: str) -> FocusState:
        """An autofocus, read now."""
        ...

    def set_light(self, light: str, on: bool, power_pct: float | None = None, max_s: float | None = None) -> LightState:
        """Open or close a light's gate, at a power inside its limits (None: unchanged when off, the lowest when on).

        The gate is closed again after ``max_s`` seconds, whatever becomes of the caller; None: after the light's ``max_on_s``,
        or sooner where that would exceed the budget of the open sample. `DoseError` where ``max_s`` would.
        """
        ...

    def lights_off(self, emission: bool = False) -> tuple[LightOff, ...]:
        """Close every gate, each in its own step; with ``emission`` switch the emission off too. Never raises."""
        ...

    def dose(self, sample_id: str | None = None) -> DoseState:
        """What a sample has had; None: the one that is open, or light that was given without a sample."""
        ...

    def set_sample(self, sample_id: str | None, budget: dict[str, float]) -> DoseState:
        """Open a sample: all light counts for it from now on, and a frame or a volume that would exceed its budget (by light,
        in % × s) is refused with `DoseError`. What it has had stays. None closes it. For operators only.
        """
        ...

    def apply_channel(self, channel: str) -> None:
        """Apply a channel's preset and emission filter and wait for each device. Opens no gate."""
        ...

    def configure_camera(
        self,
        camera: str,
        exposure_ms: float | None = None,
        binning: int | None = None,
        roi: tuple[int, int, int, int] | None = None,
    ) -> CameraState:
        """Set what is not None, read back, return the state. ``roi``: x, y, width, height in unbinned pixels, each a multiple of
        the binning; a new binning keeps the ROI, as near as it can.
        """
        ...

    def snap(self, camera: str, settings: FrameSettings) -> Image:
        """One frame, not recorded: an array (height, width) of the camera's dtype. For focusing and tests, not for data."""
        ...

    def open_recording(self, plan: RecordingPlan) -> RecordingState:
        """Create the files of a run's datasets (metadata valid from the start)."""
        ...

    def record_frame(self, recording: str, settings: dict[str, FrameSettings], durable: bool = True) -> RecordingState:
        """Take one frame for each dataset named, write it, return when its bytes are on disk.

        Not ``durable``: return when it is exposed, and write it meanwhile. It counts when it is on disk. Where it can't be
        written the next frame of the recording is refused, saying why. `stop_recording` waits for what is on its way.
        """
        ...

    def record_together(
        self, recording: str, multi_camera: str, settings: FrameSettings, durable: bool = True
    ) -> RecordingState:
        """Expose all cameras of a multi-camera once, write each frame into the dataset of its camera, return when all are on
        disk (``durable``, as for `record_frame`). The recording has one dataset for each of them. The light is on once, for
        the longest exposure.
        """
        ...

    def start_volume(self, recording: str, program: VolumeProgram) -> RecordingState:
        """Start a volume; returns at once. Follow it with `recording`."""
        ...

    def start_burst(self, recording: str, program: BurstProgram) -> RecordingState:
        """Start a burst; returns at once. Follow it with `recording`.

        `RecordingError` later where the disk doesn't keep up: it ends before MMCore's buffer is full, so that every frame
        that was taken reaches the disk.
        """
        ...

    def hold_recording(self, recording: str, hold: bool) -> RecordingState:
        """A running volume or burst waits before its next exposure, in the dark (`RecordingState.held`), or goes on. What
        something else times (a controller, a camera's sequence) can't wait: it goes on to its end, and nobody is kept here.
        """
        ...

    def stop_recording(self, recording: str) -> RecordingState:
        """End a running volume or burst after the exposure in hand; lights off; wait until it has ended and every frame that was
        taken is on disk.
        """
        ...

    def recording(self, recording: str, seen: int = -1, wait_s: float = 0.0, gather_s: float = 0.0) -> RecordingState:
        """The recording's state: at once, or when its `version` exceeds ``seen``, or after ``wait_s`` (≤ 30).

        With ``gather_s`` (≤ 30) it answers so much later than the first news, or when it has ended: one answer for many frames.
        """
        ...

    def close_recording(self, recording: str) -> RecordingState:
        """Finish the files: the arrays' shapes become the frames written. Closing twice is no error."""
        ...

    def checksums(self, recording: str, dataset: str) -> tuple[str, ...]:
        """Checksum of every frame, taken from the camera's buffer before it was written, in order."""
        ...

    def frame_lines(self, recording: str, dataset: str, start: int = 0) -> tuple[FrameLine, ...]:
        """When and where each frame was taken, from number ``start`` to the newest on disk. Touches no device."""
        ...

    def measure_frame(self, frame: FrameAt, metric: FocusMetric) -> FrameMeasure:
        """How sharp a frame is, read back from its file. Touches no device."""
        ...

    def frame_shift(self, frame: FrameAt, reference: FrameAt) -> FrameShift:
        """How far a frame's structure lies from where the reference has it; both have one size. Touches no device."""
        ...

    def safety(self) -> SafetyState:
        """Halt, interlocks, arming, now. Asks no adapter."""
        ...

    def halt(self, reason: str, by: str) -> HaltReport:
        """Stop every axis, switch every light and emission off, end what runs, and latch; waits behind no other call.

        From then on every call that moves, exposes or switches light on raises `HaltedError`, also after a restart, until
        `rearm`. Where a device doesn't answer within 1 s, the hardware process says so here and ends itself hard.
        """
        ...

    def rearm(self, by: str) -> SafetyState:
        """Clear the latches of halt and interlocks; `InterlockError` while an interlock is open. Arms nothing."""
        ...

    def hold_joysticks(self, hold: bool) -> tuple[str, ...]:
        """Switch the scope's joysticks off for a plan, or on again those that this switched off; returns those that rest.

        They come back by themselves where the caller vanishes or this process dies.
        """
        ...

    def release(self, by: str, reason: str) -> HardwareInfo:
        """Let another program have cameras and ports: lights and emissions off, disarmed, every device unloaded; nothing
        moves. `BusyError` while a recording is open or an axis moves. For operators only.

        From then on every call but `info`, `halt`, `rearm`, `lights_off` and `reclaim` raises `ReleasedError`, also after a
        restart.
        """
        ...

    def reclaim(self, by: str) -> HardwareInfo:
        """Take the microscope back: lights are loaded and switched off first, then the rest; nothing is moved. Every axis
        with a `reference` must be confirmed. With a device that moves when it is loaded, the rest waits for `rearm`.
        """
        ...

    def arm(self, until: float | None, by: str) -> SafetyState:
        """Permit light until then (seconds since the epoch), where the scope asks for arming; None disarms."""
        ...

    def events(self, seen: int = -1, wait_s: float = 0.0) -> EventBatch:
        """What happened after event number ``seen``: at once where something did, else after ``wait_s`` (≤ 30) at the latest.

        Positions (from the adapter where it tells them, else looked at five times a second while nothing else goes on),
        labels, properties, gates and exposures, once each. ``seen=-1`` gives the cursor to begin with. Any number of
        subscribers; the hardware keeps nothing for them, and one that was too slow is told how many events it missed.
        """
        ...


SURFACE: tuple[str, ...] = tuple(name for name in vars(Hardware) if not name.startswith("_"))
"""Names of the calls that may cross the boundary."""

Json = dict[str, Any]
