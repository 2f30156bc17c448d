"""What a plan returned, as `queuescope run` and `show` print it."""

from __future__ import annotations

import pytest

from queuescope.scripts._plan_commands import _print_result, result_lines


def test_each_value_has_a_line() -> None:
    found = {
        "focus_um": 12.3456789,
        "locked": True,
        "peak": {"um": 3.0, "r2": None},
        "steps": [{"plan": "snap"}, {"plan": "burst"}],
    }
    assert result_lines(found) == [
        ("focus_um", "12.3457"),
        ("locked", "yes"),
        ("peak.um", "3"),
        ("peak.r2", "–"),
        ("steps[0].plan", "snap"),
        ("steps[1].plan", "burst"),
    ]
    assert result_lines("done") == [("", "done")]


def test_a_long_list_says_how_long_it_is() -> None:
    assert result_lines({"sharpness": [1.5, 2.25]}) == [("sharpness", "1.5, 2.25")]
    ((name, text),) = result_lines({"sharpness": list(range(30))})
    assert (name, text.endswith("11, … (30 values)")) == ("sharpness", True)


def test_what_the_run_says_is_not_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    _print_result({"run_uid": "a", "datasets": {"cam_a": 5}})
    assert capsys.readouterr().out == ""
    _print_result({"run_uid": "a", "datasets": {"cam_a": 5}, "[focus]": 2.0})
    assert capsys.readouterr().out == "result\n  [focus]  2\n"
