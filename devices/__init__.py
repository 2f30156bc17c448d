"""ophyd devices over the hardware's allow-listed surface, built from the scope file."""

from __future__ import annotations

from typing import Any

from ..config import RESERVED, Scope
from ..hardware import Hardware
from ..layout import Layout
from ._additions import DEVICES, PLANS, AdditionError, additions
from ._autofocus import AutofocusDevice
from ._axes import AxisPair, AxisPositioner, check_axis
from ._camera import CameraDetector, FrameMeter
from ._camera_plan import CameraPlan, in_series, of_image
from ._events import HardwareEvents
from ._finding import Finding
from ._following import GATHER_S, ProgramPlan
from ._geometry import CameraGeometry, Geometry
from ._imaging import ImagingConfiguration
from ._lights_off import LightsOff
from ._live_view import LivePlan, LiveView
from ._program import ProgramFlyer
from ._reconnection import Reconnection
from ._recordings import RunRecordings
from ._sequenced import SequencedCamera, Shots
from ._settings import ChannelSelector, LabelledState, LightGate, PropertyValue
from ._temperature import TemperatureValue

__all__ = [
    "GATHER_S",
    "PLANS",
    "AdditionError",
    "AutofocusDevice",
    "AxisPair",
    "AxisPositioner",
    "CameraDetector",
    "CameraGeometry",
    "CameraPlan",
    "ChannelSelector",
    "Finding",
    "FrameMeter",
    "Geometry",
    "ImagingConfiguration",
    "LabelledState",
    "LightGate",
    "LightsOff",
    "LivePlan",
    "LiveView",
    "ProgramFlyer",
    "ProgramPlan",
    "PropertyValue",
    "Reconnection",
    "RunRecordings",
    "SequencedCamera",
    "Shots",
    "TemperatureValue",
    "added_devices",
    "additions",
    "build_devices",
    "check_axis",
    "in_series",
    "of_image",
]


def build_devices(scope: Scope, layout: Layout, hardware: Hardware) -> tuple[dict[str, Any], RunRecordings]:
    """All devices of a microscope by name, and what closes the files of a run.

    Besides the scope's devices and lights: ``lights_off``; ``channel`` (where the scope has channels); ``volume``, ``burst``
    and ``live_view`` (where it has cameras); what packages add (`added_devices`).

    Raises
    ------
    AdditionError
        Where a package's device can't be made.
    """
    recordings = RunRecordings(scope, layout, hardware)
    axes, events = scope.axes(), HardwareEvents(hardware)
    imaging = ImagingConfiguration(scope, hardware)
    devices: dict[str, Any] = {}
    for name, settings in scope.devices.items():
        match settings.kind:
            case "stage":
                devices[name] = AxisPositioner(name=name, hardware=hardware, settings=axes[name], events=events)
            case "xy_stage" | "galvo":
                devices[name] = AxisPair(name=name, hardware=hardware, axes=axes, events=events)
            case "camera" | "multi_camera":
                devices[name] = CameraDetector(
                    name=name, hardware=hardware, settings=settings, recordings=recordings, imaging=imaging
                )
            case "state" | "config_group" | "objective":
                devices[name] = LabelledState(name=name, hardware=hardware, label=settings.label, events=events)
            case "autofocus":
                devices[name] = AutofocusDevice(name=name, hardware=hardware, settings=settings, events=events)
            case "temperature":
                devices[name] = TemperatureValue(name=name, hardware=hardware, settings=settings, events=events)
            case "property":
                devices[name] = PropertyValue(name=name, hardware=hardware, settings=settings, events=events)
    for name, light in scope.lights.items():
        devices[name] = LightGate(name=name, hardware=hardware, settings=light, events=events)
    devices["lights_off"] = LightsOff(name="lights_off", hardware=hardware, label="lights")
    if scope.channels:
        devices["channel"] = ChannelSelector(name="channel", hardware=hardware, scope=scope, events=events)
    cameras = {name: camera.label for name, camera in scope.of_kind("camera").items()}
    if cameras:
        for name in ("volume", "burst"):
            devices[name] = ProgramFlyer(
                name=name, hardware=hardware, recordings=recordings, labels=cameras, imaging=imaging
            )
        devices["live_view"] = LiveView(
            name="live_view", hardware=hardware, recordings=recordings, address=layout.live_socket
        )
    for addition in additions(DEVICES, _taken(scope)):
        if (device := addition.make(scope, hardware)) is not None:
            devices[addition.name] = device
    return devices, recordings


def added_devices(scope: Scope) -> list[str]:
    """Names of the devices that packages add (entry points ``queuescope.devices``); `AdditionError` as for `build_devices`."""
    found = additions(DEVICES, _taken(scope))
    for addition in found:
        addition.load()  # a broken one shows now, not when the environment opens
    return [addition.name for addition in found]


def _taken(scope: Scope) -> set[str]:
    return {*scope.devices, *scope.lights, *RESERVED}
