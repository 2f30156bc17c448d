"""A quick start: what a process of ours doesn't need then, or never.

What a library imports at its top can't be chosen by who uses it. `without` and `deferring` do without what isn't used, and change
no library.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from operator import attrgetter
from types import ModuleType
from typing import Any, Union

NO_PLUGINS = ("PYDANTIC_DISABLE_PLUGINS", "__all__")
"""A variable and its value: without it pydantic reads the metadata of every installed package for the first model."""


@contextmanager
def no_collection() -> Iterator[None]:
    """While a process starts: what it imports is no garbage, and Python would look through all of it again and again.

    What there is at the end is set aside for good: no later collection looks through it, and forks share it.
    """
    gc.disable()
    try:
        yield
    finally:
        settle()


def settle() -> None:
    """Start collecting, but none of what there is now."""
    gc.enable()
    gc.freeze()


@contextmanager
def without(*names: str) -> Iterator[None]:
    """While it lasts, these modules count as not installed: for libraries that go without (httpx without its command)."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is how Python itself notes it
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name, absent) is None:
                del sys.modules[name]


@contextmanager
def deferring(*names: str, alone: Sequence[str] = ()) -> Iterator[None]:
    """While it lasts, an import of one of these modules is only noted. The module is loaded when something of it is used.

    Until then it may be mentioned: in annotations and unions, by a ``from … import``, in ``isinstance`` (nothing is of a
    class that nobody has loaded). Where something of it is called or derived from it is loaded, and so it is by any use after the
    imports. A module that isn't installed is missing as ever. A part of a deferred package is loaded after the whole; those in
    ``alone`` without it.
    """
    finder = _Finder(names, alone)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.only_named = False
        if not any(isinstance(sys.modules.get(name), _Deferred) for name in names):
            sys.meta_path.remove(finder)


def loaded(name: str) -> ModuleType:
    """The module itself, deferred or not."""
    module = import_module(name)
    return module._load() if isinstance(module, _Deferred) else module


def is_deferred(module: ModuleType | None) -> bool:
    """Whether this was imported and isn't loaded."""
    return isinstance(module, _Deferred)


def is_named(value: Any) -> bool:
    """Whether this stands for something of a deferred module."""
    return isinstance(value, _Name)


class _Finder(MetaPathFinder, Loader):
    """Gives a `_Deferred` once for each of its names."""

    def __init__(self, names: Sequence[str], alone: Sequence[str]) -> None:
        self.names = set(names)
        self._alone = alone
        self.only_named = True
        """True: what is asked of a deferred module is not looked up yet."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if self.only_named and name in self.names:
            found = PathFinder.find_spec(name, path)
            if found is not None:
                spec = ModuleSpec(name, self, origin=found.origin)
                spec.submodule_search_locations = found.submodule_search_locations
                spec.has_location = found.has_location
                return spec
        elif isinstance(parent := sys.modules.get(name.rpartition(".")[0]), _Deferred) and name not in self._alone:
            parent._load()
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        pass


_taking_out = threading.RLock()


class _Deferred(ModuleType):
    """A module that was imported and is not loaded."""

    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if not self._finder.only_named:
            return getattr(self._load(), name)
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(self, name)

    def _load(self) -> ModuleType:
        name = self.__name__
        with _taking_out:
            if self._waits():  # and with it what is deferred of its parts: its own imports are to find them
                for waiting in [m for n, m in sys.modules.copy().items() if f"{n}.".startswith(f"{name}.")]:
                    if isinstance(waiting, _Deferred):
                        self._finder.names.discard(waiting.__name__)
                        del sys.modules[waiting.__name__]
        return import_module(name)  # with Python's own locks

    def _waits(self) -> bool:
        return sys.modules.get(self.__name__) is self


class _Name:
    """Something of a deferred module."""

    def __init__(self, module: _Deferred, name: str) -> None:
        self._module = module
        self._name = name

    def _real(self) -> Any:
        return attrgetter(self._name)(self._module._load())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `typing` looks for some that few classes have
            raise AttributeError(name)
        if self._module._finder.only_named:
            return _Name(self._module, f"{self._name}.{name}")
        return getattr(self._real(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return not self._module._waits() and isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return not self._module._waits() and issubclass(subclass, self._real())

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007  # it is what is made here

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007
