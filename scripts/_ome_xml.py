"""A dataset's OME-XML: axes, pixel size, channel, objective, and for every plane its time, exposure and position."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from ome_types import model, to_xml

from ._export import ExportError, Source

_TYPES = {kind: kind for kind in ("int8", "int16", "int32", "uint8", "uint16", "uint32")} | {
    "float32": "float",
    "float64": "double",
}
"""OME's names of NumPy's types."""
_MICROMETRE = model.UnitsLength.MICROMETER


def ome_xml(source: Source) -> str:
    """UTF-8 XML of schema 2016-06. What nobody recorded is left out, never guessed.

    Raises
    ------
    ExportError
        Where it is not valid.
    """
    from ome_types import validate_xml

    kind = source.volume.dtype.name
    if kind not in _TYPES:
        raise ExportError(f"OME-TIFF has no {kind}: it holds {', '.join(_TYPES)}; export as tiff-stack or ome-zarr")
    try:
        xml = to_xml(_ome(source))
        validate_xml(xml)
    except ImportError:  # neither lxml nor xmlschema is here; pydantic has checked types and references
        pass
    except ValueError as error:
        raise ExportError(f"the OME metadata of {source.dataset.name} are not valid: {error}") from None
    return xml


def _ome(source: Source) -> model.OME:
    start = source.log.start or {}
    objective = _objective(start.get("objective"))
    image = model.Image(
        id="Image:0",
        name=f"{source.run_uid} {source.dataset.name}",
        acquisition_date=datetime.fromtimestamp(start["time"], UTC) if start.get("time") else None,
        description=f"{start.get('plan_name', 'run')} of queuescope",
        pixels=_pixels(source),
        objective_settings=model.ObjectiveSettings(id=objective.id) if objective else None,
    )
    facts = {
        "run_uid": source.run_uid,
        "dataset": source.dataset.name,
        "uri": source.dataset.uri,
        **{key: start.get(key) for key in ("plan_name", "sample_id", "session_id", "user", "scope", "op_key")},
    }
    pairs = [model.Map.M(k=key, value=str(value)) for key, value in facts.items() if value is not None]
    annotation = model.MapAnnotation(id="Annotation:0", namespace="queuescope/run", value=model.Map(ms=pairs))
    return model.OME(
        creator="queuescope",
        images=[image],
        instruments=[model.Instrument(id="Instrument:0", objectives=[objective])] if objective else [],
        structured_annotations=model.StructuredAnnotations(map_annotations=[annotation]),
    )


def _objective(told: dict[str, Any] | None) -> model.Objective | None:
    if not told:
        return None
    return model.Objective(id="Objective:0", model=told.get("label"), lens_na=told.get("na"))


def _pixels(source: Source) -> model.Pixels:
    sizes, order = _sizes(source)
    height, width = source.volume.frame_shape
    scale = source.volume.scale
    lengths: dict[str, Any] = {}
    pixel = source.volume.pixel_um
    if pixel is not None:
        for axis in ("x", "y"):
            lengths |= {f"physical_size_{axis}": pixel, f"physical_size_{axis}_unit": _MICROMETRE}
    if "z" in source.volume.axes and scale is not None and pixel is not None and sizes["z"] > 1:
        lengths |= {
            "physical_size_z": scale[source.volume.axes.index("z")],
            "physical_size_z_unit": _MICROMETRE,
        }
    return model.Pixels(
        id="Pixels:0",
        dimension_order=order,
        type=_TYPES[source.volume.dtype.name],
        big_endian=False,
        significant_bits=_bits(source),
        size_x=width,
        size_y=height,
        size_z=sizes["z"],
        size_c=sizes["c"],
        size_t=sizes["t"],
        channels=[_channel(source, number, sizes["c"]) for number in range(sizes["c"])],
        tiff_data_blocks=[model.TiffData(ifd=0, first_z=0, first_c=0, first_t=0, plane_count=source.frames)],
        planes=_planes(source, sizes, order),
        **lengths,
    )


def _bits(source: Source) -> int:
    kind = source.volume.dtype
    if kind.kind != "u" or kind.itemsize > 2:
        return 8 * kind.itemsize
    return source.log.saturation(source.dataset.name, kind.name).bit_length()


def _sizes(source: Source) -> tuple[dict[str, int], str]:
    """Sizes of z, c and t, and OME's order of the planes: the axis that counts fastest comes first after XY."""
    leading = source.stack.shape[:-2]
    names = source.volume.axes[:-2] if len(leading) == len(source.volume.axes) - 2 else ["t"] * len(leading)
    sizes = {"z": 1, "c": 1, "t": 1}
    order = []
    for name, size in zip(reversed(names), reversed(leading), strict=True):
        axis = name if name in sizes and name not in order else next(a for a in "tzc" if a not in order)
        sizes[axis] = size
        order.append(axis)
    order += [axis for axis in "zct" if axis not in order]
    return sizes, "XY" + "".join(order).upper()


def _channel(source: Source, number: int, count: int) -> model.Channel:
    name = source.volume.channel if count == 1 else None
    return model.Channel(id=f"Channel:0:{number}", name=name or source.dataset.name, samples_per_pixel=1)


def _planes(source: Source, sizes: dict[str, int], order: str) -> list[model.Plane]:
    first = next((line["time"] for line in source.lines if line.get("time") is not None), None)
    exposure = _exposure_s(source)
    along = _axes(source)
    fastest = order[2:].lower()
    planes = []
    for index, line in enumerate(source.lines):
        place: dict[str, Any] = {}
        rest = index
        for axis in fastest:
            rest, place[f"the_{axis}"] = divmod(rest, sizes[axis])
        if line.get("time") is not None and first is not None:
            place |= {"delta_t": line["time"] - first, "delta_t_unit": model.UnitsTime.SECOND}
        if exposure is not None:
            place |= {"exposure_time": exposure, "exposure_time_unit": model.UnitsTime.SECOND}
        for axis, name in along.items():
            value = (line.get("position") or {}).get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                place |= {f"position_{axis}": value, f"position_{axis}_unit": _MICROMETRE}
        planes.append(model.Plane(**place))
    return planes


def _exposure_s(source: Source) -> float | None:
    """As the camera's configuration in the descriptor says, else as the plan asked for it."""
    settings = source.log.configuration.get(source.dataset.stream, {})
    told = settings.get(f"{source.dataset.name}_exposure_ms")
    if told is None:
        channels = ((source.log.start or {}).get("plan_args") or {}).get("channels") or [{}]
        told = channels[0].get("exposure_ms") if isinstance(channels[0], dict) else None
    return float(told) / 1000 if isinstance(told, int | float) else None


def _axes(source: Source) -> dict[str, str]:
    """Which recorded axis is x, y and z: an XY stage's components, and the one stage that moved between frames, or is alone."""
    names = list(dict.fromkeys(name for line in source.lines for name in line.get("position") or {}))
    found = {axis: name for axis in "xy" for name in names if name.endswith(f".{axis}") and _is_stage(names, name)}
    singles = [name for name in names if "." not in name]
    moved = [name for name in singles if len({(line.get("position") or {}).get(name) for line in source.lines}) > 1]
    if len(moved) == 1 or (not moved and len(singles) == 1):
        found["z"] = (moved or singles)[0]
    return found


def _is_stage(names: list[str], name: str) -> bool:
    """Of several devices with x and y (a stage, galvos) the XY stage is the one called so."""
    devices = {n.partition(".")[0] for n in names if "." in n}
    return name.partition(".")[0] == "xy" or len(devices) == 1
