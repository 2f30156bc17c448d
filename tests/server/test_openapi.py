"""The committed description of the interface, and the tables for people, agree with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from queuescope.ledger import FAILURES
from queuescope.server._access import ACCESS
from queuescope.server._problems import CODES, Problem
from queuescope.server.openapi import openapi

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_openapi_is_the_running_one() -> None:
    """After a change: python -m queuescope.server.openapi docs/openapi.json."""
    assert json.loads((DOCS / "openapi.json").read_text(encoding="utf-8")) == openapi()


def test_the_reference_lists_every_code_with_its_status_and_retry() -> None:
    page = (DOCS / "reference" / "rest.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+ \| `\w+`) \|", page, re.MULTILINE))
    assert rows == {name: f"{code.status} | `{code.retry}`" for name, code in CODES.items()}


def test_the_reference_lists_every_code_of_an_operation() -> None:
    page = (DOCS / "reference" / "rest.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (same_key|after_fix|ask_person) \|", page, re.MULTILINE))
    assert rows == FAILURES


def test_every_route_of_ours_is_described() -> None:
    described = {(method.upper(), path) for path, methods in openapi()["paths"].items() for method in methods}
    assert described <= set(ACCESS)
    assert {path for _, path in described} == {
        *("/api/ops", "/api/ops/{key}", "/api/ops/{key}/cancel", "/api/ops/{key}/retry", "/api/tickets"),
        *("/api/ops/{key}/decisions/{round}", "/api/scope/live.png", "/api/server"),
        "/api/ops/check",
        *("/api/ready", "/api/runs/{uid}", "/api/runs/{uid}/image.png", "/api/runs/register", "/api/scope"),
        *("/api/scope/halt", "/api/scope/rearm", "/api/scope/arm", "/api/scope/control"),
        *("/api/scope/release", "/api/scope/reclaim", "/api/scope/confirm_reference"),
        *("/api/samples", "/api/samples/{id}", "/api/scope/approvals", "/api/scope/approvals/{item_uid}"),
    }


@pytest.mark.parametrize("code", list(CODES))
def test_a_problem_body_has_the_members_of_rfc_9457(code: str) -> None:
    body = json.loads(Problem(code, "what, and what to do", extra=1).body())
    assert body["type"] == f"urn:queuescope:problem:{code}"
    assert (body["status"], body["code"], body["detail"], body["extra"]) == (
        CODES[code].status,
        code,
        "what, and what to do",
        1,
    )
    assert body["title"]
