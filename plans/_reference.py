"""The templates as a page of documentation, from their models: ``python -m queuescope.plans > docs/reference/plans.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ._template import Template

HEAD = """\
# Plans

Every template, with the bounds of the bundled `{scope}`: yours are shown by `queuescope plans NAME` and
`GET /api/plans/allowed`. Unknown names, NaN, ±inf, text or `true` for a number, and whatever lies outside is refused at
submission with the field, the value and the limit. A run is one operation (in `protocol`, one step); its start document has the
plan's name and parameters, each descriptor what is needed to take the same image again (exposure, binning, ROI, light, power,
objective, filters).

Datasets are called by their camera; with several channels or places `camera_channel`, `camera_place`, `camera_channel_place`,
each in a stream of its own that is called by what follows the camera's name. A run with one of each has the stream `primary`.

`home` and `mark_position` are refused to agents. A `position` is a name in scope.yml, or one that a person marked
(`mark_position`); it is known at once, without a restart.

This page is made from the models: `python -m queuescope.plans > docs/reference/plans.md`.
"""


def reference(templates: Mapping[str, Template], scope: str) -> str:
    """Markdown: a section for each template, with a table of its parameters."""
    return HEAD.format(scope=scope) + "".join(_section(template) for template in templates.values())


def _section(template: Template) -> str:
    schema = template.model.model_json_schema()
    definitions = schema.get("$defs", {})
    rows = [
        f"| `{name}` | {_what(described)} | {_bounds(described, definitions)} | {_default(name, described, schema)} |"
        for name, described in schema.get("properties", {}).items()
    ]
    table = ["| parameter | what | allowed | default |", "|---|---|---|---|", *rows] if rows else ["No parameters."]
    example = ["", f"Example: `{json.dumps(dict(template.example))}`"]
    return "\n" + "\n".join([f"## `{template.name}`", "", template.doc, "", *table, *example]) + "\n"


def _what(described: Mapping[str, Any]) -> str:
    text = described.get("description") or next(
        (option["description"] for option in described.get("anyOf", []) if "description" in option), ""
    )
    return text.replace("|", "\\|")


def _default(name: str, described: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if name in schema.get("required", []):
        return "required"
    value = described.get("default")
    return "null" if value is None else f"`{value}`".replace("True", "true").replace("False", "false")


def _bounds(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in described:
        described = definitions[described["$ref"].rpartition("/")[2]]
    options = described.get("anyOf") or described.get("oneOf")
    if options:
        told = [_bounds(option, definitions) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(told))
    if "enum" in described:
        return ", ".join(f"`{option}`" for option in described["enum"])
    if "const" in described:
        return f"`{described['const']}`"
    match described.get("type"):
        case "number" | "integer":
            low, high = described.get("minimum"), described.get("maximum")
            return "a number" if low is None and high is None else f"{low:g} to {high:g}"
        case "array":
            return f"list of {_bounds(described.get('items', {}), definitions)}"
        case "object":
            required = described.get("required", [])
            parts = [name if name in required else f"{name}?" for name in described.get("properties", {})]
            first = described.get("properties", {})
            const = next((p["const"] for p in first.values() if "const" in p), None)
            return f"{{{', '.join(parts)}}}" if const is None else f"{{`{const}`: {', '.join(parts[1:])}}}"
        case "boolean":
            return "true, false"
        case "string":
            return f"`{described['pattern']}`" if "pattern" in described else "a name"
    return ""
