"""The stack's REST server as the terminal uses it: with the operator's key, errors as sentences."""

from __future__ import annotations

from typing import Any

from ..layout import Layout
from ._probes import NoAnswer, http_request


class RestError(Exception):
    """The server refused, or did not answer. The text is the server's own where it gave one."""


class Rest:
    """GET and POST with a role's key."""

    def __init__(self, url: str, key: str, timeout_s: float = 30.0) -> None:
        self.url = url
        self._key = key
        self._timeout_s = timeout_s

    @classmethod
    def of(cls, layout: Layout, runtime: dict[str, Any], role: str = "operator", timeout_s: float = 30.0) -> Rest:
        """The server of a running stack."""
        return cls(runtime["http"], layout.key(role), timeout_s)

    def get(self, path: str) -> Any:
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(path, body or {})

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        try:
            status, answer = http_request(self.url + path, self._key, body, self._timeout_s)
        except NoAnswer as error:
            raise RestError(str(error)) from None
        except ValueError as error:  # NaN has no JSON
            raise RestError(f"the request can't be sent: {error}") from None
        # queueserver says no with status 200 and success: false
        if status >= 400 or (isinstance(answer, dict) and answer.get("success") is False):
            raise RestError(_words(answer) or f"{path} gave {status}")
        return answer


def _words(body: Any) -> str | None:
    if not isinstance(body, dict):
        return None
    if (errors := body.get("errors")) and not body.get("detail") and not body.get("msg"):
        return "; ".join(str(e.get("msg", e)) if isinstance(e, dict) else str(e) for e in errors)
    detail = body.get("detail") or body.get("msg") or body.get("title")
    if isinstance(detail, list):  # FastAPI's own validation errors
        return "; ".join(f"{'.'.join(map(str, e.get('loc', [])))}: {e.get('msg')}" for e in detail)
    return str(detail) if detail else None
