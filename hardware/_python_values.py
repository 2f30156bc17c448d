"""Properties and errors of Python devices as MMCore would give them."""

from __future__ import annotations

from typing import Any

from pymmcore_plus import PropertyType


def said(error: BaseException) -> str:
    words = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{words}" if isinstance(error, RuntimeError | ValueError) else f"{type(error).__name__}: {words}"


def typed(value: Any, kind: PropertyType, name: str) -> Any:
    """A configuration's text as the property's type."""
    try:
        if kind == PropertyType.Integer:
            return int(float(value))
        if kind == PropertyType.Float:
            return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is a number, it can't be {value!r}") from None
    return str(value) if kind == PropertyType.String else value


def text_of(value: Any) -> str:
    """A property's value as MMCore gives it."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
