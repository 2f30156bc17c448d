"""What a plan's parameters ask for: channels, their exposure and light, cameras; and how their series are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Scope
from ..hardware import FrameSettings


def channel_names(parameters: Any) -> list[str]:
    """The channels that a plan with these parameters takes frames in, also through what it repeats (``do``, ``steps``)."""
    steps = getattr(parameters, "steps", None)
    if isinstance(steps, list):  # of a protocol
        return list(dict.fromkeys(name for step in steps for name in channel_names(step.kwargs)))
    while (do := getattr(parameters, "do", None)) is not None:
        parameters = do.kwargs
    return [channel.name for channel in getattr(parameters, "channels", None) or []]


def cameras_of(scope: Scope, camera: str) -> tuple[str, ...]:
    """The cameras that expose: this one, or those of a multi-camera. Each has a dataset of its name."""
    together = scope.of_kind("multi_camera").get(camera)
    return (camera,) if together is None else tuple(together.cameras)


def channels_of(parameters: Any) -> list[Any]:
    """The channels asked for, one after the other; ``[None]``: one, without light."""
    return list(parameters.channels or [None])


def series_of(parameters: Any, channel: Any, place: str = "") -> str:
    """Name of what is taken in this channel at this place: empty where there is only one of each."""
    named = channel.name if channel is not None and len(channels_of(parameters)) > 1 else ""
    return "_".join(part for part in (named, place) if part)


def frame_settings(channel: Any, scope: Scope) -> FrameSettings:
    """Exposure, light and power of a channel as it was asked for; no channel: no light."""
    if channel is None:
        return FrameSettings()
    known = scope.channels[channel.name]
    lowest = scope.lights[known.light].limits_pct[0]
    stored = lowest if known.power_pct is None else known.power_pct
    return FrameSettings(
        exposure_ms=known.exposure_ms if channel.exposure_ms is None else channel.exposure_ms,
        light=known.light,
        power_pct=stored if channel.power_pct is None else channel.power_pct,
    )


def with_power(parameters: Any, power_pct: Mapping[str, float]) -> Any:
    """The same parameters with other powers, by channel."""
    channels = [
        channel.model_copy(update={"power_pct": power_pct[channel.name]}) if channel.name in power_pct else channel
        for channel in parameters.channels or []
    ]
    return parameters.model_copy(update={"channels": channels or None})
