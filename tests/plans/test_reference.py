"""The page about plans is what the models say."""

from pathlib import Path

from queuescope.config import load_scope
from queuescope.plans import templates
from queuescope.plans._reference import reference

PAGE = Path(__file__).parents[2] / "docs/reference/plans.md"


def test_the_page_is_up_to_date() -> None:
    """Issue 5, item 2: the docs table comes from the model. If this fails, make it anew: see its text."""
    assert PAGE.read_text(encoding="utf-8") == reference(
        templates(load_scope("demo-dispim", environ={})), "demo-dispim"
    )
