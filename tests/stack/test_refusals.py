"""`bench refusals` on the tests' stack: bad submissions over all templates (issue 5, done when; R2.10)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import httpx

from queuescope.benchmarks import refusals
from queuescope.benchmarks._bad_submissions import BadSubmissions
from queuescope.plans import templates


def test_every_bad_submission_is_refused_and_nothing_happens(stack_no_catalog: Any) -> None:
    """Drawn from every template's schema; what was refused names its field, and no state of anything has changed."""
    stack = stack_no_catalog
    found = refusals.refused(stack.scope, stack.layout, 300, 11, print)
    assert found.problems == []
    assert sum(found.answers.values()) == 300
    assert all(400 <= status < 500 for status, _ in found.answers)
    assert found.answers[422, "parameters_refused"] > 100


def test_they_reach_every_template_and_every_depth(stack_no_catalog: Any) -> None:
    """The same for the same seed, so that what was found can be looked at again."""
    known = templates(stack_no_catalog.scope, stack_no_catalog.layout)
    drawn = [bad.text for bad in itertools.islice(BadSubmissions(known, 3), 40 * (len(known) + 1))]
    assert drawn == [bad.text for bad in itertools.islice(BadSubmissions(known, 3), len(drawn))]
    bodies = [json.loads(text) for text in drawn]
    assert {body.get("plan") for body in bodies if isinstance(body.get("plan"), str)} >= set(known)
    assert any("NaN" in text for text in drawn)
    assert any("\\ud800" in text for text in drawn)


def test_what_is_taken_by_mistake_is_found() -> None:
    """A problem is one that says what was answered."""
    good = httpx.Response(201, json={"key": "k"})
    assert "answered with 201" in str(refusals._problem(good, "None"))
    assert "answered with 500" in str(refusals._problem(httpx.Response(500, text="oh"), "no JSON"))
    nameless = httpx.Response(422, json={"code": "parameters_refused", "errors": []})
    assert "without naming" in str(refusals._problem(nameless, "parameters_refused"))
