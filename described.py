"""Models that are described where their entries stand."""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler


class Described(BaseModel):
    """A model whose JSON Schema describes each entry by the string below it.

    What pydantic's ``use_attribute_docstrings`` gives. But that reads the source whenever a class is made, half the time that our
    models take at every start of every process; here it is read when somebody asks for a schema.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        entries = handler.resolve_ref_schema(schema).get("properties", {})
        for model in cls.__mro__:
            if issubclass(model, Described) and model is not Described:
                for name, text in _texts(model.__module__).get(model.__qualname__, {}).items():
                    if name in entries:
                        entries[name].setdefault("description", text)
        return schema


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """The strings below the annotated names of each class of a module."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            entries = found[node.name] = {}
            for entry, text in zip(node.body, node.body[1:], strict=False):
                match entry, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        entries[name] = inspect.cleandoc(words)
    return found
