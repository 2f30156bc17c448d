"""OME-XML (schema 2016-06): axes, pixel size, channel, optics, and for every plane its time, exposure and position.

`ome_xml` builds the document with ome-types. What changes while a file grows and when it ends, its sizes and its planes, is put
into that text: ome-types takes 0.3 ms a plane, and files of 10^5 planes are closed while somebody waits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ._facts import CameraFacts, ImageFacts, LightFacts, ObjectiveFacts

_TYPES = {kind: kind for kind in ("int8", "int16", "int32", "uint8", "uint16", "uint32")} | {
    "float32": "float",
    "float64": "double",
}
"""OME's names of NumPy's types."""
NAMESPACE = "queuescope/run"
_PIECE = 1 << 14
_UM = {"um": 1.0, "µm": 1.0, "nm": 1e-3, "mm": 1e3, "pm": 1e-6, "cm": 1e4, "m": 1e6}
Line = Mapping[str, Any]
"""Of a frame list."""


class UnknownType(ValueError):
    """A data type that OME doesn't have."""


def ome_xml(facts: ImageFacts, lines: Sequence[Line] = ()) -> str:
    """The document, with a plane for each line.

    Raises
    ------
    UnknownType
        Where OME has no such pixels.
    """
    if facts.dtype not in _TYPES:
        raise UnknownType(f"OME-TIFF has no {facts.dtype}: it holds {', '.join(_TYPES)}")
    from ome_types import to_xml  # slow to import, and only who writes a TIFF needs it

    if began := next((line["time"] for line in lines if line.get("time") is not None), None):
        facts = replace(facts, acquired_at=began)
    sizes, order = _sizes(facts)
    return _with_planes(to_xml(_ome(facts, sizes, order)), lines, sizes, order, facts.exposure_ms)


def check(xml: str) -> None:
    """Hold a document against the schema, where xmlschema is installed.

    Not by ome-types' own check: the schema that it keeps pickled raises TypeError at any light source (ome-types 0.7.0 with
    xmlschema 4.3.2).

    Raises
    ------
    ValueError
        Where it is not valid.
    """
    schema = _schema()
    if schema is not None:
        schema.validate(xml)


@cache
def _schema() -> Any:
    try:
        import ome_types
        import xmlschema
    except ImportError:
        return None
    return xmlschema.XMLSchema(Path(ome_types.__file__).parent / "ome-2016-06.xsd")


def counted(xml: str, frames: int) -> str:
    """The document of a growing dataset, for so many frames along its one axis."""
    axis = _order(xml)[0].upper()
    xml = re.sub(rf' Size{axis}="\d+"', f' Size{axis}="{max(frames, 1)}"', xml, count=1)
    return re.sub(r' PlaneCount="\d+"', f' PlaneCount="{max(frames, 1)}"', xml, count=1)


def of_frames(xml: str, lines: Sequence[Line]) -> str:
    """The document of a dataset that has ended, for exactly the frames of these lines, each with its plane."""
    if not lines:
        return counted(xml, 0)
    order = _order(xml)
    xml = re.sub(r" *<Plane [^>]*/>\n?", "", counted(xml, len(lines)))
    if (began := lines[0].get("time")) is not None:
        date = datetime.fromtimestamp(began, UTC).isoformat()
        xml = re.sub(r"<AcquisitionDate>[^<]*<", f"<AcquisitionDate>{date}<", xml, count=1)
    told = re.search(r'<M K="exposure_ms">([0-9.e+-]+)</M>', xml)
    sizes = {"z": 1, "c": 1, "t": 1, order[0]: len(lines)}
    return _with_planes(xml, lines, sizes, order, float(told[1]) if told else None)


def _order(xml: str) -> str:
    """``zct``: which axis counts fastest."""
    found = re.search(r' DimensionOrder="XY([ZCT]{3})"', xml)
    if found is None:
        raise ValueError("the OME-XML has no order of dimensions")
    return found[1].lower()


def _sizes(facts: ImageFacts) -> tuple[dict[str, int], str]:
    """Sizes of z, c and t, and OME's order of the planes: the axis that counts fastest comes first after XY."""
    sizes = {"z": 1, "c": 1, "t": 1}
    order: list[str] = []
    for name, size in zip(reversed(facts.axes), reversed(facts.sizes), strict=True):
        axis = name if name in sizes and name not in order else next(a for a in "tzc" if a not in order)
        sizes[axis] = max(size, 1)
        order.append(axis)
    order += [axis for axis in "zct" if axis not in order]
    return sizes, "".join(order)


