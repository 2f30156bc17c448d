"""Why an item can't be queued: a stable code beside the words, for the calls that can carry it."""

from __future__ import annotations

from typing import Any

from ..plans import ParameterError


class Refused(RuntimeError):
    """
    Parameters
    ----------
    code
        As in the REST contract.
    errors
        ``{loc, msg, value, limit}`` for each parameter that is wrong; `loc` is where it stands in the request.
    """

    def __init__(self, code: str, words: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(words)
        self.code = code
        self.errors = errors or []


def parameters_refused(error: ParameterError) -> Refused:
    """What a template refuses, one entry for each parameter."""
    errors = [
        {
            "loc": ["kwargs", *(int(part) if part.isdigit() else part for part in problem.loc.split("."))],
            "msg": problem.msg,
            "value": problem.value,
            "limit": problem.limit,
        }
        for problem in error.problems
    ]
    return Refused("parameters_refused", str(error), errors)
