"""What is known of a dataset that is exported: from its own metadata and from the run's documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..formats import ImageFacts, ObjectiveFacts, UnknownType, check, ome_xml
from ._export import ExportError, Source


def described(source: Source) -> str:
    """Its OME-XML, checked against the schema.

    Raises
    ------
    ExportError
        Where it is not valid, or OME has no such pixels.
    """
    try:
        xml = ome_xml(image_facts(source), source.lines)
        check(xml)
    except UnknownType as error:
        raise ExportError(f"{error}; export as tiff-stack or ome-zarr") from None
    except ValueError as error:
        raise ExportError(f"the OME metadata of {source.dataset.name} are not valid: {error}") from None
    return xml


def image_facts(source: Source) -> ImageFacts:
    """The volume's own facts; the run's where it says nothing. What nobody recorded is left out, never guessed."""
    start, facts = source.log.start or {}, source.volume.facts
    leading = source.stack.shape[:-2]
    names = source.volume.axes[:-2] if len(leading) == len(source.volume.axes) - 2 else ["t"] * len(leading)
    about = {
        **facts.about,
        "uri": source.dataset.uri,
        **{key: start.get(key) for key in ("plan_name", "sample_id", "session_id", "user", "scope", "op_key")},
    }
    return replace(
        facts,
        run_uid=source.run_uid,
        name=source.dataset.name,
        dtype=source.volume.dtype.name,
        axes=tuple(names),
        sizes=leading,
        step_um=facts.step_um if leading[-1] > 1 else None,
        exposure_ms=facts.exposure_ms if facts.exposure_ms is not None else _exposure_ms(source),
        objective=facts.objective or _objective(start.get("objective")),
        bit_depth=_bits(source),
        acquired_at=start.get("time"),
        about={key: str(value) for key, value in about.items() if value is not None},
    )


def _objective(told: dict[str, Any] | None) -> ObjectiveFacts | None:
    return ObjectiveFacts(told.get("label"), told.get("na")) if told else None


def _bits(source: Source) -> int:
    kind = source.volume.dtype
    if kind.kind != "u" or kind.itemsize > 2:
        return 8 * kind.itemsize
    return source.log.saturation(source.dataset.name, kind.name).bit_length()


def _exposure_ms(source: Source) -> float | None:
    """As the camera's configuration in the descriptor says, else as the plan asked for it."""
    settings = source.log.configuration.get(source.dataset.stream, {})
    told = settings.get(f"{source.dataset.name}_exposure_ms")
    if told is None:
        channels = ((source.log.start or {}).get("plan_args") or {}).get("channels") or [{}]
        told = channels[0].get("exposure_ms") if isinstance(channels[0], dict) else None
    return float(told) if isinstance(told, int | float) else None