def _ome(facts: ImageFacts, sizes: dict[str, int], order: str) -> Any:
    from ome_types import model

    told = {
        "run_uid": facts.run_uid,
        "dataset": facts.name,
        **facts.about,
        "exposure_ms": facts.exposure_ms,
        "light": facts.light.name if facts.light is not None else None,
        "emission_filter": facts.emission,
        "step_um": facts.step_um,
    }
    pairs = [model.Map.M(k=key, value=_plain(str(value))) for key, value in told.items() if value is not None]
    annotation = model.MapAnnotation(id="Annotation:0", namespace=NAMESPACE, value=model.Map(ms=pairs))
    instrument = _instrument(facts)
    objective = model.ObjectiveSettings(id="Objective:0") if facts.objective is not None else None
    image = model.Image(
        id="Image:0",
        name=f"{facts.run_uid} {facts.name}",
        acquisition_date=datetime.fromtimestamp(facts.acquired_at, UTC) if facts.acquired_at is not None else None,
        description=f"{facts.about.get('plan_name', 'run')} of queuescope",
        instrument_ref=model.InstrumentRef(id=instrument.id) if instrument is not None else None,
        objective_settings=objective,
        pixels=_pixels(facts, sizes, order),
        annotation_refs=[model.AnnotationRef(id=annotation.id)],
    )
    return model.OME(
        creator="queuescope",
        images=[image],
        instruments=[instrument] if instrument is not None else [],
        structured_annotations=model.StructuredAnnotations(map_annotations=[annotation]),
    )


def _plain(text: str) -> str:
    """Without what XML can't hold: a client may put anything into a session's name."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _instrument(facts: ImageFacts) -> Any:
    from ome_types import model

    parts: dict[str, Any] = {}
    if facts.camera is not None:
        parts["detectors"] = [model.Detector(id="Detector:0", model=facts.camera.label or facts.camera.name)]
    if facts.objective is not None:
        parts["objectives"] = [
            model.Objective(
                id="Objective:0",
                model=facts.objective.label,
                lens_na=facts.objective.na,
                calibrated_magnification=facts.objective.magnification,
            )
        ]
    if facts.light is not None:
        if facts.light.laser:
            source: Any = model.Laser(id="LightSource:0", model=facts.light.name, wavelength=facts.light.wavelength_nm)
            parts["lasers"] = [source]
        else:
            parts["generic_excitation_sources"] = [
                model.GenericExcitationSource(id="LightSource:0", model=facts.light.name)
            ]
    if facts.emission is not None:
        parts["filters"] = [model.Filter(id="Filter:0", model=facts.emission)]
    return model.Instrument(id="Instrument:0", **parts) if parts else None


def _pixels(facts: ImageFacts, sizes: dict[str, int], order: str) -> Any:
    from ome_types import model

    unit = model.UnitsLength.MICROMETER
    lengths: dict[str, Any] = {}
    if facts.pixel_um is not None:
        for axis in "xy":
            lengths |= {f"physical_size_{axis}": facts.pixel_um, f"physical_size_{axis}_unit": unit}
    if "z" in facts.axes and facts.step_um:
        lengths |= {"physical_size_z": abs(facts.step_um), "physical_size_z_unit": unit}
    frames = sizes["z"] * sizes["c"] * sizes["t"]
    height, width = facts.frame_shape
    return model.Pixels(
        id="Pixels:0",
        dimension_order="XY" + order.upper(),
        type=_TYPES[facts.dtype],
        big_endian=False,
        significant_bits=facts.bit_depth,
        size_x=width,
        size_y=height,
        size_z=sizes["z"],
        size_c=sizes["c"],
        size_t=sizes["t"],
        channels=[_channel(facts, number, sizes["c"]) for number in range(sizes["c"])],
        tiff_data_blocks=[model.TiffData(ifd=0, first_z=0, first_c=0, first_t=0, plane_count=frames)],
        **lengths,
    )


def _channel(facts: ImageFacts, number: int, count: int) -> Any:
    from ome_types import model

    told: dict[str, Any] = {}
    if facts.light is not None:
        told |= {"excitation_wavelength": facts.light.wavelength_nm, "color": model.Color(f"#{facts.color}")}
        power = facts.light.power_pct
        told["light_source_settings"] = model.LightSourceSettings(
            id="LightSource:0", attenuation=None if power is None else round(1 - power / 100, 6)
        )
    if facts.emission is not None:
        told["light_path"] = model.LightPath(emission_filters=[model.FilterRef(id="Filter:0")])
    if facts.camera is not None:
        binning = facts.camera.binning
        told["detector_settings"] = model.DetectorSettings(
            id="Detector:0",
            binning=None if binning is None else f"{binning}x{binning}" if binning in (1, 2, 4, 8) else "Other",
        )
    name = facts.channel if count == 1 else None
    return model.Channel(id=f"Channel:0:{number}", name=name or facts.name, samples_per_pixel=1, **told)


def _with_planes(xml: str, lines: Sequence[Line], sizes: dict[str, int], order: str, exposure_ms: float | None) -> str:
    """The document with a plane for each line; times count from the first frame's, which is the acquisition's date."""
    first = next((line["time"] for line in lines if line.get("time") is not None), None)
    along = _stages(lines)
    planes = []
    for index, line in enumerate(lines):
        said: list[tuple[str, Any]] = []
        rest = index
        for axis in order:
            rest, place = divmod(rest, sizes[axis])
            said.append((f"The{axis.upper()}", place))
        if line.get("time") is not None and first is not None:
            said += [("DeltaT", line["time"] - first), ("DeltaTUnit", "s")]
        exposure = line.get("exposure_ms", exposure_ms)
        if isinstance(exposure, int | float):
            said += [("ExposureTime", exposure / 1000), ("ExposureTimeUnit", "s")]
        for axis, name in along.items():
            value = (line.get("position") or {}).get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                said += [(f"Position{axis.upper()}", value), (f"Position{axis.upper()}Unit", "µm")]
        attributes = " ".join(f'{name}="{value}"' for name, value in said)
        planes.append(f"      <Plane {attributes}/>\n")
    before, end, after = xml.partition("</Pixels>")
    body = before.rstrip(" ")
    return f"{body}{''.join(planes)}{before[len(body) :]}{end}{after}" if planes else xml


def _stages(lines: Sequence[Line]) -> dict[str, str]:
    """Which recorded axis is x, y and z: an XY stage's components, and the one stage that moved between frames, or is alone."""
    names = list(dict.fromkeys(name for line in lines for name in line.get("position") or {}))
    found = {axis: name for axis in "xy" for name in names if name.endswith(f".{axis}") and _is_stage(names, name)}
    singles = [name for name in names if "." not in name]
    moved = [name for name in singles if len({(line.get("position") or {}).get(name) for line in lines}) > 1]
    if len(moved) == 1 or (not moved and len(singles) == 1):
        found["z"] = (moved or singles)[0]
    return found


