"""Words on the command line become a plan's keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest

from queuescope.scripts import _operation
from queuescope.scripts._operation import follow, parse_arguments, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40", 40),
        ("2.5", 2.5),
        ("-1e-3", -0.001),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("both", "both"),
        ("on", "on"),  # YAML would make it True
        ('"40"', "40"),
        ("[1, 2]", [1, 2]),
        ("[{name: gfp, exposure_ms: 5}]", [{"name": "gfp", "exposure_ms": 5}]),
        ("{slope_um_per_deg: 100, offset_um: 0.5}", {"slope_um_per_deg": 100, "offset_um": 0.5}),
        ("", ""),
        ("[unclosed", "[unclosed"),
        ("a=b", "a=b"),
    ],
)
def test_a_value_is_json_or_short_yaml_or_itself(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_arguments_are_names_with_values() -> None:
    assert parse_arguments(["slices=40", "order=slice"]) == {"slices": 40, "order": "slice"}


@pytest.mark.parametrize("words", [["slices"], ["=3"], ["a b=3"], ["slices=1", "slices=2"]])
def test_a_word_without_a_name_or_a_name_given_twice_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"is not NAME=VALUE|given twice"):
        parse_arguments(words)


class Answers:
    """A server whose item is in the queue, then nowhere, then where ``history`` says; each a list, the last one stays."""

    def __init__(self, queue: list[bool], history: list[bool]) -> None:
        self._queue, self._history = queue, history

    def get(self, path: str) -> dict[str, Any]:
        item = {"item_uid": "one", "result": {"exit_status": "completed", "run_uids": []}}
        match path:
            case "/api/status":  # as it was half a second ago
                return {"plan_history_uid": "h", "running_item_uid": None}
            case "/api/queue/get":
                return {"items": [item] if _next(self._queue) else []}
            case "/api/history/get":
                return {"items": [item] if _next(self._history) else []}
        raise AssertionError(path)


def _next(answers: list[bool]) -> bool:
    return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.mark.parametrize(
    ("history", "ending"), [([False, False, False, True], "completed"), ([False], "removed")], ids=["late", "never"]
)
def test_an_item_between_queue_and_history_is_not_called_removed(
    monkeypatch: pytest.MonkeyPatch, history: list[bool], ending: str
) -> None:
    """R0.3, `run`: the plan ran, so its outcome is told; one that never shows up was removed."""
    monkeypatch.setattr(_operation, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(_operation, "_REMOVED_S", 3.0 if ending == "completed" else 0.05)
    answers: Any = Answers([True, False], history)
    assert follow(answers, "one", "key", lambda _: None).exit_status == ending
