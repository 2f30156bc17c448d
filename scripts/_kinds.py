"""What a device is and what to call it, from MMCore where it was asked, else from the words of the configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..config import BLANK
from ._cfg import Cfg, CfgDevice

_OF_TYPE = {
    "StageDevice": "stage",
    "XYStageDevice": "xy_stage",
    "GalvoDevice": "galvo",
    "CameraDevice": "camera",
    "StateDevice": "state",
    "ShutterDevice": "shutter",
    "AutoFocusDevice": "autofocus",
    "HubDevice": "hub",
    "SignalIODevice": "analogue output",
    "SerialDevice": "serial port",
}
_ROLES = {"Camera": "camera", "Shutter": "shutter", "Focus": "stage", "XYStage": "xy_stage", "Galvo": "galvo"}
_ROLES |= {"AutoFocus": "autofocus", "Autofocus": "autofocus"}

# In this order; looked for in the device's name in its adapter, then in its label.
_WORDS = (
    ("composite", r"multi ?(camera|shutter|stage|state)|single axis stage"),
    ("hub", r"hub$|^tigercomm|^hub|controller$"),
    ("serial port", r"^com\d+$|serial ?port|^/dev/"),
    ("autofocus", r"auto ?focus|crisp|definite ?focus|pfs|perfect"),
    ("galvo", r"galvo|^scanner"),
    ("xy_stage", r"(^|[^a-z])d?xy|xy ?(stage|drive)"),
    ("analogue output", r"^d-da\d*$|\bda\b|dac\b|analog"),
    ("shutter", r"shutter|plogic|\bttl\b|laser\d*$|^led\b|lamp"),
    ("camera", r"^d?cam\b|camera|hamcam|dcam|^pco|pvcam|andor"),
    (
        "state",
        r"wheel|turret|objective|nosepiece|filter|dichroic|slider|path|optovar|prism|state ?device|switch|emission",
    ),
    ("stage", r"stage|focus|piezo|z ?drive|^z$|elevator"),
)
_CAMERA_ADAPTERS = re.compile(
    r"hamamatsu|andor|pvcam|pco|basler|spinnaker|tsi|qcam|twain|ximea|idspeak|jai|aravis", re.I
)


def kinds(cfg: Cfg, types: Mapping[str, str]) -> dict[str, str]:
    """The kind of every device by label; ``unknown`` where nothing tells. ``types``: what MMCore said, by label."""
    return {label: _kind(cfg, device, types.get(label)) for label, device in cfg.devices.items()}


def _kind(cfg: Cfg, device: CfgDevice, mm_type: str | None) -> str:
    if re.fullmatch(_WORDS[0][1], device.name.lower()):
        return "composite"
    if mm_type in _OF_TYPE:
        return _OF_TYPE[mm_type]
    for role, kind in _ROLES.items():
        if cfg.core(role) == device.label:
            return kind
    if device.label in cfg.focus:
        return "stage"
    if device.label in cfg.labels:
        return "state"
    for text in (device.name.lower(), device.label.lower()):
        for kind, words in _WORDS:
            if re.search(words, text):
                return kind
    if _CAMERA_ADAPTERS.search(device.adapter):
        return "camera"
    if mm_type is not None:
        return mm_type.removesuffix("Device").lower()
    entries = [*cfg.properties, *(e for presets in cfg.groups.values() for p in presets.values() for e in p)]
    names = {name for label, name, _ in entries if label == device.label}
    return "state" if "Label" in names else "camera" if "Exposure" in names else "unknown"


def slug(text: str, fallback: str) -> str:
    """A name that the scope file allows: lower-case letters, digits and underscores, beginning with a letter."""
    parts = text.split(":")
    while len(parts) > 1 and parts[-1].isdigit():
        parts.pop()  # an address on a controller's bus
    words = re.sub(r"[^a-z0-9]+", "_", "_".join(parts).lower()).strip("_")
    if not words or not words[0].isalpha():
        words = f"{fallback}_{words}".strip("_")
    return words[:32].strip("_")


class Names:
    """Names that are given once."""

    def __init__(self, *taken: str) -> None:
        self._taken = set(taken)

    def give(self, text: str, fallback: str) -> str:
        wanted = slug(text, fallback)
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted[:29]}_{number}", number + 1
        self._taken.add(name)
        return name


def quoted(text: str) -> str:
    """A YAML scalar: plain where that is safe."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9 _./()-]*[A-Za-z0-9)]|[A-Za-z]", text)
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", BLANK.lower()}
    return text if plain and text.lower() not in words else json.dumps(text, ensure_ascii=False)