def _is_stage(names: list[str], name: str) -> bool:
    """Of several devices with x and y (a stage, galvos) the XY stage is the one called so."""
    devices = {n.partition(".")[0] for n in names if "." in n}
    return name.partition(".")[0] == "xy" or len(devices) == 1


def parsed(xml: bytes) -> ImageFacts | None:
    """What a document says of its first image's frames and their size, whoever wrote it; None where it says nothing.

    The planes, of which there may be very many, are not read.
    """
    from xml.etree.ElementTree import ParseError, XMLPullParser  # only who reads a TIFF needs it

    parser: Any = XMLPullParser(events=("start",))
    first: dict[str, Mapping[str, str]] = {}
    try:
        for begin in range(0, len(xml), _PIECE):
            parser.feed(xml[begin : begin + _PIECE])
            for _, element in parser.read_events():
                first.setdefault(element.tag.rpartition("}")[2], element.attrib)
            if "Plane" in first:
                break
    except ParseError:
        return None
    try:
        return _facts_of(first)
    except (KeyError, ValueError):
        return None


def _facts_of(first: Mapping[str, Mapping[str, str]]) -> ImageFacts:
    """Of the attributes of each element that comes first among its like."""
    pixels, channel = first["Pixels"], first.get("Channel", {})
    order = pixels.get("DimensionOrder", "XYZCT")[2:].lower()
    sizes = {axis: int(pixels.get(f"Size{axis.upper()}", 1)) for axis in order}
    axes = tuple(axis for axis in reversed(order) if sizes[axis] > 1) or (order[0],)
    kinds = {name: kind for kind, name in _TYPES.items()}
    bits = pixels.get("SignificantBits")
    return ImageFacts(
        run_uid="",
        name="image",
        frame_shape=(int(pixels["SizeY"]), int(pixels["SizeX"])),
        dtype=kinds.get(pixels["Type"], pixels["Type"]),
        axes=axes,
        sizes=tuple(sizes[axis] for axis in axes),
        pixel_um=_um(pixels, "X"),
        step_um=_um(pixels, "Z"),
        channel=channel.get("Name") if sizes["c"] == 1 else None,
        light=_light(first, channel),
        emission=first.get("Filter", {}).get("Model"),
        objective=_objective(first["Objective"]) if "Objective" in first else None,
        camera=_camera(first) if "Detector" in first else None,
        bit_depth=None if bits is None else int(bits),
    )


def _light(first: Mapping[str, Mapping[str, str]], channel: Mapping[str, str]) -> LightFacts | None:
    source = first.get("Laser") or first.get("GenericExcitationSource")
    if source is None:
        return None
    wavelength = _number(channel.get("ExcitationWavelength") or source.get("Wavelength"))
    attenuation = _number(first.get("LightSourceSettings", {}).get("Attenuation"))
    power = None if attenuation is None else round(100 * (1 - attenuation), 4)
    return LightFacts(source.get("Model", ""), wavelength, power, laser="Laser" in first)


def _objective(told: Mapping[str, str]) -> ObjectiveFacts:
    magnification = told.get("CalibratedMagnification") or told.get("NominalMagnification")
    return ObjectiveFacts(told.get("Model"), _number(told.get("LensNA")), _number(magnification))


def _camera(first: Mapping[str, Mapping[str, str]]) -> CameraFacts:
    model = first["Detector"].get("Model")
    binning = first.get("DetectorSettings", {}).get("Binning", "").partition("x")[0]
    return CameraFacts(model or "", model, int(binning) if binning.isdigit() else None)


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _um(pixels: Mapping[str, str], axis: str) -> float | None:
    """A physical size in µm."""
    size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
    return float(size) * _UM[unit] if size is not None and unit in _UM else None
