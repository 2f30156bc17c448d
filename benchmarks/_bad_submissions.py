"""Bad submissions, drawn from the templates' own JSON Schemas: each is an example of a template with one thing wrong.

Whether it is wrong is the schema's word, not the code's that refuses it; what JSON Schema can't say (NaN, ±inf, lone
surrogates) is wrong everywhere.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from ..plans import Template

Path = tuple[str | int, ...]
MISSING = object()

NOT_FINITE = (math.nan, math.inf, -math.inf)
SURROGATE = "\ud800"
ANYTHING: tuple[Any, ...] = (
    *NOT_FINITE,
    SURROGATE,
    True,
    False,
    None,
    "",
    "1.0",
    "nose",
    "../../etc/passwd",
    "\x00",
    "x" * 10_000,
    10**30,
    -(10**30),
    1e30,
    -1e-300,
    0.5,
    [],
    {},
    [[]],
    [None],
    {"name": "nose"},
)
KEYS = ("__class__", "wobble", SURROGATE, "", "$ref")
BODIES: tuple[dict[str, Any], ...] = (
    {"plan": "levitate"},
    {"plan": ""},
    {"plan": SURROGATE},
    {"plan": "_snap"},
    {"plan": "RE"},
    {"plan": None},
    {"plan": ["read_state"]},
    {"kwargs": {}},
    {"plan": "read_state", "kwargs": []},
    {"plan": "read_state", "kwargs": None},
    {"plan": "read_state", "args": [1]},
    {"plan": "read_state", "restore": "back"},
    {"plan": "read_state", "sample_id": 7},
    {"plan": "read_state", "session_id": SURROGATE},
    {"plan": "read_state", "note": math.nan},
    {"plan": "read_state", "user_group": "admin"},
)
"""What surrounds the parameters."""


@dataclass(frozen=True)
class Bad:
    what: str
    """``template: path = value``, for people."""
    text: str
    """Body of the request, as Python's JSON writes it: NaN and Infinity are words."""


class BadSubmissions:
    """As many as one likes, the same for the same seed."""

    def __init__(self, templates: Mapping[str, Template], seed: int) -> None:
        self._templates = templates
        self._random = random.Random(seed)
        self._schemas = {name: template.model.model_json_schema() for name, template in templates.items()}
        self._validators = {name: Draft202012Validator(schema) for name, schema in self._schemas.items()}
        self._spots = {
            name: list(_spots(schema, schema.get("$defs", {}), templates[name].example, ()))
            for name, schema in self._schemas.items()
        }

    def __iter__(self) -> Iterator[Bad]:
        names = sorted(self._templates)
        while True:
            for name in names:  # each as often as the others
                yield self._of(name)
            body = self._random.choice(BODIES)
            yield Bad(f"body: {body!r}", json.dumps(body))

    def _of(self, name: str) -> Bad:
        while True:
            path, schema = self._random.choice(self._spots[name])
            value = self._value(path, schema)
            kwargs = copy.deepcopy(dict(self._templates[name].example))
            if not _put(kwargs, path, value):
                continue
            wrong_anywhere = _holds_nonsense(value) or any(_holds_nonsense(part) for part in path)
            if wrong_anywhere or not self._validators[name].is_valid(kwargs):
                told = "left out" if value is MISSING else repr(value)[:60]
                where = ".".join(map(str, path)).encode("ascii", "backslashreplace").decode()
                body = {"plan": name, "kwargs": kwargs}
                return Bad(f"{name}: {where} = {told}", json.dumps(body))

    def _value(self, path: Path, schema: Mapping[str, Any]) -> Any:
        choices: list[Any] = [*ANYTHING, MISSING]
        for option in (schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())):
            for bound, direction in (("minimum", -1), ("maximum", 1)):
                if bound in option:
                    edge = option[bound]
                    choices += [edge + direction, edge + direction * 1e-6, edge * 1e6 + direction * 1e6]
            if "maxItems" in option:
                choices += [[None] * (option["maxItems"] + 1), [{}] * (option["maxItems"] + 1)]
        return self._random.choice(choices)


def _spots(schema: Mapping[str, Any], defs: Mapping[str, Any], value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every place in a value where something can be put, with the schema of that place."""
    schema = _resolved(schema, defs)
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if Draft202012Validator({**_resolved(option, defs), "$defs": defs}).is_valid(value):
            yield from _spots(option, defs, value, path)
            return
    if isinstance(value, Mapping):
        for key in KEYS:
            yield (*path, key), {}
        for name, of in schema.get("properties", {}).items():
            yield (*path, name), _resolved(of, defs)
            if name in value:
                yield from _spots(of, defs, value[name], (*path, name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield (*path, index), _resolved(schema.get("items", {}), defs)
            yield from _spots(schema.get("items", {}), defs, part, (*path, index))


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _put(kwargs: Any, path: Path, value: Any) -> bool:
    """Put a value there, or take out what is there; False where nothing is."""
    for part in path[:-1]:
        kwargs = kwargs[part]
    if value is not MISSING:
        kwargs[path[-1]] = value
        return True
    if isinstance(kwargs, list) or path[-1] not in kwargs:
        return False
    del kwargs[path[-1]]
    return True


def _holds_nonsense(value: Any) -> bool:
    return value == SURROGATE or (isinstance(value, float) and not math.isfinite(value))
