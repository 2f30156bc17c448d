"""Words on the command line become a plan's keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest

from queuescope.scripts._operation import parse_arguments, parse_value


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
