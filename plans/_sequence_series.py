"""Which series a frame of a useq sequence belongs to, and how its frames are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import useq

from ..config import Scope
from ..hardware import FrameSettings
from ._channels import frame_settings
from ._sequence import resolve_channel


@dataclass(frozen=True)
class Series:
    """Frames of one channel with one exposure: a dataset for each camera, and a stream."""

    channel: str | None
    exposure_ms: float | None


def names_of(found: Mapping[Series, int]) -> dict[Series, str]:
    """By series: how it is called. Empty where it is the only one; a second exposure of a channel is ``gfp_2``."""
    if len(found) == 1:
        return dict.fromkeys(found, "")
    names: dict[Series, str] = {}
    for series in found:
        name = series.channel or "dark"
        same = sum(one.channel == series.channel for one in names)
        names[series] = f"{name}_{same + 1}" if same else name
    return names


def is_focusing(event: useq.MDAEvent) -> bool:
    return isinstance(event.action, useq.HardwareAutofocus)


def series_of_event(event: useq.MDAEvent, scope: Scope) -> Series:
    if event.channel is None:
        return Series(None, None)
    name = resolve_channel(scope, event.channel.config, event.channel.group)
    return Series(name, event.exposure)


def settings_of(series: Series, scope: Scope) -> FrameSettings:
    if series.channel is None:
        return FrameSettings()
    asked = SimpleNamespace(name=series.channel, exposure_ms=series.exposure_ms, power_pct=None)
    return frame_settings(asked, scope)
