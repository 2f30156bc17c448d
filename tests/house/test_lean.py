"""`queuescope.lean`: what a library names at its top is loaded when it is used, and by nobody before."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

from queuescope.lean import deferring, is_deferred, is_named, loaded, no_collection, without

FILES = {
    "weighty/__init__.py": """
from weighty import inner
from weighty.inner import Base
class Frame(Base):
    def __init__(self, rows=0): self.rows = rows
def read(rows): return Frame(rows)
""",
    "weighty/inner.py": "class Base: pass",
    "weighty/light.py": "LIGHT = 1",
    "user.py": """
import weighty, weighty.inner, nowhere_at_all_or_not as missing
""",
    "mentions.py": """
from typing import Optional, Union
import weighty, weighty.inner
from weighty import Frame, read
def rows(frame: weighty.Frame, other: Optional[weighty.inner.Base] = None, more: Frame | None = None) -> Union[int, Frame]:
    return frame.rows if isinstance(frame, (Frame, int)) else False
def made(): return read(2), weighty.read(3), weighty.inner.Base()
""",
    "derives.py": "import weighty\nclass Mine(weighty.Frame): pass",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    hooks = list(sys.meta_path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.meta_path[:] = hooks


def load(name: str, *deferred: str, alone: tuple[str, ...] = ()) -> ModuleType:
    with deferring(*deferred, alone=alone):
        return importlib.import_module(name)


@pytest.mark.usefixtures("packages")
def test_what_is_only_mentioned_is_not_loaded() -> None:
    mentions = load("mentions", "weighty", "weighty.inner")
    assert is_deferred(sys.modules["weighty"])
    assert is_named(mentions.Frame)
    assert mentions.rows("no frame") is False
    assert "more" in get_type_hints(mentions.rows)
    assert is_deferred(sys.modules["weighty"]), "asking for a class loads nothing: nothing can be of it"


@pytest.mark.usefixtures("packages")
def test_what_is_used_is_the_thing_itself() -> None:
    mentions = load("mentions", "weighty", "weighty.inner")
    with ThreadPoolExecutor(8) as pool:
        made = [one.result() for one in [pool.submit(mentions.made) for _ in range(8)]]
    weighty = sys.modules["weighty"]
    assert not is_deferred(weighty)
    assert {type(frame) for frame, _, _ in made} == {weighty.Frame}
    assert mentions.rows(made[0][1]) == 3
    assert isinstance(made[0][0], mentions.Frame)
    assert issubclass(weighty.Frame, mentions.Frame)
    assert importlib.import_module("weighty.inner") is weighty.inner is loaded("weighty.inner")
    assert not [hook for hook in sys.meta_path if type(hook).__module__ == "queuescope.lean" and hook.only_named]


@pytest.mark.usefixtures("packages")
def test_a_class_is_derived_from_the_class_itself() -> None:
    mine = load("derives", "weighty").Mine
    assert mine.__mro__[1] is sys.modules["weighty"].Frame


@pytest.mark.usefixtures("packages")
def test_a_part_is_loaded_after_the_whole_unless_it_may_come_alone() -> None:
    assert load("weighty.light", "weighty", alone=("weighty.light",)).LIGHT == 1
    assert is_deferred(sys.modules["weighty"])
    importlib.import_module("weighty.inner")
    assert not is_deferred(sys.modules["weighty"])


@pytest.mark.usefixtures("packages")
def test_what_is_not_installed_is_missing() -> None:
    with pytest.raises(ImportError), without("weighty"):
        importlib.import_module("weighty")
    assert importlib.import_module("weighty").read(1).rows == 1
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all_or_not"):
        load("user", "weighty", "nowhere_at_all_or_not")


def test_collection_goes_on_after_a_start() -> None:
    assert gc.isenabled()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
