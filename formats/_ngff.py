"""The attributes of an OME-Zarr 0.5 group: ``ome`` as NGFF has it, and ``queuescope`` for what NGFF has no place for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ._facts import CameraFacts, ImageFacts, LightFacts, ObjectiveFacts

ABOUT = ("scope", "sample_id", "session_id", "position", "plan_name", "user", "op_key", "uri")
_TYPES = {"t": "time", "c": "channel", "z": "space"}


def ngff(facts: ImageFacts) -> dict[str, Any]:
    """``{"ome": …, "queuescope": …}`` (docs/reference/files.md)."""
    return {"ome": _ome(facts), "queuescope": _ours(facts)}


def _ome(facts: ImageFacts) -> dict[str, Any]:
    axes: list[dict[str, Any]] = []
    scale = []
    for name in facts.axes:
        axis = {"name": name, **({"type": _TYPES[name]} if name in _TYPES else {})}
        if name == "z" and facts.step_um:
            axis["unit"] = "micrometer"
        axes.append(axis)  # along t frames are counted; their times stand in the frame list
        scale.append(abs(facts.step_um) if name == "z" and facts.step_um else 1.0)
    for name in "yx":
        unit = {} if facts.pixel_um is None else {"unit": "micrometer"}
        axes.append({"name": name, "type": "space", **unit})
        scale.append(1.0 if facts.pixel_um is None else facts.pixel_um)
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [{"name": facts.name, "axes": axes, "datasets": datasets}],
    }
    import numpy as np  # whoever only asks for names needs none

    kind = np.dtype(facts.dtype)
    if "c" not in facts.axes and kind.kind in "ui":
        lowest, highest = float(np.iinfo(kind).min), float(np.iinfo(kind).max)
        top = highest if facts.bit_depth is None else float(2**facts.bit_depth - 1)
        window = {"start": lowest, "min": lowest, "end": top, "max": highest}
        channel = {"label": facts.channel or facts.name, "color": facts.color, "window": window, "active": True}
        ome["omero"] = {"channels": [channel]}
    return ome


def _ours(facts: ImageFacts) -> dict[str, Any]:
    at = None if facts.acquired_at is None else datetime.fromtimestamp(facts.acquired_at, UTC).isoformat()
    told: dict[str, Any] = {
        "run_uid": facts.run_uid,
        "dataset": facts.name,
        **facts.about,
        "opened_at": at,
        "channel": facts.channel,
        "exposure_ms": facts.exposure_ms,
        "light": None if facts.light is None else asdict(facts.light),
        "emission_filter": facts.emission,
        "objective": None if facts.objective is None else asdict(facts.objective),
        "camera": None if facts.camera is None else asdict(facts.camera),
        "bit_depth": facts.bit_depth,
        "pixel_um": facts.pixel_um,
        "step_um": facts.step_um,
    }
    return known(told)


def of_ngff(
    attributes: Mapping[str, Any], axes: tuple[str, ...], shape: tuple[int, ...], dtype: str, pixel_um: float | None
) -> ImageFacts:
    """The facts of a group of ours; of another one what NGFF tells.

    Parameters
    ----------
    axes, shape
        All of them, the frame's last.
    """
    ours: dict[str, Any] = {}
    if isinstance(told := attributes.get("queuescope"), dict) and told.get("run_uid"):
        ours = told
    parts = {"light": LightFacts, "objective": ObjectiveFacts, "camera": CameraFacts}
    found: dict[str, Any] = {name: kind(**ours[name]) for name, kind in parts.items() if name in ours}
    at = ours.get("opened_at")
    return ImageFacts(
        run_uid=ours.get("run_uid", ""),
        name=ours.get("dataset", "image"),
        frame_shape=(shape[-2], shape[-1]),
        dtype=dtype,
        axes=axes[:-2],
        sizes=shape[:-2],
        pixel_um=pixel_um,
        step_um=ours.get("step_um"),
        channel=ours.get("channel"),
        exposure_ms=ours.get("exposure_ms"),
        emission=ours.get("emission_filter"),
        bit_depth=ours.get("bit_depth"),
        acquired_at=datetime.fromisoformat(at).timestamp() if at is not None else None,
        about={name: ours[name] for name in ABOUT if name in ours},
        **found,
    )


def known(told: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, inside as well."""
    return {
        key: known(value) if isinstance(value, Mapping) else value for key, value in told.items() if value is not None
    }
