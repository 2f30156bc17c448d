"""The surface spelled out over one way to carry a call: the local object and the proxy differ in nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from ._dose_state import DoseState
from ._event_types import EventBatch
from ._safety_state import HaltReport, SafetyState
from ._surface import (
    BurstProgram,
    CameraState,
    FocusMetric,
    FocusState,
    FrameAt,
    FrameLine,
    FrameMeasure,
    FrameSettings,
    FrameShift,
    HardwareInfo,
    HardwareState,
    Image,
    LightOff,
    LightState,
    RecordingPlan,
    RecordingState,
    VolumeProgram,
)
from ._wire import Call, call_named


class HardwareCalls(ABC):
    """`Hardware`, with arguments checked and every call carried by `_carry`."""

    @abstractmethod
    def _carry(self, call: Call, values: dict[str, Any]) -> Any: ...

    @abstractmethod
    def close(self) -> None:
        """Give the hardware up. Twice is no error."""

    def _call(self, name: str, *args: Any) -> Any:
        call = call_named(name)
        return self._carry(call, call.bind(*args))

    def info(self) -> HardwareInfo:
        return self._call("info")

    def state(self) -> HardwareState:
        return self._call("state")

    def positions(self, axes: tuple[str, ...]) -> dict[str, float]:
        return self._call("positions", axes)

    def move(self, targets: dict[str, float]) -> dict[str, float]:
        return self._call("move", targets)

    def stop(self, axes: tuple[str, ...] | None = None) -> None:
        return self._call("stop", axes)

    def select(self, device: str, label: str) -> str:
        return self._call("select", device, label)

    def confirm_reference(self, axis: str, by: str) -> float:
        return self._call("confirm_reference", axis, by)

    def labels(self, device: str) -> tuple[str, ...]:
        return self._call("labels", device)

    def label(self, device: str) -> str:
        return self._call("label", device)

    def light(self, light: str) -> LightState:
        return self._call("light", light)

    def value(self, device: str) -> float | str:
        return self._call("value", device)

    def set_value(self, device: str, value: float | str) -> float | str:
        return self._call("set_value", device, value)

    def focus(self, autofocus: str, how: Literal["full", "incremental"] = "full") -> dict[str, float]:
        return self._call("focus", autofocus, how)

    def lock_focus(self, autofocus: str, on: bool, offset: float | None = None) -> FocusState:
        return self._call("lock_focus", autofocus, on, offset)

    def focus_state(self, autofocus: str) -> FocusState:
        return self._call("focus_state", autofocus)

    def set_light(self, light: str, on: bool, power_pct: float | None = None, max_s: float | None = None) -> LightState:
        return self._call("set_light", light, on, power_pct, max_s)

    def lights_off(self, emission: bool = False) -> tuple[LightOff, ...]:
        return self._call("lights_off", emission)

    def dose(self, sample_id: str | None = None) -> DoseState:
        return self._call("dose", sample_id)

    def set_sample(self, sample_id: str | None, budget: dict[str, float]) -> DoseState:
        return self._call("set_sample", sample_id, budget)

    def apply_channel(self, channel: str) -> None:
        return self._call("apply_channel", channel)

    def configure_camera(
        self,
        camera: str,
        exposure_ms: float | None = None,
        binning: int | None = None,
        roi: tuple[int, int, int, int] | None = None,
    ) -> CameraState:
        return self._call("configure_camera", camera, exposure_ms, binning, roi)

    def snap(self, camera: str, settings: FrameSettings) -> Image:
        return self._call("snap", camera, settings)

    def open_recording(self, plan: RecordingPlan) -> RecordingState:
        return self._call("open_recording", plan)

    def record_frame(self, recording: str, settings: dict[str, FrameSettings], durable: bool = True) -> RecordingState:
        return self._call("record_frame", recording, settings, durable)

    def record_together(
        self, recording: str, multi_camera: str, settings: FrameSettings, durable: bool = True
    ) -> RecordingState:
        return self._call("record_together", recording, multi_camera, settings, durable)

    def start_volume(self, recording: str, program: VolumeProgram) -> RecordingState:
        return self._call("start_volume", recording, program)

    def start_burst(self, recording: str, program: BurstProgram) -> RecordingState:
        return self._call("start_burst", recording, program)

    def hold_recording(self, recording: str, hold: bool) -> RecordingState:
        return self._call("hold_recording", recording, hold)

    def stop_recording(self, recording: str) -> RecordingState:
        return self._call("stop_recording", recording)

    def recording(self, recording: str, seen: int = -1, wait_s: float = 0.0, gather_s: float = 0.0) -> RecordingState:
        return self._call("recording", recording, seen, wait_s, gather_s)

    def close_recording(self, recording: str) -> RecordingState:
        return self._call("close_recording", recording)

    def checksums(self, recording: str, dataset: str) -> tuple[str, ...]:
        return self._call("checksums", recording, dataset)

    def frame_lines(self, recording: str, dataset: str, start: int = 0) -> tuple[FrameLine, ...]:
        return self._call("frame_lines", recording, dataset, start)

    def measure_frame(self, frame: FrameAt, metric: FocusMetric) -> FrameMeasure:
        return self._call("measure_frame", frame, metric)

    def frame_shift(self, frame: FrameAt, reference: FrameAt) -> FrameShift:
        return self._call("frame_shift", frame, reference)

    def safety(self) -> SafetyState:
        return self._call("safety")

    def halt(self, reason: str, by: str) -> HaltReport:
        return self._call("halt", reason, by)

    def rearm(self, by: str) -> SafetyState:
        return self._call("rearm", by)

    def hold_joysticks(self, hold: bool) -> tuple[str, ...]:
        return self._call("hold_joysticks", hold)

    def release(self, by: str, reason: str) -> HardwareInfo:
        return self._call("release", by, reason)

    def reclaim(self, by: str) -> HardwareInfo:
        return self._call("reclaim", by)

    def arm(self, until: float | None, by: str) -> SafetyState:
        return self._call("arm", until, by)

    def events(self, seen: int = -1, wait_s: float = 0.0) -> EventBatch:
        return self._call("events", seen, wait_s)
