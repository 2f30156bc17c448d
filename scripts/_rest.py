"""The stack's REST server as the terminal uses it: with the operator's key, errors as sentences."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from ..layout import Layout


class RestError(Exception):
    """The server refused, or did not answer. The text is the server's own where it gave one."""


class Rest:
    """GET and POST with a role's key. Also a context manager."""

    def __init__(self, url: str, key: str, timeout_s: float = 30.0) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"ApiKey {key}"}, timeout=timeout_s)

    @classmethod
    def of(cls, layout: Layout, runtime: dict[str, Any], role: str = "operator") -> Rest:
        """The server of a running stack."""
        return cls(runtime["http"], layout.key(role))

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, json=body or {})

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        try:
            response = self._client.request(method, path, **how)
        except httpx.HTTPError as error:
            raise RestError(f"{self.url}{path}: {error or type(error).__name__}") from None
        except ValueError as error:  # NaN has no JSON
            raise RestError(f"the request can't be sent: {error}") from None
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.status_code >= 400:
            raise RestError(_words(body) or f"{method} {path} gave {response.status_code} {response.reason_phrase}")
        if isinstance(body, dict) and body.get("success") is False:  # queueserver's way to say no
            raise RestError(_words(body) or f"{method} {path} was refused")
        return body

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _words(body: Any) -> str | None:
    if not isinstance(body, dict):
        return None
    if errors := body.get("errors"):
        return "; ".join(str(e.get("msg", e)) if isinstance(e, dict) else str(e) for e in errors)
    detail = body.get("detail") or body.get("msg") or body.get("title")
    if isinstance(detail, list):  # FastAPI's own validation errors
        return "; ".join(f"{'.'.join(map(str, e.get('loc', [])))}: {e.get('msg')}" for e in detail)
    return str(detail) if detail else None
