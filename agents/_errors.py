"""What goes wrong for a client, each with what the server said. What isn't here is a programming error and comes out as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._operation import Operation


class ScopeError(Exception):
    """Something that a script may expect of a microscope over a network."""


class NotPairedError(ScopeError, LookupError):
    """Nothing says where this microscope is, or with which key it opens. The text says what to do."""


class KeyFileError(ScopeError):
    """A key file that can't be used, or would be overwritten."""


class StepError(ScopeError):
    """A step whose key would not be the same when the script runs again."""


class OtherServerError(ScopeError):
    """At this address answers another microscope than the one that was paired. Nothing was sent to it."""


class ServerLostError(ScopeError, ConnectionError):
    """No answer for longer than the client waits. What was submitted goes on without it."""


class RefusedError(ScopeError):
    """The server refused, in its own words. Nothing was queued, nothing moved.

    Parameters
    ----------
    code
        Stable: ``docs/reference/rest.md`` lists them.
    fields
        The other members of the body: ``errors`` with ``{loc, msg, value, limit}`` for each parameter that is wrong.
    """

    def __init__(self, status: int, code: str, detail: str, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, self.code, self.detail, self.fields = status, code, detail, dict(fields or {})


class OperationError(ScopeError):
    """An operation that ended without success; it replays as that until somebody retries it."""

    def __init__(self, operation: Operation) -> None:
        error = operation.error
        words = f"{error.code}: {error.detail}" if error else "no reason given"
        super().__init__(f"{operation.plan} ({operation.key}) {operation.state}: {words}")
        self.operation = operation


class OperationFailedError(OperationError):
    """It failed, or nobody knows how it ended (``operation.state``: ``failed interrupted``)."""


class OperationCancelledError(OperationError):
    """It was cancelled."""
