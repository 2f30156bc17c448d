"""``python -m queuescope.plans > docs/reference/plans.md``"""

from __future__ import annotations

from ..config import load_scope
from ..layout import DEFAULT_SCOPE
from . import templates
from ._reference import reference

if __name__ == "__main__":
    print(reference(templates(load_scope(DEFAULT_SCOPE, environ={})), DEFAULT_SCOPE), end="")
